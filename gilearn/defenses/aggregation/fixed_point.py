"""Updates as whole numbers modulo 2^32, so that they can be masked, and added without rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gilearn.defenses.aggregation.primitives import Words
from gilearn.federated import Gradients
from gilearn.federated.checks import check_whole
from gilearn.linear import float64

_HALF = 2**31


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
    flat = [float64(tensor).flatten().cpu().numpy() for tensor in shared if tensor is not None]
    entries = np.rint(np.concatenate([*(count * 2.0**scale_bits * own for own in flat), [float(count)]]))
    if not np.isfinite(entries).all():
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
    sizes = [0 if tensor is None else tensor.numel() for tensor in like]
    signed = np.asarray(total, dtype=np.uint32).view(np.int32).astype(np.float64)  # the centred lift
    if len(signed) != sum(sizes) + 1 or signed[-1] < 1:
        raise ValueError(
            f"total: got {len(signed)} words, wanted {sum(sizes)} entries and a positive number of examples"
        )
    count = int(signed[-1])
    parts = torch.split(torch.from_numpy(signed[:-1] / (count * 2.0**scale_bits)), sizes)
    pairs = zip(like, parts, strict=True)
    return tuple(None if tensor is None else part.view(tensor.shape).to(tensor) for tensor, part in pairs), count


def check_alike(shared: Sequence[Gradients]) -> None:
    """Raise a ``ValueError`` unless all clients contribute tensors of the same shapes, and withhold the same."""
    shapes = [tuple(None if tensor is None else tuple(tensor.shape) for tensor in own) for own in shared]
    for own in shapes[1:]:
        if own != shapes[0]:
            raise ValueError("shared: the clients' tensors differ in shape, or in which are withheld, wanted all alike")
