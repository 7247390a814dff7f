"""Additive secret sharing in the ring of 64-bit numbers: what a client sends to each of several servers.

A number is the sum of its shares modulo 2^64. All shares but one are uniform draws, so that any set of servers that
lacks one holds nothing but uniform numbers; together they hold everything.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gilearn.defenses.aggregation.primitives import Keystream, check_bytes
from gilearn.federated.checks import check_whole
from gilearn.values import Value

Ring = NDArray[np.uint64]
"""Numbers modulo 2^64; those from 2^63 on stand for the negative ones."""


@dataclass(frozen=True, kw_only=True)
class FixedPoint(Value):
    """Real numbers as multiples of ``2**-bits`` in the ring; the nearest one, so that the error is half a unit at most.

    Args:
        bits: Behind the binary point, from 0 to 40.

    Raises:
        ValueError: The number of bits is out of range.

    Chapter: multi-party-computation.
    """

    bits: int = 16

    def __post_init__(self) -> None:
        check_whole("bits", self.bits, 0)
        if self.bits > 40:
            raise ValueError(f"bits: got {self.bits}, wanted 0 to 40: the ring has 64, the sum and its sign need some")

    def encode(self, values: Tensor, *, terms: int = 1) -> Ring:
        """Return numbers of the ring, in the shape of the values.

        Args:
            values: Finite numbers, any shape.
            terms: How many such numbers are going to be added: their sum has to fit.

        Raises:
            ValueError: A value is not finite, or a sum of so many of them would leave the ring.
        """
        check_whole("terms", terms)
        if not isinstance(cast(object, values), Tensor):
            raise ValueError(f"values: got a {type(values).__name__}, wanted a tensor of numbers")
        if values.layout != torch.strided or values.is_meta or values.is_complex() or values.dtype == torch.bool:
            raise ValueError(f"values: got {values.dtype}, {values.layout}, wanted a dense tensor of real numbers")
        numbers = values.detach().cpu().double()
        if not torch.isfinite(numbers).all():
            raise ValueError("values: got NaN or infinite ones, wanted finite numbers")
        limit = 2.0 ** (63 - self.bits) / terms
        if numbers.numel() and float(numbers.abs().max()) + 2.0**-self.bits >= limit:
            fit = f"a sum of {terms} has to fit in 64 bits, {self.bits} behind the point"
            raise ValueError(f"values: got one that is too large, wanted magnitudes below {limit:.4g}: {fit}")
        return (numbers * 2.0**self.bits).round().numpy().astype(np.int64).view(np.uint64)

    def decode(self, numbers: Ring) -> Tensor:
        """Return the real numbers, float64, in the shape of those of the ring.

        Raises:
            ValueError: These are no numbers of the ring.
        """
        _check_ring("numbers", numbers)
        return torch.from_numpy(np.ascontiguousarray(numbers).view(np.int64).astype(np.float64) / 2.0**self.bits)


@dataclass(frozen=True, kw_only=True, eq=False)
class Share(Value):
    """A client's message to one server: one share of each of its numbers, or the seed that it grows from.

    Args:
        server: To which one it goes, from 0.
        size: How many numbers.
        numbers: Of the ring, (size,); ``None`` where there is a seed.
        seed: 32 bytes of a ChaCha20 key, used for this message alone; ``None`` where there are numbers.

    Raises:
        ValueError: There are both or neither, or they do not fit.

    Chapter: multi-party-computation.
    """

    server: int
    size: int
    numbers: Ring | None = field(default=None, repr=False)
    seed: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_whole("server", self.server, 0)
        check_whole("size", self.size)
        if (self.numbers is None) == (self.seed is None):
            raise ValueError("numbers: got both numbers and a seed, or neither, wanted one of the two")
        if self.seed is not None:
            check_bytes("seed", self.seed)
        if self.numbers is not None:
            _check_ring("numbers", self.numbers)
            if self.numbers.shape != (self.size,):
                raise ValueError(f"numbers: got uint64 of shape {self.numbers.shape}, wanted uint64 of ({self.size},)")

    @property
    def bytes(self) -> int:
        """Length of the message."""
        return 8 * self.size if self.seed is None else 32

    def grown(self) -> Ring:
        """Return the share, (size,): what was sent, or what the seed grows into."""
        if self.seed is not None:
            return Stream(self.seed).numbers(self.size)
        assert self.numbers is not None
        return self.numbers


class Stream(Keystream):
    """Uniform numbers of the ring from a key of 32 bytes: the keystream of ChaCha20, eight bytes a number.

    A key serves one stream only.

    Chapter: multi-party-computation. Source: RFC 8439.
    """

    def numbers(self, size: int) -> Ring:
        """Return the next ``size`` numbers."""
        return np.frombuffer(self.take(8 * size), dtype="<u8").astype(np.uint64, copy=False)


def split(numbers: Ring, *, servers: int = 2, seeds: bool = True) -> tuple[Share, ...]:
    """Split numbers into one share a server.

    All shares but the last are drawn from the operating system's secure source (``secrets``); the last is the
    difference. Nothing here depends on a seed of an experiment.

    Args:
        numbers: Of the ring, uint64, any shape.
        servers: How many, at least 2.
        seeds: Send each drawn share as the 32-byte key of the stream that it is, and not in full.

    Returns:
        One message a server.

    Raises:
        ValueError: There are no numbers, or there is only one server.

    Chapter: multi-party-computation. Source: lia2020.
    """
    _check_ring("numbers", numbers)
    if numbers.size == 0:
        raise ValueError(f"numbers: got uint64 of shape {numbers.shape}, wanted at least one number")
    check_whole("servers", servers, 2)
    size, last, drawn = numbers.size, numbers.reshape(-1).copy(), []
    for server in range(servers - 1):
        if seeds:
            share = Share(server=server, size=size, seed=secrets.token_bytes(32))
        else:
            uniform = np.frombuffer(secrets.token_bytes(8 * size), dtype="<u8").astype(np.uint64, copy=False)
            share = Share(server=server, size=size, numbers=uniform)
        last -= share.grown()
        drawn.append(share)
    return (*drawn, Share(server=servers - 1, size=size, numbers=last))


def collected(messages: Mapping[int, Sequence[Share]], *, servers: int) -> Shared:
    """Return what the servers hold once every client's shares have arrived, (clients, size), clients in order.

    Args:
        messages: Of every client, by its position, one share for each server.
        servers: How many there are.

    Raises:
        ValueError: There are no clients, a client's share is missing at a server or there twice, or sizes differ. The
            servers then have to agree on the clients whose shares all of them have, and begin again with these.

    Chapter: multi-party-computation.
    """
    check_whole("servers", servers, 2)
    if not isinstance(cast(object, messages), Mapping) or not messages:
        got = "none" if isinstance(cast(object, messages), Mapping) else f"a {type(messages).__name__}"
        raise ValueError(f"messages: got {got}, wanted the shares of at least one client")
    for client, shares in messages.items():
        if not isinstance(cast(object, shares), (tuple, list)) or not all(isinstance(one, Share) for one in shares):
            raise ValueError(f"messages: got no shares of client {client}, wanted a Share for each server")
        came = sorted(share.server for share in shares)
        if came != list(range(servers)):
            wanted = f"one for each of the servers 0 to {servers - 1}"
            raise ValueError(f"messages: got shares of client {client} at the servers {came}, wanted {wanted}")
    sizes = {share.size for shares in messages.values() for share in shares}
    if len(sizes) > 1:
        raise ValueError(f"messages: got sizes {sorted(sizes)}, wanted one")
    ordered = [sorted(messages[client], key=lambda share: share.server) for client in sorted(messages)]
    return Shared(np.stack([[share.grown() for share in at_server] for at_server in zip(*ordered, strict=True)]))


@dataclass(frozen=True, eq=False)
class Shared:
    """Numbers of the ring, as the servers hold them: row j is server j's share. Sums and public factors are local.

    Args:
        rows: (servers, ...), uint64.

    Raises:
        ValueError: The rows are no numbers of the ring.

    Chapter: multi-party-computation.
    """

    rows: Ring = field(repr=False)

    def __post_init__(self) -> None:
        _check_ring("rows", self.rows)
        if self.rows.ndim < 1:
            raise ValueError("rows: got one number, wanted (servers, ...)")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers."""
        return self.rows.shape[1:]

    def __add__(self, other: Shared | Ring | int) -> Shared:
        """Add shared numbers row by row; a public one is added by the first server."""
        if isinstance(other, Shared):
            return Shared(self.rows + other.rows)
        public = as_ring(other)
        rows = spread(self.rows, np.broadcast_shapes(self.shape, public.shape)).copy()
        rows[0] += public
        return Shared(rows)

    def __neg__(self) -> Shared:
        return Shared(-self.rows)

    def __sub__(self, other: Shared | Ring | int) -> Shared:
        return self + (-other if isinstance(other, Shared) else -as_ring(other))

    def __mul__(self, public: Ring | int) -> Shared:
        """Multiply by public numbers of the ring; every server multiplies its share."""
        factors = as_ring(public)
        return Shared(spread(self.rows, np.broadcast_shapes(self.shape, factors.shape)) * factors)

    def __getitem__(self, where: Any) -> Shared:
        return Shared(self.rows[(slice(None), *(where if isinstance(where, tuple) else (where,)))])

    def sum(self, axis: int) -> Shared:
        """Return the sums along one axis of the numbers, counted from 0."""
        return Shared(np.add.reduce(self.rows, axis=axis + 1, dtype=np.uint64))


def known(shared: Shared) -> Ring:
    """Return the numbers behind shares: for who has them all, as the dealer has of what it dealt."""
    return np.asarray(np.add.reduce(shared.rows, axis=0, dtype=np.uint64))


def spread(rows: Any, shape: tuple[int, ...]) -> Any:
    """Return every server's row broadcast to a shape of numbers."""
    ones = (1,) * (len(shape) + 1 - rows.ndim)
    return np.broadcast_to(rows.reshape(len(rows), *ones, *rows.shape[1:]), (len(rows), *shape))


def as_ring(value: Any) -> Ring:
    """Return public numbers as numbers of the ring; whole numbers may be negative.

    Raises:
        ValueError: They are no whole numbers: the ring has no fractions.
    """
    if isinstance(value, Integral):
        return np.asarray(int(value) % 2**64, dtype=np.uint64)
    if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, np.integer):
        got = value.dtype if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise ValueError(f"public: got {got}, wanted whole numbers: the ring has no fractions")
    return value.astype(np.uint64, copy=False)


def _check_ring(argument: str, numbers: object) -> None:
    if not isinstance(numbers, np.ndarray) or numbers.dtype != np.uint64:
        got = f"{numbers.dtype}" if isinstance(numbers, np.ndarray) else f"a {type(numbers).__name__}"
        shape = f" of shape {numbers.shape}" if isinstance(numbers, np.ndarray) else ""
        raise ValueError(f"{argument}: got {got}{shape}, wanted uint64")
