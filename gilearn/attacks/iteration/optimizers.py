"""How the dummy inputs move (survey, Table 1, column Optimizer): PyTorch's optimizers as values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from gilearn.values import Value


@runtime_checkable
class Optimizer(Protocol):
    """Anything that builds a ``torch.optim.Optimizer`` over the variables of a search."""

    @property
    def separable(self) -> bool:
        """Whether every value moves by its own derivative alone, so that several restarts can share one optimizer."""
        ...

    @property
    def patience(self) -> int | None:
        """How many iterations in a row without progress a start is given; ``None``: as many as there are."""
        ...

    def build(
        self, variables: Sequence[Tensor], *, iterations: int, generator: torch.Generator
    ) -> torch.optim.Optimizer:
        """Build it over these variables.

        Args:
            variables: What is searched, leaves that require a gradient.
            iterations: The budget that a schedule stretches over.
            generator: Seeds whatever the optimizer draws.
        """
        ...


@runtime_checkable
class Schedule(Protocol):
    """Anything that gives the factor of the learning rate at an iteration."""

    def __call__(self, iteration: int, iterations: int) -> float:
        """Return the factor at ``iteration``, from 0, of ``iterations``."""
        ...


@dataclass(frozen=True, kw_only=True)
class StepDecay(Value):
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
class WarmupCosine(Value):
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
class LBFGS(Value):
    """The limited-memory quasi-Newton method, with a strong-Wolfe line search unless told otherwise.

    Args:
        lr: First trial step, positive.
        max_iter: Quasi-Newton steps per iteration at most, from 1; each costs one evaluation, or a few with the line
            search. PyTorch ends the iteration after 5/4 as many evaluations, so a line search takes fewer steps.
        history_size: Remembered pairs of steps and gradient changes, from 1.
        line_search_fn: ``"strong_wolfe"``, or ``None``, which takes every step whole: PyTorch's default and the public
            DLG, which can diverge.
        patience: A start has stalled when more than this many iterations in a row lowered its least objective by less
            than 0.1 % each; ``None``: never. First-order optimizers creep and have none.

    Raises:
        ValueError: A number is out of range, or the line search is unknown.

    Chapter: deep-leakage. Source: zhu2019. Component: ``torch.optim.LBFGS``.
    """

    lr: float = 1.0
    max_iter: int = 20
    history_size: int = 100
    line_search_fn: str | None = "strong_wolfe"
    patience: int | None = 3

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr: got {self.lr}, wanted a positive number")
        for name, least in (("max_iter", 1), ("history_size", 1), ("patience", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: got {value}, wanted at least {least}")
        if self.line_search_fn not in (None, "strong_wolfe"):
            raise ValueError(f"line_search_fn: got {self.line_search_fn!r}, wanted 'strong_wolfe' or None")

    @property
    def separable(self) -> bool:
        """``False``: its steps come from inner products over all variables."""
        return False

    def build(
        self, variables: Sequence[Tensor], *, iterations: int, generator: torch.Generator
    ) -> torch.optim.Optimizer:
        """Build the optimizer over these variables."""
        return torch.optim.LBFGS(
            variables,
            lr=self.lr,
            max_iter=self.max_iter,
            history_size=self.history_size,
            # Distances of nearly equal gradients are tiny: only a zero gradient or step is a reason to rest.
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn=self.line_search_fn,
        )


@dataclass(frozen=True, kw_only=True)
class FirstOrder(Value):
    """What Adam, AdamW and SGD share; one evaluation per iteration.

    Args:
        lr: Step size, not negative; inputs live in [0, 1], so 0.1 is a tenth of their range.
        signed: Move by the sign of the derivative instead of its value.
        schedule: Of the learning rate; ``None`` keeps it.
        noise: Langevin noise: after every step a Gaussian of this standard deviation times the learning rate, drawn in
            the variables' type and where they are.
        patience: As that of :class:`LBFGS`; ``None``: a start never counts as stalled.

    Raises:
        ValueError: A number is out of range.
    """

    lr: float = 0.1
    signed: bool = False
    schedule: Schedule | None = None
    noise: float = 0.0
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "noise", "patience"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name}: got {value}, wanted 0 or more")

    @property
    def separable(self) -> bool:
        """``True``: what a value does depends on its own derivatives."""
        return True

    def build(
        self, variables: Sequence[Tensor], *, iterations: int, generator: torch.Generator
    ) -> torch.optim.Optimizer:
        """Build the optimizer over these variables, with its schedule, signs and noise as hooks of its steps."""
        optimizer = self.optimizer(variables)
        if self.signed:
            optimizer.register_step_pre_hook(_signed)
        if self.noise:  # before the schedule: the noise goes with the rate of the step just taken
            optimizer.register_step_post_hook(_Langevin(self.noise, variables[0].device, generator))
        if self.schedule is not None:
            factor = self.schedule
            schedule = LambdaLR(optimizer, lambda iteration: factor(iteration, iterations))
            optimizer.register_step_post_hook(lambda *_: schedule.step())
        return optimizer

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
        weight_decay: Weight decay, times the learning rate per step.

    Chapter: distances. Source: wang2020. Component: ``torch.optim.AdamW``.
    """

    weight_decay: float = 0.01

    def optimizer(self, variables: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return PyTorch's optimizer."""
        return torch.optim.AdamW(variables, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


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


def _signed(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Replace a step's closure by one that leaves the signs of the derivatives."""
    closure: Callable[[], Tensor] = args[1] if len(args) > 1 else kwargs["closure"]

    def signs() -> Tensor:
        value = closure()
        for group in optimizer.param_groups:
            for variable in group["params"]:
                variable.grad = variable.grad.sign()
        return value

    return (optimizer, signs), {}


class _Langevin:
    """Adds the noise of Langevin dynamics after a step; draws where the variables are, in their type."""

    def __init__(self, std: float, device: torch.device, generator: torch.Generator) -> None:
        self.std = std
        seed = int(torch.randint(2**62, (), generator=generator))
        self.generator = torch.Generator(device).manual_seed(seed)

    @torch.no_grad()
    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for variable in group["params"]:
                drawn = torch.randn(
                    variable.shape, generator=self.generator, dtype=variable.dtype, device=variable.device
                )
                variable.add_(drawn, alpha=float(group["lr"]) * self.std)
