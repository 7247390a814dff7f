"""How often, and by how much, three rules miscount the labels of a batch: ten folds of sixty fresh networks.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_label_counts

Every batch has a network of its own, an untrained MLP with 64 ReLUs, and digits drawn with replacement from the
clients' 600; the attacker's data of LLG+ are the last 497. A row is one fold and batch size, with the number of labels
that each rule got right, batch by batch. Two minutes on one core. What the file already holds is kept; remove the file
to measure all of it again.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch

from gilearn import data, federated, metrics, models
from gilearn.attacks import labels
from tools.recording import resume

COMMAND = "python -m tools.record_label_counts"
FOLDS = range(10)
SIZES = (8, 32, 64)
BATCHES = 60
RULES = ("LLG*", "LLG+", "iLRG")


def measure(fold: int, size: int) -> dict[str, Any]:
    digits, truth = data.digits(fold=fold)
    plus = labels.LLGPlus(examples=digits[1300:], labels=truth[1300:])
    rules = dict(zip(RULES, (labels.LLGStar(), plus, labels.ILRG()), strict=True))
    generator = torch.Generator().manual_seed(1000 * fold)
    right: dict[str, list[int]] = {name: [] for name in rules}
    for k in range(BATCHES):
        rows = torch.randint(600, (size,), generator=generator)
        model = models.mlp(64, (64,), activation="relu", seed=1000 * fold + k)
        seen = federated.observe(model, digits[rows], truth[rows])
        for name, rule in rules.items():
            right[name].append(round(size * metrics.label_accuracy(rule(seen), truth[rows])))
    return {"right": right}


def main() -> None:
    plan = [
        ({"fold": fold, "size": size}, functools.partial(measure, fold, size))
        for fold, size in itertools.product(FOLDS, SIZES)
    ]
    resume("label-counts", COMMAND, plan, hidden=("right",))


if __name__ == "__main__":
    main()
