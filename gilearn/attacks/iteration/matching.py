"""The engine of every iteration-based attack: find inputs whose gradient is the shared one (survey, section 2.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gilearn.attacks.base import Reconstruction, residual
from gilearn.attacks.iteration.distances import Distance, Euclidean
from gilearn.attacks.iteration.initialization import Gaussian, Initialization
from gilearn.attacks.iteration.optimizers import LBFGS, Optimizer
from gilearn.attacks.labels import LabelRule
from gilearn.federated import Observation


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Optimize the labels together with the inputs, as the softmax of free logits.

    Args:
        initialization: Draws the logits (batch, num_classes).

    Chapter: deep-leakage. Source: zhu2019.
    """

    initialization: Initialization = Gaussian()


@dataclass(frozen=True, kw_only=True)
class GradientMatching:
    """Minimize the distance between simulated and shared gradient over the inputs: the survey's Eq. (1).

    The fields are the columns of the survey's Table 1. A published attack is a value of this class (``presets.py``),
    and ``dataclasses.replace`` swaps one ingredient of it.

    Args:
        initialization: Draws the inputs that the search starts from.
        labels: ``Joint()``, or a rule that reads the labels off the observation first.
        distance: Between the simulated and the shared gradient.
        optimizer: Moves the inputs.
        iterations: Steps of the optimizer per start, from 1.
        starts: At most how many times to start, from 1. A start that reaches ``tolerance`` ends the search; one that
            diverges or stalls gives way to the next. The start with the least distance is returned.
        tolerance: Reached when the distance falls below this share of the distance between the shared gradient and
            zero.
        patience: A start has stalled when more than this many iterations in a row lowered its least distance by less
            than 0.1 % each; ``None``: never.
        dtype: Floating-point type to compute in; ``None`` for the model's. Line searches want float64.

    Raises:
        ValueError: A number is out of range.

    Chapter: anatomy. Source: survey, section 2.1.
    """

    initialization: Initialization = Gaussian()
    labels: LabelRule | Joint = Joint()
    distance: Distance = Euclidean()
    optimizer: Optimizer = LBFGS()
    iterations: int = 300
    starts: int = 1
    tolerance: float = 0.0
    patience: int | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("starts", 1), ("tolerance", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least {least}")

    def __call__(
        self,
        seen: Observation,
        *,
        seed: int = 0,
        snapshots: int = 0,
        progress: bool = False,
        time_limit: float | None = None,
    ) -> Reconstruction:
        """Run the attack.

        Args:
            seen: The observation.
            seed: Seeds every draw; the same seed on the same machine gives the same result bit for bit.
            snapshots: How many pictures to keep of the way there.
            progress: Show a progress bar.
            time_limit: Seconds after which the best so far is returned.

        Raises:
            ValueError: The labels cannot be had by the chosen rule, or the loss allows no joint labels.
        """
        began = time.perf_counter()
        labels = _labels(self.labels, seen)
        working = seen if self.dtype in (None, seen.dtype) else seen.to(dtype=self.dtype)
        deadline = math.inf if time_limit is None else began + time_limit
        generator = torch.Generator().manual_seed(seed)
        best: _Start | None = None
        starts: list[Mapping[str, Any]] = []
        for _ in range(self.starts):
            start = _Start(self, working, labels, generator, deadline, keep=snapshots > 0)
            start.run(progress)
            starts.append({"distance": start.best, "evaluations": len(start.history), "stopped": start.stopped})
            if best is None or start.best < best.best:
                best = start
            if start.stopped in ("tolerance", "time limit"):
                break
        assert best is not None  # there is at least one start
        inputs, targets = best.kept
        return Reconstruction(
            inputs=inputs.to(seen.dtype),
            labels=targets if labels is not None else targets.argmax(dim=1),
            residual=residual(working, inputs, targets),
            seconds=time.perf_counter() - began,
            attack=repr(self),
            seed=seed,
            history=torch.tensor(best.history, dtype=torch.float64),
            snapshots=_thinned(best.frames, snapshots),
            starts=tuple(starts),
        )


class _Start:
    """One start of the search: its variables, and what is remembered of the way."""

    def __init__(
        self,
        attack: GradientMatching,
        seen: Observation,
        labels: Tensor | None,
        generator: torch.Generator,
        deadline: float,
        *,
        keep: bool,
    ) -> None:
        self.attack, self.seen, self.deadline, self.keep = attack, seen, deadline, keep
        self.inputs = self._drawn(attack.initialization, seen.input_shape, generator)
        self.variables = [self.inputs]
        self.labels = labels
        if isinstance(attack.labels, Joint):
            self.logits = self._drawn(attack.labels.initialization, (seen.num_classes,), generator)
            self.variables.append(self.logits)
        nothing = [None if g is None else torch.zeros_like(g) for g in seen.shared]
        self.scale = float(attack.distance(nothing, seen.shared)) or 1.0
        self.best = math.inf
        self.kept = (self.inputs.detach().clone(), self.targets().detach().clone())
        self.history: list[float] = []
        self.frames: list[tuple[int, Tensor]] = []
        self.stopped = "budget"

    def _drawn(self, initialization: Initialization, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        drawn = initialization((self.seen.batch_size, *shape), generator)
        return drawn.to(self.seen.device, self.seen.dtype).requires_grad_()

    def targets(self) -> Tensor:
        """Return the labels, or the class probabilities that are being optimized."""
        return self.logits.softmax(dim=1) if self.labels is None else self.labels

    def run(self, progress: bool) -> None:
        """Take the optimizer's steps until one of the reasons to stop."""
        optimizer = self.attack.optimizer.build(self.variables)
        patience = self.attack.iterations if self.attack.patience is None else self.attack.patience
        idle = 0
        bar = tqdm(range(self.attack.iterations), disable=not progress, desc="matching", unit="it")
        try:
            for _ in bar:
                before = self.best
                optimizer.step(self.evaluate)  # type: ignore[arg-type]
                bar.set_postfix(distance=f"{self.best:.2e}", refresh=False)
                idle = 0 if self.best < 0.999 * before else idle + 1
                if idle > patience:
                    raise _Stop("stalled")
        except _Stop as stop:
            self.stopped = stop.args[0]
        finally:
            bar.close()
        if self.keep and self.frames[-1][0] < len(self.history) - 1:
            self.frames.append((len(self.history) - 1, self.kept[0]))

    def evaluate(self) -> Tensor:
        """Return the objective, with its derivatives in the variables; remember the best."""
        targets = self.targets()
        simulated = self.seen.simulate(self.inputs, targets)
        objective = self.attack.distance(simulated, self.seen.shared)
        for variable, derivative in zip(self.variables, torch.autograd.grad(objective, self.variables), strict=True):
            variable.grad = derivative
        value = float(objective.detach())
        self.history.append(value)
        if value < self.best:
            self.best, self.kept = value, (self.inputs.detach().clone(), targets.detach().clone())
        if self.keep and _on_grid(len(self.history) - 1):
            self.frames.append((len(self.history) - 1, self.kept[0]))
        if not math.isfinite(value) or value > 1e6 * self.history[0]:
            raise _Stop("diverged")
        if value <= self.attack.tolerance * self.scale:
            raise _Stop("tolerance")
        if time.perf_counter() > self.deadline:
            raise _Stop("time limit")
        return objective


class _Stop(Exception):
    """A reason to end a start."""


def _labels(rule: LabelRule | Joint, seen: Observation) -> Tensor | None:
    if not isinstance(rule, Joint):
        return rule(seen).to(seen.device)
    if seen.loss != "cross_entropy":
        raise ValueError(f"labels: Joint() needs the loss cross_entropy, the observation has {seen.loss}")
    return None


def _on_grid(evaluation: int) -> bool:
    """Say whether this evaluation is one to keep a frame of: every one at first, then ever fewer, 10 % apart."""
    return evaluation < 10 or int(math.log(evaluation, 1.1)) > int(math.log(evaluation - 1, 1.1))


def _thinned(frames: list[tuple[int, Tensor]], number: int) -> tuple[tuple[int, Tensor], ...]:
    if len(frames) <= number:
        return tuple(frames)
    chosen = torch.linspace(0, len(frames) - 1, number).round().long().tolist()
    return tuple(frames[k] for k in chosen)
