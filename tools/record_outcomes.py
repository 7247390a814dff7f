"""Forty runs of two attacks, one that finds everything or nothing and one whose results spread evenly.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python -m tools.record_outcomes

DLG as it was released (L-BFGS without a line search, float32, one start; 60 iterations in place of 300) on forty digits
and as many LeNets without strides. InvGrad (the signed descent on the cosine, with total variation; 100 iterations) on
four crops of each of the ten photographs at 16x16, labels declared, as many untrained ConvNets. Minutes on one core.
Cases that the file already holds are kept; remove the file to measure all of them again.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import optimizers
from tools.recording import resume

COMMAND = "python -m tools.record_outcomes"
CASES = 40
DLG = attacks.DLG.replace(optimizer=optimizers.LBFGS(line_search_fn=None), iterations=60, restarts=1, dtype=None)
INVGRAD = attacks.InvGrad.replace(iterations=100, restarts=1)


def run(name: str, case: int) -> dict[str, Any]:
    """Return what picture was attacked, and the mean squared error of what came back."""
    if name == "DLG":
        x, y = data.digits(CASES)
        x, y, picture = x[case : case + 1], y[case : case + 1], f"digit {case}"
        seen = federated.observe(models.lenet(1, size=8, strides=(1, 1, 1), seed=case), x, y)
        found = DLG(seen, seed=case).inputs
    else:
        picture = data.PHOTOS[case % len(data.PHOTOS)]
        x, y = data.photos(16, names=[picture], fold=case // len(data.PHOTOS))
        seen = federated.observe(models.convnet(size=16, seed=case), x, y, declare=["labels"])
        found = INVGRAD(seen, seed=case).inputs
    error = float(metrics.mse(found, x)) if found.isfinite().all() else math.inf
    return {"picture": picture, "mse": float(f"{error:.3g}") if math.isfinite(error) else None}


def main() -> None:
    order = [(name, case) for case in range(CASES) for name in ("DLG", "InvGrad")]
    plan = [({"attack": name, "case": case}, functools.partial(run, name, case)) for name, case in order]
    resume("outcomes", COMMAND, plan)


if __name__ == "__main__":
    main()
