"""Aggregation by several servers of which no one sees an update: additive sharing (Lia and Togan), and SAFELearn."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gilearn.defenses.aggregation.arithmetic import Servers
from gilearn.defenses.aggregation.clipping import FRACTION, TOP, factors, in_range
from gilearn.defenses.aggregation.sharing import FixedPoint, Ring, Share, Shared, collected, split
from gilearn.defenses.aggregation.tally import Tally
from gilearn.defenses.aggregation.vectors import layers, tensors
from gilearn.defenses.aggregation.vectors import split as layers_of
from gilearn.federated import Aggregated, Aggregation, Gradients
from gilearn.federated.aggregation import check_contributions
from gilearn.federated.checks import check_number, check_tensor, check_whole
from gilearn.values import Value


@dataclass(frozen=True, kw_only=True)
class Message:
    """One line of the list of messages: who sent how much to whom, and not what.

    Chapter: multi-party-computation.
    """

    sender: str
    receiver: str
    kind: str
    bytes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Listed(Aggregated):
    """An aggregate, with the list of its messages.

    Args:
        messages: In order; those between servers and from the dealer are added up by kind.
        openings: How often the servers waited for each other.

    Chapter: multi-party-computation.
    """

    messages: tuple[Message, ...] = field(default=(), repr=False)
    openings: int = 0

    @property
    def rounds(self) -> int:
        """Communication rounds of the clients: how often the direction of their messages changes, plus one."""
        ways = [one.sender == "client" for one in self.messages if "client" in (one.sender, one.receiver)]
        return sum(k == 0 or ways[k] != ways[k - 1] for k in range(len(ways)))


@dataclass(frozen=True, kw_only=True)
class Rule(Value, ABC):
    """What the servers compute of the shared updates: the plug-in of :class:`AdditiveSharing`.

    Chapter: multi-party-computation. Source: fereidooni2021.
    """

    @property
    def weighted(self) -> bool:
        """Whether clients weigh as much as they have data."""
        return False

    def encoded(self, update: Tensor, count: int, counts: Sequence[int], numbers: FixedPoint) -> Ring:
        """Return what a client shares: here its update, as numbers of the ring.

        Args:
            update: The client's, (size,).
            count: Its number of examples.
            counts: Of all clients; only their number and sum are used, for which a public bound would do.
            numbers: How real numbers stand in the ring.
        """
        return numbers.encode(update, terms=len(counts))

    @abstractmethod
    def total(self, servers: Servers, held: Shared, numbers: FixedPoint) -> tuple[Shared, Shared | int]:
        """Return the total, (size,), shared, and what it is divided by: shared, (), or public.

        Args:
            servers: Who computes.
            held: What the clients shared, a row each.
            numbers: How real numbers stand in the ring.
        """


@dataclass(frozen=True, kw_only=True)
class Mean(Rule):
    """The mean over all examples, or over clients.

    Args:
        by_counts: Clients weigh as much as they have data; no server learns how much that is. Otherwise all the same.
        products: The servers multiply updates by counts (Beaver triples). Otherwise every client multiplies its own
            update before it shares it, which is cheaper.

    Chapter: multi-party-computation. Source: lia2020; beaver1991.
    """

    by_counts: bool = True
    products: bool = False

    @property
    def weighted(self) -> bool:
        """As ``by_counts`` says."""
        return self.by_counts

    def encoded(self, update: Tensor, count: int, counts: Sequence[int], numbers: FixedPoint) -> Ring:
        """Return the update, times its count where the client multiplies; with ``by_counts`` the count comes last."""
        if not self.by_counts:
            return super().encoded(update, count, counts, numbers)
        own = (update, sum(counts)) if self.products else (update.double() * count, len(counts))
        return np.append(numbers.encode(own[0], terms=own[1]), np.uint64(count))

    def total(self, servers: Servers, held: Shared, numbers: FixedPoint) -> tuple[Shared, Shared | int]:
        """Return the sum, and the sum of the counts or the number of clients."""
        if not self.by_counts:
            return held.sum(0), held.shape[0]
        updates, counts = held[:, :-1], held[:, -1:]
        if self.products:
            updates = servers.product(servers.masked(updates), servers.masked(counts))
        return updates.sum(0), counts.sum(0)[0]


@dataclass(frozen=True, kw_only=True)
class ClippedMean(Rule):
    """The mean over clients of their updates, each scaled down to a norm of at most ``norm``.

    The servers learn neither norms nor factors, nor who was clipped.

    Args:
        norm: The bound, positive; of the whole update, buffers included.
        checked: Give updates with an entry out of range the factor 0: of :meth:`limit` units or more. Without this
            check an update can be chosen so large that its squared norm is small modulo 2^64, and nothing is clipped.

    Raises:
        ValueError: The bound is not positive.

    Chapter: multi-party-computation. Source: survey, section 3.3; sun2019 for clipping. The protocol is put together
    here: fereidooni2021 names what it computes, and not this circuit.
    """

    norm: float
    checked: bool = True

    def __post_init__(self) -> None:
        check_number("norm", self.norm, lambda value: 0 < value < math.inf, "a positive number")

    def total(self, servers: Servers, held: Shared, numbers: FixedPoint) -> tuple[Shared, Shared | int]:
        """Return the sum of the clipped updates, and the number of clients.

        Raises:
            ValueError: The bound is below one unit of the fixed-point numbers, or the sum of clipped updates could
                leave the ring.
        """
        clients, size = held.shape
        bound, most = round(self.norm * 2**numbers.bits), min(2 ** (62 - FRACTION) // clients, 2**TOP)
        if not 1 <= bound < most:
            limits = f"{2.0**-numbers.bits:g} to below {most / 2**numbers.bits:g}"
            raise ValueError(f"norm: got {self.norm}, wanted {limits} with {numbers.bits} bits and {clients} clients")
        updates = servers.masked(held, bits=self.checked)
        factor = factors(servers, servers.squares(updates), bound)
        if self.checked:
            fits = in_range(servers, updates, self.limit(size))
            factor = servers.product(servers.masked(factor), servers.masked(fits))
        clipped = servers.product(servers.masked(factor[:, None]), updates).sum(0)
        return servers.truncated(clipped, FRACTION), clients

    @staticmethod
    def limit(size: int) -> int:
        """Return the magnitude, in units of the ring, up to which no sum of so many squares wraps around."""
        return int(2 ** ((2 * TOP - (size - 1).bit_length()) // 2))


@dataclass(frozen=True, kw_only=True)
class AdditiveSharing(Aggregation):
    """Every client splits its update into one share a server; the servers compute on shares, and open the result.

    Any servers but all together see uniform numbers and the result. A changed share changes the result, and nobody
    notices; a missing one is an error.

    Args:
        servers: How many, at least 2.
        rule: What they compute.
        numbers: How real numbers stand in the ring.
        seeds: All but the last of a client's shares are sent as 32-byte seeds.

    Raises:
        ValueError: There are fewer than two servers, or a value is no rule.

    Chapter: multi-party-computation. Source: lia2020.
    """

    servers: int = 2
    rule: Rule = Mean()
    numbers: FixedPoint = FixedPoint()
    seeds: bool = True

    def __post_init__(self) -> None:
        check_whole("servers", self.servers, 2)
        for name, kind, example in (("rule", Rule, "Mean()"), ("numbers", FixedPoint, "FixedPoint()")):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, wanted a {kind.__name__}, such as {example}")

    @property
    def kind(self) -> str:
        """``"mean"`` where the rule weighs clients by their data, else ``"sum"``."""
        return "mean" if self.rule.weighted else "sum"

    def aggregate(self, shared: Mapping[int, Gradients], counts: Mapping[int, int], *, number: int) -> Listed:
        """Return the mean that the servers open; the clients' rounds are two, shares up and the result down.

        Raises:
            ValueError: As :func:`gilearn.federated.aggregation.check_contributions`, or a value does not fit the ring.
        """
        counts = check_contributions(shared, counts)
        tally, servers = Tally(shared), Servers(self.servers)
        with tally.timed("clients"):
            vectors = {client: layers(own) for client, own in shared.items()}
            flat = {client: torch.from_numpy(np.concatenate(own)) for client, own in vectors.items()}
            sent = {client: self.shares(own, counts[client], list(counts.values())) for client, own in flat.items()}
        for client, own in sent.items():
            tally.sent(client, "share", sum(share.bytes for share in own))
        with tally.timed("servers"):
            result, first = self.result(sent, servers).numpy(), next(iter(shared))
            mean = tensors(layers_of(result, map(len, vectors[first])), shared[first])
        kinds = dict(servers.sent) | ({"from the dealer": servers.dealer.sent} if servers.openings > 1 else {})
        tally.messages.update(kinds)
        up, down = tally.up, sum(tensor.numel() * tensor.element_size() for tensor in mean if tensor is not None)
        messages = [
            *(Message(sender="client", receiver="server", kind="share", bytes=length) for length in up.values()),
            *(
                Message(sender="dealer" if "dealer" in kind else "server", receiver="server", kind=kind, bytes=length)
                for kind, length in kinds.items()
            ),
            *(Message(sender="server", receiver="client", kind="result", bytes=down) for _ in up),
        ]
        return Listed(
            mean=mean, clients=tuple(shared), cost=tally.cost(), messages=tuple(messages), openings=servers.openings
        )

    def shares(self, update: Tensor, count: int, counts: Sequence[int]) -> tuple[Share, ...]:
        """Return a client's messages, one for each server.

        Args:
            update: Its contribution, (size,).
            count: Its number of examples.
            counts: Those of all clients, this one among them; only their number and sum are used.

        Raises:
            ValueError: The update is no row of finite numbers, or does not fit the ring, or a count is no whole number
                from 1.
        """
        check_tensor("update", update, "(size,)", ndim=1, exact=True)
        check_whole("count", count)
        for one in counts:
            check_whole("counts", one)
        encoded = self.rule.encoded(update, count, counts, self.numbers)
        return split(encoded, servers=self.servers, seeds=self.seeds)

    def result(self, sent: Mapping[int, Sequence[Share]], servers: Servers | None = None) -> Tensor:
        """Return the mean that the servers compute of the shares and open, (size,), float64.

        Args:
            sent: Of every client the messages of :meth:`shares`.
            servers: Count what they send; ``None``: nobody counts.

        Raises:
            ValueError: A share is missing, or sizes differ.
        """
        servers = Servers(self.servers) if servers is None else servers
        total, weight = self.rule.total(servers, collected(sent, servers=self.servers), self.numbers)
        if isinstance(weight, int):
            return self.numbers.decode(servers.opened(total, "result")) / weight
        opened = servers.opened(Shared(np.append(total.rows, weight.rows[:, None], axis=1)), "result")
        if not 0 < int(opened[-1]) < 2**62:
            raise ValueError("sent: the counts add up to no positive number, wanted those that clients share")
        return self.numbers.decode(opened[:-1]) / int(opened[-1])


@dataclass(frozen=True, kw_only=True)
class SAFELearn(AdditiveSharing):
    """Private aggregation by two servers in two rounds of the clients, with what is computed as a plug-in.

    Clients send shares once and get the result once, however much the servers compute between the two.

    Args:
        servers: Two.
        rule: The plug-in: :class:`Mean`, :class:`ClippedMean`, or your own :class:`Rule`.
        numbers: How real numbers stand in the ring.
        seeds: The first share is sent as a 32-byte seed.

    Raises:
        ValueError: There are not two servers, or a value is no rule.

    Chapter: multi-party-computation. Source: fereidooni2021.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.servers != 2:
            raise ValueError(f"servers: got {self.servers}, wanted 2; AdditiveSharing takes more")
