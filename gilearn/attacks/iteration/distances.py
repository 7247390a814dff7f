"""How far two gradients are apart (survey, section 2.1.3).

A distance takes the simulated and the shared gradient, one tensor per parameter; a pair with a ``None`` in it, a tensor
that the client withheld, does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

Gradients = Sequence[Tensor | None]


@runtime_checkable
class Distance(Protocol):
    """Anything that maps two gradients to a scalar tensor: 0 where they agree, differentiable in the first."""

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Measure."""
        ...


@dataclass(frozen=True, kw_only=True)
class Euclidean:
    """The sum of squared differences over all entries: the survey's Eq. (1).

    Chapter: deep-leakage. Source: zhu2019.
    """

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the squared Euclidean distance, a scalar."""
        return total((a - b).square().sum() for a, b in pairs(simulated, shared))


def pairs(simulated: Gradients, shared: Gradients) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tensors that both gradients have."""
    for a, b in zip(simulated, shared, strict=True):
        if a is not None and b is not None:
            yield a, b


def total(terms: Iterable[Tensor]) -> Tensor:
    """Add scalar tensors."""
    first, *rest = terms
    for term in rest:
        first = first + term
    return first
