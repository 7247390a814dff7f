"""What a distance between gradients does to a search: one change at a time, ten cases, every rate tuned.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_distances

A case is a photograph of 16x16 pixels, an untrained ConvNet and a Gaussian start, with seeds of its own; the label is
declared, there is no prior, and every attack has 200 iterations (L-BFGS: as many evaluations). Rate and schedule of
every distance are the best of four on two other cases, which are recorded as well. Ten minutes on one core. What the
file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import GradientMatching, distances, initialization, labels, optimizers, spaces
from gilearn.attacks.iteration.distances import Gradients, pairs, total
from tools.recording import known, resume

COMMAND = "python -m tools.record_distances"
CASES = range(10)
TUNING = (10, 11)
TRIALS = ((0.03, "flat"), (0.03, "step"), (0.1, "step"), (0.3, "step"))
SCHEDULES = {"flat": None, "step": optimizers.StepDecay()}
NOISES = (1e-3, 1e-2, 1e-1)


def gaps(simulated: Gradients, shared: Gradients) -> Tensor:
    return torch.cat([(a - b).flatten() for a, b in pairs(simulated, shared)])


def root(simulated: Gradients, shared: Gradients) -> Tensor:
    """The root of the squared distance: its directions, and a kink."""
    return torch.linalg.vector_norm(gaps(simulated, shared))


def l1_squared(simulated: Gradients, shared: Gradients) -> Tensor:
    """The square of l1: its directions, and a slope that vanishes at the truth."""
    return gaps(simulated, shared).abs().sum().square()


def rows(simulated: Gradients, shared: Gradients) -> Tensor:
    """The norms of the rows: one vote for every neuron."""
    differences = [(a - b).reshape(len(a), -1) for a, b in pairs(simulated, shared)]
    return total(torch.linalg.vector_norm(d, dim=1).sum() for d in differences)


def rows_fixed(simulated: Gradients, shared: Gradients) -> Tensor:
    """The squared distance, every row divided by a length of its own: balanced once and for all.

    That is its squared length in the shared gradient plus the mean of those of its tensor: rows of silent neurons have
    length zero, and divided by next to nothing they would drown all others.
    """
    terms = []
    for a, b in pairs(simulated, shared):
        squares = (a - b).reshape(len(a), -1).square().sum(dim=1)
        lengths = b.reshape(len(b), -1).square().sum(dim=1)
        terms.append((squares / (lengths + lengths.mean())).sum())
    return total(terms)


def mixed(simulated: Gradients, shared: Gradients) -> Tensor:
    """l1 of the equations after a rotation: random signs, then an orthonormal Fourier transform."""
    gap = gaps(simulated, shared)
    signs = torch.randint(2, gap.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    turned = torch.fft.rfft(gap * signs, norm="ortho")
    return turned.real.abs().sum() + turned.imag.abs().sum()


# Those that the argument hangs on come first.
DISTANCES: dict[str, Callable[..., Tensor]] = {
    "squared": distances.Euclidean(),
    "root": root,
    "norms": distances.Euclidean(squared=False),
    "rows": rows,
    "l1": distances.Manhattan(),
    "l1 squared": l1_squared,
    "l1 mixed": mixed,
    "rows, fixed": rows_fixed,
    "cosine": distances.Cosine(),
    "layers": distances.LayerwiseCosine(),
    "kernel": distances.GaussianKernel(),
}


def view(case: int, *, digit: bool = False) -> tuple[Tensor, federated.Observation]:
    """One private picture and its gradient."""
    if digit:
        x, y = data.digits(1797)
        model = models.lenet(1, 10, size=8, strides=(1, 1, 1), seed=case)
    else:
        x, y = data.photos(16, fold=case // 10)
        model = models.convnet(size=16, seed=case)
    k = case if digit else case % 10
    return x[k : k + 1], federated.observe(model, x[k : k + 1], y[k : k + 1], declare=["labels"])


def noisy(seen: federated.Observation, kind: str, scale: float, seed: int) -> federated.Observation:
    """Noise of that share of the gradient's root mean square."""
    draw = np.random.default_rng(seed)
    size = scale * float(torch.cat([g.flatten() for g in seen.shared]).square().mean().sqrt())
    shared = []
    for tensor in seen.shared:
        error = draw.normal(size=tensor.shape) if kind == "Gaussian" else draw.laplace(size=tensor.shape) / 2**0.5
        shared.append(tensor + size * torch.as_tensor(error, dtype=tensor.dtype))
    return seen.replace(shared=tuple(shared))


def adam(rate: float, schedule: str) -> optimizers.Adam:
    return optimizers.Adam(lr=rate, schedule=SCHEDULES[schedule])


def plain(**changes: Any) -> GradientMatching:
    """InvGrad without its prior."""
    return attacks.InvGrad.replace(**({"iterations": 200, "regularizers": ()} | changes))


def decibels(attack: GradientMatching, x: Tensor, seen: federated.Observation, case: int) -> float:
    return round(float(metrics.psnr(attack(seen, seed=case).inputs, x)), 1)


def tune(name: str, noise: str = "none", scale: float = 0.0, trials: Any = TRIALS, cases: Any = TUNING) -> Iterator:
    for rate, schedule in trials:
        for case in cases:
            yield ("tuning", name, noise, scale, rate, schedule, case)


def best(name: str, noise: str = "none", scale: float = 0.0) -> tuple[float, str]:
    """The rate and schedule with the best mean over the tuning cases."""
    found: dict[tuple[float, str], list[float]] = {}
    for d in known("distances", []):
        if (d["part"], d["distance"], d.get("noise"), d.get("scale")) == ("tuning", name, noise, scale):
            found.setdefault((d["rate"], d["schedule"]), []).append(d["psnr"])
    return max(found, key=lambda key: float(np.mean(found[key])))


def plan() -> Iterator[tuple]:
    for name in DISTANCES:
        yield from tune(name)
        for case in CASES:
            yield ("race", name, "none", 0.0, *best(name), case)
    for scale in NOISES:
        for kind in ("Gaussian", "Laplace"):
            for name in ("squared", "l1"):
                yield from tune(name, kind, scale, TRIALS[1:], TUNING[:1])
                for case in CASES:
                    yield ("race", name, kind, scale, *best(name, kind, scale), case)


def measure(part: str, name: str, noise: str, scale: float, rate: float, schedule: str, case: int) -> dict[str, float]:
    x, seen = view(case)
    if scale:
        seen = noisy(seen, noise, scale, seed=case)
    return {"psnr": decibels(plain(distance=DISTANCES[name], optimizer=adam(rate, schedule)), x, seen, case)}


FREE = spaces.Pixels()
GRAY = initialization.Constant(value=0.5)
WHOLE = {
    "L-BFGS": {"optimizer": optimizers.LBFGS(patience=None), "iterations": 8},
    "Adam": {"optimizer": adam(0.1, "step"), "iterations": 200},
}
KERNEL = {
    "AdamW": {"optimizer": optimizers.AdamW(lr=0.05), "space": FREE},
    "InvGrad": {"optimizer": adam(0.1, "step")},
}


def others() -> Iterator[tuple[dict[str, Any], Callable[[], float]]]:
    """Yield SAPAG's protocols; the cross of distance, optimizer and victim; Adam's cell of it in the box."""
    for case in CASES:
        for name in ("kernel", "squared"):
            for protocol, changes in KERNEL.items():
                attack = plain(distance=DISTANCES[name], initialization=GRAY, **changes)
                key = {"part": "sapag", "distance": name, "protocol": protocol, "case": case}
                yield key, lambda a=attack, c=case: decibels(a, *view(c), c)
    for case in CASES:
        for digit in (True, False):
            for name in ("squared", "cosine"):
                for optimizer, changes in WHOLE.items():
                    attack = plain(
                        distance=DISTANCES[name], space=FREE, dtype=torch.float64, labels=labels.Declared(), **changes
                    )
                    key = {"part": "cross", "digit": digit, "distance": name, "optimizer": optimizer, "case": case}
                    yield key, lambda a=attack, d=digit, c=case: decibels(a, *view(c, digit=d), c)
    for case in CASES:
        for name in ("squared", "cosine"):
            attack = plain(distance=DISTANCES[name], dtype=torch.float64, **WHOLE["Adam"])
            key = {"part": "boxed", "distance": name, "case": case}
            yield key, lambda a=attack, c=case: decibels(a, *view(c), c)


def main() -> None:
    names = ("part", "distance", "noise", "scale", "rate", "schedule", "case")
    resume(
        "distances", COMMAND, ((dict(zip(names, row, strict=True)), functools.partial(measure, *row)) for row in plan())
    )
    resume("distances", COMMAND, ((key, lambda run=run: {"psnr": run()}) for key, run in others()))


if __name__ == "__main__":
    main()
