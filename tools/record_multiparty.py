"""What shared aggregation costs in accuracy, and what clipping on shares buys against one scaled update.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_multiparty

``utility``: the three tasks with five seeds, aggregated in the clear and by two servers on shares; ``gap`` is the
largest difference of a parameter of the two models after five rounds, by seed. ``poisoning``: ten clients with a small
network, 10 seeds; client 0 sends its update times ``scale``. ``bound`` is the norm at which the two servers clip;
without one they take the plain mean over clients. What the file already holds is kept; remove the file to measure all
of it again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gilearn import models
from gilearn.defenses import utility
from gilearn.defenses.aggregation import AdditiveSharing, ClippedMean, Mean, SAFELearn
from gilearn.federated import Aggregated, Aggregation, Gradients, LocalSteps, fedavg
from tools.recording import resume

COMMAND = "python -m tools.record_multiparty"
SMALL = utility.TASKS["digits"].replace(
    build=lambda seed: models.mlp(64, (16,), activation="relu", seed=seed),
    clients=10,
    examples=100,
    rounds=15,
    local=LocalSteps(steps=5, lr=0.3, batch_size=20),
)


@dataclass(frozen=True, kw_only=True)
class Scaled(Aggregation):
    """One client sends a multiple of its update; then another aggregation runs."""

    inner: Aggregation
    scale: float

    @property
    def kind(self) -> str:
        return self.inner.kind

    def aggregate(self, shared: Mapping[int, Gradients], counts: Mapping[int, int], *, number: int) -> Aggregated:
        own = tuple(None if tensor is None else self.scale * tensor for tensor in shared[0])
        return self.inner.aggregate({**shared, 0: own}, counts, number=number)


def final(task: utility.Training, aggregation: Any, seed: int) -> torch.Tensor:
    """The parameters after the last round, of a training on the first examples."""
    x, y = task.load(0)
    held = task.clients * task.examples
    clients = list(zip(x[:held].chunk(task.clients), y[:held].chunk(task.clients), strict=True))
    *_, last = fedavg(task.build(seed).train(), clients, task.local, num_rounds=5, aggregation=aggregation, seed=seed)
    return torch.nn.utils.parameters_to_vector(last.after.parameters()).detach()


def costs(name: str, how: str) -> dict[str, Any]:
    task = utility.TASKS[name]
    aggregation = "mean" if how == "clear" else AdditiveSharing()
    found = utility.measure(task, aggregation=aggregation)
    row: dict[str, Any] = {
        "accuracy": [round(value, 4) for value in found.accuracy],
        "seconds": round(float(found.seconds.median()), 2),
        "megabytes": round(float(found.megabytes.mean()), 3),
    }
    if how == "shares":
        gaps = [(final(task, "mean", seed) - final(task, aggregation, seed)).abs().max() for seed in range(5)]
        row["gap"] = [float(f"{float(gap):.1e}") for gap in gaps]
    return row


def poisoned(bound: float | None, scale: float, seeds: range = range(10)) -> dict[str, Any]:
    rule = Mean(by_counts=False) if bound is None else ClippedMean(norm=bound)
    aggregation = Scaled(inner=SAFELearn(rule=rule), scale=scale)
    found = utility.measure(SMALL, aggregation=aggregation, seeds=seeds)
    return {
        "accuracy": [None if value != value else round(value, 4) for value in found.accuracy],
        "seconds": round(float(found.seconds.median()), 2),
    }


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for bound in (None, 1.0, 0.3, 3.0):
        for scale in (1.0, -10.0):
            key = {"part": "poisoning", "bound": bound, "scale": scale}
            yield key, functools.partial(poisoned, bound, scale)
    for name in utility.TASKS:
        for how in ("clear", "shares"):
            yield {"part": "utility", "task": name, "how": how}, functools.partial(costs, name, how)


def main() -> None:
    resume("multiparty", COMMAND, plan())


if __name__ == "__main__":
    main()
