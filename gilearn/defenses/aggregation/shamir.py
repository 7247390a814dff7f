"""Shamir's secret sharing of 32 bytes (Shamir, 1979): any t shares give the secret, fewer give nothing about it.

A seed, or a private key of X25519, is one element of the field of whole numbers modulo the smallest prime above 2^256.
pycryptodome's implementation is over GF(2^128): there a secret would be two halves, each shared by itself.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterable, Mapping

from gilearn.defenses.aggregation.primitives import check_bytes
from gilearn.federated.checks import check_whole

PRIME = 2**256 + 297
"""The field's size: the smallest prime above 2^256."""

SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, points: Iterable[int]) -> dict[int, bytes]:
    """Share a secret: the values of a polynomial that has it at 0, and is drawn uniformly otherwise.

    Args:
        secret: 32 bytes.
        threshold: Number of shares that give it back, from 1 to the number of points.
        points: Where the shares are, from 1 to below the prime, all different.

    Returns:
        A share of 33 bytes at every point.

    Raises:
        ValueError: A number is out of range, or the secret has another length.

    Chapter: secure-aggregation. Source: shamir1979; bonawitz2017, section 3.
    """
    points = list(points)
    _check_points("points", points)
    check_whole("threshold", threshold)
    if len(set(points)) < len(points) or threshold > len(points):
        raise ValueError(f"points: got {points}, wanted at least {threshold} different ones, the threshold")
    check_bytes("secret", secret, SECRET_BYTES)
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {point: _value(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def join(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret of which these are shares, by Lagrange's interpolation at 0.

    Args:
        shares: By their points; of more than the threshold the first are taken.
        threshold: That of :func:`split`.

    Raises:
        ValueError: There are too few shares, a share is no element of the field, or they are not shares of 32 bytes.
    """
    check_whole("threshold", threshold)
    _check_points("shares", shares)
    if len(shares) < threshold:
        raise ValueError(f"shares: got {len(shares)}, wanted at least {threshold}, the threshold")
    whole = all(isinstance(share, bytes) and len(share) == SHARE_BYTES for share in shares.values())
    taken = {k: int.from_bytes(share, "big") for k, share in list(shares.items())[:threshold]} if whole else {}
    if not whole or max(taken.values()) >= PRIME:
        raise ValueError(f"shares: got one that is no element of the field, wanted {SHARE_BYTES} bytes below the prime")
    secret = sum(value * weight for value, weight in zip(taken.values(), _weights(tuple(taken)), strict=True)) % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise ValueError("shares: got shares of no secret of 32 bytes, wanted those that one call of split returned")
    return secret.to_bytes(SECRET_BYTES, "big")


def _check_points(argument: str, points: Iterable[int]) -> None:
    """Refuse what is no point: at 0, and so at multiples of the prime, is the secret itself."""
    for point in points:
        check_whole(argument, point)
        if point >= PRIME:
            raise ValueError(f"{argument}: got a point from the prime on, wanted 1 to below it")


def _value(coefficients: list[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


@functools.lru_cache(maxsize=64)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Return, of each point, the polynomial that is 1 there and 0 at the others, at 0; the same for every secret."""
    found = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(found)
