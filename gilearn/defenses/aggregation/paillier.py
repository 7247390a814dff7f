"""Paillier's cipher for vectors, and federated averaging under it: the server adds what it cannot read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gilearn.defenses._extra import library
from gilearn.defenses.aggregation.encrypted import Encrypted
from gilearn.defenses.aggregation.packing import Packing, whole
from gilearn.defenses.aggregation.tally import Tally
from gilearn.defenses.aggregation.vectors import Floats, Layers, split
from gilearn.federated.checks import check_whole
from gilearn.values import Value

LEAST_KEY = 256
"""Bits of the smallest key that is made: for tests of the arithmetic, and no protection."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PublicKey:
    """What everybody may have: it encrypts, and its modulus is what ciphertexts are added with.

    Args:
        key: The library's public key.
    """

    key: Any = field(repr=False)

    @property
    def bits(self) -> int:
        """Length of the modulus n = pq."""
        return int(self.key.n).bit_length()

    @property
    def room(self) -> int:
        """Bits of a signed plaintext: residues above n / 2 stand for negative numbers."""
        return self.bits - 1

    @property
    def nbytes(self) -> int:
        """Bytes to send: the modulus."""
        return -(-self.bits // 8)

    def encrypt(self, plaintexts: Sequence[int]) -> Ciphertexts:
        """Return signed integers, encrypted, each with randomness of its own.

        Raises:
            ValueError: A plaintext is no whole number, or has more bits than there is room for; it is not said which.
        """
        plaintexts = whole("plaintexts", plaintexts)
        if any(abs(plaintext) >= 1 << (self.room - 1) for plaintext in plaintexts):
            raise ValueError(f"plaintexts: got one beyond the key's room, wanted {self.room} bits with the sign")
        n = self.key.n
        return Ciphertexts(public=self, values=tuple(self.key.raw_encrypt(plain % n) for plain in plaintexts))


@dataclass(frozen=True, kw_only=True, eq=False)
class SecretKey:
    """What only clients have: it decrypts. It shows nothing of itself, and pickle does not take it.

    Args:
        public: The public key that goes with it.
        key: The library's private key.
    """

    public: PublicKey
    key: Any = field(repr=False)

    def decrypt(self, ciphertexts: Ciphertexts) -> list[int]:
        """Return the signed plaintexts.

        Raises:
            ValueError: They were encrypted under another key.
        """
        n = self.public.key.n
        if ciphertexts.public.key.n != n:
            raise ValueError("ciphertexts: got some under another key, wanted those of this one's public key")
        residues = (self.key.raw_decrypt(value) for value in ciphertexts.values)
        return [residue - n if residue > n // 2 else residue for residue in residues]

    def __reduce__(self) -> Any:
        raise TypeError("secret: got a SecretKey to pickle, wanted it to stay where it is")


def keypair(bits: int = 2048) -> tuple[PublicKey, SecretKey]:
    """Return a fresh key pair, from the operating system's randomness.

    Args:
        bits: Of the modulus, even, at least :data:`LEAST_KEY`; what is shorter than 2048 is for tests.

    Raises:
        ValueError: The length is out of range.
        ImportError: The extra ``defenses`` is not installed.

    Chapter: homomorphic-encryption. Source: paillier1999; phong2018.
    """
    check_whole("bits", bits, LEAST_KEY)
    if bits % 2:
        raise ValueError(f"bits: got {bits}, wanted an even number: two primes of the same length")
    library("gmpy2")  # the cipher would run without it, many times more slowly
    key, secret = library("phe.paillier").generate_paillier_keypair(n_length=bits)
    public = PublicKey(key=key)
    return public, SecretKey(public=public, key=secret)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ciphertexts(Value):
    """A vector of ciphertexts: what is sent, and all that a server works with.

    Args:
        public: The key that they were encrypted under.
        values: Residues modulo the square of n.
    """

    public: PublicKey
    values: tuple[int, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes to send: twice the modulus, for each."""
        return 2 * self.public.nbytes * len(self)

    def __len__(self) -> int:
        return len(self.values)

    def __add__(self, other: Ciphertexts) -> Ciphertexts:
        """Return ciphertexts of the sums: ciphertexts are multiplied.

        Raises:
            ValueError: They are not as many, or under another key.
        """
        self._check(len(other), other.public)
        square = self.public.key.nsquare
        return self.replace(values=tuple(a * b % square for a, b in zip(self.values, other.values, strict=True)))

    def times(self, factor: int) -> Ciphertexts:
        """Return ciphertexts of the plaintexts times a public whole number, from 1: ciphertexts are raised to it."""
        check_whole("factor", factor)
        return self.replace(values=tuple(pow(value, factor, self.public.key.nsquare) for value in self.values))

    def plus(self, constants: Sequence[int]) -> Ciphertexts:
        """Return ciphertexts of the plaintexts plus public numbers, one each, without any randomness.

        Whoever sees both and guesses the numbers can verify the guess: :meth:`rerandomized` before it is forwarded.

        Raises:
            ValueError: They are not as many.
        """
        self._check(len(constants), self.public)
        n, square = self.public.key.n, self.public.key.nsquare
        pairs = zip(self.values, constants, strict=True)
        return self.replace(values=tuple(value * (1 + n * (constant % n)) % square for value, constant in pairs))

    def rerandomized(self) -> Ciphertexts:
        """Return fresh ciphertexts of the same plaintexts."""
        return self + self.public.encrypt([0] * len(self))

    def _check(self, count: int, public: PublicKey) -> None:
        if public.key.n != self.public.key.n:
            raise ValueError("ciphertexts: got some under another key, wanted the same")
        if count != len(self):
            raise ValueError(f"ciphertexts: got {count}, wanted {len(self)}")


@dataclass(frozen=True, kw_only=True)
class FixedPoint(Value):
    """Real numbers as whole multiples of a power of two, packed.

    Args:
        fraction_bits: The step is ``2**-fraction_bits``, and rounding is off by half of it at most.
        packing: How the multiples are packed.

    Raises:
        ValueError: ``fraction_bits`` is no whole number from 0.

    Chapter: homomorphic-encryption. Source: phong2018.
    """

    fraction_bits: int
    packing: Packing

    def __post_init__(self) -> None:
        check_whole("fraction_bits", self.fraction_bits, 0)

    @property
    def step(self) -> float:
        """The distance of neighbouring numbers."""
        return 2.0**-self.fraction_bits

    def encrypt(self, values: Floats, public: PublicKey) -> Ciphertexts:
        """Return a vector (n,) of numbers, rounded, packed and encrypted.

        Raises:
            ValueError: A number is not finite, or too large for the packing; it is not said which one.
        """
        with np.errstate(over="ignore"):  # infinite is too large
            scaled = np.rint(np.ldexp(_numbers(values), self.fraction_bits))
        if not np.isfinite(scaled).all() or np.abs(scaled).max(initial=0) > self.packing.largest:
            limit = self.packing.largest * self.step
            raise ValueError(f"values: got one that is not finite or beyond ±{limit:.6g}, wanted numbers within")
        return public.encrypt(self.packing.pack([int(value) for value in scaled], public.room))

    def decrypt(self, ciphertexts: Ciphertexts, secret: SecretKey, count: int) -> Floats:
        """Return the vector (count,) of numbers, or of sums of them.

        Raises:
            ValueError: As :meth:`SecretKey.decrypt` and :meth:`Packing.unpack`.
        """
        sums = self.packing.unpack(secret.decrypt(ciphertexts), count, secret.public.room)
        return np.array([value * self.step for value in sums], dtype=np.float64)


def _numbers(values: object) -> Floats:
    """Return a row of numbers as float64, or raise a ``ValueError`` that does not show them."""
    given = np.asarray(values)
    if given.ndim != 1 or given.dtype.kind not in "fiu":
        raise ValueError(f"values: got {given.dtype} of shape {given.shape}, wanted real numbers, (n,)")
    return given.astype(np.float64)


class Server:
    """A server under encryption: a running sum of ciphertexts, and how many summands are in it.

    Args:
        total: What it starts with: the encrypted model of phong2018, which counts as a summand, or nothing.
        room: Summands that the packing has room for.

    Raises:
        ValueError: ``room`` is no positive whole number.

    Chapter: homomorphic-encryption. Source: phong2018.
    """

    def __init__(self, total: Ciphertexts | None = None, *, room: int) -> None:
        check_whole("room", room)
        self.total, self.room = total, room
        self.summands = 0 if total is None else 1

    def add(self, ciphertexts: Ciphertexts, weight: int = 1) -> None:
        """Add a client's vector, times a public whole number.

        Raises:
            ValueError: There is no room for as many summands, or the vector does not fit the sum.
        """
        check_whole("weight", weight)
        if self.summands + weight > self.room:
            raise ValueError(f"weight: got {weight} after {self.summands} summands, wanted {self.room} in all at most")
        weighted = ciphertexts if weight == 1 else ciphertexts.times(weight)
        self.total = weighted if self.total is None else self.total + weighted
        self.summands += weight

    def forward(self) -> Ciphertexts:
        """Return the sum, re-randomized: nobody links it to what came in.

        Raises:
            ValueError: There is no sum yet.
        """
        if self.total is None:
            raise ValueError("total: got no vector yet, wanted at least one")
        return self.total.rerandomized()


@dataclass(frozen=True, kw_only=True)
class Paillier(Encrypted):
    """Federated averaging under Paillier's cipher: clients share a secret key, and the server adds ciphertexts.

    In every round one client makes a key pair, and hands the secret key to the others past the server. Clients send
    fixed-point numbers, packed; the server multiplies each vector by its client's weight, adds, and forwards the sum,
    re-randomized; clients decrypt. The mean is off by half a step at most. A client that comes by what another one
    sent can decrypt it.

    Args:
        weighted: As :class:`Encrypted`.
        key_bits: Length of the modulus; less than 2048 is for tests.
        fraction_bits: The step is ``2**-fraction_bits``.
        bits: Of one number, its sign included: by default within ±128.
        packed: Several numbers in a ciphertext; otherwise one.

    Raises:
        ValueError: A number is out of range. In a round: an entry is not finite, or too large.

    Chapter: homomorphic-encryption. Source: phong2018; survey, section 3.3.
    """

    key_bits: int = 2048
    fraction_bits: int = 32
    bits: int = 40
    packed: bool = True

    def __post_init__(self) -> None:
        check_whole("key_bits", self.key_bits, LEAST_KEY)
        self.codec(1)

    def codec(self, summands: int) -> FixedPoint:
        """Return how numbers are encoded for sums of so many of them."""
        packing = Packing(bits=self.bits, summands=summands, most=None if self.packed else 1)
        return FixedPoint(fraction_bits=self.fraction_bits, packing=packing)

    def total(self, vectors: Mapping[int, Layers], weights: Mapping[int, int], tally: Tally) -> Layers:
        """Return the weighted sum of the clients' layers, off by half a step for every summand at most."""
        public, secret = round_keys(self.key_bits, tally)
        codec = self.codec(sum(weights.values()))
        sent = {}
        for k, layers in vectors.items():
            with tally.timed("clients"):
                sent[k] = codec.encrypt(np.concatenate(layers), public)
        received = exchanged(sent, weights, tally, "update")
        sizes = [len(layer) for layer in layers]
        with tally.timed("clients", times=len(vectors)):
            sums = codec.decrypt(received, secret, sum(sizes))
        return split(sums, sizes)


def round_keys(bits: int, tally: Tally) -> tuple[PublicKey, SecretKey]:
    """Return a round's keys: the first client makes them, the server gets the public one, the others the secret one."""
    first, *others = tally.clients
    with tally.timed("clients"):
        public, secret = keypair(bits)
    tally.sent(first, "public key", public.nbytes)
    tally.received("keys, past the server", public.nbytes, others)
    return public, secret


def exchanged(sent: Mapping[int, Ciphertexts], weights: Mapping[int, int], tally: Tally, kind: str) -> Ciphertexts:
    """Return what every client receives for what all of them sent: the server's weighted sum, re-randomized."""
    server = Server(room=sum(weights.values()))
    for k, ciphertexts in sent.items():
        tally.sent(k, kind, ciphertexts.nbytes)
        with tally.timed("server"):
            server.add(ciphertexts, weights[k])
    with tally.timed("server"):
        forwarded = server.forward()
    tally.received(f"sum of {kind}s", forwarded.nbytes)
    return forwarded
