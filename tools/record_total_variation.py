"""The weights of total variation and of the norm, swept: ten photographs and networks, with and without noise.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_total_variation

A case is a photograph of 16x16 pixels, a ConvNet without normalization, and a Gaussian start, with seeds of their own;
the label is declared. Weights are shares of the distance between the shared gradient and zero. ``trained`` networks are
trained as in ``record_batch_norm``; noise is Gaussian, as large as the gradient. Rates are the best of three without
the prior, on another case, which is recorded as well, and fall along a cosine. Two minutes on one core. What the
file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import distances, optimizers, regularizers
from tools.record_batch_norm import CASES, FALLING, RATES, best, train, windows
from tools.recording import known, resume

COMMAND = "python -m tools.record_total_variation"
TUNING = (10,)
TV, L2 = (0.0, 1e-2, 1e-1, 1.0), (1e-2, 1e-1)
TERMS = {"tv": regularizers.TotalVariation, "l2": regularizers.L2}
DISTANCES = {"cosine": distances.Cosine(), "l1": distances.Manhattan()}
VICTIMS = (
    ("untrained", 0.0, "cosine"),
    ("untrained", 1.0, "cosine"),
    ("trained", 0.0, "cosine"),
)


@functools.cache
def victim(state: str, case: int) -> nn.Module:
    net = models.convnet(size=16, widths=(16, 32, 32), seed=case)
    if state == "trained":
        train(net, *windows(case // 10), seed=case)
    return net


def observed(state: str, noise: float, case: int) -> tuple[torch.Tensor, federated.Observation]:
    x, y = (values[case % 10 : case % 10 + 1] for values in data.photos(16, fold=case // 10))
    seen = federated.observe(victim(state, case), x, y, declare=["labels"])
    size = noise * torch.cat([g.flatten() for g in seen.shared]).square().mean().sqrt()
    draw = torch.Generator().manual_seed(case)
    return x, seen.replace(shared=tuple(g + size * torch.randn(g.shape, generator=draw) for g in seen.shared))


def measure(key: dict[str, Any]) -> dict[str, float]:
    x, seen = observed(key["state"], key["noise"], key["case"])
    distance = DISTANCES[key["distance"]]
    scale = float(distance([torch.zeros_like(g) for g in seen.shared], seen.shared))
    attack = attacks.InvGrad.replace(
        distance=distance,
        regularizers=(TERMS[key["term"]](weight=key["share"] * scale),),
        optimizer=optimizers.Adam(lr=key["rate"], schedule=FALLING),
        iterations=100,
    )
    return {"psnr": round(float(metrics.psnr(attack(seen, seed=key["case"]).inputs, x)), 1)}


def plan() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, float]]]]:
    for state, noise, distance in VICTIMS:
        where = {"state": state, "noise": noise, "distance": distance, "term": "tv"}
        for key in [{"part": "tuning", **where, "rate": r, "share": 0.0, "case": c} for r in RATES for c in TUNING]:
            yield key, functools.partial(measure, key)
        rate = best(known("total-variation", []), "rate", RATES, **where)
        sweep = [("tv", share) for share in TV] + [("l2", share) for share in L2 if noise and distance == "cosine"]
        for term, share in sweep:
            for case in CASES:
                key = {"part": "race", **where, "term": term, "rate": rate, "share": share, "case": case}
                yield key, functools.partial(measure, key)


if __name__ == "__main__":
    resume("total-variation", COMMAND, plan())
