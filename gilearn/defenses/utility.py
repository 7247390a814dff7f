"""What a defense costs in accuracy: the same federated training with it and without it, at the same budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from gilearn import data, models
from gilearn.federated import Aggregation, Defense, InTheClear, LocalSteps, fedavg
from gilearn.federated.aggregation import as_aggregation
from gilearn.federated.checks import check_number, check_whole
from gilearn.federated.defense import as_defense
from gilearn.values import Value

if TYPE_CHECKING:
    import pandas as pd


def _check_local(local: object) -> None:
    if not isinstance(local, LocalSteps):
        raise ValueError(f"local: got {local!r}, wanted a LocalSteps")


@dataclass(frozen=True, kw_only=True)
class Training(Value):
    """A classification that clients train together: data, model and budget.

    The data are dealt anew for every seed: the first ``clients * examples`` to the clients, of the others one half is
    for validation, the other for the test.

    Args:
        load: Returns inputs (n, ...) and labels (n,) for a fold.
        build: Returns the model for a seed.
        examples: Of every client.
        clients: How many, all of them in every round.
        rounds: How many.
        local: A client's steps in a round.

    Raises:
        ValueError: A number is not positive.

    Chapter: how-to-judge.
    """

    load: Callable[[int], tuple[Tensor, Tensor]]
    build: Callable[[int], nn.Module]
    examples: int
    clients: int = 4
    rounds: int = 30
    local: LocalSteps

    def __post_init__(self) -> None:
        for name in ("examples", "clients", "rounds"):
            check_whole(name, getattr(self, name))
        for name in ("load", "build"):
            if not callable(getattr(self, name)):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, wanted a function")
        _check_local(self.local)

    @property
    def steps(self) -> int:
        """The budget: gradient steps of each client."""
        return self.rounds * self.local.steps

    def spent(self, local: LocalSteps) -> Training:
        """Return the training that spends the same budget with other local steps, in more rounds or fewer.

        A client begins every round with its first examples: batches that do not go through all of them in a round leave
        the others out. Without a batch size every step is on all of them.

        Raises:
            ValueError: The budget is no multiple of them.
        """
        _check_local(local)
        if self.steps % local.steps:
            raise ValueError(f"local: got {local.steps} steps a round, wanted a divisor of the budget, {self.steps}")
        return self.replace(local=local, rounds=self.steps // local.steps)


def _tiles(fold: int) -> tuple[Tensor, Tensor]:
    """Return the photographs cut into tiles of 16x16 pixels, 64 each, none overlapping another: which one is it?"""
    photos, labels = data.photos(128, fold=fold)
    tiles = photos.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 16, 16)
    return tiles, labels.repeat_interleave(64)


TASKS: dict[str, Training] = {
    "digits": Training(
        load=lambda fold: data.digits(fold=fold),
        build=lambda seed: models.mlp(64, (64,), activation="relu", seed=seed),
        examples=300,
        local=LocalSteps(steps=10, lr=0.3, batch_size=30),
    ),
    "faces": Training(
        load=lambda fold: data.faces(size=16, negatives=True, fold=fold),
        build=lambda seed: models.convnet(1, 2, size=16, widths=(16, 16), strides=(2, 2), seed=seed),
        examples=30,
        local=LocalSteps(steps=5, lr=0.1, batch_size=6),
    ),
    "colour": Training(
        load=_tiles,
        build=lambda seed: models.convnet(3, 10, size=16, widths=(16, 32), strides=(2, 2), seed=seed),
        examples=100,
        local=LocalSteps(steps=10, lr=0.1, batch_size=10),
    ),
}
"""Digits (10 classes, 8x8 gray), faces or none (16x16 gray), and ten photographs by their tiles (16x16, colour): each
for four clients and 30 rounds."""


def measure(
    task: Training,
    *,
    defense: Defense | Sequence[Defense] | None = None,
    aggregation: Aggregation | Literal["mean", "sum"] = "mean",
    seeds: Sequence[int] = range(5),
    fold: int = 0,
    predict: Callable[[nn.Module, Tensor], Tensor] | None = None,
    validation: bool = False,
) -> pd.DataFrame:
    """Train with a defense, once for every seed, and measure the accuracy on examples that no client had.

    Deal, initialization and what the defense draws follow from the seed: two calls with the same seeds make pairs.

    Args:
        task: The training, from :data:`TASKS` or your own; a model of your own by ``task.replace(build=...)``, other
            local steps by ``task.spent(...)``, another learning rate by ``task.replace(local=...)`` or :func:`tuned`.
        defense: What every client does about leakage; ``None`` for nothing.
        aggregation: How the server puts contributions together, as :func:`gilearn.federated.fedavg` takes it.
        seeds: One training each.
        fold: The data's.
        predict: Returns class scores (n, classes) of a model for inputs; by default the model does. For a defense that
            acts where a model is used.
        validation: Measure on the validation half, and not on the test's.

    Returns:
        A frame with a row a seed: ``seed``; ``accuracy`` in [0, 1], missing if a client's gradient ceased to be finite;
        ``seconds`` of processor time; ``megabytes`` that one client uploaded: as the defense encodes them, or the
        aggregation's messages.

    Raises:
        ValueError: There are no seeds, or no examples left to test.

    Chapter: how-to-judge. Source: survey, section 3; huang2021 for privacy beside accuracy.
    """
    import pandas as pd

    _check_task(task)
    if not isinstance(cast(object, seeds), Iterable) or getattr(seeds, "ndim", 1) == 0:
        raise ValueError(f"seeds: got {seeds!r}, wanted a list of whole numbers")
    seeds = list(seeds)
    for seed in seeds:
        check_whole("seeds", seed, 0)
    if not seeds:
        raise ValueError("seeds: got none, wanted at least one")
    if predict is not None and not callable(predict):
        raise ValueError(f"predict: got {predict!r}, wanted a function of model and inputs")
    inputs, labels = task.load(fold)
    held = task.clients * task.examples
    if len(inputs) < held + 2:
        raise ValueError(f"examples: got {held} for {len(inputs)} examples in all, wanted at least 2 left to test")
    rows = []
    for seed in seeds:
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
        x, y = inputs[order], labels[order]
        clients = list(zip(x[:held].chunk(task.clients), y[:held].chunk(task.clients), strict=True))
        middle = held + (len(x) - held) // 2
        chosen = slice(held, middle) if validation else slice(middle, None)
        start = time.process_time()
        model, megabytes = _trained(task, clients, defense, aggregation, seed)
        row: dict[str, Any] = {"seed": seed, "accuracy": None}
        seconds = time.process_time() - start
        if model is not None:
            with torch.no_grad():
                scores = (predict or (lambda net, given: net(given)))(model, x[chosen])
            if scores.ndim != 2 or len(scores) != len(x[chosen]):
                wanted = f"class scores ({len(x[chosen])}, classes)"
                raise ValueError(f"predict: got scores of shape {tuple(scores.shape)}, wanted {wanted}")
            row["accuracy"] = float((scores.argmax(1) == y[chosen]).double().mean())
        rows.append(row | {"seconds": seconds, "megabytes": megabytes})
    return pd.DataFrame(rows).astype({"accuracy": float})


def tuned(
    task: Training, *, rates: Sequence[float] = (0.03, 0.1, 0.3, 1.0), seeds: Sequence[int] = (5, 6), **options: Any
) -> Training:
    """Return the training at the learning rate that does best on the validation examples of other seeds.

    Args:
        task: The training.
        rates: To choose from; a rate at which a gradient ceases to be finite counts as accuracy 0.
        seeds: Not those that are measured afterwards.
        options: Of :func:`measure`; the defense is the one that the rate is tuned for.

    Raises:
        ValueError: There are no rates, or one is not positive; or as :func:`measure`.

    Chapter: how-to-judge.
    """
    _check_task(task)
    if not isinstance(cast(object, rates), Iterable) or isinstance(cast(object, rates), str):
        raise ValueError(f"rates: got {rates!r}, wanted a list of learning rates")
    rates = list(rates)
    if not rates:
        raise ValueError("rates: got none, wanted at least one")
    for rate in rates:
        check_number("rates", rate, lambda value: 0 < value < math.inf, "positive numbers")

    def at(rate: float) -> Training:
        return task.replace(local=LocalSteps(steps=task.local.steps, lr=rate, batch_size=task.local.batch_size))

    def score(rate: float) -> float:
        found = measure(at(rate), seeds=seeds, validation=True, **options)
        return float(found["accuracy"].fillna(0).mean())

    return at(max(rates, key=score))


def _check_task(task: object) -> None:
    if not isinstance(task, Training):
        raise ValueError(f"task: got {task!r}, wanted a Training, such as TASKS['digits']")


def _trained(
    task: Training, clients: list[tuple[Tensor, Tensor]], defense: Any, aggregation: Any, seed: int
) -> tuple[nn.Module | None, float]:
    """Return the global model after the last round, ready to predict, and the megabytes that a client uploaded."""
    encoded = as_defense(defense) if isinstance(as_aggregation(aggregation), InTheClear) else None
    options = {"num_rounds": task.rounds, "defense": defense, "aggregation": aggregation, "seed": seed}
    model, uploaded = task.build(seed).train(), 0.0
    try:
        for ran in fedavg(model, clients, task.local, **options):
            model = ran.after
            uploaded += encoded.bits(ran.observations[0].shared) / 8 if encoded else ran.cost.up.get(0, 0)
    except ValueError as error:
        if "finite" not in str(error):
            raise
        return None, uploaded / 1e6
    return model.eval(), uploaded / 1e6
