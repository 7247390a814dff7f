"""InvGrad on ten photographs at four sizes, with a fixed number of iterations and with one that grows with the side.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2 python -m tools.record_resolution

The victim is an untrained ConvNet that flattens; the label is declared. Also how three starts end at 64 pixels when
they have time, and what l1 finds where the network averages over positions. Cases that the file already holds are kept;
remove the file to measure all of them again.
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import distances, initialization, spaces

COMMAND = "python -m tools.record_resolution"
SIZES = (16, 32, 64, 128)
BUDGETS = {"fixed": lambda size: 100, "growing": lambda size: 100 * size // 16}
STARTS = ("Gaussian", "gray", "small, then large")


def at_16(x: Tensor) -> Tensor:
    return F.interpolate(x, size=16, mode="area")


def invgrad(seen, iterations: int, **changes) -> Tensor:
    return attacks.InvGrad.replace(iterations=iterations, **changes)(seen).inputs


def from_start(seen, start: str, iterations: int) -> Tensor:
    if start == "Gaussian":
        return invgrad(seen, iterations)
    if start == "gray":
        return invgrad(seen, iterations, initialization=initialization.Constant(value=0.5))
    coarse = invgrad(seen, iterations // 4, space=spaces.Coarse(factor=2, bounds=(0.0, 1.0)))
    return invgrad(seen, iterations - iterations // 4, initialization=initialization.FromImage(picture=coarse[0]))


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


def by_start(start: str, name: str) -> dict:
    x, seen = view(64, name)
    found = from_start(seen, start, 400)
    return {"start": start, "photograph": name, "iterations": 400, "psnr": round(float(metrics.psnr(found, x)), 1)}


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
    *((by_start, (start, data.PHOTOS[k])) for k in (0, 4, 6) for start in STARTS),
    *((by_average, (size, data.PHOTOS[k])) for size in (16, 32, 64) for k in (0, 4, 6)),
    *((by_size, (128, budget, name)) for budget in BUDGETS for name in data.PHOTOS),
]
KEYS = {
    by_size: ("size", "budget", "photograph"),
    by_start: ("start", "photograph"),
    by_average: ("average", "photograph"),
}


def main() -> None:
    from tools.recording import FOLDER, record

    path = FOLDER / "resolution.json"
    result = json.loads(path.read_text())["result"] if path.exists() else []
    for measure, case in CASES:
        keys = KEYS[measure]
        if any(tuple(done.get(key) for key in keys) == case for done in result):
            continue
        result.append(measure(*case))
        print(result[-1], flush=True)
        record("resolution", COMMAND, result)


if __name__ == "__main__":
    main()
