"""InvGrad on ten photographs at four sizes: with budgets that are fixed or grow, and with rates that are held or fall.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_resolution

The victim is an untrained ConvNet that flattens; the label is declared. The preset, whose rate falls, at 100 iterations
and at a number that grows with the side; at 64 pixels and 100 iterations also other rates, falling and held. And what
l1 finds where the network averages over positions. Cases that the file already holds are kept; remove the file to
measure all of them again.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import distances, optimizers
from tools.recording import resume

COMMAND = "python -m tools.record_resolution"
SIZES = (16, 32, 64, 128)
BUDGETS = {"fixed": lambda size: 100, "growing": lambda size: 100 * size // 16}
SCHEDULES = {"held": None, "falling": optimizers.StepDecay()}
RATES = (("held", 0.1), ("falling", 0.3), ("falling", 1.0), ("falling", 3.0), ("held", 0.3), ("held", 0.03))


def at_16(x: Tensor) -> Tensor:
    return F.interpolate(x, size=16, mode="area")


def invgrad(seen, iterations: int, **changes) -> Tensor:
    return attacks.InvGrad.replace(iterations=iterations, **changes)(seen).inputs


def view(size: int, name: str):
    x, y = data.photos(size, names=[name])
    return x, federated.observe(models.convnet(size=size), x, y, declare=["labels"])


def by_size(size: int, budget: str, name: str) -> dict:
    x, seen = view(size, name)
    iterations = BUDGETS[budget](size)
    found = invgrad(seen, iterations)
    return {
        "size": size,
        "budget": budget,
        "photograph": name,
        "iterations": iterations,
        "psnr": round(float(metrics.psnr(found, x)), 1),
        "ssim": round(float(metrics.ssim(found, x)), 3),
        "psnr_at_16": round(float(metrics.psnr(at_16(found), at_16(x))), 1),
    }


def by_rate(schedule: str, rate: float, name: str) -> dict:
    x, seen = view(64, name)
    found = invgrad(seen, 100, optimizer=optimizers.Adam(lr=rate, schedule=SCHEDULES[schedule]))
    return {
        "schedule": schedule,
        "rate": rate,
        "photograph": name,
        "iterations": 100,
        "psnr": round(float(metrics.psnr(found, x)), 1),
        "ssim": round(float(metrics.ssim(found, x)), 3),
        "psnr_at_16": round(float(metrics.psnr(at_16(found), at_16(x))), 1),
    }


def averaged(size: int) -> nn.Module:
    """The ConvNet with an average over positions before its end."""
    *layers, _, _ = models.convnet(size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def by_average(average: int, name: str) -> dict:
    x, y = data.photos(average, names=[name])
    seen = federated.observe(averaged(average), x, y, declare=["labels"])
    found = invgrad(seen, 1000, distance=distances.Manhattan(), regularizers=())
    return {"average": average, "photograph": name, "iterations": 1000, "psnr": round(float(metrics.psnr(found, x)), 1)}


CASES = [
    *((by_size, (size, budget, name)) for size in SIZES[:3] for budget in BUDGETS for name in data.PHOTOS),
    *((by_rate, (*way, name)) for way in RATES for name in data.PHOTOS),
    *((by_average, (size, data.PHOTOS[k])) for size in (16, 32, 64) for k in (0, 4, 6)),
    *((by_size, (128, budget, name)) for budget in BUDGETS for name in data.PHOTOS),
]
KEYS = {
    by_size: ("size", "budget", "photograph"),
    by_rate: ("schedule", "rate", "photograph"),
    by_average: ("average", "photograph"),
}


def main() -> None:
    plan = [(dict(zip(KEYS[run], case, strict=True)), functools.partial(run, *case)) for run, case in CASES]
    resume("resolution", COMMAND, plan)


if __name__ == "__main__":
    main()
