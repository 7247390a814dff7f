"""GradInversion's terms, one after the other: four batches of 4 and of 8 photographs, three starts each.

    OMP_WAIT_POLICY=passive python -m tools.record_gradinversion

The victim is the untrained BatchNorm ConvNet of ``gilearn.models``, training (its batch normalizations use the batch's
own statistics), at 32x32; labels are declared. Every case has the same starts, iterations and optimizer; only the terms
beside the gradient's distance change. ``preset`` is ``attacks.GradInversion`` with its own weights and distance, at the
same number of starts and iterations. About an hour on two cores. Cases that the file already holds are kept; remove the
file to measure all of them again.
"""

from __future__ import annotations

import dataclasses
import json

import torch

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import labels
from gilearn.attacks.iteration import (
    Adam,
    BatchNormStatistics,
    Cosine,
    GradientMatching,
    GroupConsistency,
    Manhattan,
    TotalVariation,
    WarmupCosine,
)

COMMAND = "python -m tools.record_gradinversion"
STARTS, ITERATIONS, BATCHES = 3, 200, 4

SMOOTH = TotalVariation(weight=1e-3)
DECLARED = BatchNormStatistics(weight=1e-2, source="declared")
RUNNING = BatchNormStatistics(weight=1e-2, source="running")
TERMS = {
    "gradient only": (),
    "+ TV": (SMOOTH,),
    "+ TV, running statistics": (SMOOTH, RUNNING),
    "+ TV, declared statistics": (SMOOTH, DECLARED),
    "+ TV, declared statistics, group": (SMOOTH, DECLARED, GroupConsistency(weight=1e-3)),
    "+ TV, declared statistics, registered group": (SMOOTH, DECLARED, GroupConsistency(weight=1e-3, register=True)),
}


def attack(case: str) -> GradientMatching:
    if case == "preset":
        adam = Adam(lr=0.1, schedule=WarmupCosine(warmup=20), noise=0.2)
        return dataclasses.replace(
            attacks.GradInversion,
            labels=labels.Declared(),
            optimizer=adam,
            iterations=ITERATIONS,
            box=(0.0, 1.0),
            starts=STARTS,
            together=STARTS,
        )
    return GradientMatching(
        labels=labels.Declared(),
        distance=Manhattan() if case == "l1, gradient only" else Cosine(),
        regularizers=TERMS.get(case, ()),
        optimizer=Adam(lr=0.1, schedule=WarmupCosine(warmup=20)),
        iterations=ITERATIONS,
        box=(0.0, 1.0),
        starts=STARTS,
        together=STARTS,
    )


def batch(size: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct photographs, drawn by the batch's number."""
    x, y = data.photos(32)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(number))[:size].sort().values
    return x[rows], y[rows]


def run(case: str, size: int) -> list[float]:
    """PSNR of every batch, its pictures matched, in decibels."""
    values = []
    for number in range(BATCHES):
        x, y = batch(size, number)
        model = models.convnet(batch_norm=True).train()
        seen = federated.observe(model, x, y, declare=["labels", "batch_norm"])
        values.append(round(float(metrics.psnr(attack(case)(seen).inputs, x)), 2))
    return values


def main() -> None:
    from tools.recording import FOLDER, record

    path = FOLDER / "gradinversion.json"
    result = json.loads(path.read_text())["result"] if path.exists() else []
    for size in (4, 8):
        for case in (*TERMS, "l1, gradient only", "preset"):
            if any((done["case"], done["batch"]) == (case, size) for done in result):
                continue
            result.append({"case": case, "batch": size, "psnr": run(case, size)})
            print(result[-1], flush=True)
            record("gradinversion", COMMAND, result)


if __name__ == "__main__":
    main()
