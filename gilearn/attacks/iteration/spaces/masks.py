"""The space of dropout masks, a factor beside one of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from gilearn.attacks.iteration.initialization import Initialization
from gilearn.attacks.iteration.spaces.base import Factor, Space
from gilearn.federated import Observed


@dataclass(frozen=True, kw_only=True)
class Masks(Space):
    """The dropout masks of the client's step, which decided what its gradient says: ``Pixels() & Masks()``.

    Every entry of a mask is the sigmoid of a free logit, times 1 / (1 - p).

    Args:
        initialization: Draws the logits; ``None``: zeros, which keep every unit at one half.

    Raises:
        ValueError: When built: the model drops nothing.

    Variables: ``mask.0``, ``mask.1``, ... in order of use. Chapter: dropout. Source: scheliga2023.
    """

    initialization: Initialization | None = None

    def build(self, seen: Observed) -> Factor:
        """Take the masks' shapes and rates from the observation."""
        shapes: tuple[tuple[int, ...], ...] = tuple(tuple(shape) for shape in getattr(seen, "mask_shapes", ()))
        if not shapes:
            raise ValueError("space: the model drops nothing (no dropout in train mode), so there is no mask to search")
        return _BoundMasks(initialization=self.initialization, shapes=shapes, rates=tuple(cast(Any, seen).mask_rates))


@dataclass(frozen=True, kw_only=True)
class _BoundMasks(Space):
    initialization: Initialization | None
    shapes: tuple[tuple[int, ...], ...]
    rates: tuple[float, ...]

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = self.initialization
        return {
            f"mask.{k}": torch.zeros(shape, dtype=torch.float64) if drawn is None else drawn(shape, generator)
            for k, shape in enumerate(self.shapes)
        }

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        kept = (variables[f"mask.{k}"].sigmoid() / (1 - rate) for k, rate in enumerate(self.rates))
        return {"masks": tuple(kept)}
