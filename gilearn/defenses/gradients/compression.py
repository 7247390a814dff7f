"""Defenses that compress what is shared (survey, section 3.3) to some of its entries, or to a few levels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gilearn.defenses.gradients.feedback import Compression, check_fits, check_own, width
from gilearn.federated import Client, Defense, Gradients, Observation
from gilearn.federated.checks import check_number, check_whole


@dataclass(frozen=True, kw_only=True)
class Pruning(Compression):
    """Set the entries of least magnitude to zero.

    Which entries are zero can be read off what was shared: the public part is that mask. An entry that was zero before
    counts as pruned.

    Args:
        share: Of the entries that become zero, from 0 to below 1. So do others that are as large as the largest of
            these: of signs, all.
        scope: ``"tensor"``: the same share of every tensor; ``"global"``: of all entries together.
        feedback: Add what was pruned to the next round's gradient: residual accumulation. From the second round on what
            is shared is then no entry of one gradient any more, but a sum over rounds.

    Raises:
        ValueError: The share is out of range, or the scope unknown.

    Chapter: compression. Source: survey, section 3.3; zhu2019, section 5.2; lin2018.
    """

    share: float
    scope: str = "tensor"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("share", self.share, lambda value: 0 <= value < 1, "0 to below 1")
        if not isinstance(self.scope, str) or self.scope not in ("tensor", "global"):
            raise ValueError(f"scope: got {self.scope!r}, wanted 'tensor' or 'global'")

    def compressed(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the gradients with their small entries at zero."""
        given = [g for g in gradients if g is not None]
        everything = [torch.cat([g.flatten() for g in given])] * len(given) if self.scope == "global" else given
        kept = iter([g * (g.abs() > self._threshold(among)) for g, among in zip(given, everything, strict=True)])
        return tuple(None if g is None else next(kept) for g in gradients)

    def bits(self, shared: Gradients) -> int:
        """Return the bits of the values that are kept and of where they are.

        Where: per tensor a count and a position each, or one bit for every entry, whichever is less; nothing where no
        entry is zero.
        """
        return sum(_sparse(g) for g in shared if g is not None)

    @property
    def selects(self) -> bool:
        """Whether what it keeps stays as it is: feedback adds to it."""
        return not self.feedback

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

    Raises:
        ValueError: They are no tuple of tensors.

    Chapter: compression.
    """

    masks: tuple[Tensor | None, ...] = field(repr=False)

    def __post_init__(self) -> None:
        check_own("masks", self.masks, "tensors of truth values")

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the masked gradients.

        Raises:
            ValueError: There are not as many masks as gradients, or one does not fit.
        """
        check_fits("masks", self.masks, gradients)
        pairs = zip(gradients, self.masks, strict=True)
        return tuple(g if g is None or mask is None else g * mask.to(g) for g, mask in pairs)

    def bits(self, shared: Gradients) -> int:
        """Return the bits of the values that pass: a fixed mask need not be sent."""
        check_fits("masks", self.masks, shared)
        passing = zip(shared, self.masks, strict=True)
        return sum(width(g) * (g.numel() if m is None else int(m.sum())) for g, m in passing if g is not None)

    @property
    def selects(self) -> bool:
        """``True``: what it keeps, it keeps as it is."""
        return True

    def public(self, seen: Observation) -> Defense:
        """Return this mask."""
        return self


@dataclass(frozen=True, kw_only=True)
class Quantization(Defense):
    """Round every entry at random to one of the two nearest levels, so that its mean is the entry itself.

    The levels of a tensor are -levels, ..., levels times its largest magnitude over ``levels``. With one level it is
    the ternary gradient; the original has levels of the tensor's norm in place of its largest magnitude.

    Args:
        levels: Above zero, from 1.

    Raises:
        ValueError: ``levels`` is no whole number, or below 1.

    Chapter: compression. Source: alistarh2017; wen2017 for one level.
    """

    levels: int

    def __post_init__(self) -> None:
        check_whole("levels", self.levels)

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the rounded gradients; an imagined client's are their mean, the gradients themselves."""
        if client.generator is None:
            return gradients
        return tuple(None if g is None else self._rounded(g, client) for g in gradients)

    def bits(self, shared: Gradients) -> int:
        """Return the bits of the numbers of the levels, and of one magnitude per tensor."""
        each = math.ceil(math.log2(2 * self.levels + 1))
        return sum(each * g.numel() + width(g) for g in shared if g is not None)

    def public(self, seen: Observation) -> Defense:
        """Return this rounding: it is public, and an imagined client's draw is its mean."""
        return self

    def _rounded(self, gradient: Tensor, client: Client) -> Tensor:
        unit = gradient.detach().abs().max().clamp_min(torch.finfo(gradient.dtype).tiny) / self.levels
        scaled = gradient / unit
        below = scaled.floor()
        return unit * (below + (client.draw(gradient, "uniform") < scaled - below).to(gradient))


def _sparse(tensor: Tensor) -> int:
    """Return the bits of a tensor's entries that are not zero, with their places."""
    entries, kept = tensor.numel(), int((tensor != 0).sum())
    positions = 32 + kept * max(1, math.ceil(math.log2(entries)))
    return width(tensor) * kept + (0 if kept == entries else min(positions, entries))
