"""Starts of an attack: digits under full steps and a line search, photographs under rates that are held or fall, faces.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_initialization

Digits: 60 of them, each through a LeNet of its own; the label comes from iDLG's rule. A start is a tile or not, inside
the range of pixels or as far away as Gaussian noise, a constant, or a mean of other digits. Photographs: InvGrad on ten
networks and photographs of 24 pixels, rates and schedules by start. Faces: what is left of the start's error where a
gradient leaves directions open, on ten faces and networks. Cases that the file already holds are kept; remove the file
to measure all of them again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gilearn import attacks, data, federated, metrics, models, ranks
from gilearn.attacks import GradientMatching, initialization, labels, optimizers
from tools.recording import resume

COMMAND = "python -m tools.record_initialization"
TRIALS, FEW = 60, 24


def far_tile(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A tile with the mean and the standard deviation of Gaussian noise."""
    return (initialization.Tiled(parts=2)(shape, generator) - 0.5) * 12**0.5


def constant(value: float) -> initialization.Constant:
    return initialization.Constant(value=value)


STARTS: dict[str, Any] = {
    "Gaussian": initialization.Gaussian(),
    "halves": initialization.Tiled(parts=2),
    "narrow Gaussian": initialization.Gaussian(mean=0.5, std=0.29),
    "far tile": far_tile,
    "1.4": constant(1.4),
    "-0.75": constant(-0.75),
    "2.0": constant(2.0),
    "gray": constant(0.5),
    "mean digit": None,
    "mean of its class": None,
}
STEPS: dict[str, dict[str, Any]] = {
    "full": {"optimizer": optimizers.LBFGS(line_search_fn=None)},
    "full, float64": {"optimizer": optimizers.LBFGS(line_search_fn=None), "dtype": torch.float64},
    "rate 0.1": {"optimizer": optimizers.LBFGS(lr=0.1, line_search_fn=None), "iterations": 12},
    "line search, float32": {"optimizer": optimizers.LBFGS()},
    "line search, float64": {"optimizer": optimizers.LBFGS(), "dtype": torch.float64},
}
PHOTO_STARTS = ("Gaussian", "halves", "another", "gray")
RATES = {"held": (0.03, 0.1, 0.3), "falling": (0.1, 0.3, 1.0)}


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The private digits, and those that the attacker has."""
    x, y = data.digits(520)
    return x[:TRIALS], y[:TRIALS], x[120:], y[120:]


def by_digit(start: str, steps: str, k: int) -> dict[str, Any]:
    x, y, others, theirs = digits()
    x, y = x[k : k + 1], y[k : k + 1]
    drawn = STARTS[start]
    if drawn is None:
        same = theirs == y if start == "mean of its class" else slice(None)
        drawn = initialization.FromImage(picture=others[same].mean(dim=0))
    options = {"iterations": 5} | STEPS[steps]
    attack = GradientMatching(initialization=drawn, labels=labels.IDLG(), tolerance=1e-10, **options)
    result = attack(federated.observe(models.lenet(1, 10, size=8, strides=(1, 1, 1), seed=k), x, y), seed=k)
    return {
        "away": round(float(metrics.mse(drawn(x.shape, torch.Generator().manual_seed(k)), x)), 3),
        "mse": float(f"{metrics.mse(result.inputs, x):.2g}"),
        "evaluations": sum(log["evaluations"] for log in result.restarts),
    }


def by_network(start: str, network: int, k: int) -> dict[str, Any]:
    """One network for all digits."""
    x, y, _, _ = digits()
    x, y = x[k : k + 1], y[k : k + 1]
    attack = GradientMatching(
        initialization=STARTS[start], labels=labels.IDLG(), tolerance=1e-10, iterations=5, **STEPS["full"]
    )
    victim = models.lenet(1, 10, size=8, strides=(1, 1, 1), seed=network)
    result = attack(federated.observe(victim, x, y), seed=k)
    return {"mse": float(f"{metrics.mse(result.inputs, x):.2g}")}


def by_photo(start: str, schedule: str, rate: float, iterations: int, k: int) -> dict[str, Any]:
    x, y = data.photos(24, names=[data.PHOTOS[k]])
    another, _ = data.photos(24, names=[data.PHOTOS[(k + 1) % 10]])
    starts = STARTS | {"another": initialization.FromImage(picture=another[0])}
    falls = optimizers.StepDecay() if schedule == "falling" else None
    attack = attacks.InvGrad.replace(
        initialization=starts[start], iterations=iterations, optimizer=optimizers.Adam(lr=rate, schedule=falls)
    )
    seen = federated.observe(models.convnet(size=24, seed=k), x, y, declare=["labels"])
    return {"psnr": round(float(metrics.psnr(attack(seen, seed=k).inputs, x)), 1)}


def by_face(start: str, share: float, iterations: int, k: int) -> dict[str, Any]:
    """What is left of the start's error, measured and predicted, when the search starts that share of the way from the
    face to the start."""
    faces, _ = data.faces(100)
    face, one = faces[k : k + 1].double(), torch.tensor([1])
    suspect = initialization.FromImage(picture=faces[k + 20])
    start_of = suspect if start == "suspect" else initialization.Uniform()
    drawn = start_of(face.shape, torch.Generator().manual_seed(k))
    model = models.lenet(1, 10, size=25, width=3, seed=k).double()
    values, modes = ranks.gradient_modes(model, face, one)
    open_modes = modes[:, values < 1e-6 * values[0]]
    before = share * (drawn - face)
    attack = GradientMatching(
        initialization=initialization.FromImage(picture=(face + before)[0]),
        labels=labels.Declared(),
        iterations=iterations,
        dtype=torch.float64,
    )
    result = attack(federated.observe(model, face, one, declare=["labels"]))
    after = result.inputs - face
    kept = (before.flatten() @ open_modes).square().sum() / before.square().sum()
    return {
        "open": round(open_modes.shape[1] / face.numel(), 3),
        "predicted": round(float(kept), 3),
        "left": round(float((after * before).sum() / before.square().sum()), 3),
        "mse": float(f"{metrics.mse(result.inputs, face):.2g}"),
        "residual": float(f"{result.residual:.1g}"),
    }


def plan() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    for start, (schedule, rates) in itertools.product(PHOTO_STARTS, RATES.items()):
        for rate, k in itertools.product(rates, range(10)):
            yield photo(start, schedule, rate, 60, k)
    full = [(start, "full", k) for start in STARTS for k in range(TRIALS)]
    few = [(start, steps, k) for start in ("Gaussian", "2.0") for steps in list(STEPS)[1:] for k in range(FEW)]
    for start, steps, k in full + few:
        yield {"start": start, "steps": steps, "k": k}, functools.partial(by_digit, start, steps, k)
    for start, (share, iterations), k in itertools.product(
        ("suspect", "uniform"), ((1.0, 5), (1.0, 20), (0.1, 20)), range(10)
    ):
        key = {"start": start, "share": share, "iterations": iterations, "face": k}
        yield key, functools.partial(by_face, start, share, iterations, k)
    for start, k in itertools.product(("Gaussian", "gray"), range(10)):
        yield photo(start, "held", 0.1, 200, k)
    for network, k in itertools.product((0, 1000, 2000), range(FEW)):
        yield {"start": "2.0", "network": network, "k": k}, functools.partial(by_network, "2.0", network, k)


def photo(
    start: str, schedule: str, rate: float, iterations: int, k: int
) -> tuple[dict[str, Any], Callable[[], dict[str, Any]]]:
    key = {"photo": k, "start": start, "schedule": schedule, "rate": rate, "iterations": iterations}
    return key, functools.partial(by_photo, start, schedule, rate, iterations, k)


def main() -> None:
    resume("initialization", COMMAND, plan())


if __name__ == "__main__":
    main()
