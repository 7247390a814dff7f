"""The picture under noise that its label survives: matching attacks and the division, on the victims of labels-single.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_label_noise

A case is a digit and an untrained MLP with tanh, seeds of its own. The noise is a multiple of every tensor's root mean
square (unit "tensor"), or of the norm of the whole gradient, as if that were the clipping norm (unit "norm"). The label
is declared to the matching attacks, which have 200 steps of Adam in the box from 0 to 1; rate and schedule are the best
of six for every attack and noise on four other cases, which are recorded as well. Twenty minutes on one core. What the
file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import distances, optimizers
from tools.recording import known, resume

COMMAND = "python -m tools.record_label_noise"
COLUMNS = ("part", "attack", "unit", "level", "rate", "schedule", "case")
CASES = range(24)
TUNING = range(24, 28)
LEVELS = (*(("tensor", level) for level in (0.1, 0.3, 1.0, 3.0, 10.0)), *(("norm", level) for level in (0.1, 0.3, 1.0)))
TRIALS = tuple((rate, schedule) for rate in (0.01, 0.03, 0.1) for schedule in ("flat", "step"))
SCHEDULES = {"flat": None, "step": optimizers.StepDecay()}
MATCHING = {
    "l1": attacks.InvGrad.replace(distance=distances.Manhattan(), regularizers=(), iterations=200),
    "cosine": attacks.InvGrad.replace(regularizers=(), iterations=200),
    "cosine, TV": attacks.InvGrad.replace(iterations=200),
}


def view(case: int, unit: str, level: float, pictures: Tensor, kinds: Tensor) -> federated.Observation:
    """The gradient of one digit, with noise in proportion to every tensor, or to the whole."""
    model = models.mlp(64, (32,), activation="tanh", seed=case)
    seen = federated.observe(model, pictures[case : case + 1], kinds[case : case + 1], declare=["labels"])
    generator = torch.Generator().manual_seed(case)
    whole = torch.cat([g.flatten() for g in seen.shared]).norm()
    return seen.replace(
        shared=tuple(
            g
            + level
            * (whole if unit == "norm" else g.square().mean().sqrt())
            * torch.randn(g.shape, generator=generator)
            for g in seen.shared
        )
    )


def divided(seen: federated.Observation) -> Tensor:
    """The picture of the rank-one matrix that is nearest to the first layer's gradient, weights and bias."""
    weight, bias = seen.shared[:2]
    _, _, right = torch.linalg.svd(torch.cat([weight, bias[:, None]], dim=1).double())
    return (right[0, :-1] / right[0, -1]).clamp(0, 1).float().view(1, 1, 8, 8)


def best(name: str, unit: str, level: float) -> tuple[float, str]:
    """The rate and schedule with the best mean over the tuning cases."""
    found: dict[tuple[float, str], list[float]] = {}
    for d in known("label-noise", []):
        if (d["part"], d["attack"], d["unit"], d["level"]) == ("tuning", name, unit, level):
            found.setdefault((d["rate"], d["schedule"]), []).append(d["psnr"])
    return max(found, key=lambda key: float(np.mean(found[key])))


def plan() -> Iterator[tuple]:
    for unit, level in LEVELS:
        for case in CASES:
            yield ("race", "division", unit, level, 0.0, "none", case)
        for name in MATCHING:
            for rate, schedule in TRIALS:
                for case in TUNING:
                    yield ("tuning", name, unit, level, rate, schedule, case)
            for case in CASES:
                yield ("race", name, unit, level, *best(name, unit, level), case)


def measure(key: dict[str, Any]) -> dict[str, Any]:
    pictures, kinds = data.digits()
    case = key["case"]
    seen = view(case, key["unit"], key["level"], pictures, kinds)
    if key["attack"] == "division":
        x = divided(seen)
    else:
        optimizer = optimizers.Adam(lr=key["rate"], schedule=SCHEDULES[key["schedule"]])
        x = MATCHING[key["attack"]].replace(optimizer=optimizer)(seen, seed=case).inputs
    nearest = int((pictures - x).square().flatten(1).sum(1).argmin())
    return {"psnr": round(float(metrics.psnr(x, pictures[case : case + 1])), 1), "identified": nearest == case}


def main() -> None:
    keys = (dict(zip(COLUMNS, row, strict=True)) for row in plan())
    resume("label-noise", COMMAND, ((key, functools.partial(measure, key)) for key in keys))


if __name__ == "__main__":
    main()
