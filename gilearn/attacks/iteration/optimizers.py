"""How the dummy inputs move (survey, Table 1, column Optimizer): PyTorch's optimizers as values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Closure = Callable[[], Tensor]


class Mover(Protocol):
    """What an optimizer builds: moves its variables by one iteration."""

    def step(self, closure: Closure) -> object:
        """Call the closure, which sets the variables' ``grad`` and returns the objective, and move."""
        ...


@runtime_checkable
class Optimizer(Protocol):
    """Anything that builds a :class:`Mover`, a ``torch.optim.Optimizer`` for instance."""

    @property
    def separable(self) -> bool:
        """Whether every value moves by its own derivative alone, so that several starts can share one optimizer."""
        ...

    def build(self, variables: Sequence[Tensor], *, iterations: int, generator: torch.Generator) -> Mover:
        """Build it over these variables; ``iterations`` is the budget that a schedule stretches over."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """Anything that gives the factor of the learning rate at an iteration."""

    def __call__(self, iteration: int, iterations: int) -> float:
        """Return the factor at ``iteration``, from 0, of ``iterations``."""
        ...


@dataclass(frozen=True, kw_only=True)
class StepDecay:
    """InvGrad's schedule: the learning rate falls by a factor at fixed shares of the budget.

    Args:
        factor: Of every fall.
        at: Shares of the budget, ascending.

    Chapter: anatomy. Source: geiping2020.
    """

    factor: float = 0.1
    at: tuple[float, ...] = (3 / 8, 5 / 8, 7 / 8)

    def __call__(self, iteration: int, iterations: int) -> float:
        """Return the factor of the learning rate."""
        return float(self.factor ** sum(iteration >= share * iterations for share in self.at))


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """GradInversion's schedule: the learning rate rises from zero, then falls to zero along a cosine.

    Args:
        warmup: Iterations of the rise, not negative.

    Chapter: anatomy. Source: yin2021.
    """

    warmup: int = 50

    def __call__(self, iteration: int, iterations: int) -> float:
        """Return the factor of the learning rate."""
        if iteration < self.warmup:
            return (iteration + 1) / self.warmup
        share = (iteration - self.warmup) / max(1, iterations - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * share))


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

    @property
    def separable(self) -> bool:
        """``False``: its steps come from inner products over all variables."""
        return False

    def build(self, variables: Sequence[Tensor], *, iterations: int, generator: torch.Generator) -> Mover:
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
class FirstOrder:
    """What Adam, AdamW and SGD share; one evaluation per iteration.

    Args:
        lr: Step size, not negative; inputs live in [0, 1], so 0.1 is a tenth of their range.
        signed: Move by the sign of the derivative instead of its value.
        schedule: Of the learning rate; ``None`` keeps it.
        noise: Langevin noise: after every step a Gaussian of this standard deviation times the learning rate.

    Raises:
        ValueError: A number is out of range.
    """

    lr: float = 0.1
    signed: bool = False
    schedule: Schedule | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr >= 0:
            raise ValueError(f"lr: got {self.lr}, wanted 0 or more")
        if self.noise < 0:
            raise ValueError(f"noise: got {self.noise}, wanted 0 or more")

    @property
    def separable(self) -> bool:
        """``True``."""
        return True

    def build(self, variables: Sequence[Tensor], *, iterations: int, generator: torch.Generator) -> Mover:
        """Build the optimizer over these variables."""
        return _Steps(self, self.optimizer(variables), iterations, generator)

    def optimizer(self, variables: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return PyTorch's optimizer."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Adam(FirstOrder):
    """Adam.

    Args:
        betas: Decay of the two running means.

    Chapter: deep-leakage, anatomy. Component: ``torch.optim.Adam``.
    """

    betas: tuple[float, float] = (0.9, 0.999)

    def optimizer(self, variables: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return PyTorch's optimizer."""
        return torch.optim.Adam(variables, lr=self.lr, betas=self.betas)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay, which pulls the inputs towards zero: SAPAG's.

    Args:
        decay: Weight decay, times the learning rate per step.

    Chapter: distances. Source: wang2020. Component: ``torch.optim.AdamW``.
    """

    decay: float = 0.01

    def optimizer(self, variables: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return PyTorch's optimizer."""
        return torch.optim.AdamW(variables, lr=self.lr, betas=self.betas, weight_decay=self.decay)


@dataclass(frozen=True, kw_only=True)
class SGD(FirstOrder):
    """Plain gradient descent.

    Args:
        momentum: Share of the last step that is kept.

    Chapter: anatomy. Component: ``torch.optim.SGD``.
    """

    momentum: float = 0.0

    def optimizer(self, variables: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return PyTorch's optimizer."""
        return torch.optim.SGD(variables, lr=self.lr, momentum=self.momentum)


class _Steps:
    """Steps of a first-order optimizer, with what its settings add."""

    def __init__(
        self, settings: FirstOrder, optimizer: torch.optim.Optimizer, iterations: int, generator: torch.Generator
    ) -> None:
        self.settings, self.optimizer, self.iterations, self.generator = settings, optimizer, iterations, generator
        self.taken = 0

    @torch.no_grad()
    def step(self, closure: Closure) -> None:
        with torch.enable_grad():
            closure()
        settings = self.settings
        rate = settings.lr * (1.0 if settings.schedule is None else settings.schedule(self.taken, self.iterations))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if settings.signed:
                for variable in group["params"]:
                    variable.grad = variable.grad.sign()
        self.optimizer.step()
        if settings.noise:
            for group in self.optimizer.param_groups:
                for variable in group["params"]:
                    drawn = torch.randn(variable.shape, generator=self.generator, dtype=torch.float64)
                    variable += (rate * settings.noise * drawn).to(variable)
        self.taken += 1
