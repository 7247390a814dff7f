"""Batches of one to eight photographs, and of a hundred: labels all different or all the same, the cosine or l1.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python -m tools.record_batches

Victims are untrained ReLU ConvNets without normalization, at 16x16, the hundred at 12x12; labels are declared. A case
is a network, a set of photographs and a Gaussian start, each with a seed of its own. Neither distance has a prior
beside the box, and rate and schedule are tuned for each distance and kind of labels on two other cases, for the 1,000
steps on one; the hundred has one rate. Five minutes of an idle core. What is finished is kept: a run that is stopped
goes on.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator
from typing import Any

import torch

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import distances, optimizers
from tools.recording import known, resume

COMMAND = "python -m tools.record_batches"
CASES, TUNING = range(10), (100, 101)
DISTANCES = {"cosine": distances.Cosine(), "l1": distances.Manhattan()}
TRIALS = ((0.03, "step"), (0.1, "step"), (0.3, "step"), (0.03, "flat"))
KINDS = ("different", "same")


@functools.cache
def photographs(case: int) -> torch.Tensor:
    return data.photos(16, crops=8, seed=case)[0].view(10, 8, 3, 16, 16)


def batch(case: int, pictures: str, labels: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Photographs of several subjects, or crops of one; with as many labels, or one."""
    crops = photographs(case)
    subjects = torch.randperm(10, generator=torch.Generator().manual_seed(case))
    x = crops[subjects[:size], 0] if pictures == "different" else crops[subjects[0], :size]
    return x, subjects[:size] if labels == "different" else subjects[:1].repeat(size)


@functools.cache
def hundred(case: int, labels: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten crops of each of ten photographs: a hundred labels, or ten of them ten times each."""
    x, subjects = data.photos(12, crops=10, seed=case)
    return x, torch.arange(100) if labels == "different" else subjects


def run(row: dict[str, Any]) -> dict[str, Any]:
    """Attack the batch that a row names."""
    if row["size"] == 100:
        x, y = hundred(row["case"], row["labels"])
        model = models.convnet(num_classes=100, size=12, seed=100 + row["case"])
    else:
        x, y = batch(row["case"], row["pictures"], row["labels"], row["size"])
        model = models.convnet(size=16, seed=100 + row["case"])
    attack = attacks.InvGrad.replace(
        distance=DISTANCES[row["distance"]],
        regularizers=(),
        iterations=row["iterations"],
        optimizer=optimizers.Adam(
            lr=row["rate"], schedule=optimizers.StepDecay() if row["schedule"] == "step" else None
        ),
    )
    found = attack(federated.observe(model, x, y, declare=["labels"]), seed=row["case"])
    values = metrics.psnr(found.inputs, x, reduction="none")
    result = row | {"psnr": round(float(torch.as_tensor(values).mean()), 1), "residual": float(f"{found.residual:.3g}")}
    if row["size"] == 100:
        result["each"] = [round(float(value), 1) for value in values]
        shown = found.inputs[metrics.match(found.inputs, x)][::10]
        result["shown"] = base64.b64encode((shown * 255).round().to(torch.uint8).numpy().tobytes()).decode()
    return result


def planned() -> Iterator[dict[str, Any]]:
    """Every row in turn; the rates of the races are chosen by the tuning rows before them."""

    def row(
        part: str,
        distance: str,
        kind: str,
        size: int,
        case: int,
        iterations: int,
        trial: tuple[float, str],
        **other: str,
    ) -> dict[str, Any]:
        named = {"part": part, "distance": distance, "pictures": kind, "labels": kind} | other
        return named | {
            "size": size, "case": case, "iterations": iterations, "rate": trial[0], "schedule": trial[1]
        }  # fmt: skip

    def best(distance: str, kind: str, iterations: int) -> tuple[float, str]:
        def mean(trial: tuple[float, str]) -> float:
            wanted = ("tuning", distance, kind, iterations, *trial)
            keys = ("part", "distance", "labels", "iterations", "rate", "schedule")
            values = [old["psnr"] for old in known("batches", []) if tuple(old[key] for key in keys) == wanted]
            return sum(values) / len(values)

        return max(TRIALS if iterations == 200 else TRIALS[:3], key=mean)

    for distance in DISTANCES:
        for kind in KINDS:
            for size in (2, 8):
                for trial in TRIALS:
                    for case in TUNING:
                        yield row("tuning", distance, kind, size, case, 200, trial)

    def race(size: int, *names: str) -> Iterator[dict[str, Any]]:
        for distance in names:
            for kind in KINDS:
                for case in CASES:
                    yield row("race", distance, kind, size, case, 200, best(distance, kind, 200))

    yield from race(2, "cosine", "l1")
    for labels, pictures in (KINDS, KINDS[::-1]):
        for case in CASES:
            yield row("cross", "l1", labels, 2, case, 200, best("l1", labels, 200), pictures=pictures)
    for trial in TRIALS[:3]:
        yield row("tuning", "l1", "same", 2, TUNING[0], 1000, trial)
    for case in CASES:
        yield row("race", "l1", "same", 2, case, 1000, best("l1", "same", 1000))
    yield row("hundred", "l1", "different", 100, 0, 300, TRIALS[1], pictures="crops")
    yield from race(8, "l1")


def main() -> None:
    resume("batches", COMMAND, ((row, functools.partial(run, row)) for row in planned()), hidden=("each", "shown"))


if __name__ == "__main__":
    main()
