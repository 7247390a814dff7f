"""Updates as whole numbers modulo 2^32, so that they can be masked, and added without rounding."""

from __future__ import annotations

import numpy as np

from gilearn.defenses.aggregation.primitives import Words, check_words
from gilearn.defenses.aggregation.vectors import layers, split, tensors
from gilearn.federated import Gradients
from gilearn.federated.checks import check_whole

_HALF = 2**31

MOST_SCALE_BITS = 30
"""Bits after the binary point, at most: one is the sign, one is left."""


def encode(shared: Gradients, count: int, *, clients: int, scale_bits: int = 16) -> Words:
    """Return what a client adds into the sum: its tensors times its number of examples in fixed point, and that number.

    Args:
        shared: The client's tensors, ``None`` where it withholds one.
        count: Its number of examples, from 1: the weight in the mean, and the last word.
        clients: How many can be in the sum, which must not overflow.
        scale_bits: Bits after the binary point. Every entry is off by 2^-(scale_bits + 1) at most.

    Raises:
        ValueError: A number is out of range, an entry is not finite, or the sum of so many could overflow.

    Chapter: secure-aggregation. Source: bonawitz2017, section 3.
    """
    for name, value in {"count": count, "clients": clients, "scale_bits": scale_bits}.items():
        check_whole(name, value)
    if scale_bits > MOST_SCALE_BITS:
        raise ValueError(f"scale_bits: got {scale_bits}, wanted {MOST_SCALE_BITS} at most")
    weight = float(min(count, _HALF))  # overflows from there on
    with np.errstate(over="ignore"):  # infinite is too large
        scaled = [weight * 2.0**scale_bits * own for own in layers(shared)]
    entries = np.rint(np.concatenate([*scaled, [weight]]))
    if any(not np.isfinite(own).all() for own in layers(shared)):
        raise ValueError("shared: got NaN or infinite values, wanted finite ones")
    most = (_HALF - 1) // clients
    if np.abs(entries).max() > most:  # how large it is stays at the client
        wanted = (
            f"count x entry within {most / 2.0**scale_bits:.6g}, of which {clients} add up below 2^31 in fixed point"
        )
        raise ValueError(f"shared, count: got an entry that overflows the ring, wanted {wanted}")
    words: Words = entries.astype(np.int64).astype(np.uint32)
    return words


def decode(total: Words, like: Gradients, *, scale_bits: int = 16) -> tuple[Gradients, int]:
    """Return the weighted mean of which this is the sum, and the number of examples behind it.

    Args:
        total: The sum, modulo 2^32, of what :func:`encode` returned.
        like: Tensors of the shapes, types and devices that are wanted.
        scale_bits: That of :func:`encode`.

    Raises:
        ValueError: The sum has another length, or no examples behind it.
    """
    check_words("total", total)
    check_whole("scale_bits", scale_bits)
    sizes = [tensor.numel() for tensor in like if tensor is not None]
    signed = total.view(np.int32).astype(np.float64)  # the centred lift
    if len(signed) != sum(sizes) + 1 or signed[-1] < 1:
        raise ValueError(
            f"total: got {len(signed)} words, wanted {sum(sizes)} entries and a positive number of examples"
        )
    count = int(signed[-1])
    return tensors(split(signed[:-1] / (count * 2.0**scale_bits), sizes), like), count
