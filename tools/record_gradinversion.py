"""GradInversion's terms, one after the other, on ten batches of four photographs, three starts each.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_gradinversion

Victims, windows and cases are those of ``record_batch_norm``, with four distinct photographs in place of one; labels
are declared. Each attack has 100 iterations and the cosine. Rate and weights are the best of three on
another batch, one after the other, and recorded as well. Three numbers are kept of every run, all in dB: that of the
start with the least distance, the mean of the three starts' own, and that of the mean of the three pictures.
Three minutes on one core. What the file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gilearn import data, federated, metrics
from gilearn.attacks import GradientMatching, distances, labels, optimizers, regularizers, spaces
from tools.record_batch_norm import CASES, victim
from tools.recording import known, resume

COMMAND = "python -m tools.record_gradinversion"
STARTS, ITERATIONS, SIZE = 3, 100, 4
TUNING = (10,)
VICTIMS = (("trained", "inference"),)
TUNED = {
    "rate": (0.03, 0.1, 0.3),
    "tv": (1e-3, 1e-2, 1e-1),
    "running": (1e-3, 1e-2, 1e-1),
    "declared": (1e-3, 1e-2, 1e-1),
    "group": (1e-3, 1e-2, 1e-1),
}
TERMS = {
    "tv": lambda w: regularizers.TotalVariation(weight=w),
    "running": lambda w: regularizers.BatchNormStatistics(weight=w),
    "declared": lambda w: regularizers.BatchNormStatistics(weight=w, source="declared"),
    "group": lambda w: regularizers.GroupConsistency(weight=w),
}
# The terms of each row; the last one's weight is tuned with those before it fixed.
ROWS = {
    "gradient": (),
    "tv": ("tv",),
    "tv, declared": ("tv", "declared"),
    "tv, declared, group": ("tv", "declared", "group"),
    "tv, running": ("tv", "running"),
}


class Watcher:
    """A term of weight zero that remembers where all starts are."""

    def __call__(self, candidates: regularizers.Candidates) -> Tensor:
        self.inputs = candidates.inputs.detach().clone()
        return torch.zeros(len(self.inputs))


def photographs(case: int) -> tuple[Tensor, Tensor]:
    """Four distinct ones, drawn by the case's number."""
    x, y = data.photos(16, fold=case // 10)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(case))[:SIZE].sort().values
    return x[rows], y[rows]


def attack(row: str, weights: dict[str, float], watcher: Watcher) -> GradientMatching:
    adam = optimizers.Adam(lr=weights["rate"], schedule=optimizers.WarmupCosine(warmup=10))
    shape = {"iterations": ITERATIONS, "restarts": STARTS, "parallel": STARTS}
    shape |= {"space": spaces.Pixels(bounds=(0.0, 1.0)), "labels": labels.Declared()}
    terms = [TERMS[name](weights[name]) for name in ROWS[row]]
    return GradientMatching(distance=distances.Cosine(), regularizers=(*terms, watcher), optimizer=adam, **shape)


def measure(key: dict[str, Any]) -> dict[str, float]:
    case = key["case"]
    x, y = photographs(case)
    net = victim(key["state"], case).train(key["mode"] == "training")
    seen = federated.observe(net, x, y, declare=["labels", "batch_norm"])
    watcher = Watcher()
    best = attack(key["row"], key["weights"], watcher)(seen, seed=case).inputs
    numbers = {
        "psnr": metrics.psnr(best, x),
        "psnr_starts": np.mean([metrics.psnr(one, x) for one in watcher.inputs]),
        "psnr_mean": metrics.psnr(watcher.inputs.mean(0), x),
    }
    return {name: round(float(value), 2) for name, value in numbers.items()}


def plan() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, float]]]]:
    for state, mode in VICTIMS:
        where = {"state": state, "mode": mode}
        chosen: dict[str, dict[str, float]] = {}
        for row, terms in ROWS.items():
            before = chosen.get(", ".join(terms[:-1]) or "gradient", {}) if terms else {}
            name = terms[-1] if terms else "rate"
            trials = [before | {name: value} for value in TUNED[name]]
            for weights in trials:
                for case in TUNING:
                    key = {"part": "tuning", **where, "row": row, "weights": weights, "case": case}
                    yield key, functools.partial(measure, key)
            chosen[row] = max(trials, key=functools.partial(mean, known("gradinversion", []), where, row))
        for case in CASES:
            for row in ROWS:
                key = {"part": "race", **where, "row": row, "weights": chosen[row], "case": case}
                yield key, functools.partial(measure, key)


def mean(done: list[dict[str, Any]], where: dict[str, str], row: str, weights: dict[str, float]) -> float:
    wanted = {"part": "tuning", **where, "row": row, "weights": weights}
    return float(np.mean([d["psnr"] for d in done if wanted.items() <= d.items()]))


if __name__ == "__main__":
    resume("gradinversion", COMMAND, plan())
