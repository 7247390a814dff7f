"""How the dummy inputs move (survey, Table 1, column Optimizer): PyTorch's optimizers as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Optimizer(Protocol):
    """Anything that builds a ``torch.optim.Optimizer``, whose ``step`` takes a closure."""

    def build(self, variables: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Build the optimizer over these variables."""
        ...


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """The limited-memory quasi-Newton method, with a strong-Wolfe line search unless told otherwise.

    Args:
        lr: First trial step.
        inner: Quasi-Newton steps per iteration; each costs one evaluation, or a few with the line search.
        history: Remembered pairs of steps and gradient changes.
        line_search: ``False`` takes every step whole: PyTorch's default and the public DLG, which can diverge.

    Chapter: deep-leakage. Source: zhu2019. Component: ``torch.optim.LBFGS``.
    """

    lr: float = 1.0
    inner: int = 20
    history: int = 100
    line_search: bool = True

    def build(self, variables: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Build the optimizer over these variables."""
        return torch.optim.LBFGS(
            variables,
            lr=self.lr,
            max_iter=self.inner,
            history_size=self.history,
            # Distances of nearly equal gradients are tiny: only a zero gradient or step is a reason to rest.
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe" if self.line_search else None,
        )


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam, one evaluation per iteration.

    Args:
        lr: Step size; inputs live in [0, 1], so 0.1 is a tenth of their range.
        betas: Decay of the two running means.

    Chapter: deep-leakage. Component: ``torch.optim.Adam``.
    """

    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)

    def build(self, variables: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Build the optimizer over these variables."""
        return torch.optim.Adam(variables, lr=self.lr, betas=self.betas)
