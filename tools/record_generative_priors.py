"""What a generator adds to a search of pixels: 24 digits that it was not trained on, every rate tuned.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_generative_priors

A case is a held-out digit of 8x8 pixels, a LeNet and a start, with seeds of their own; the label is declared, and every
search has one start and 100 iterations unless its part says otherwise. Rate, schedule and weight of the total variation
are the best on two other cases, which are recorded as well. Ten minutes on one core. What the file holds is kept;
remove it after a change of the trials, as later parts start from the best of earlier ones.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gilearn import attacks, defenses, federated, generators, metrics, models
from gilearn.attacks import GradientMatching, distances, labels, optimizers, regularizers, spaces
from tools.recording import known, resume

COMMAND = "python -m tools.record_generative_priors"
NAME = "generative-priors"
CASES, FEWER, TUNING = range(24), range(12), (24, 25)
SETTINGS = {
    # share of the gradient's entries that are set to zero, and whether the attacker masks them
    "naive": (0.95, False),
    "masked": (0.95, True),
    "clean": (0.0, False),
    "noisy": (0.0, False),  # Gaussian noise as large as the gradient's root mean square
}
TRIALS = ((0.03, "flat"), (0.1, "flat"), (0.1, "step"), (0.3, "step"))
FULL = (*TRIALS, (0.2, "flat"), (0.3, "flat"))  # where the two searches are close
FINER = ((1e-4, "flat"), (3e-4, "flat"), (1e-3, "flat"), (1e-3, "step"))  # of trained weights
VARIATIONS = (0.0, 1e-2, 1e-1)
MORE = (0.0, 3e-3, 1e-2, 1e-1)
STRONG = (0.0, 1e-2, 1e-1, 3e-1)
SCHEDULES = {"flat": None, "step": optimizers.StepDecay()}
SHAPE = (16,)
Row = tuple[dict[str, Any], Callable[[], dict[str, float]]]


@functools.cache
def pictures() -> tuple[Tensor, Tensor]:
    return generators.held_out("digits", len(CASES) + len(TUNING))


@functools.cache
def generator(kind: str = "digits") -> nn.Module:
    """The digits' generator, or that of the wrong domain: faces, made as small as the digits."""
    trained = generators.trained(kind)
    return trained if kind == "digits" else nn.Sequential(trained, nn.AdaptiveAvgPool2d(8))


def view(setting: str, case: int, negative: bool = False) -> tuple[Tensor, federated.Observation]:
    x, y = (values[case : case + 1] for values in pictures())
    x = 1 - x if negative else x
    model = models.lenet(1, 10, size=8, strides=(1, 1, 1), seed=case)
    if setting == "noisy":
        size = torch.cat([g.flatten() for g in federated.observe(model, x, y).shared]).square().mean().sqrt()
        noise = defenses.GaussianNoise(std=float(size))
        return x, federated.observe(model, x, y, declare=["labels"], defense=noise, seed=case)
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
    setting: str, distance: str, rate: float, schedule: str, variation: float, case: int, **changes: Any
) -> dict[str, float]:
    x, seen = view(setting, case)
    scale = 1.0 if distance == "cosine" else sum(float(g.abs().sum()) for g in seen.shared if g is not None)
    prior = (regularizers.TotalVariation(weight=variation * scale),) if variation else ()
    attack = search(setting, distance, rate, schedule, space=spaces.Pixels(bounds=(0.0, 1.0)), regularizers=prior)
    return {"psnr": decibels(attack.replace(**changes)(seen, seed=case).inputs, x)}


def latent(
    setting: str, distance: str, rate: float, schedule: str, case: int, prior: str = "digits", **changes: Any
) -> dict[str, float]:
    x, seen = view(setting, case)
    first = search(setting, distance, rate, schedule, **changes)
    attack = attacks.GIAS(generator=generator(prior), shape=(32,) if prior == "faces" else SHAPE, search=first)
    return {"psnr": decibels(attack.replace(refine=None)(seen, seed=case).inputs, x)}


def weights(
    setting: str, distance: str, rate: float, schedule: str, case: int, negative: bool = False
) -> dict[str, float]:
    x, seen = view(setting, case, negative)
    first = search(setting, distance, *best("latent", setting, distance)[:2])
    second = search(setting, distance, rate, schedule)
    found = attacks.GIAS(generator=generator(), shape=SHAPE, search=first, refine=second)(seen, seed=case)
    return {
        "psnr": decibels(found.inputs, x),
        "latent": decibels(found.details["latent_inputs"], x),
        "latent residual": round(float(found.details["latent_residual"]), 4),
        "residual": round(float(found.residual), 4),
    }


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


def best(part: str, setting: str, distance: str, *, bare: bool = False) -> tuple[Any, ...]:
    """The rate, schedule and weight with the best mean over the tuning cases; of those without the prior if bare."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in known(NAME, []):
        if bare and row.get("variation"):
            continue
        if (row["part"], row.get("setting"), row.get("distance")) == (f"tuning {part}", setting, distance):
            key = (row["rate"], row["schedule"], *([row["variation"]] if part == "pixels" else []))
            found.setdefault(key, []).append(row["psnr"])
    return max(found, key=lambda key: float(np.mean(found[key])))


PARTS = {
    "pixels": (pixels, TRIALS),
    "latent": (latent, TRIALS),
    "wrong domain": (functools.partial(latent, prior="faces"), TRIALS),
    "weights": (weights, FINER),
}


def tune(
    part: str, setting: str, distance: str = "cosine", variations: tuple[float, ...] = VARIATIONS
) -> Iterator[Row]:
    """Yield the trials of one search in one setting."""
    run, trials = PARTS[part]
    trials = FULL if trials == TRIALS and setting in ("naive", "noisy") else trials
    columns = [(*trial, v) for trial, v in itertools.product(trials, variations)] if part == "pixels" else trials
    for row, case in itertools.product(columns, TUNING):
        names = dict(zip(("rate", "schedule", "variation"), row, strict=False))
        key = {"part": f"tuning {part}", "setting": setting, "distance": distance, **names, "case": case}
        yield key, functools.partial(run, setting, distance, *row, case)


def race(part: str, setting: str, distance: str = "cosine", cases: range = CASES) -> Iterator[Row]:
    """Yield the cases of one search in one setting, with what its trials say is best."""
    row = best(part, setting, distance)
    for case in cases:
        names = dict(zip(("rate", "schedule", "variation"), row, strict=False))
        key = {"part": part, "setting": setting, "distance": distance, **names, "case": case}
        yield key, functools.partial(PARTS[part][0], setting, distance, *row, case)


def plan() -> Iterator[Row]:
    yield from tune("latent", "naive")
    yield from race("latent", "naive")
    yield from tune("pixels", "naive", variations=STRONG)
    yield from race("pixels", "naive")
    for case in CASES:
        yield {"part": "blind", "case": case}, functools.partial(blind, case)
    for part in ("latent", "pixels", "weights"):
        yield from tune(part, "masked")
        yield from race(part, "masked")
    yield from tune("latent", "noisy")
    yield from race("latent", "noisy")
    yield from tune("pixels", "noisy", variations=MORE)
    yield from race("pixels", "noisy")
    yield from tune("pixels", "clean", variations=(0.0,))
    yield from race("pixels", "clean", cases=FEWER)
    yield from tune("latent", "clean")
    yield from tune("weights", "clean")
    yield from race("weights", "clean")
    row = best("pixels", "naive", "cosine", bare=True)
    for case in CASES:
        key = {"part": "bare pixels", "setting": "naive", "distance": "cosine", "rate": row[0], "case": case}
        yield key, functools.partial(pixels, "naive", "cosine", *row, case)
    yield from tune("weights", "noisy")
    yield from race("weights", "noisy")
    for setting, case in itertools.product(("naive", "noisy"), CASES):
        key = {"part": "retrieval", "setting": setting, "distance": "cosine", "case": case}
        yield key, functools.partial(retrieval, setting, "cosine", case)
    yield from tune("wrong domain", "noisy")
    yield from race("wrong domain", "noisy", cases=FEWER)
    row = best("weights", "clean", "cosine")
    for case in FEWER:
        key = {"part": "a negative", "setting": "clean", "distance": "cosine", "case": case}
        yield key, functools.partial(weights, "clean", "cosine", *row, case, True)
    more: dict[str, tuple[str, Any, range, dict[str, int]]] = {
        "latents, 200 steps": ("latent", latent, FEWER, {"iterations": 200}),
        "pixels, 200 steps": ("pixels", pixels, FEWER, {"iterations": 200}),
        "restarts": ("latent", latent, FEWER, {"restarts": 4, "parallel": 4}),
    }
    for part, (like, run, cases, changes) in more.items():
        row = best(like, "noisy", "cosine")
        for case in cases:
            key = {"part": part, "setting": "noisy", "distance": "cosine", "case": case}
            yield key, functools.partial(run, "noisy", "cosine", *row, case, **changes)


def main() -> None:
    resume(NAME, COMMAND, plan())


if __name__ == "__main__":
    main()
