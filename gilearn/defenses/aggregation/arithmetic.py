"""Arithmetic on shared numbers: products by Beaver triples, truncation and signs, with dealt randomness.

To add, no server sends anything. To multiply, the servers open masked numbers, and use random numbers with a known
product that a dealer shared among them beforehand. The dealer sees nothing of the data; what it deals would unmask all
of it, so that it must not collude with any server.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from gilearn.defenses.aggregation.sharing import Ring, Shared, Stream, as_ring, known, spread
from gilearn.federated.checks import check_whole

Bits = NDArray[np.uint8]
"""Zeros and ones, shared by rows: the bit is their exclusive or."""

_OFFSET = 1 << 62


class Dealer:
    """Deals random numbers, and shares of what it computes from them; it gets no message from anybody.

    Every server has a key in common with it, and draws its shares of a random number from that keystream; only what is
    *computed* from random numbers needs a message, to the last server.

    Args:
        servers: How many, at least 2.

    Chapter: multi-party-computation. Source: beaver1991.
    """

    def __init__(self, servers: int = 2) -> None:
        check_whole("servers", servers, 2)
        self._streams = [Stream(secrets.token_bytes(32)) for _ in range(servers)]
        self.sent = 32 * servers
        """Bytes that it sent: a key to every server, and the corrections."""

    def random(self, shape: tuple[int, ...]) -> Shared:
        """Return uniform numbers, shared."""
        return Shared(np.stack([stream.numbers(math.prod(shape)).reshape(shape) for stream in self._streams]))

    def share(self, numbers: Ring) -> Shared:
        """Return what the dealer computed, shared: all servers but the last draw, the last one is sent the rest."""
        rows = self.random(numbers.shape).rows
        rows[-1] = numbers - known(Shared(rows[:-1]))
        self.sent += 8 * numbers.size
        return Shared(rows)

    def random_bits(self, shape: tuple[int, ...]) -> Bits:
        """Return uniform bits, (servers, *shape): the bit is the exclusive or of the servers' rows."""
        number = math.prod(shape)
        words = [stream.numbers(-(-number // 64)) for stream in self._streams]
        return np.stack([as_bits(word).reshape(-1)[:number].reshape(shape) for word in words])

    def share_bits(self, bits: Bits) -> Bits:
        """Return bits that the dealer computed, shared bit by bit."""
        rows = self.random_bits(bits.shape)
        rows[-1] = bits ^ xor(rows[:-1])
        self.sent += -(-bits.size // 8)
        return rows


def xor(rows: Bits) -> Bits:
    """Return the bits behind rows of shares."""
    return cast(Bits, np.bitwise_xor.reduce(rows, axis=0))


def as_bits(numbers: Ring) -> Bits:
    """Return the 64 bits of each number on a new last axis, the lowest first."""
    rows = np.ascontiguousarray(numbers, dtype="<u8").view(np.uint8).reshape(*numbers.shape, 8)
    return np.unpackbits(rows, axis=-1, bitorder="little")


@dataclass(frozen=True, eq=False)
class Masked:
    """A shared number behind a dealt mask: the difference is public, and uniform whatever the number is.

    Args:
        public: The number less the mask.
        mask: Shared.
        bits: The mask once more, shared bit by bit; ``None`` where no sign is asked for.
    """

    public: Ring = field(repr=False)
    mask: Shared = field(repr=False)
    bits: Bits | None = field(default=None, repr=False)


class Servers:
    """The servers of a computation on shares, who follow the protocol, and keep what they see (honest but curious).

    Only :meth:`opened` and :meth:`opened_bits` are messages between them; every other step computes each row of shares
    from that row and from what is public.

    Args:
        number: How many, at least 2.

    Chapter: multi-party-computation. Source: beaver1991 for products; catrina2010 and escudero2020 for truncation.
    """

    def __init__(self, number: int = 2) -> None:
        check_whole("number", number, 2)
        self.number = number
        self.dealer = Dealer(number)
        self.sent: Counter[str] = Counter()
        """Bytes that the servers sent each other, by what was opened."""
        self.openings = 0
        """How often they waited for each other's message."""

    def opened(self, shared: Shared, what: str) -> Ring:
        """Return the numbers that are shared: every server sends its row to every other one.

        Args:
            shared: The numbers; what is opened becomes known to all servers.
            what: Stands in the list of what was sent.
        """
        self._send(what, 8 * math.prod(shared.shape))
        return known(shared)

    def opened_bits(self, rows: Bits, what: str) -> Bits:
        """Return bits that are shared bit by bit; else as :meth:`opened`."""
        self._send(what, -(-math.prod(rows.shape[1:]) // 8))
        return xor(rows)

    def masked(self, shared: Shared, *, bits: bool = False) -> Masked:
        """Return the numbers behind fresh masks; with ``bits`` a sign can be taken.

        A masked number serves any number of products, squares and signs: the difference is opened once.
        """
        mask = self.dealer.random(shared.shape)
        dealt = self.dealer.share_bits(as_bits(known(mask))) if bits else None
        return Masked(self.opened(shared - mask, "masked numbers"), mask, dealt)

    def product(self, x: Masked, y: Masked) -> Shared:
        """Return x y, shared, entry by entry with broadcasting; of fixed-point numbers the bits add up.

        With masks a and b, of which the dealer shares the product: x y = (x-a)(y-b) + (x-a) b + (y-b) a + a b.
        """
        triple = self.dealer.share(known(x.mask) * known(y.mask))
        return triple + y.mask * x.public + x.mask * y.public + as_ring(x.public * y.public)

    def squares(self, x: Masked) -> Shared:
        """Return the sum of squares along the last axis, shared; the dealer shares one number for each sum."""
        own = self.dealer.share(np.add.reduce(known(x.mask) * known(x.mask), axis=-1, dtype=np.uint64))
        crossed = (x.mask * x.public * 2).sum(x.public.ndim - 1)
        return own + crossed + as_ring(np.add.reduce(x.public * x.public, axis=-1, dtype=np.uint64))

    def truncated(self, shared: Shared, bits: int) -> Shared:
        """Return the numbers divided by 2**bits: one of the two neighbours of the quotient, always.

        Which one is random: the nearer one is likelier, so that the quotient is right on average.

        Args:
            shared: Numbers of magnitude below 2^62.
            bits: 1 to 62.
        """
        mask = self.dealer.random(shared.shape)
        value = known(mask)
        high, top = self.dealer.share(value >> np.uint64(bits)), self.dealer.share(value >> np.uint64(63))
        public = self.opened(shared + mask + _OFFSET, "truncation")
        wrapped = (np.uint64(1) - (public >> np.uint64(63))) << np.uint64(64 - bits)
        return -high + top * wrapped + as_ring(public >> np.uint64(bits)) - (_OFFSET >> bits)

    def negative(self, x: Masked, plus: Ring | int = 0) -> Shared:
        """Return 1 where x + plus is below zero, else 0, shared; no one learns which.

        x + plus is the sum of a public number and the mask. Its highest bit is that of the two, and of the carry out of
        the 63 bits below, which halves itself together in six rounds: of two neighbouring groups of bits the upper one
        makes a carry, or it lets the lower one's pass.

        Args:
            x: Masked with bits.
            plus: Public, of a shape that broadcasts with x.

        Raises:
            ValueError: There are no bits.
        """
        if x.bits is None:
            raise ValueError("x: got a masked number without bits, wanted masked(..., bits=True)")
        public = as_bits(x.public + as_ring(plus))
        own = spread(x.bits, public.shape)
        makes, passes = own & public, own.copy()
        passes[0] ^= public
        top = passes[..., 63]
        makes, passes = makes[..., :63], passes[..., :63]
        while makes.shape[-1] > 1:
            if makes.shape[-1] % 2:  # nothing comes in from below: a group that lets pass, and makes no carry
                makes = np.concatenate([np.zeros_like(makes[..., :1]), makes], axis=-1)
                passes = np.concatenate([np.zeros_like(passes[..., :1]), passes], axis=-1)
            lower = np.stack([makes[..., ::2], passes[..., ::2]], axis=1)
            through = self._and(passes[:, None, ..., 1::2], lower)
            makes, passes = makes[..., 1::2] ^ through[:, 0], through[:, 1]
        return self._number(top ^ makes[..., 0])

    def _and(self, p: Bits, q: Bits) -> Bits:
        """Return p & q of bits that are shared bit by bit, with broadcasting: a Beaver triple modulo 2."""
        a, b = self.dealer.random_bits(p.shape[1:]), self.dealer.random_bits(q.shape[1:])
        c = self.dealer.share_bits(xor(a) & xor(b))
        both = np.concatenate([(p ^ a).reshape(self.number, -1), (q ^ b).reshape(self.number, -1)], axis=1)
        d, e = np.split(self.opened_bits(both, "carries"), [math.prod(p.shape[1:])])
        d, e = d.reshape(p.shape[1:]), e.reshape(q.shape[1:])
        result: Bits = c ^ (d & b) ^ (e & a)
        result[0] ^= d & e
        return result

    def _number(self, bit: Bits) -> Shared:
        """Return a bit that is shared bit by bit as a shared number, 0 or 1."""
        drawn = self.dealer.random_bits(bit.shape[1:])
        number = self.dealer.share(xor(drawn).astype(np.uint64))
        public = self.opened_bits(bit ^ drawn, "bits").astype(np.uint64)
        return number * (1 - 2 * public) + public

    def _send(self, what: str, length: int) -> None:
        self.sent[what] += self.number * (self.number - 1) * length
        self.openings += 1


def shifted(shared: Shared, bits: int) -> Shared:
    """Return two servers' numbers divided by 2**bits without any message, which fails now and then.

    Each server shifts its own share. The result is one of the two neighbours of the quotient, unless a carry between
    the shares is lost, which happens with a probability of about magnitude / 2^64; then it is off by 2**(64 - bits).

    Raises:
        ValueError: There are not two servers.

    Chapter: multi-party-computation. Source: mohassel2017, section 4.1.
    """
    if len(shared.rows) != 2:
        raise ValueError(f"shared: got the shares of {len(shared.rows)} servers, wanted 2")
    first, second = shared.rows
    return Shared(np.stack([first >> np.uint64(bits), -((-second) >> np.uint64(bits))]))
