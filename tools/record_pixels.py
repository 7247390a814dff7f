"""What pixelization and dropout cost: accuracy over five seeds on three tasks, with each side's own learning rate.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_pixels

``cells`` is pixelization without noise, ``DP-Pix`` and ``DP-Blur`` spend epsilon 2 once on pictures that differ in one
cell of one channel; cells have 2x2 pixels for digits and 4x4 for the others. The rate is the best of three on the
validation examples of another seed. What the file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

from gilearn import defenses
from gilearn.defenses import utility
from gilearn.federated import Defense
from tools.recording import resume

COMMAND = "python -m tools.record_pixels"
RATES = (0.1, 0.3, 1.0)
SEEDS = range(5)


def defense(name: str, task: str) -> Defense | None:
    cell = 2 if task == "digits" else 4
    release = {"cell": cell, "m": cell**2, "epsilon": 2.0}
    return {
        "none": None,
        "dropout": defenses.Dropout(p=0.5),
        "cells": defenses.DPPix(**release | {"epsilon": math.inf}),
        "DP-Pix": defenses.DPPix(**release),
        "DP-Blur": defenses.DPBlur(**release, sigma=cell / 2),
    }[name]


def measure(task: str, name: str) -> dict[str, Any]:
    what = {"defense": defense(name, task)}
    training = utility.tuned(utility.TASKS[task], rates=RATES, seeds=(5,), **what)
    found = utility.measure(training, seeds=SEEDS, **what)
    return {
        "lr": training.local.lr,
        "accuracy": [round(value, 4) for value in found["accuracy"]],
        "seconds": round(float(found["seconds"].median()), 2),
        "megabytes": round(float(found["megabytes"].mean()), 3),
    }


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for task in ("faces", "digits", "colour"):
        for name in ("none", "dropout", "DP-Pix", "cells", "DP-Blur"):
            yield {"task": task, "defense": name}, functools.partial(measure, task, name)


def main() -> None:
    resume("pixels", COMMAND, plan())


if __name__ == "__main__":
    main()
