"""What a row of the tables is: an ingredient, how the package computes it, and the same from its formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np
import torch

Case = Callable[[torch.Generator], tuple[Any, ...]]


@dataclass(frozen=True)
class Row:
    """One ingredient with its settings.

    Args:
        ingredient: A value of a public class, or a public function.
        compute: The adapter: takes the ingredient and a case's arguments.
        reference: The formula from scratch: takes the case's arguments alone.
        cases: Draw arguments from a generator.
        rtol: Relative tolerance.
    """

    ingredient: Any
    compute: Callable[..., Any]
    reference: Callable[..., Any]
    cases: Sequence[Case]
    rtol: float = 1e-9

    @property
    def name(self) -> str:
        """The public name that this row is about."""
        return getattr(self.ingredient, "__name__", type(self.ingredient).__name__)

    def fresh(self):
        """Return the ingredient, its own checks run anew."""
        if isinstance(self.ingredient, type) or not is_dataclass(self.ingredient):
            return self.ingredient
        return replace(self.ingredient)


def rows(compute, cases, table, **options):
    """Return the rows of ``{ingredient: reference}`` pairs that share their adapter and their cases."""
    return [Row(ingredient, compute, reference, cases, **options) for ingredient, reference in table]


def randn(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rand(*shape, generator):
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def entries(tensor):
    """Return a tensor's entries as plain numbers."""
    return tensor.detach().flatten().tolist()


def assert_same(computed, wanted, rtol):
    """Compare numbers, tensors and nested lists of them."""
    if isinstance(wanted, (list, tuple)):
        assert len(computed) == len(wanted)
        for one, other in zip(computed, wanted, strict=True):
            assert_same(one, other, rtol)
    elif wanted is None or isinstance(wanted, (str, bool, int)):
        assert computed == wanted
    else:
        computed, wanted = (np.asarray(v.detach() if isinstance(v, torch.Tensor) else v) for v in (computed, wanted))
        assert computed.shape == wanted.shape
        np.testing.assert_allclose(computed, wanted, rtol=rtol, atol=1e-12)
