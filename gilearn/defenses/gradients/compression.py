"""Defenses that compress what is shared (survey, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gilearn.federated import Client, Defense, Gradients, Observation


@dataclass(frozen=True, kw_only=True)
class Pruning(Defense):
    """Set the entries of least magnitude to zero.

    Which entries are zero can be read off what was shared: the public part is that mask. An entry that was zero before
    counts as pruned.

    Args:
        share: Of the entries that become zero, from 0 to below 1.
        scope: ``"tensor"``: the same share of every tensor; ``"global"``: of all entries together.

    Raises:
        ValueError: The share is out of range, or the scope unknown.

    Chapter: compression. Source: survey, section 3.3; zhu2019, section 5.2; lin2018.
    """

    share: float
    scope: str = "tensor"

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share: got {self.share}, wanted 0 to below 1")
        if self.scope not in ("tensor", "global"):
            raise ValueError(f"scope: got {self.scope!r}, wanted 'tensor' or 'global'")

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the gradients with their small entries at zero."""
        given = [g for g in gradients if g is not None]
        everything = [torch.cat([g.flatten() for g in given])] * len(given) if self.scope == "global" else given
        kept = iter([g * (g.abs() > self._threshold(among)) for g, among in zip(given, everything, strict=True)])
        return tuple(None if g is None else next(kept) for g in gradients)

    @property
    def selects(self) -> bool:
        """``True``: what it keeps, it keeps as it is."""
        return True

    def public(self, seen: Observation) -> Defense:
        """Return the mask of what was shared."""
        return Mask(masks=tuple(None if g is None else g != 0 for g in seen.shared))

    def _threshold(self, values: Tensor) -> Tensor:
        """Return the magnitude up to which entries are pruned; below zero for none."""
        magnitudes = values.detach().abs().flatten()
        number = round(self.share * magnitudes.numel())
        return magnitudes.kthvalue(number).values if number else magnitudes.new_tensor(-1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mask(Defense):
    """Share only the entries of a fixed mask; the others are zero.

    Args:
        masks: One tensor of truth values per parameter, in its shape; ``None`` lets a tensor pass.

    Chapter: compression.
    """

    masks: tuple[Tensor | None, ...] = field(repr=False)

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the masked gradients.

        Raises:
            ValueError: There are not as many masks as gradients.
        """
        if len(self.masks) != len(gradients):
            raise ValueError(f"masks: got {len(self.masks)}, wanted one for each of {len(gradients)} gradients")
        pairs = zip(gradients, self.masks, strict=True)
        return tuple(g if g is None or mask is None else g * mask.to(g) for g, mask in pairs)

    @property
    def selects(self) -> bool:
        """``True``: what it keeps, it keeps as it is."""
        return True

    def public(self, seen: Observation) -> Defense:
        """Return this mask."""
        return self
