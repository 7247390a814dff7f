"""What a server makes of a round's contributions: the seam at which an aggregation protects them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gilearn.federated.checks import check_name, check_whole
from gilearn.federated.defense import Gradients
from gilearn.linear import float64
from gilearn.values import Value

AGGREGATIONS = ("mean", "sum")
"""The aggregations in the clear, by name: the mean over all examples, or the sum over clients."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cost(Value):
    """What one round's aggregation took. The model that goes out is in none of it: it costs the same everywhere.

    Args:
        up: Bytes that each client sent, by its position; of one that dropped out what it had sent until then.
        down: Bytes that each client received.
        messages: Bytes of each kind of message, over all clients and both directions.
        seconds: Processor time of each party: ``"clients"`` all together, ``"server"``, or by the parties' names.

    Raises:
        ValueError: One of these is no mapping.

    Chapter: secure-aggregation.
    """

    up: Mapping[int, int] = field(default_factory=dict)
    down: Mapping[int, int] = field(default_factory=dict)
    messages: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("up", "down", "messages", "seconds"):
            given = getattr(self, name)
            if not isinstance(given, Mapping):
                raise ValueError(f"{name}: got a {type(given).__name__}, wanted a mapping to numbers")
            object.__setattr__(self, name, MappingProxyType(dict(given)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Aggregated(Value):
    """What an aggregation hands to the server, and everything in it is public.

    Args:
        mean: One tensor for each that the clients contributed, ``None`` where they withheld it: of the contributions
            that are in, weighted as :attr:`Aggregation.kind` says.
        clients: Whose contributions are in, by position: a client that dropped out is not.
        cost: What it took.
    """

    mean: Gradients = field(repr=False)
    clients: tuple[int, ...]
    cost: Cost = field(default_factory=Cost, repr=False)


@dataclass(frozen=True, kw_only=True)
class Aggregation(Value, ABC):
    """How contributions become one: ``fedavg(..., aggregation=...)`` runs it every round.

    A contribution is a client's update, and behind it, as further tensors, the changes of the model's buffers.

    Chapter: secure-aggregation. Source: survey, section 3.3.
    """

    @property
    def kind(self) -> str:
        """One of :data:`AGGREGATIONS`: whether clients weigh as much as they have data, or all the same."""
        return "mean"

    @abstractmethod
    def aggregate(self, shared: Mapping[int, Gradients], counts: Mapping[int, int], *, number: int) -> Aggregated:
        """Return the aggregate of a round.

        Args:
            shared: Of every client, by its position, one tensor for each that it contributes, on the client's device;
                ``None`` where no client contributes one.
            counts: Number of examples of every client, from 1.
            number: Number of the round, from 1: what is to be fresh in every round can depend on it.

        Raises:
            ValueError: The contributions do not fit each other, or the aggregation cannot be carried out on them.
        """


@dataclass(frozen=True, kw_only=True)
class InTheClear(Aggregation):
    """The server gets every client's contribution, and puts them together itself: plain federated averaging.

    Args:
        weighted: By numbers of examples, which is ``"mean"``; otherwise all the same, which is ``"sum"``.

    Chapter: federated-learning. Source: mcmahan2017.
    """

    weighted: bool = True

    @property
    def kind(self) -> str:
        """``"mean"`` or ``"sum"``."""
        return "mean" if self.weighted else "sum"

    def aggregate(self, shared: Mapping[int, Gradients], counts: Mapping[int, int], *, number: int) -> Aggregated:
        """Return the mean, to the last bit of float64 or nearly so.

        Raises:
            ValueError: As :func:`check_contributions`.
        """
        counts = check_contributions(shared, counts)
        began = time.process_time()
        weights = [counts[k] if self.weighted else 1 for k in shared]
        mean = weighted_mean(list(shared.values()), weights)
        up = {k: sum(t.numel() * t.element_size() for t in own if t is not None) for k, own in shared.items()}
        seconds = {"clients": 0.0, "server": time.process_time() - began}
        cost = Cost(up=up, down=dict.fromkeys(shared, 0), messages={"update": sum(up.values())}, seconds=seconds)
        return Aggregated(mean=mean, clients=tuple(shared), cost=cost)


def as_aggregation(aggregation: object) -> Aggregation:
    """Return an aggregation: ``"mean"`` and ``"sum"`` stand for those in the clear.

    Raises:
        ValueError: It is none.
    """
    if isinstance(aggregation, str):
        check_name("aggregation", aggregation, AGGREGATIONS)
        return InTheClear(weighted=aggregation == "mean")
    if isinstance(aggregation, type) and issubclass(aggregation, Aggregation):
        name = aggregation.__name__
        raise ValueError(f"aggregation: got the class {name}, wanted a value: {name}(...)")
    if not isinstance(aggregation, Aggregation):
        wanted = "'mean', 'sum' or a gilearn.federated.Aggregation"
        raise ValueError(f"aggregation: got a {type(aggregation).__name__}, wanted {wanted}")
    return aggregation


def check_contributions(shared: Any, counts: Any) -> dict[int, int]:
    """Return the numbers of examples of the clients that contribute, or refuse what cannot be aggregated.

    Every aggregation begins with this.

    Args:
        shared: Of every client, by its position, its tensors.
        counts: Number of examples of each of these clients; others in it are left out.

    Raises:
        ValueError: There are no clients, a count is missing or no whole number from 1, there is no entry at all, one is
            no finite floating-point number, or the clients differ in shapes or in what they withhold.
    """
    if not isinstance(shared, Mapping):
        raise ValueError(f"shared: got a {type(shared).__name__}, wanted the tensors of each client, by its position")
    if not shared:
        raise ValueError("shared: got no clients, wanted at least one")
    if not isinstance(counts, Mapping) or not shared.keys() <= counts.keys():
        got = f"those of {list(counts)}" if isinstance(counts, Mapping) else f"a {type(counts).__name__}"
        raise ValueError(f"counts: got {got}, wanted the number of examples of each client of {list(shared)}")
    for client, own in shared.items():
        check_whole("shared: a client's position", client, 0)
        check_whole(f"counts[{client}]", counts[client])
        if counts[client] >= 2**53:
            raise ValueError(f"counts[{client}]: got {counts[client]}, wanted below 2^53, which float64 has exactly")
        if not isinstance(own, (tuple, list)):
            wanted = "a tuple of tensors, None for one that is withheld"
            raise ValueError(f"shared[{client}]: got a {type(own).__name__}, wanted {wanted}")
        for tensor in own:
            if tensor is not None:
                _check_entries(f"shared[{client}]", tensor)
    check_alike(list(shared.values()))
    if not any(tensor is not None and tensor.numel() for tensor in next(iter(shared.values()))):
        raise ValueError("shared: got no tensor with entries from any client, wanted at least one")
    return {client: int(counts[client]) for client in shared}


def check_alike(shared: Sequence[Gradients]) -> None:
    """Raise a ``ValueError`` unless all clients contribute tensors of the same shapes, and withhold the same."""
    shapes = [tuple(None if tensor is None else tuple(tensor.shape) for tensor in own) for own in shared]
    if any(own != shapes[0] for own in shapes[1:]):
        raise ValueError("shared: the clients' tensors differ in shape, or in which are withheld, wanted all alike")


def _check_entries(argument: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{argument}: got a {type(tensor).__name__}, wanted tensors")
    if tensor.layout != torch.strided or tensor.is_meta:
        kind = "without entries (meta)" if tensor.is_meta else f"of layout {tensor.layout}"
        raise ValueError(f"{argument}: got a tensor {kind}, wanted dense ones")
    if not tensor.is_floating_point():
        raise ValueError(f"{argument}: got {tensor.dtype}, wanted floating-point numbers")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{argument}: got NaN or infinite values, wanted finite ones")


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
        ValueError: There are no clients, or not as many counts, one is no whole number from 1, or the clients differ
            in shapes or in what they withhold.
    """
    if not shared or len(counts) != len(shared):
        raise ValueError(f"counts: got {list(counts)} for {len(shared)} clients, wanted a positive number each")
    for count in counts:
        check_whole("counts", count)
    check_alike(shared)
    return tuple(_mean([gradients[k] for gradients in shared], counts) for k in range(len(shared[0])))


def _mean(tensors: Sequence[Tensor | None], counts: Sequence[int]) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    if not given:
        return None
    total = torch.zeros_like(float64(given[0]))
    lost = torch.zeros_like(total)
    for tensor, count in zip(given, counts, strict=True):
        term = count * float64(tensor)
        larger = total + term
        lost += torch.where(total.abs() >= term.abs(), (total - larger) + term, (term - larger) + total)
        total = larger
    return ((total + lost) / sum(counts)).to(given[0])
