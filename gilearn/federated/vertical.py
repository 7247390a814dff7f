"""Vertical federated learning: parties that hold parts of the same examples train one model, batch by batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gilearn.federated.checks import check_batch, check_names
from gilearn.federated.client import run_client
from gilearn.federated.defense import Defense, as_defense
from gilearn.federated.observation import KNOWLEDGE, Observation
from gilearn.federated.rounds import buffer_changes, moved


def vertical_rounds(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int,
    num_rounds: int,
    lr: float = 0.0,
    loss: str = "cross_entropy",
    defense: Defense | Sequence[Defense] | None = None,
    declare: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[Observation]:
    """Train a vertical model on a pool of examples, one batch a round; yield what leaves the parties in each.

    The parties have to agree on the examples of a batch, so the server names them. Whether an attacker at the server is
    taken to know them is declared: ``declare=["rows"]``. ``federated.Several`` puts such rounds together.

    Args:
        model: The joint model: it divides whole examples among the parties, as :class:`gilearn.models.LoopNet` does. It
            is not changed.
        x: Whole examples of the pool (examples, ...).
        y: Their labels (examples,).
        batch_size: Examples of a round, drawn without replacement, from 1 to all.
        num_rounds: How many rounds.
        lr: Learning rate of the plain gradient step after each round; 0 leaves the model as it is.
        loss: A key of :data:`gilearn.federated.LOSSES`.
        defense: What the parties do about leakage, with a memory of its own; several are applied in that order.
        declare: Names from :data:`gilearn.federated.KNOWLEDGE` that the threat model hands to the attacker.
        seed: Seeds the batches, and what the defense draws.

    Yields:
        An :class:`Observation` a round, with the model before its step.

    Raises:
        ValueError: A number is out of range, a name is unknown, or the pool is refused as in
            :func:`gilearn.federated.observe`.

    Chapter: vertical. Source: jin2021.
    """
    x, y, _ = check_batch(model, x, y)
    names = check_names("declare", declare, KNOWLEDGE)
    if not 1 <= batch_size <= len(x):
        raise ValueError(f"batch_size: got {batch_size}, wanted 1 to the number of examples, {len(x)}")
    if num_rounds < 1:
        raise ValueError(f"num_rounds: got {num_rounds}, wanted at least 1")
    if not lr >= 0:
        raise ValueError(f"lr: got {lr}, wanted 0 or more")
    choice, draws = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    defenses = as_defense(defense)
    memory: dict[Any, Any] = {}
    model = copy.deepcopy(model)
    for _ in range(num_rounds):
        rows = torch.randperm(len(x), generator=choice)[:batch_size]
        seen, after = run_client(
            model, x[rows], y[rows], rows=rows, declare=names, local=None, loss=loss, defense=defenses,
            num_classes=None, generator=draws, memory=memory,
        )  # fmt: skip
        yield seen
        if lr > 0:
            step = tuple(None if g is None else lr * g for g in seen.shared)
            model = moved(model, step, buffer_changes(model, after))
