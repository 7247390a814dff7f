"""A client's tensors as flat vectors of float64, and back: what every protocol here computes with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from gilearn.federated import Gradients
from gilearn.linear import float64

Floats = NDArray[np.float64]
Layers = list[Floats]
"""What a client contributes: one flat array for each tensor that it does not withhold."""


def layers(own: Gradients) -> Layers:
    """Return a client's tensors, each flat; those that it withholds are left out."""
    return [float64(tensor).flatten().cpu().numpy() for tensor in own if tensor is not None]


def split(values: Floats, sizes: Iterable[int]) -> Layers:
    """Return the layers that a vector is made of."""
    return np.split(values, np.cumsum(list(sizes))[:-1])


def tensors(values: Layers, like: Gradients) -> Gradients:
    """Return flat layers as tensors of these shapes, types and devices, ``None`` where one is withheld."""
    left = iter(values)
    return tuple(
        None if tensor is None else torch.from_numpy(next(left)).view(tensor.shape).to(tensor) for tensor in like
    )
