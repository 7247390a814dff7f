"""What aggregations under encryption have in common: tensors in and out, whole-number weights, and an account."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gilearn.federated import Aggregated, Aggregation, Cost, Gradients
from gilearn.linear import float64

Floats = NDArray[np.float64]
Layers = list[Floats]
"""What a client contributes: one flat array for each tensor that it does not withhold."""


class Tally:
    """What a round costs: bytes by client and kind, seconds by party.

    Args:
        clients: Who takes part, by position.
    """

    def __init__(self, clients: Iterable[int]) -> None:
        self.clients = tuple(clients)
        self.up, self.down = (dict.fromkeys(self.clients, 0) for _ in range(2))
        self.messages: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def sent(self, client: int, kind: str, size: int) -> None:
        """Count a message of a client."""
        self.up[client] += size
        self.messages[kind] += size

    def received(self, kind: str, size: int, clients: Iterable[int] | None = None) -> None:
        """Count a message to each of these clients, by default to all."""
        for client in self.clients if clients is None else clients:
            self.down[client] += size
            self.messages[kind] += size

    @contextmanager
    def timed(self, party: str, *, times: int = 1) -> Iterator[None]:
        """Count the time that the block takes; ``times``: as many clients do the same, and it is done once."""
        began = time.perf_counter()
        yield
        self.seconds[party] += times * (time.perf_counter() - began)

    def cost(self) -> Cost:
        """Return the account."""
        return Cost(up=self.up, down=self.down, messages=self.messages, seconds=self.seconds)


@dataclass(frozen=True, kw_only=True)
class Encrypted(Aggregation):
    """The base of aggregations under encryption.

    Weights are whole numbers, the clients' numbers of examples divided by what they have in common: the server adds
    multiples of what it cannot read, and clients divide what they decrypt by the sum of the weights.

    Args:
        weighted: Clients weigh as much as they have data, which is ``"mean"``; otherwise all the same, ``"sum"``.

    Chapter: homomorphic-encryption. Source: survey, section 3.3.
    """

    weighted: bool = True

    @property
    def kind(self) -> str:
        """``"mean"`` or ``"sum"``."""
        return "mean" if self.weighted else "sum"

    def aggregate(self, shared: Mapping[int, Gradients], counts: Mapping[int, int], *, number: int) -> Aggregated:
        """Return the mean that clients decrypt. Keys are made anew for every round, and not kept.

        The arguments are those of :meth:`gilearn.federated.Aggregation.aggregate`.

        Raises:
            ValueError: There are no clients, one withholds what another shares, their tensors differ in shape, or what
                they share does not fit the encoding.
            ImportError: The extra ``defenses`` is not installed.
        """
        first = _alike(shared)
        weights = whole_weights(counts if self.weighted else dict.fromkeys(shared, 1), shared)
        vectors = {
            k: [float64(tensor).detach().flatten().cpu().numpy() for tensor in own if tensor is not None]
            for k, own in shared.items()
        }
        tally = Tally(shared)
        sums = iter(self.total(vectors, weights, tally))
        over = sum(weights.values())
        mean = tuple(
            None if like is None else torch.from_numpy(next(sums) / over).view(like.shape).to(like) for like in first
        )
        return Aggregated(mean=mean, clients=tuple(shared), cost=tally.cost())

    @abstractmethod
    def total(self, vectors: Mapping[int, Layers], weights: Mapping[int, int], tally: Tally) -> Layers:
        """Return the sum over clients of weight times layer, for every layer, as clients decrypt it.

        Args:
            vectors: What every client contributes.
            weights: Of every client, from 1.
            tally: Keeps the account.
        """


def whole_weights(counts: Mapping[int, int], clients: Iterable[int]) -> dict[int, int]:
    """Return the clients' counts divided by their greatest common divisor: (300, 300, 600) becomes (1, 1, 2)."""
    common = math.gcd(*(counts[k] for k in clients))
    return {k: counts[k] // common for k in clients}


def split(values: Floats, sizes: Iterable[int]) -> Layers:
    """Return the layers that a vector is made of."""
    return np.split(values, np.cumsum(list(sizes))[:-1])


def _alike(shared: Mapping[int, Gradients]) -> Gradients:
    """Return the first client's tensors, or raise a ``ValueError`` unless all clients share the like."""
    if not shared:
        raise ValueError("shared: got no clients, wanted at least one")
    shapes = {k: [None if tensor is None else tuple(tensor.shape) for tensor in own] for k, own in shared.items()}
    first, *others = shapes
    for k in others:
        if shapes[k] != shapes[first]:
            raise ValueError(f"shared: got {shapes[k]} from client {k}, wanted {shapes[first]} as from client {first}")
    if all(shape is None for shape in shapes[first]):
        raise ValueError("shared: got no tensor from any client, wanted at least one")
    return shared[first]
