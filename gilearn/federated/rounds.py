"""The server's loop: send the model out, collect what the clients share, aggregate it, move on, repeat."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gilearn.federated.aggregate import Aggregate
from gilearn.federated.checks import check_name
from gilearn.federated.client import run_client
from gilearn.federated.defense import Defense, Gradients, as_defense
from gilearn.federated.observation import Observation
from gilearn.federated.task import LocalSteps
from gilearn.hooks import bare
from gilearn.linear import float64

AGGREGATIONS = ("mean", "sum")
"""How the server puts together what clients share: the mean over all examples, or the sum over clients."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """One round of federated learning: what went out, what came back, and what the server made of it.

    A threat model hands an attacker one of the two: ``observations``, what every client shared, or :meth:`aggregate`,
    which is all that a server sees behind secure aggregation.

    Args:
        number: Number of the round, from 1.
        model: The global model that went out: what was shared is a gradient or update of this one.
        after: The global model after the round.
        shared: The aggregate of what the clients shared, one tensor per parameter.
        observations: What every chosen client shared, by its position; each with the model that went out.
        aggregation: How ``shared`` was put together, one of :data:`AGGREGATIONS`.

    Chapter: federated-learning.
    """

    number: int
    model: nn.Module = field(repr=False)
    after: nn.Module = field(repr=False)
    shared: Gradients = field(repr=False)
    observations: Mapping[int, Observation] = field(repr=False)
    aggregation: str = "mean"

    @property
    def participants(self) -> tuple[int, ...]:
        """Who took part, by position."""
        return tuple(self.observations)

    def aggregate(self) -> Aggregate:
        """Return what a server sees behind an aggregation; labels and targets are declared if all clients' are."""
        parts = list(self.observations.values())
        known: dict[str, Any] = {}
        for name in ("labels", "targets"):
            if all(name in part.knowledge for part in parts):
                known[name] = torch.cat([part.knowledge[name] for part in parts])
        if all("defense" in part.knowledge for part in parts):
            known["defense"] = parts[0].knowledge["defense"]
        first, counts = parts[0], tuple(part.batch_size for part in parts)
        return Aggregate(
            model=self.model,
            shared=self.shared,
            input_shape=first.input_shape,
            batch_size=sum(counts),
            num_classes=first.num_classes,
            loss=first.loss,
            local=first.local,
            tokens=first.tokens,
            knowledge=known,
            counts=counts,
            weights=() if self.aggregation == "mean" else (1.0,) * len(counts),
        )


def fedavg(
    model: nn.Module,
    clients: Sequence[tuple[Tensor, Tensor]],
    local: LocalSteps,
    *,
    num_rounds: int,
    per_round: int | None = None,
    loss: str = "cross_entropy",
    defense: Defense | Sequence[Defense] | None = None,
    declare: Sequence[str] = (),
    aggregation: Literal["mean", "sum"] = "mean",
    server_lr: float = 1.0,
    seed: int = 0,
) -> Iterator[Round]:
    """Train a model over clients by federated averaging, one round at a time.

    With ``LocalSteps(steps=1, lr=...)`` over all of a client's data, averaging updates is averaging gradients: FedSGD.

    Args:
        model: The model to start from. It is not changed.
        clients: Inputs and labels of each client.
        local: The schedule of local steps.
        num_rounds: How many rounds.
        per_round: How many clients take part in a round, drawn anew each time; ``None`` for all.
        loss: A key of :data:`gilearn.federated.LOSSES`.
        defense: What every client does about leakage, with a memory of its own; several are applied in that order.
        declare: Names from :data:`gilearn.federated.KNOWLEDGE` that the threat model hands to the attacker.
        aggregation: ``"mean"``: clients weigh as much as they have data. ``"sum"``: the plain sum, which the server
            divides by the number of clients to move its model.
        server_lr: Share of the mean that the server moves its model by, not negative; 1 is FedAvg, and with 0 the same
            model goes out in every round.
        seed: Seeds the choice of clients, and what they draw.

    Yields:
        A :class:`Round` each.

    Raises:
        ValueError: There are no clients, ``num_rounds``, ``per_round`` or ``server_lr`` is out of range, a name is
            unknown, or a client's batch is refused as in :func:`gilearn.federated.observe`.

    Chapter: federated-learning. Source: mcmahan2017, algorithm 1.
    """
    per_round = len(clients) if per_round is None else per_round
    if not 1 <= per_round <= len(clients):
        raise ValueError(f"per_round: got {per_round}, wanted 1 to the number of clients, {len(clients)}")
    if num_rounds < 1:
        raise ValueError(f"num_rounds: got {num_rounds}, wanted at least 1")
    if not 0 <= server_lr < math.inf:
        raise ValueError(f"server_lr: got {server_lr}, wanted 0 or more")
    check_name("aggregation", aggregation, AGGREGATIONS)
    choice = np.random.default_rng(seed)
    seeds = np.random.SeedSequence(seed).generate_state(len(clients))
    generators = [torch.Generator().manual_seed(int(own)) for own in seeds]
    memories: list[dict[Any, Any]] = [{} for _ in clients]
    task: dict[str, Any] = {"local": local, "loss": loss, "defense": as_defense(defense), "declare": declare}
    model = copy.deepcopy(bare(model))
    for number in range(1, num_rounds + 1):
        chosen = sorted(choice.permutation(len(clients))[:per_round].tolist())
        ran = {k: run_client(model, *clients[k], generator=generators[k], memory=memories[k], **task) for k in chosen}
        counts = [seen.batch_size for seen, _ in ran.values()]
        weights = counts if aggregation == "mean" else [1] * len(chosen)
        mean = weighted_mean([seen.shared for seen, _ in ran.values()], weights)
        summands = 1 if aggregation == "mean" else len(chosen)
        shared = tuple(None if tensor is None else tensor * summands for tensor in mean)
        moves = tuple(None if tensor is None else server_lr * tensor for tensor in mean)
        after = moved(model, moves, [at_client for _, at_client in ran.values()], counts)
        observations = {k: seen for k, (seen, _) in ran.items()}
        yield Round(
            number=number, model=model, after=after, shared=shared, observations=observations, aggregation=aggregation
        )
        model = after


def weighted_mean(shared: Sequence[Gradients], counts: Sequence[int]) -> Gradients:
    """Return the mean of what clients shared, weighted by whole numbers, to the last bit of float64 or nearly so.

    Terms are multiplied by their counts, added with compensation for what each addition rounds away (Neumaier, 1974),
    and divided once by the sum of the counts.

    Args:
        shared: Of every client, one tensor per parameter; ``None`` where no client shares one.
        counts: Positive whole numbers, one a client.

    Returns:
        One tensor per parameter, in the type and on the device of the first client's.

    Raises:
        ValueError: There are no clients, or not as many counts, or a client withholds what another shares.
    """
    if not shared or len(counts) != len(shared) or min(counts) < 1:
        raise ValueError(f"counts: got {list(counts)} for {len(shared)} clients, wanted a positive number each")
    return tuple(_mean([gradients[k] for gradients in shared], counts) for k in range(len(shared[0])))


def _mean(tensors: Sequence[Tensor | None], counts: Sequence[int]) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    if not given:
        return None
    if len(given) < len(tensors):
        raise ValueError("shared: a client withholds a tensor that another one shares, wanted all or none")
    total = torch.zeros_like(float64(given[0]))
    lost = torch.zeros_like(total)
    for tensor, count in zip(given, counts, strict=True):
        term = count * float64(tensor)
        larger = total + term
        lost += torch.where(total.abs() >= term.abs(), (total - larger) + term, (term - larger) + total)
        total = larger
    return ((total + lost) / sum(counts)).to(given[0])


@torch.no_grad()
def moved(model: nn.Module, moves: Gradients, at_clients: Sequence[nn.Module], counts: Sequence[int]) -> nn.Module:
    """Return the model after its parameters have moved by ``-moves``, and its buffers to the clients' mean."""
    model = copy.deepcopy(model)
    for parameter, change in zip(model.parameters(), moves, strict=True):
        if change is not None:
            parameter.sub_(change)
    # Batch normalization's running statistics are no parameters; the server averages what the clients arrive at.
    total = sum(counts)
    for buffer, *theirs in zip(model.buffers(), *(client.buffers() for client in at_clients), strict=True):
        if buffer.is_floating_point():
            buffer.copy_(_mean(theirs, counts))
        else:  # exact in whole numbers, rounded to the nearest
            weighted = sum(count * value.long() for count, value in zip(counts, theirs, strict=True))
            buffer.copy_((2 * weighted + total) // (2 * total))
    return model
