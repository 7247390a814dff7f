"""One photograph through batch normalization: what its statistics are, and in which mode the client computes.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_batch_norm

A case is a photograph of 16x16 pixels, a ConvNet of three convolutions with a batch normalization after each, and a
Gaussian start, with seeds of their own; the label is declared. The network is as it was drawn (``untouched``: its
running mean is 0 and its variance 1), has passed 160 windows of the photographs once (``calibrated``), or was trained
on them (``trained``). There is no prior. The rate is the best of three on another case, which is recorded as well, and
falls along a cosine. Two minutes on one core. What the file already holds is kept; remove the file to measure all
of it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import distances, optimizers
from tools.recording import known, resume

COMMAND = "python -m tools.record_batch_norm"
CASES, TUNING = range(10), (10,)
RATES = (0.03, 0.1, 0.3)
FALLING = optimizers.WarmupCosine(warmup=1)
VICTIMS = (
    ("untouched", "inference"),
    ("calibrated", "inference"),
    ("calibrated", "training"),
    ("trained", "inference"),
    ("trained", "training"),
)
DISTANCES = {"l1": distances.Manhattan(), "cosine": distances.Cosine()}
TURNS = [(*victim, distance) for victim in VICTIMS for distance in DISTANCES]


@functools.cache
def windows(fold: int) -> tuple[Tensor, Tensor]:
    """Sixteen windows of 16x16 pixels of each photograph of 24: what networks are calibrated and trained on."""
    photos, kinds = data.photos(24, fold=fold)
    places = torch.randint(9, (160, 2), generator=torch.Generator().manual_seed(fold)).tolist()
    cut = [photos[k // 16, :, i : i + 16, j : j + 16] for k, (i, j) in enumerate(places)]
    return torch.stack(cut), kinds.repeat_interleave(16)


@functools.cache
def victim(state: str, case: int) -> nn.Module:
    """A network in train mode, in one of the three states."""
    net = models.convnet(size=16, widths=(16, 32, 32), batch_norm=True, seed=case).train()
    x, y = windows(case // 10)
    if state == "calibrated":
        calibrate(net, x)
    if state == "trained":
        train(net, x, y, seed=case)
    return net


@torch.no_grad()
def calibrate(net: nn.Module, x: Tensor) -> None:
    """Let pictures pass a network in train mode; its normalizations then have their statistics."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain average
    net(x)


def train(net: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> None:
    """Twenty epochs of Adam."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        for rows in torch.randperm(len(x), generator=generator).split(16):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()


def measure(key: dict[str, Any]) -> dict[str, float]:
    case = key["case"]
    x, y = (values[case % 10 : case % 10 + 1] for values in data.photos(16, fold=case // 10))
    net = victim(key["state"], case).train(key["mode"] == "training")
    attack = attacks.InvGrad.replace(
        distance=DISTANCES[key["distance"]],
        regularizers=(),
        optimizer=optimizers.Adam(lr=key["rate"], schedule=FALLING),
        iterations=100,
    )
    found = attack(federated.observe(net, x, y, declare=["labels"]), seed=case).inputs
    return {"psnr": round(float(metrics.psnr(found, x)), 1)}


def best(done: list[dict[str, Any]], name: str, values: tuple[float, ...], **wanted: Any) -> float:
    """The value of a setting with the best mean over the tuning cases."""
    wanted |= {"part": "tuning"}

    def mean(value: float) -> float:
        return float(np.mean([d["psnr"] for d in done if d[name] == value and wanted.items() <= d.items()]))

    return max(values, key=mean)


def plan() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, float]]]]:
    for state, mode, distance in TURNS:
        net = {"state": state, "mode": mode, "distance": distance}
        keys = [{"part": "tuning", **net, "rate": rate, "case": case} for rate in RATES for case in TUNING]
        for key in keys:
            yield key, functools.partial(measure, key)
        rate = best(known("batch-norm", []), "rate", RATES, **net)
        for case in CASES:
            key = {"part": "race", **net, "rate": rate, "case": case}
            yield key, functools.partial(measure, key)


if __name__ == "__main__":
    resume("batch-norm", COMMAND, plan())
