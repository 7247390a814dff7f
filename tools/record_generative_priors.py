"""What a generator adds to a search of pixels: 24 digits that it was not trained on, every rate tuned.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_generative_priors

A case is a held-out digit of 8x8 pixels, a LeNet and a start, with seeds of their own; the label is declared, and every
search has one start and 100 iterations. Rate, schedule and weight of the total variation are the best on two other
cases, which are recorded as well. Six minutes on one core. What the file already holds is kept.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gilearn import attacks, data, defenses, federated, generators, metrics, models
from gilearn.attacks import GradientMatching, distances, labels, optimizers, regularizers, spaces
from tools.recording import known, resume

COMMAND = "python -m tools.record_generative_priors"
NAME = "generative-priors"
CASES, TUNING, FACES = range(24), (24, 25), range(12)
SETTINGS = {
    # share of the gradient's entries that are set to zero, and whether the attacker masks them
    "naive": (0.95, False),
    "masked": (0.95, True),
    "few": (0.995, True),
    "clean": (0.0, False),
}
TRIALS = ((0.03, "flat"), (0.1, "flat"), (0.1, "step"), (0.3, "step"))
FINER = ((1e-4, "flat"), (3e-4, "flat"), (1e-3, "flat"), (1e-3, "step"))  # of trained weights
DRAWN = ((1e-3, "flat"), (3e-3, "flat"), (1e-2, "flat"), (1e-2, "step"))  # of untrained ones
VARIATIONS = (0.0, 1e-2, 1e-1)
SCHEDULES = {"flat": None, "step": optimizers.StepDecay()}
SHAPE = (16,)


@functools.cache
def pictures(kind: str = "digits") -> tuple[Tensor, Tensor]:
    if kind == "faces":
        x, _ = data.faces(size=8)
        return x[: len(FACES)], torch.zeros(len(FACES), dtype=torch.int64)
    return generators.held_out("digits", len(CASES) + len(TUNING))


@functools.cache
def generator(kind: str = "digits") -> nn.Module:
    """The digits' generator, or that of the wrong domain: faces, made as small as the digits."""
    trained = generators.trained(kind)
    return trained if kind == "digits" else nn.Sequential(trained, nn.AdaptiveAvgPool2d(8))


def view(setting: str, case: int, kind: str = "digits") -> tuple[Tensor, federated.Observation]:
    x, y = (values[case : case + 1] for values in pictures(kind))
    model = models.lenet(1, 10, size=8, strides=(1, 1, 1), seed=case)
    return x, federated.observe(model, x, y, declare=["labels"], defense=defenses.Pruning(share=SETTINGS[setting][0]))


def search(setting: str, distance: str, rate: float, schedule: str, **changes: Any) -> GradientMatching:
    plain = distances.Cosine() if distance == "cosine" else distances.Manhattan()
    return GradientMatching(
        labels=labels.Declared(),
        distance=distances.Masked(distance=plain) if SETTINGS[setting][1] else plain,
        optimizer=optimizers.Adam(lr=rate, schedule=SCHEDULES[schedule]),
        iterations=100,
    ).replace(**changes)


def pixels(
    setting: str, distance: str, rate: float, schedule: str, variation: float, case: int, kind: str = "digits"
) -> dict[str, float]:
    x, seen = view(setting, case, kind)
    scale = 1.0 if distance == "cosine" else sum(float(g.abs().sum()) for g in seen.shared if g is not None)
    prior = (regularizers.TotalVariation(weight=variation * scale),) if variation else ()
    attack = search(setting, distance, rate, schedule, space=spaces.Pixels(bounds=(0.0, 1.0)), regularizers=prior)
    return {"psnr": decibels(attack(seen, seed=case).inputs, x)}


def untrained(setting: str, distance: str, rate: float, schedule: str, case: int) -> dict[str, float]:
    """A deep image prior: the weights of an untrained decoder, at a latent vector that was drawn."""
    x, seen = view(setting, case)
    latent = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(case))
    space = spaces.Weights(generator=generators.decoder(*SHAPE), latent=latent)
    return {"psnr": decibels(search(setting, distance, rate, schedule, space=space)(seen, seed=case).inputs, x)}


def latent(
    setting: str, distance: str, rate: float, schedule: str, case: int, prior: str = "digits", kind: str = "digits"
) -> dict[str, float]:
    x, seen = view(setting, case, kind)
    first = search(setting, distance, rate, schedule)
    attack = attacks.GIAS(generator=generator(prior), shape=(32,) if prior == "faces" else SHAPE, search=first)
    return {"psnr": decibels(attack.replace(refine=None)(seen, seed=case).inputs, x)}


def weights(
    setting: str, distance: str, rate: float, schedule: str, case: int, kind: str = "digits"
) -> dict[str, float]:
    x, seen = view(setting, case, kind)
    first = search(setting, distance, *best("latent", setting, distance)[:2])
    second = search(setting, distance, rate, schedule)
    found = attacks.GIAS(generator=generator(), shape=SHAPE, search=first, refine=second)(seen, seed=case)
    return {"psnr": decibels(found.inputs, x), "latent": decibels(found.details["latent_inputs"], x)}


def retrieval(setting: str, distance: str, case: int) -> dict[str, float]:
    """No search: the training picture with this label whose gradient is nearest."""
    x, seen = view(setting, case)
    known_x, known_y = generators.training("digits")
    compare = search(setting, distance, 0.1, "flat").distance
    label = seen.knowledge["labels"]
    candidates = known_x[known_y == label]
    gaps = [float(compare(seen.simulate(c[None], label, create_graph=False), seen.shared)) for c in candidates]
    return {"psnr": decibels(candidates[int(np.argmin(gaps))][None], x)}


def blind(case: int) -> dict[str, float]:
    """What the prior alone says: the mean digit, that of the class, a picture that the generator draws, the floor."""
    (x, y), (known_x, known_y) = (v[case : case + 1] for v in pictures()), generators.training("digits")
    with torch.no_grad():
        drawn = generator()(torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(case)))
    return {
        "mean": decibels(known_x.mean(0, keepdim=True), x),
        "class mean": decibels(known_x[known_y == y].mean(0, keepdim=True), x),
        "drawn": round(float(np.mean([metrics.psnr(d[None], x) for d in drawn])), 1),
        "nearest in training": round(max(float(metrics.psnr(c[None], x)) for c in known_x), 1),
        "floor": decibels(generators.nearest(generator(), x, SHAPE)[0], x),
        "floor of faces": decibels(generators.nearest(generator("faces"), x, (32,))[0], x),
    }


def decibels(found: Tensor, x: Tensor) -> float:
    return round(float(metrics.psnr(found, x)), 1)


def best(part: str, setting: str, distance: str) -> tuple[Any, ...]:
    """The rate, schedule and weight with the best mean over the tuning cases."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in known(NAME, []):
        if (row["part"], row.get("setting"), row.get("distance")) == (f"tuning {part}", setting, distance):
            key = (row["rate"], row["schedule"], *([row["variation"]] if part == "pixels" else []))
            found.setdefault(key, []).append(row["psnr"])
    return max(found, key=lambda key: float(np.mean(found[key])))


PARTS = {
    "pixels": (pixels, TRIALS),
    "latent": (latent, TRIALS),
    "weights": (weights, FINER),
    "untrained": (untrained, DRAWN),
}


def race(part: str, setting: str, distance: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield the tuning of one search in one setting, then its 24 cases."""
    run, trials = PARTS[part]
    columns = [(*trial, v) for trial, v in itertools.product(trials, VARIATIONS)] if part == "pixels" else list(trials)
    names = ("rate", "schedule", "variation")
    for row, case in itertools.product(columns, TUNING):
        key = {
            "part": f"tuning {part}",
            "setting": setting,
            "distance": distance,
            **dict(zip(names, row, strict=False)),
            "case": case,
        }
        yield key, functools.partial(run, setting, distance, *row, case)
    row = best(part, setting, distance)
    for case in CASES:
        key = {
            "part": part,
            "setting": setting,
            "distance": distance,
            **dict(zip(names, row, strict=False)),
            "case": case,
        }
        yield key, functools.partial(run, setting, distance, *row, case)


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    yield from race("latent", "naive", "cosine")
    yield from race("pixels", "naive", "cosine")
    for case in CASES:
        yield {"part": "blind", "case": case}, functools.partial(blind, case)
    for part in ("latent", "pixels", "weights"):
        yield from race(part, "masked", "cosine")
    for part in ("latent", "weights"):
        yield from race(part, "clean", "cosine")
    for setting, case in itertools.product(("naive", "masked"), CASES):
        key = {"part": "retrieval", "setting": setting, "distance": "cosine", "case": case}
        yield key, functools.partial(retrieval, setting, "cosine", case)
    for part in ("latent", "pixels", "weights"):
        yield from race(part, "few", "cosine")
    for setting in ("naive", "masked"):
        row = best("latent", setting, "cosine")
        for case in CASES:
            key = {"part": "wrong domain", "setting": setting, "distance": "cosine", "case": case}
            yield key, functools.partial(latent, setting, "cosine", *row, case, "faces")
    for case in FACES:
        row = best("weights", "clean", "cosine")
        key = {"part": "a face", "setting": "clean", "distance": "cosine", "case": case}
        yield key, functools.partial(weights, "clean", "cosine", *row, case, "faces")
    for setting in ("naive", "masked"):
        yield from race("untrained", setting, "cosine")
    for part in ("latent", "pixels"):
        yield from race(part, "naive", "l1")
    for part in ("latent", "pixels"):
        yield from race(part, "masked", "l1")


def main() -> None:
    resume(NAME, COMMAND, plan())


if __name__ == "__main__":
    main()
