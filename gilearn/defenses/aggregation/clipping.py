"""Clipping on shares: the factor min(1, bound / norm) of every update, computed without opening update, norm or factor.

The norm is bracketed between powers of two by comparisons, scaled into [1/2, 1], and inverted by Newton's iteration.
"""

from __future__ import annotations

import numpy as np

from gilearn.defenses.aggregation.arithmetic import Masked, Servers
from gilearn.defenses.aggregation.sharing import Shared

FRACTION = 24
"""Bits behind the binary point of factors."""

_ONE = 1 << FRACTION

TOP = 30
"""Squares of norms count up to 4**TOP, in units of the ring; longer updates get the factor 0."""


def factors(servers: Servers, squares: Shared, bound: int) -> Shared:
    """Return min(1, bound / norm) with :data:`FRACTION` bits, shared; right to a thousandth up to norm = 4,000 bounds.

    Nothing about the norms is opened.

    Args:
        servers: That hold the shares.
        squares: Of the norms, (clients,), below 2^63, in units of the ring.
        bound: In units of the ring, from 1 to below 2**TOP.

    Returns:
        (clients,); 0 where the norm is above 2**TOP.

    Chapter: multi-party-computation.
    """
    first = bound.bit_length() - 1  # 4**first <= bound**2 < 4**(first + 1)
    limits = [bound**2, *(4**power for power in range(first + 1, TOP + 1))]
    squared = servers.masked((-squares)[:, None], bits=True)
    above = servers.negative(squared, np.array(limits, dtype=np.uint64))
    inside = above[:, :-1] - above[:, 1:]  # 1 for the two neighbouring limits that the square lies between, if any
    ups = [4 ** (TOP - 1 - power) for power in range(first, TOP)]
    downs = [round(bound * 2.0 ** (FRACTION - 1 - power)) for power in range(first, TOP)]
    up, down = ((inside * np.array(one, dtype=np.uint64)).sum(1)[:, None] for one in (ups, downs))
    scaled = servers.truncated(-servers.product(squared, servers.masked(up)), 2 * TOP - FRACTION)
    root = servers.product(servers.masked(_inverse_root(servers, scaled)), servers.masked(down))
    return servers.truncated(root, FRACTION)[:, 0] + (-above[:, 0] + 1) * _ONE


def in_range(servers: Servers, updates: Masked, limit: int) -> Shared:
    """Return 1 for each update whose entries all lie in [-limit, limit), else 0, shared.

    Without it an update can be so large that its squared norm, modulo 2^64, is small.

    Args:
        servers: That hold the shares.
        updates: (clients, size), masked with bits.
        limit: In units of the ring, from 1 to 2^62.

    Chapter: multi-party-computation.
    """
    signs = servers.negative(updates, np.array([limit, -limit], dtype=np.int64).view(np.uint64)[:, None, None])
    outside = (signs[0] - signs[1] + 1).sum(1)
    return servers.negative(servers.masked(outside, bits=True), -1)


def _inverse_root(servers: Servers, x: Shared) -> Shared:
    """Return x**-0.5 for x in [1/4, 1], to about 2e-6: y <- y (3 - x y^2) / 2, from 2 - x."""
    y, fixed = -x + 2 * _ONE, servers.masked(x)
    for _ in range(3):
        masked = servers.masked(y)
        square = servers.truncated(servers.product(masked, masked), FRACTION)
        ratio = servers.truncated(servers.product(fixed, servers.masked(square)), FRACTION)
        y = servers.truncated(servers.product(masked, servers.masked(-ratio + 3 * _ONE)), FRACTION + 1)
    return y
