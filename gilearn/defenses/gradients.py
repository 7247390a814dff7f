"""Defenses that change what is shared (survey, section 3.3): noise, clipping, compression."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gilearn.federated import Client, Defense, Gradients, Observation


@dataclass(frozen=True, kw_only=True)
class _Noise(Defense):
    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"{name}: got {value}, wanted 0 or more")

    def public(self, seen: Observation) -> Defense:
        """Return this noise: its distribution is public, and an imagined client draws its mean, zero."""
        return self


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(_Noise):
    """Add independent normal noise to every entry of what is shared.

    Args:
        std: Its standard deviation, not negative, in the units of what is shared.

    Chapter: differential-privacy. Source: survey, section 3.3; zhu2019, section 5.1.
    """

    std: float

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """Return kind and standard deviation."""
        return (("normal", self.std),)

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the gradients with noise."""
        return tuple(None if g is None else g + self.std * client.draw(g) for g in gradients)


@dataclass(frozen=True, kw_only=True)
class LaplaceNoise(_Noise):
    """Add independent Laplace noise to every entry of what is shared.

    Args:
        scale: Its scale, not negative, in the units of what is shared; the standard deviation is sqrt(2) times it.

    Chapter: differential-privacy. Source: survey, section 3.3; zhu2019, section 5.1.
    """

    scale: float

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """Return kind and scale."""
        return (("laplace", self.scale),)

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the gradients with noise."""
        return tuple(None if g is None else g + self.scale * client.draw(g, "laplace") for g in gradients)


@dataclass(frozen=True, kw_only=True)
class _Clipping(Defense):
    norm: float

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise ValueError(f"norm: got {self.norm}, wanted a positive number")

    def public(self, seen: Observation) -> Defense:
        """Return this clipping: it draws nothing, and everybody can do it."""
        return self


@dataclass(frozen=True, kw_only=True)
class BatchClipping(_Clipping):
    """Shorten what is shared to a norm, all tensors taken as one long vector, if it is longer.

    Args:
        norm: The largest norm, positive.

    Chapter: differential-privacy. Source: survey, section 3.3; geyer2017.
    """

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the clipped gradients."""
        norms = torch.stack([torch.linalg.vector_norm(g) for g in gradients if g is not None])
        factor = self.norm / norms.norm().clamp_min(self.norm)
        return tuple(None if g is None else g * factor for g in gradients)


@dataclass(frozen=True, kw_only=True)
class ExampleClipping(_Clipping):
    """Shorten every example's gradient to a norm before the batch's mean is taken: DP-SGD's clipping.

    Args:
        norm: The largest norm of one example's gradient, all tensors taken as one long vector, positive.

    Chapter: differential-privacy. Source: abadi2016, algorithm 1.
    """

    def examples(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the clipped per-example gradients, each (batch, ...)."""
        norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients if g is not None]).norm(dim=0)
        factors = self.norm / norms.clamp_min(self.norm)
        return tuple(None if g is None else g * factors.view(-1, *[1] * (g.ndim - 1)) for g in gradients)


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


@dataclass(frozen=True, kw_only=True)
class FakeGradients(Defense):
    """Share normal draws in the place of every tensor's entries, in the order of these: CAFE's countermeasure.

    Of several draws, sorted, the one nearest to the sorted entries is taken, and its k-th value goes where the tensor's
    k-th was. What is left of a tensor is the order of its entries, and with ``std=None`` its root mean square.

    Args:
        std: Standard deviation of the draws, positive, in the units of what is shared; ``None``: every tensor's own
            root mean square.
        candidates: How many draws there are to choose from, from 1.

    Raises:
        ValueError: A number is out of range.

    Chapter: vertical. Source: jin2021, as the public implementation in SecretFlow describes it.
    """

    std: float | None = None
    candidates: int = 10

    def __post_init__(self) -> None:
        if self.std is not None and not self.std > 0:
            raise ValueError(f"std: got {self.std}, wanted a positive number, or None")
        if self.candidates < 1:
            raise ValueError(f"candidates: got {self.candidates}, wanted at least 1")

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the fakes."""
        return tuple(None if g is None else self._fake(g, client) for g in gradients)

    def _fake(self, gradient: Tensor, client: Client) -> Tensor:
        entries, order = gradient.flatten().sort(stable=True)
        std = float(entries.square().mean().sqrt()) if self.std is None else self.std
        draws = [std * client.draw(entries).sort().values for _ in range(self.candidates)]
        nearest = min(draws, key=lambda draw: float((draw - entries).square().sum()))
        return torch.empty_like(entries).scatter_(0, order, nearest).view_as(gradient)
