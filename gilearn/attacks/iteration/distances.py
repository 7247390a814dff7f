"""How far two gradients are apart (survey, section 2.1.3).

A distance takes the simulated and the shared gradient, one tensor per parameter; a pair with a ``None`` in it, a tensor
that the client withheld, does not count. A distance of one's own is any function of the two, with :func:`pairs` and
:func:`total`: ``lambda simulated, shared: total((a - b).abs().max() for a, b in pairs(simulated, shared))``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from gilearn.values import Value

Gradients = Sequence[Tensor | None]

_SHORTEST = 1e-30  # of a vector that has a direction; float32 goes on to 1e-38


@runtime_checkable
class Distance(Protocol):
    """Anything that maps two gradients to a scalar tensor: 0 where they agree, differentiable in the first."""

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the distance of the simulated gradient from the shared one."""
        ...


@dataclass(frozen=True, kw_only=True)
class Euclidean(Value):
    """The sum of squared differences over all entries: the survey's Eq. (1).

    Args:
        squared: ``False`` adds up the norms of the tensors' differences instead, as GradInversion does: far from the
            solution large tensors count less, and near it the objective has a kink.

    Chapter: deep-leakage, distances. Source: zhu2019; yin2021 for the norms.
    """

    squared: bool = True

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the distance, a scalar."""
        if self.squared:
            return total((a - b).square().sum() for a, b in pairs(simulated, shared))
        return total(torch.linalg.vector_norm(a - b) for a, b in pairs(simulated, shared))


@dataclass(frozen=True, kw_only=True)
class Manhattan(Value):
    """The sum of absolute differences over all entries, l1: what Laplace noise on a gradient calls for.

    Chapter: distances. Source: balunovic2022.
    """

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the distance, a scalar."""
        return total((a - b).abs().sum() for a, b in pairs(simulated, shared))


@dataclass(frozen=True, kw_only=True)
class Cosine(Value):
    """One less the cosine between the two gradients, taken as one long vector each: InvGrad's.

    The length of the gradient does not count, only its direction. It is computed as half the squared distance of the
    two unit vectors, which is the same: next to zero, one less a cosine would round to zero.

    Chapter: distances. Source: geiping2020.
    """

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the distance, a scalar from 0 to 2; 1 where one of the two is zero."""
        both = list(pairs(simulated, shared))
        a, b = _length([a for a, _ in both]), _length([b for _, b in both])
        half = total((x / a - y / b).square().sum() for x, y in both) / 2
        # A zero vector has no direction: its "unit vector" is zero, and half a square short.
        return half + 0.5 * ((a <= _SHORTEST).to(half) + (b <= _SHORTEST).to(half))


@dataclass(frozen=True, kw_only=True)
class LayerwiseCosine(Value):
    """The mean over the tensors of one less their cosine: not :class:`Cosine`, with which it is often mixed up.

    Small tensors, the biases for instance, count as much as large ones, and the lengths of the tensors relative to each
    other are lost.

    Chapter: distances.
    """

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the distance, a scalar from 0 to 2."""
        both = list(pairs(simulated, shared))
        one = Cosine()
        return total(one([a], [b]) for a, b in both) / len(both)


@dataclass(frozen=True, kw_only=True)
class GaussianKernel(Value):
    """SAPAG's distance: per tensor, one less a Gaussian kernel of the difference.

    For every tensor the term is 1 - exp(-d / (width x variance)), with the shared tensor's variance over its entries,
    and d the mean of the squared differences, or their sum. The sum underflows: far from the solution the exponential
    is zero, the term one and its derivative exactly zero.

    Args:
        width: Widens the kernel, positive.
        reduction: ``"mean"`` or ``"sum"`` over a tensor's entries.
        floor: Variances below this are taken for it, positive: a bias of one entry has none.

    Raises:
        ValueError: A number is not positive, or the reduction is unknown.

    Chapter: distances. Source: wang2020; the closed form is our reading of the abstract, and tensors weigh the same
    here, since the paper's weights are not known to us.
    """

    width: float = 1.0
    reduction: str = "mean"
    floor: float = 1e-12

    def __post_init__(self) -> None:
        for name in ("width", "floor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted a positive number")
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"reduction: got {self.reduction!r}, wanted 'mean' or 'sum'")

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the distance, a scalar from 0 to the number of tensors."""
        return total(self._term(a, b) for a, b in pairs(simulated, shared))

    def _term(self, a: Tensor, b: Tensor) -> Tensor:
        squares = (a - b).square()
        gap = squares.mean() if self.reduction == "mean" else squares.sum()
        variance = b.var(correction=0).clamp(min=self.floor)
        return -torch.expm1(-gap / (self.width * variance))


@dataclass(frozen=True, kw_only=True)
class Masked(Value):
    """Another distance, over those entries only that are not zero in the shared gradient: for pruned gradients.

    A pruned entry says nothing about the client's value, except that it was small.

    Args:
        distance: The distance to take.

    Chapter: distances. Source: zhu2019, section 5, for the pruning.
    """

    distance: Distance = Euclidean()

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the distance of the entries that were kept, a scalar."""
        kept = [None if a is None or b is None else a * (b != 0) for a, b in zip(simulated, shared, strict=True)]
        return self.distance(kept, shared)


@dataclass(frozen=True, kw_only=True)
class SignAgreement(Value):
    """How badly the signs agree, and no more: for gradients of which only the signs were shared.

    Per tensor, with a the simulated entry over the tensor's mean magnitude and s the shared sign, the mean of
    t log(1 + exp(-s a / t)): t times minus the logarithm of the probability that a sign of a with logistic noise of
    scale t is s. An entry far on the right side costs nothing; neither lengths of gradients nor of tensors count.

    Args:
        temperature: t, not negative; at 0 it is the hinge max(-s a, 0), which is 0 where all signs agree.

    Raises:
        ValueError: The temperature is negative.

    Chapter: compression.
    """

    temperature: float = 0.3

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature: got {self.temperature}, wanted 0 or more")

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the distance, a scalar."""
        return total(self._term(a, b) for a, b in pairs(simulated, shared))

    def _term(self, a: Tensor, b: Tensor) -> Tensor:
        against = -b.sign() * a / a.abs().mean().clamp(min=_SHORTEST)
        if self.temperature == 0:
            return against.clamp(min=0).mean()
        return self.temperature * F.softplus(against / self.temperature).mean()


def pairs(simulated: Gradients, shared: Gradients) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tensors that both gradients have, simulated and shared: what a distance compares.

    Args:
        simulated: One tensor per parameter, or ``None``.
        shared: Likewise, in the same order.

    Chapter: distances.
    """
    for a, b in zip(simulated, shared, strict=True):
        if a is not None and b is not None:
            yield a, b


def total(terms: Iterable[Tensor]) -> Tensor:
    """Add tensors, at least one of them; unlike ``sum`` it adds no zero in front.

    Args:
        terms: Tensors of one shape, a scalar per parameter for instance.

    Raises:
        ValueError: There are none: the two gradients have no tensor in common.

    Chapter: distances.
    """
    added: Tensor | None = None
    for term in terms:
        added = term if added is None else added + term
    if added is None:
        raise ValueError("terms: got none, wanted at least one (have the two gradients no tensor in common?)")
    return added


def _length(tensors: list[Tensor]) -> Tensor:
    """Return the norm of all entries together, not quite zero; its derivative at zero is zero."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))
    return norm.clamp(min=_SHORTEST)
