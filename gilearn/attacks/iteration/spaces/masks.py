"""The space of dropout masks, a factor beside one of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from gilearn.attacks.iteration.checks import check_ingredient, check_tuple
from gilearn.attacks.iteration.initialization import Initialization
from gilearn.attacks.iteration.spaces.base import Factor, Space
from gilearn.content import Content
from gilearn.federated import Observed
from gilearn.federated.checks import check_tensor


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Masks(Content, Space):
    """The dropout masks of the client's step, which decided what its gradient says: ``Pixels() & Masks()``.

    Every entry of a mask is the sigmoid of a free logit, times 1 / (1 - p).

    Args:
        initialization: Draws the logits; ``None``: zeros, which keep every unit at one half.
        known: Masks that are not searched, in order of use, ``None`` for one that is: what ``attacks.masks.read``
            returns. Empty: all are searched.

    Raises:
        ValueError: When built: the model drops nothing, or what is known has not the masks' shapes.

    Variables: ``mask.0``, ``mask.1``, ... in order of use, of those that are searched. Chapter: dropout. Source:
    scheliga2023.
    """

    initialization: Initialization | None = None
    known: tuple[Tensor | None, ...] = ()

    def build(self, seen: Observed) -> Factor:
        """Take the masks' shapes and rates from the observation."""
        if self.initialization is not None:
            check_ingredient("initialization", self.initialization, "Gaussian()", "__call__")
        shapes: tuple[tuple[int, ...], ...] = tuple(tuple(shape) for shape in getattr(seen, "mask_shapes", ()))
        if not shapes:
            raise ValueError("space: the model drops nothing (no dropout in train mode), so there is no mask to search")
        check_tuple("known", self.known, "masks.read(seen)")
        for mask in self.known:
            if mask is not None:
                check_tensor("known", mask, "mask, or None", ndim=1)
        known = self.known or (None,) * len(shapes)
        given = [shape if mask is None else tuple(mask.shape) for mask, shape in zip(known, shapes, strict=False)]
        if len(known) != len(shapes) or tuple(given) != shapes:
            raise ValueError(f"known: got {len(known)} masks of shapes {given}, wanted {shapes}, or None for one")
        known = tuple(None if mask is None else mask.detach().to(seen.device, seen.dtype) for mask in known)
        return _BoundMasks(
            initialization=self.initialization, shapes=shapes, rates=tuple(cast(Any, seen).mask_rates), known=known
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _BoundMasks(Content, Space):
    initialization: Initialization | None
    shapes: tuple[tuple[int, ...], ...]
    rates: tuple[float, ...]
    known: tuple[Tensor | None, ...]

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = self.initialization
        return {
            f"mask.{k}": torch.zeros(shape, dtype=torch.float64) if drawn is None else drawn(shape, generator)
            for k, shape in enumerate(self.shapes)
            if self.known[k] is None
        }

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        kept = (
            variables[f"mask.{k}"].sigmoid() / (1 - rate) if known is None else known
            for k, (known, rate) in enumerate(zip(self.known, self.rates, strict=True))
        )
        return {"masks": tuple(kept)}
