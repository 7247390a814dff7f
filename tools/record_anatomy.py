"""What one ingredient of InvGrad is worth: ten photographs, every replacement tuned over three settings or more.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_anatomy

Photograph k is attacked through the untrained ConvNet of seed k, from the start of seed k, with 100 evaluations. The
baseline is InvGrad at a learning rate that is held. Also, for every photograph, where eight starts end after 40
evaluations. About four minutes. Cases that the file already holds are kept; remove the file to measure all of them
again.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import initialization, optimizers, regularizers, spaces
from tools.recording import resume

COMMAND = "python -m tools.record_anatomy"
EVALUATIONS = 100
STARTS = 8


def squared(simulated, shared) -> Tensor:
    """The squared distance as a share of the shared gradient's squared length."""
    pairs = list(zip(simulated, shared, strict=True))
    return sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)


def clipped(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The Gaussian start as the box leaves it."""
    return initialization.Gaussian()(shape, generator).clamp(0, 1)


def adam(lr: float, **changes: Any) -> optimizers.Adam:
    return optimizers.Adam(lr=lr, **changes)


def smooth(weight: float) -> tuple[Any, ...]:
    return (regularizers.TotalVariation(weight=weight),)


FREE = {"space": spaces.Pixels()}
STEPS = optimizers.StepDecay()
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "InvGrad, rate held": {f"rate {lr}": {"optimizer": adam(lr)} for lr in (0.03, 0.1, 0.3)},
    "step decay": {f"rate {lr}": {"optimizer": adam(lr, schedule=STEPS)} for lr in (0.1, 0.3, 1.0)},
    "no total variation": {f"rate {lr}": {"optimizer": adam(lr), "regularizers": ()} for lr in (0.03, 0.1, 0.3)},
    "no box": {f"rate {lr}": {"optimizer": adam(lr), **FREE} for lr in (0.03, 0.1, 0.3, 1.0)},
    "no box, start clipped": {
        f"rate {lr}": {"optimizer": adam(lr), "initialization": clipped, **FREE} for lr in (0.03, 0.1, 0.3)
    },
    "squared distance": {
        f"rate {lr}, TV {weight}": {"optimizer": adam(lr), "distance": squared, "regularizers": smooth(weight)}
        for lr, weight in ((0.03, 1e-2), (0.1, 1e-2), (0.3, 1e-2), (0.1, 1e-3), (0.1, 1e-1))
    },
    "sign of the derivative": {f"rate {lr}": {"optimizer": adam(lr, signed=True)} for lr in (0.01, 0.03, 0.1)},
    "gradient steps": {
        f"rate {lr}": {"optimizer": optimizers.SGD(lr=lr, momentum=0.9)} for lr in (30.0, 100.0, 300.0, 1000.0)
    },
    "L-BFGS": {
        f"{steps} steps": {"optimizer": optimizers.LBFGS(max_iter=steps, patience=None), "iterations": 80 // steps}
        for steps in (5, 10, 20)
    }
    | {
        "20 steps, no box": {
            "optimizer": optimizers.LBFGS(patience=None),
            "initialization": clipped,
            "iterations": 4,
            **FREE,
        }
    },
}


def view(k: int) -> tuple[Tensor, federated.Observation]:
    x, y = data.photos(32, names=[data.PHOTOS[k]])
    return x, federated.observe(models.convnet(seed=k), x, y, declare=["labels"])


def by_variant(variant: str, setting: str, k: int) -> dict[str, Any]:
    x, seen = view(k)
    found = attacks.InvGrad.replace(**{"iterations": EVALUATIONS, **VARIANTS[variant][setting]})(seen, seed=k)
    return {
        "variant": variant,
        "setting": setting,
        "photograph": data.PHOTOS[k],
        "evaluations": len(found.history),
        "psnr": round(float(metrics.psnr(found.inputs, x)), 2),
    }


def by_start(k: int) -> dict[str, Any]:
    x, seen = view(k)
    attack = attacks.InvGrad.replace(iterations=40, optimizer=adam(0.1))
    ends = [attack(seen, seed=seed) for seed in range(STARTS)]
    return {
        "photograph": data.PHOTOS[k],
        "distance": [float(f"{found.restarts[0]['distance']:.4g}") for found in ends],
        "starts_psnr": [round(float(metrics.psnr(found.inputs, x)), 2) for found in ends],
    }


PLAN = [
    *(
        (
            {"variant": variant, "setting": setting, "photograph": data.PHOTOS[k]},
            functools.partial(by_variant, variant, setting, k),
        )
        for k in range(10)
        for variant, settings in VARIANTS.items()
        for setting in settings
    ),
    *(({"variant": None, "photograph": data.PHOTOS[k]}, functools.partial(by_start, k)) for k in range(10)),
]


def main() -> None:
    resume("anatomy", COMMAND, PLAN)


if __name__ == "__main__":
    main()
