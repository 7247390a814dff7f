"""The server's loop: send the model out, collect what the clients share, aggregate it, move on, repeat."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from gilearn.federated.aggregate import Aggregate
from gilearn.federated.aggregation import Aggregated, Aggregation, Cost, InTheClear, as_aggregation
from gilearn.federated.checks import check_number, check_whole
from gilearn.federated.client import run_client
from gilearn.federated.defense import Defense, Gradients, as_defense
from gilearn.federated.observation import Observation
from gilearn.federated.task import LocalSteps
from gilearn.hooks import bare
from gilearn.linear import float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """One round of federated learning: what went out, what came back, and what the server made of it.

    A threat model hands an attacker one of the two: ``observations``, what every client shared, or :meth:`aggregate`,
    which is all that a server sees behind secure aggregation.

    Args:
        number: Number of the round, from 1.
        model: The global model that went out: what was shared is a gradient or update of this one.
        after: The global model after the round.
        shared: The aggregate of what the clients shared, one tensor per parameter: what the aggregation handed out,
            with what it rounds away.
        observations: What a server gets of every chosen client where nothing hides it, by position; each with the
            model that went out. A client that dropped out has one too.
        aggregation: How ``shared`` was put together, by name or value.
        clients: Whose contributions are in ``shared``, by position; by default everybody's.
        cost: What the aggregation took.

    Raises:
        ValueError: There is no such aggregation, or a client in ``clients`` was not chosen.

    Chapter: federated-learning.
    """

    number: int
    model: nn.Module = field(repr=False)
    after: nn.Module = field(repr=False)
    shared: Gradients = field(repr=False)
    observations: Mapping[int, Observation] = field(repr=False)
    aggregation: Aggregation | str = InTheClear()
    clients: tuple[int, ...] = ()
    cost: Cost = field(default_factory=Cost, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "aggregation", as_aggregation(self.aggregation))
        if strangers := [k for k in self.clients if k not in self.observations]:
            raise ValueError(f"clients: got {strangers}, wanted some of {tuple(self.observations)}, who were chosen")
        object.__setattr__(self, "clients", tuple(self.clients) or tuple(self.observations))

    @property
    def participants(self) -> tuple[int, ...]:
        """Who took part to the end, by position: whose contributions are in ``shared``."""
        return self.clients

    @property
    def kind(self) -> str:
        """What ``shared`` is: ``"mean"`` over all examples, or ``"sum"`` over clients."""
        return as_aggregation(self.aggregation).kind

    def aggregate(self) -> Aggregate:
        """Return what a server sees behind an aggregation: of exactly the clients whose contributions are in it.

        Labels and targets are declared if all these clients' are.
        """
        parts = [self.observations[k] for k in self.clients]
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
            weights=() if self.kind == "mean" else (1.0,) * len(counts),
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
    aggregation: Aggregation | Literal["mean", "sum"] = "mean",
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
            divides by the number of clients to move its model. Or a value that protects the contributions, such as
            :class:`gilearn.defenses.aggregation.SecureAggregation`.
        server_lr: Share of the mean that the server moves its model by, not negative; 1 is FedAvg, and with 0 the same
            model goes out in every round.
        seed: Seeds the choice of clients, and what they draw.

    Yields:
        A :class:`Round` each.

    Raises:
        ValueError: There are no clients, ``num_rounds``, ``per_round``, ``server_lr`` or ``seed`` is out of range, a
            name is unknown, a client's batch is refused as in :func:`gilearn.federated.observe`, or the aggregation
            refuses the contributions, or returns what does not fit them.

    Chapter: federated-learning. Source: mcmahan2017, algorithm 1.
    """
    _check_clients(clients)
    per_round = len(clients) if per_round is None else per_round
    check_whole("per_round", per_round)
    if per_round > len(clients):
        raise ValueError(f"per_round: got {per_round}, wanted 1 to the number of clients, {len(clients)}")
    check_whole("num_rounds", num_rounds)
    check_number("server_lr", server_lr, lambda value: 0 <= value < math.inf, "a finite number, 0 or more")
    check_whole("seed", seed, 0)
    if not isinstance(cast(object, local), LocalSteps):
        raise ValueError(f"local: got a {type(local).__name__}, wanted LocalSteps(steps=..., lr=...)")
    how = as_aggregation(aggregation)
    choice = np.random.default_rng(seed)
    seeds = np.random.SeedSequence(seed).generate_state(len(clients))
    generators = [torch.Generator().manual_seed(int(own)) for own in seeds]
    memories: list[dict[Any, Any]] = [{} for _ in clients]
    task: dict[str, Any] = {"local": local, "loss": loss, "defense": as_defense(defense), "declare": declare}
    model = copy.deepcopy(bare(model))
    for number in range(1, num_rounds + 1):
        chosen = sorted(choice.permutation(len(clients))[:per_round].tolist())
        ran = {k: run_client(model, *clients[k], generator=generators[k], memory=memories[k], **task) for k in chosen}
        one = _round(model, ran, how, number, server_lr)
        yield one
        model = one.after


def _round(
    model: nn.Module, ran: Mapping[int, tuple[Observation, nn.Module]], how: Aggregation, number: int, server_lr: float
) -> Round:
    observations = {k: seen for k, (seen, _) in ran.items()}
    contributions = {k: seen.shared + buffer_changes(model, at_client) for k, (seen, at_client) in ran.items()}
    counts = {k: seen.batch_size for k, seen in observations.items()}
    result = _checked(how.aggregate(contributions, counts, number=number), contributions)
    own = len(list(model.parameters()))
    mean, changes = result.mean[:own], result.mean[own:]
    summands = 1 if how.kind == "mean" else len(result.clients)
    return Round(
        number=number,
        model=model,
        after=moved(model, tuple(None if tensor is None else server_lr * tensor for tensor in mean), changes),
        shared=tuple(None if tensor is None else tensor * summands for tensor in mean),
        observations=observations,
        aggregation=how,
        clients=result.clients,
        cost=result.cost,
    )


def _check_clients(clients: Any) -> None:
    if isinstance(clients, str) or not isinstance(clients, Sequence) or not clients:
        got = "none" if isinstance(clients, Sequence) and not clients else f"a {type(clients).__name__}"
        raise ValueError(f"clients: got {got}, wanted a list of inputs and labels, of one client at least")
    for position, own in enumerate(clients):
        if not isinstance(own, (tuple, list)) or len(own) != 2:
            raise ValueError(f"clients[{position}]: got a {type(own).__name__}, wanted a pair of inputs and labels")


def _checked(result: Any, contributions: Mapping[int, Gradients]) -> Aggregated:
    """Return what an aggregation made of contributions, or refuse what no round can be made of."""
    if not isinstance(result, Aggregated):
        raise ValueError(f"aggregation: returned a {type(result).__name__}, wanted an Aggregated")
    mean, clients, given = cast(Any, result.mean), cast(Any, result.clients), next(iter(contributions.values()))
    if not isinstance(mean, (tuple, list)) or not all(one is None or isinstance(one, Tensor) for one in mean):
        raise ValueError("aggregation: returned a mean of something else, wanted a tuple of tensors, or None for one")
    if len(mean) != len(given):
        raise ValueError(f"aggregation: returned {len(mean)} tensors, wanted {len(given)}, as clients contribute")
    for one, own in zip(mean, given, strict=True):
        if one is not None and own is not None and one.shape != own.shape:
            got = f"a tensor of shape {tuple(one.shape)}"
            raise ValueError(f"aggregation: returned {got}, wanted {tuple(own.shape)}, as clients contribute")
    if not isinstance(clients, (tuple, list)) or not clients or not set(clients) <= contributions.keys():
        raise ValueError(f"aggregation: returned clients {clients}, wanted some of {tuple(contributions)}")
    return result


def buffer_changes(model: nn.Module, at_client: nn.Module) -> Gradients:
    """Return what a client's work did to the model's buffers, before less after, in float64.

    Batch normalization's running statistics are no parameters. The server averages what the clients arrive at, and so
    they travel, and are aggregated, as an update's tensors do; a counter of batches too.
    """
    pairs = [(float64(a), float64(b)) for a, b in zip(model.buffers(), at_client.buffers(), strict=True)]
    return tuple(torch.where(a == b, 0.0, a - b) for a, b in pairs)  # a mask of minus infinity has not changed


@torch.no_grad()
def moved(model: nn.Module, moves: Gradients, changes: Gradients) -> nn.Module:
    """Return the model after its parameters have moved by ``-moves``, and its buffers by the clients' mean change."""
    model = copy.deepcopy(model)
    for parameter, change in zip(model.parameters(), moves, strict=True):
        if change is not None:
            parameter.sub_(change)
    for buffer, change in zip(model.buffers(), changes, strict=True):
        if change is not None:
            value = float64(buffer) - change
            buffer.copy_(value if buffer.is_floating_point() else torch.floor(value + 0.5))
    return model
