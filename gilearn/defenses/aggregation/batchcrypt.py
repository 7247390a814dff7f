"""BatchCrypt: clip, quantize to a few bits, pack, encrypt; the server adds a hundred values at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import erfc

from gilearn.defenses.aggregation.encrypted import Encrypted
from gilearn.defenses.aggregation.packing import Packing
from gilearn.defenses.aggregation.paillier import LEAST_KEY, FixedPoint, PublicKey, SecretKey, exchanged, round_keys
from gilearn.defenses.aggregation.tally import Tally
from gilearn.defenses.aggregation.vectors import Floats, Layers, split
from gilearn.federated.checks import check_number, check_whole


def distortion(ratio: float, bits: int) -> float:
    """Return the mean squared error of clipping and quantizing a standard normal variable, by dACIQ's model.

    The first part is what clipping at the threshold costs; the second, a twelfth of the square of a step of
    ``2 * ratio / 2**bits``, what rounding does.

    Args:
        ratio: The threshold over the standard deviation, positive.
        bits: Of a value, its sign included, from 2.

    Raises:
        ValueError: An argument is out of range.

    Chapter: homomorphic-encryption. Source: zhang2020; banner2019.
    """
    check_number("ratio", ratio, lambda value: 0 < value < np.inf, "a positive number")
    check_whole("bits", bits, 2)
    tails = (1 + ratio**2) * erfc(ratio / np.sqrt(2)) - np.sqrt(2 / np.pi) * ratio * np.exp(-(ratio**2) / 2)
    return float(tails + ratio**2 / (3 * 4**bits))


def clipping(bits: int) -> float:
    """Return the threshold of least :func:`distortion`, in standard deviations: dACIQ's.

    Args:
        bits: Of a value, its sign included, from 2 to 32.

    Raises:
        ValueError: ``bits`` is out of range.

    Chapter: homomorphic-encryption. Source: zhang2020; banner2019.
    """
    check_whole("bits", bits, 2)
    if bits > 32:
        raise ValueError(f"bits: got {bits}, wanted at most 32")
    best = minimize_scalar(
        lambda ratio: np.log(distortion(ratio, bits)), bounds=(0.5, 12), method="bounded", options={"xatol": 1e-8}
    )
    return float(best.x)


def quantize(values: Floats, limit: float, bits: int) -> NDArray[np.int64]:
    """Return values, clipped to ``±limit``, as the nearest whole multiples of ``limit / (2**(bits - 1) - 1)``.

    Args:
        values: (n,).
        limit: The threshold, not negative; 0 turns everything into 0.
        bits: Of a multiple, its sign included, from 2.

    Raises:
        ValueError: ``limit`` or ``bits`` is out of range, or a value is not finite.

    Chapter: homomorphic-encryption. Source: zhang2020.
    """
    step = step_of(limit, bits)
    if not np.isfinite(values).all():
        raise ValueError("values: got one that is not finite, wanted finite ones")
    return np.rint(np.clip(values, -limit, limit) / (step or 1.0)).astype(np.int64)


def step_of(limit: float, bits: int) -> float:
    """Return the distance of neighbouring quantized values; the arguments are those of :func:`quantize`."""
    check_number("limit", limit, lambda value: 0 <= value < np.inf, "a finite number, 0 or more")
    check_whole("bits", bits, 2)
    return limit / ((1 << (bits - 1)) - 1)


@dataclass(frozen=True, kw_only=True)
class BatchCrypt(Encrypted):
    """Federated averaging under Paillier's cipher, with clipped, quantized and packed values.

    In every round one client makes a key pair, and hands the secret key to the others past the server. Clients send
    the sum of squares of each layer, encrypted. The server adds these; clients decrypt the totals, and all of them clip
    a layer at the same multiple of its standard deviation over all clients, its mean taken to be zero. Then they
    quantize, pack, encrypt and send; the server adds, with weights, and forwards the sum, re-randomized; clients
    decrypt. The mean is off the mean of the clipped values by half a step at most, and a sum that does not fit its
    field is an error. The server learns neither threshold nor value; clients learn the totals.

    Args:
        weighted: As :class:`Encrypted`.
        key_bits: Length of the modulus; less than 2048 is for tests.
        bits: Of a quantized value, its sign included, from 2 to 32.

    Raises:
        ValueError: A number is out of range. In a round: an entry is not finite.

    Chapter: homomorphic-encryption. Source: zhang2020.
    """

    key_bits: int = 2048
    bits: int = 16

    def __post_init__(self) -> None:
        check_whole("key_bits", self.key_bits, LEAST_KEY)
        clipping(self.bits)

    def packing(self, summands: int) -> Packing:
        """Return how quantized values are packed for sums of so many of them."""
        return Packing(bits=self.bits, summands=summands)

    def limits(self, moments: Floats, sizes: list[int], clients: int) -> list[float]:
        """Return the clipping thresholds.

        Args:
            moments: Of every layer the sum of the squares of its entries, over all clients.
            sizes: Of every layer the number of entries.
            clients: How many there are.
        """
        ratio = clipping(self.bits)
        return [
            ratio * float(np.sqrt(moment / max(size * clients, 1))) for moment, size in zip(moments, sizes, strict=True)
        ]

    def total(self, vectors: Mapping[int, Layers], weights: Mapping[int, int], tally: Tally) -> Layers:
        """Return the weighted sum of the clients' clipped layers, off by half a step for every summand at most."""
        public, secret = round_keys(self.key_bits, tally)
        sizes = [len(layer) for layer in next(iter(vectors.values()))]
        limits = self.limits(_moments(vectors, public, secret, tally), sizes, len(vectors))
        packing = self.packing(sum(weights.values()))
        sent = {}
        for k, layers in vectors.items():
            with tally.timed("clients"):
                pairs = zip(layers, limits, strict=True)
                levels = np.concatenate([quantize(layer, limit, self.bits) for layer, limit in pairs])
                sent[k] = public.encrypt(packing.pack(levels.tolist(), public.room))
        received = exchanged(sent, weights, tally, "update")
        with tally.timed("clients", times=len(vectors)):
            sums = packing.unpack(secret.decrypt(received), sum(sizes), public.room)
            layers = split(np.array(sums, dtype=np.float64), sizes)
        return [layer * step_of(limit, self.bits) for layer, limit in zip(layers, limits, strict=True)]


def _moments(vectors: Mapping[int, Layers], public: PublicKey, secret: SecretKey, tally: Tally) -> Floats:
    """Return of every layer the sum of squares over all clients, which only clients get to know."""
    codec = FixedPoint(fraction_bits=96, packing=Packing(bits=160, summands=len(vectors)))
    sent = {}
    for k, layers in vectors.items():
        with tally.timed("clients"):
            with np.errstate(over="ignore"):  # infinite is too large
                moments = np.array([float(layer @ layer) for layer in layers])
            sent[k] = codec.encrypt(moments, public)
    received = exchanged(sent, dict.fromkeys(vectors, 1), tally, "second moment")
    with tally.timed("clients", times=len(vectors)):
        return codec.decrypt(received, secret, len(next(iter(vectors.values()))))
