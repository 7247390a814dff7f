"""How far disaggregation goes: participation, gradients and seconds, with the number of clients and with noise.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_disaggregation

A case draws participation and gradients of 300 numbers (1,000 in the noisy cases) with a seed of its own: every client
takes part in every round with the same probability, analytics count in windows of ten rounds. In the noisy cases every
client's gradient is drawn anew around its mean in every round, with a standard deviation of 5 % of its own. ``wrong``
counts the entries of participation that are not the true ones, where clients with the same counts are put in the order
that is nearest to the truth. A case that is not solved within its limit is recorded as such. What the file already
holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from gilearn.attacks.disaggregation import disaggregate, participation
from tools.recording import resume

COMMAND = "python -m tools.record_disaggregation"
LIMIT = 1800
SIZES = (10, 20, 30, 40, 50)
PLAN = [
    *(("exact", clients, 4 * clients, 0.5, seed) for seed in range(3) for clients in SIZES),
    *(("exact", 20, 60, 0.2, seed) for seed in range(10)),
    *(("exact", clients, 4 * clients, 0.2, seed) for seed in range(3) for clients in SIZES),
    *(("noisy", *size, seed) for size in ((10, 40, 0.5), (20, 60, 0.2)) for seed in range(10)),
    *(("exact", clients, 4 * clients, share, 0) for share in (0.2, 0.5) for clients in (60, 80, 100)),
    *(("noisy", 20, 80, 0.5, seed) for seed in range(10)),
]


def draw(clients: int, rounds: int, share: float, seed: int, noise: float, numbers: int) -> tuple[np.ndarray, ...]:
    """Participation, gradients and sums."""
    generator = np.random.default_rng((seed, clients, rounds))
    who = (generator.random((rounds, clients)) < share).astype(np.int64)
    gradients = generator.normal(size=(clients, numbers))
    sums = np.stack([row @ (gradients + noise * generator.normal(size=gradients.shape)) for row in who])
    return who, gradients, sums


def measure(kind: str, clients: int, rounds: int, share: float, seed: int) -> dict[str, Any]:
    noise, numbers = (0.0, 300) if kind == "exact" else (0.05, 1000)
    who, gradients, sums = draw(clients, rounds, share, seed, noise, numbers)
    counts = np.stack([who[begin : begin + 10].sum(0) for begin in range(0, rounds, 10)])
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, _, groups = participation(sums, counts, 10, time_limit=LIMIT)
    except (ValueError, TimeoutError) as error:
        return {"seconds": round(time.perf_counter() - began, 1), "outcome": str(error)}
    seconds = round(time.perf_counter() - began, 1)
    _, order = linear_sum_assignment(np.abs(who[:, :, None] - found[:, None, :]).sum(0))
    found = found[:, order]
    error = np.linalg.norm(disaggregate(sums, found)[0] - gradients) / np.linalg.norm(gradients)
    return {
        "seconds": seconds,
        "outcome": "found",
        "wrong": int(np.abs(found - who).sum()),
        "error": float(f"{error:.1e}"),
        "interchangeable": sum(map(len, groups)),
    }


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for row in PLAN:
        yield (
            dict(zip(("kind", "clients", "rounds", "share", "seed"), row, strict=True)),
            functools.partial(measure, *row),
        )


def main() -> None:
    resume("disaggregation", COMMAND, plan())


if __name__ == "__main__":
    main()
