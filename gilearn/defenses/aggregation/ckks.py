"""CKKS: thousands of approximate real numbers in one ciphertext, added, and multiplied by public weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gilearn.defenses._extra import library
from gilearn.defenses.aggregation.encrypted import Encrypted
from gilearn.defenses.aggregation.tally import Tally
from gilearn.defenses.aggregation.vectors import Floats, Layers, split
from gilearn.federated.checks import check_whole

SIGMAS = 16
"""How many standard deviations the stated precision is. The errors have the tails of a Laplace distribution, as they
are multiples of one secret polynomial: one entry in seven thousand million is off by more."""


class Server:
    """A server under CKKS: parameters, a public key, and a running sum of ciphertexts.

    Args:
        context: The public context, as bytes, without the secret key.

    Raises:
        ValueError: The context holds a secret key.

    Chapter: homomorphic-encryption. Source: cheon2017.
    """

    def __init__(self, context: bytes) -> None:
        self.context = library("tenseal").context_from(context)
        if self.context.has_secret_key():
            self.context = None
            raise ValueError("context: got one with a secret key, wanted a public one")
        self.total: list[Any] | None = None

    def add(self, ciphertexts: Sequence[bytes], weight: float | None = None) -> None:
        """Add a client's ciphertexts, times a public weight; ``None``: as they are.

        Raises:
            ValueError: They are not as many as before.
        """
        read = library("tenseal").ckks_vector_from
        vectors = [read(self.context, ciphertext) for ciphertext in ciphertexts]
        if weight is not None:
            vectors = [vector * weight for vector in vectors]
        if self.total is not None and len(vectors) != len(self.total):
            raise ValueError(f"ciphertexts: got {len(vectors)}, wanted {len(self.total)}")
        self.total = vectors if self.total is None else [a + b for a, b in zip(self.total, vectors, strict=True)]

    def forward(self) -> list[bytes]:
        """Return the sum, to which fresh encryptions of zero are added: nobody links it to what came in.

        Raises:
            ValueError: There is no sum yet.
        """
        if self.total is None:
            raise ValueError("total: got no vector yet, wanted at least one")
        zero = library("tenseal").ckks_vector
        return [(total + zero(self.context, [0.0] * total.size())).serialize() for total in self.total]


@dataclass(frozen=True, kw_only=True)
class CKKS(Encrypted):
    """Federated averaging under CKKS: clients share a secret key, and the server averages ciphertexts of reals.

    In every round one client makes the keys, and hands the secret key to the others past the server. The server
    multiplies each vector by its client's share of the examples, unless all shares are the same, adds, and forwards the
    sum with fresh encryptions of zero added; clients decrypt. The result is approximate: :meth:`precision` says how far
    it can be off. What clients decrypt must not get back to the server: with it and the ciphertext it can compute the
    secret key.

    Args:
        weighted: As :class:`Encrypted`.
        degree: Of the polynomials, a power of two from 4096 to 32768; half of it are the numbers in a ciphertext.
        modulus: Bits of the primes: the first is room for the values, each in the middle for a multiplication, the last
            is for keys.
        scale_bits: A number is encoded as a multiple of ``2**-scale_bits``; the middle primes have as many bits.

    Raises:
        ValueError: A parameter is out of range, or there is no prime in the middle. When used: the parameters are not
            secure (128 bits, by the library's table), or an entry is not finite, or too large for the first prime.

    Chapter: homomorphic-encryption. Source: cheon2017; benaissa2021 for the library.
    """

    degree: int = 8192
    modulus: tuple[int, ...] = (60, 40, 60)
    scale_bits: int = 40

    def __post_init__(self) -> None:
        check_whole("degree", self.degree, 4096)
        check_whole("scale_bits", self.scale_bits, 20)
        if self.degree & (self.degree - 1) or self.degree > 32768:
            raise ValueError(f"degree: got {self.degree}, wanted a power of two from 4096 to 32768")
        if len(self.modulus) < 3 or any(bits != self.scale_bits for bits in self.modulus[1:-1]):
            raise ValueError(
                f"modulus: got {self.modulus}, wanted three or more, those between of {self.scale_bits} bits"
            )
        if self.modulus[0] <= self.scale_bits + 1:
            raise ValueError(f"modulus: got {self.modulus}, wanted the first above {self.scale_bits + 1} bits")

    @property
    def slots(self) -> int:
        """Numbers in a ciphertext."""
        return self.degree // 2

    @property
    def limit(self) -> float:
        """The largest sum that the first prime has room for."""
        return float(2 ** (self.modulus[0] - 1 - self.scale_bits))

    @property
    def noise(self) -> float:
        """Standard deviation of a fresh ciphertext's error in each number.

        The library divides fresh ciphertexts by the last prime, which leaves the error of rounding its two polynomials:
        uniform within half a unit for each coefficient of the first, and of the second times a secret polynomial whose
        coefficients are -1, 0 or 1, a third each. Decoding adds up ``degree`` coefficients, half of it real.
        """
        rounding = (1 + 2 * self.degree / 3) / 12
        return math.sqrt(self.degree / 2 * rounding) / 2.0**self.scale_bits

    def precision(self, weights: Mapping[int, int]) -> float:
        """Return how far an entry of the mean can be off: :data:`SIGMAS` standard deviations.

        Args:
            weights: Of every client, whole numbers.
        """
        shares = [weight / sum(weights.values()) for weight in weights.values()]
        if len(set(shares)) == 1:  # added, and divided after decryption: fresh errors, and those of a zero
            return SIGMAS * self.noise * math.sqrt(len(shares) + 1) / len(shares)
        return SIGMAS * self.noise * math.sqrt(sum(share**2 + 1 for share in shares) + 1)

    def contexts(self) -> tuple[Any, bytes]:
        """Return fresh keys, from the library's generator: the clients' context, and the server's as bytes.

        Raises:
            ValueError: The parameters are not secure, or do not fit each other.
            ImportError: The extra ``defenses`` is not installed.
        """
        tenseal = library("tenseal")
        parameters = {"poly_modulus_degree": self.degree, "coeff_mod_bit_sizes": list(self.modulus)}
        try:
            secret = tenseal.context(tenseal.SCHEME_TYPE.CKKS, **parameters)
        except ValueError as error:
            raise ValueError(f"modulus: got {self.modulus} for degree {self.degree}, wanted what is secure") from error
        secret.global_scale = 2.0**self.scale_bits
        kept = dict.fromkeys(("save_secret_key", "save_galois_keys", "save_relin_keys"), False)
        return secret, secret.serialize(save_public_key=True, **kept)

    def encrypt(self, values: Floats, context: Any, summands: int = 1) -> list[bytes]:
        """Return a vector (n,) encrypted, ``slots`` numbers at a time.

        Args:
            values: The numbers.
            context: The clients'.
            summands: How many such vectors are added.

        Raises:
            ValueError: A number is not finite, or too large for the sum; it is not said which one.
        """
        limit = self.limit / summands
        if not np.isfinite(values).all() or np.abs(values).max(initial=0) >= limit:
            raise ValueError(f"values: got one that is not finite or beyond ±{limit:.6g}, wanted numbers within")
        starts = range(0, len(values), self.slots)
        vector = library("tenseal").ckks_vector
        return [vector(context, values[start : start + self.slots].tolist()).serialize() for start in starts]

    def decrypt(self, ciphertexts: Sequence[bytes], context: Any, *, multiplied: bool = False) -> Floats:
        """Return the numbers; ``multiplied``: the server has multiplied by weights.

        Dividing by a middle prime after a multiplication, the library takes it for ``2**scale_bits``. What that is off
        by is known, and taken out here.
        """
        read = library("tenseal").ckks_vector_from
        values = np.concatenate([read(context, ciphertext).decrypt() for ciphertext in ciphertexts])
        return values * (self._middle_prime() / 2.0**self.scale_bits) if multiplied else values

    def total(self, vectors: Mapping[int, Layers], weights: Mapping[int, int], tally: Tally) -> Layers:
        """Return the weighted sum of the clients' layers, off by :meth:`precision` times the sum of weights at most."""
        first, *others = tally.clients
        with tally.timed("clients"):
            secret, public = self.contexts()
        tally.sent(first, "public context", len(public))
        tally.received("keys, past the server", len(secret.serialize(save_secret_key=True)) - len(public), others)
        over, alike = sum(weights.values()), len(set(weights.values())) == 1
        with tally.timed("server"):
            server = Server(public)
        for k, layers in vectors.items():
            with tally.timed("clients"):
                sent = self.encrypt(np.concatenate(layers), secret, over)
            tally.sent(k, "update", sum(map(len, sent)))
            with tally.timed("server"):
                server.add(sent, None if alike else weights[k] / over)
        with tally.timed("server"):
            forwarded = server.forward()
        tally.received("sum of updates", sum(map(len, forwarded)))
        with tally.timed("clients", times=len(vectors)):
            values = self.decrypt(forwarded, secret, multiplied=not alike)
        return split(values * (1 if alike else over), [len(layer) for layer in layers])

    def _middle_prime(self) -> int:
        """Return the prime that a multiplication divides by; the library has the largest one at the chain's end."""
        is_prime, found = library("gmpy2").is_prime, list[int]()
        candidate = 2**self.scale_bits + 1
        while len(found) <= (self.modulus[-1] == self.scale_bits):
            candidate -= 2 * self.degree
            if is_prime(candidate):
                found.append(candidate)
        return found[-1]
