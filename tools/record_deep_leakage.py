"""DLG's batches of one and two gray photographs: strides, initialization, width, each changed alone.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python -m tools.record_deep_leakage

Ten networks, each with two photographs of its own of 24x24 pixels; labels are declared, every search has one start and
sixty iterations of up to twenty steps. Then three pairs of 32x32 in colour, with DLG's own network. Eight minutes of
one core. What is finished is kept: a run that is stopped goes on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from gilearn import attacks, data, federated, metrics, models, ranks
from tools.recording import resume

NAME, COMMAND = "deep-leakage-batches", "python -m tools.record_deep_leakage"
ATTACK = attacks.DLG.replace(labels=attacks.labels.Declared(), restarts=1, iterations=60)
NETWORKS: dict[str, dict[str, Any]] = {
    "strides, wide": {"strides": (2, 2, 1), "spread": 0.5, "width": 5},
    "strides, default": {"strides": (2, 2, 1), "spread": None, "width": 5},
    "strides, default, one channel more": {"strides": (2, 2, 1), "spread": None, "width": 6},
    "no strides, wide": {"strides": (1, 1, 1), "spread": 0.5, "width": 5},
    "no strides, default": {"strides": (1, 1, 1), "spread": None, "width": 5},
}
SINGLES = ("strides, wide", "strides, default")
COLOUR = {"colour, wide": 0.5, "colour, default": None}


def plan() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    x, y = data.photos(24, crops=1, seed=11)
    x = x.mean(1, keepdim=True)
    for case in range(10):
        pair = [case, (case + 3) % 10]
        for name, options in NETWORKS.items():
            for batch in (1, 2) if name in SINGLES else (2,):
                model = models.lenet(1, size=24, seed=100 + case, **options)
                run = functools.partial(one_run, model, x[pair[:batch]], y[pair[:batch]], case)
                yield {"case": case, "network": name, "batch": batch}, run
    x, y = data.photos(32, crops=1, seed=11)
    for case in range(3):
        pair = [case, case + 3]
        for name, spread in COLOUR.items():
            model = models.lenet(seed=100 + case, spread=spread)
            yield {"case": case, "network": name, "batch": 2}, functools.partial(one_run, model, x[pair], y[pair], case)


def main() -> None:
    resume(NAME, COMMAND, plan())


def one_run(model: torch.nn.Sequential, x: torch.Tensor, y: torch.Tensor, seed: int) -> dict[str, Any]:
    """Attack a batch; split the error of two gray photographs by what the gradient shows (without strides: of one pair,
    because that takes long)."""
    found = ATTACK(federated.observe(model, x, y, declare=["labels"]), seed=seed)
    row = {
        "mse": rounded(metrics.mse(found.inputs, x)),
        "residual": rounded(found.residual),
        "evaluations": len(found.history),
    }
    if len(x) == 2 and x.shape[1] == 1 and (seed == 0 or model[0].stride == (2, 2)):
        values, directions = ranks.gradient_modes(model, x, y)
        rank = int((values > 1e-7 * values[0]).sum())
        error = directions.T @ (found.inputs - x).double().flatten()
        row |= {
            "unknowns": len(values),
            "rank": rank,
            "condition": rounded(values[0] / values[rank - 1]),
            "visible": rounded(error[:rank].square().sum() / len(error)),
            "invisible": rounded(error[rank:].square().sum() / len(error)),
        }
    return row


def rounded(value: Any) -> float:
    return float(f"{float(value):.3g}")


if __name__ == "__main__":
    main()
