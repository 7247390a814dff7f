"""The engine of every iteration-based attack: find inputs whose gradient is the shared one (survey, section 2.1)."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gilearn.attacks.base import Reconstruction, residual
from gilearn.attacks.iteration.distances import Distance, Euclidean, total
from gilearn.attacks.iteration.initialization import Gaussian, Initialization
from gilearn.attacks.iteration.optimizers import LBFGS, Optimizer
from gilearn.attacks.iteration.regularizers import GroupConsistency, Guess, Regularizer
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
        regularizers: What else is known of the inputs; added to the distance.
        optimizer: Moves the inputs.
        iterations: Steps of the optimizer per start, from 1.
        starts: At most how many times to start, from 1. A start that reaches ``tolerance`` ends the search; one that
            diverges or stalls gives way to the next. The start with the least distance is returned.
        together: How many starts to run at a time, as one batched computation, from 1; needs an optimizer that is
            separable, and memory for as many.
        box: Least and largest value; the inputs are clipped to it after every step. ``None``: no projection.
        compiled: Compile the distance and its derivative with ``torch.compile``: up to a minute at first, faster
            afterwards. What the compiler makes of it is compared with the plain computation at the start.
        tolerance: Reached when the distance falls below this share of the distance between the shared gradient and
            zero.
        patience: A start has stalled when more than this many iterations in a row lowered its least objective by less
            than 0.1 % each; ``None``: never.
        dtype: Floating-point type to compute in; ``None`` for the model's. Line searches want float64.

    Raises:
        ValueError: A number is out of range, or the optimizer or a regularizer does not fit ``together``.

    Chapter: anatomy. Source: survey, section 2.1.
    """

    initialization: Initialization = Gaussian()
    labels: LabelRule | Joint = Joint()
    distance: Distance = Euclidean()
    regularizers: tuple[Regularizer, ...] = ()
    optimizer: Optimizer = LBFGS()
    iterations: int = 300
    starts: int = 1
    together: int = 1
    box: tuple[float, float] | None = None
    compiled: bool = False
    tolerance: float = 0.0
    patience: int | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("starts", 1), ("together", 1), ("tolerance", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least {least}")
        if self.box is not None and not self.box[0] < self.box[1]:
            raise ValueError(f"box: got {self.box}, wanted a lower and a higher end")
        if self.together > 1 and not self.optimizer.separable:
            raise ValueError(f"together: got {self.together}, and {self.optimizer} moves one start at a time")
        if self.together == 1 and any(isinstance(r, GroupConsistency) for r in self.regularizers):
            raise ValueError("together: got 1, and GroupConsistency compares starts that run together")

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
            ValueError: The labels cannot be had by the chosen rule, the loss allows no joint labels, or a regularizer
                asks for what is not declared.

        Warns:
            RuntimeWarning: The compiler fails, or computes something else; the plain computation is used instead.
        """
        began = time.perf_counter()
        labels = _labels(self.labels, seen)
        working = seen if self.dtype in (None, seen.dtype) else seen.to(dtype=self.dtype)
        deadline = math.inf if time_limit is None else began + time_limit
        generator = torch.Generator().manual_seed(seed)
        best: _Starts | None = None
        logs: list[Mapping[str, Any]] = []
        while len(logs) < self.starts:
            lanes = min(self.together, self.starts - len(logs))
            starts = _Starts(self, working, labels, generator, lanes, deadline, keep=snapshots > 0)
            starts.run(progress)
            logs += starts.log()
            if best is None or starts.distance < best.distance:
                best = starts
            if starts.stopped in ("tolerance", "time limit"):
                break
        assert best is not None  # there is at least one start
        inputs, targets = best.kept[0][best.lane], best.kept[1][best.lane]
        return Reconstruction(
            inputs=inputs.to(seen.dtype),
            labels=targets if labels is not None else targets.argmax(dim=1),
            residual=residual(working, inputs, targets),
            seconds=time.perf_counter() - began,
            attack=repr(self),
            seed=seed,
            history=torch.tensor([row[best.lane] for row in best.history], dtype=torch.float64),
            snapshots=_thinned([(k, frame[best.lane]) for k, frame in best.frames], snapshots),
            starts=tuple(logs),
        )


class _Starts:
    """One or several starts that run together: their variables, and what is remembered of the way.

    Every variable has the starts in front: (starts, batch, ...).
    """

    def __init__(
        self,
        attack: GradientMatching,
        seen: Observation,
        labels: Tensor | None,
        generator: torch.Generator,
        lanes: int,
        deadline: float,
        *,
        keep: bool,
    ) -> None:
        self.attack, self.seen, self.labels, self.deadline, self.keep = attack, seen, labels, deadline, keep
        self.generator, self.lanes = generator, lanes
        drawn = []
        for _ in range(lanes):
            drawn.append([self._drawn(attack.initialization, seen.input_shape)])
            if isinstance(attack.labels, Joint):
                drawn[-1].append(self._drawn(attack.labels.initialization, (seen.num_classes,)))
        self.variables = [torch.stack(variable).requires_grad_() for variable in zip(*drawn, strict=True)]
        self.measure = self._plain if lanes == 1 and not attack.compiled else self._functional()
        nothing = [None if g is None else torch.zeros_like(g) for g in seen.shared]
        self.scale = float(attack.distance(nothing, seen.shared)) or 1.0
        self.best, self.distances = [math.inf] * lanes, [math.inf] * lanes
        self.kept = (self.variables[0].detach().clone(), self._targets(self.variables).detach().clone())
        self.consensus: Tensor | None = None
        self.iteration = 0
        self.history: list[list[float]] = []
        self.frames: list[tuple[int, Tensor]] = []
        self.stopped = "budget"

    def _drawn(self, initialization: Initialization, shape: tuple[int, ...]) -> Tensor:
        return initialization((self.seen.batch_size, *shape), self.generator).to(self.seen.device, self.seen.dtype)

    def _targets(self, variables: Sequence[Tensor]) -> Tensor:
        """Return labels, or the class probabilities that are being optimized, for all starts."""
        if self.labels is None:
            return variables[1].softmax(dim=-1)
        return self.labels.expand(self.lanes, *self.labels.shape)

    @property
    def lane(self) -> int:
        """The start with the least distance."""
        return min(range(self.lanes), key=self.distances.__getitem__)

    @property
    def distance(self) -> float:
        """The least distance."""
        return min(self.distances)

    def log(self) -> list[Mapping[str, Any]]:
        """Return one record per start."""
        return [{"distance": d, "evaluations": len(self.history), "stopped": self.stopped} for d in self.distances]

    def run(self, progress: bool) -> None:
        """Take the optimizer's steps until one of the reasons to stop."""
        attack = self.attack
        mover = attack.optimizer.build(self.variables, iterations=attack.iterations, generator=self.generator)
        patience = attack.iterations if attack.patience is None else attack.patience
        idle = 0
        bar = tqdm(range(attack.iterations), disable=not progress, desc="matching", unit="it")
        try:
            for self.iteration in bar:
                before = min(self.best)
                mover.step(self.evaluate)
                if attack.box is not None:
                    self.variables[0].data.clamp_(*attack.box)
                bar.set_postfix(distance=f"{self.distance:.2e}", refresh=False)
                idle = 0 if min(self.best) < 0.999 * before else idle + 1
                if idle > patience:
                    raise _Stop("stalled")
        except _Stop as stop:
            self.stopped = stop.args[0]
        finally:
            bar.close()
        if self.keep and self.frames[-1][0] < len(self.history) - 1:
            self.frames.append((len(self.history) - 1, self.kept[0].clone()))

    def evaluate(self) -> Tensor:
        """Return the objective, with its derivatives in the variables; remember the best."""
        distances, derivatives = self.measure(*self.variables)
        objectives = distances
        if self.attack.regularizers:
            penalties, slopes = self._penalties()
            objectives = distances + penalties
            derivatives = [a + b for a, b in zip(derivatives, slopes, strict=True)]
        for variable, derivative in zip(self.variables, derivatives, strict=True):
            variable.grad = derivative
        self._remember(objectives.tolist(), distances.tolist())
        return objectives.sum()

    def _plain(self, *variables: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the distance of a single start, and its derivatives."""
        simulated = self.seen.simulate(variables[0][0], self._targets(variables)[0])
        distance = self.attack.distance(simulated, self.seen.shared)
        return distance.detach()[None], torch.autograd.grad(distance, variables)

    def _functional(self) -> Callable[..., tuple[Tensor, Sequence[Tensor]]]:
        """Return a function of the variables that gives every start's distance, and the derivatives."""
        seen, labels, distance = self.seen, self.labels, self.attack.distance

        def one(*variables: Tensor) -> Tensor:
            targets = variables[1].softmax(dim=-1) if labels is None else labels
            return distance(seen.simulate(variables[0], targets, functional=True), seen.shared)

        each = torch.func.grad_and_value(one, argnums=tuple(range(len(self.variables))))
        if self.lanes > 1:
            each = torch.func.vmap(each)
        if self.attack.compiled:
            each = self._compiled(each)

        def measure(*variables: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
            derivatives, values = each(*self._taken(variables))
            if self.lanes > 1:
                return values, derivatives
            return values[None], [derivative[None] for derivative in derivatives]

        return measure

    def _taken(self, variables: Sequence[Tensor]) -> list[Tensor]:
        """Return the variables as the functional form takes them: without the axis of starts if there is one start."""
        detached = [variable.detach() for variable in variables]
        return detached if self.lanes > 1 else [variable[0] for variable in detached]

    def _compiled(self, each: Callable[..., Any]) -> Callable[..., Any]:
        """Return the compiled function if it computes at the start what the plain one does: not all compilers do."""
        from torch._dynamo.exc import TorchDynamoException

        compiled = torch.compile(each, dynamic=False)
        given = self._taken(self.variables)
        eps = torch.finfo(given[0].dtype).eps
        moved = [variable * (1 + 4 * eps) for variable in given]  # how far rounding alone moves the derivatives
        (wanted_slopes, wanted), (noisy_slopes, noisy) = each(*given), each(*moved)
        try:
            slopes, values = compiled(*given)
        except TorchDynamoException as error:
            return self._uncompiled(each, f"failed ({str(error).strip().splitlines()[0]})")
        for a, b, c in zip([values, *slopes], [wanted, *wanted_slopes], [noisy, *noisy_slopes], strict=True):
            if not float((a - b).norm()) <= 1e-2 * float(b.norm()) + 4 * float((c - b).norm()):
                return self._uncompiled(each, "gives another derivative than PyTorch here")
        return compiled

    @staticmethod
    def _uncompiled(each: Callable[..., Any], reason: str) -> Callable[..., Any]:
        warnings.warn(f"compiled: torch.compile {reason}; going on uncompiled", RuntimeWarning, stacklevel=6)
        return each

    def _penalties(self) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the regularizers' sum for every start, and its derivatives."""
        attack, inputs, targets = self.attack, self.variables[0], self._targets(self.variables)
        for regularizer in attack.regularizers:
            if isinstance(regularizer, GroupConsistency):
                progress = self.iteration / attack.iterations
                self.consensus = regularizer.consensus(inputs, progress, self.iteration, self.consensus)
        guesses = [
            Guess(seen=self.seen, inputs=x, targets=y, consensus=self.consensus)
            for x, y in zip(inputs, targets, strict=True)
        ]
        penalties = torch.stack([total(r(guess) for r in attack.regularizers) for guess in guesses])
        slopes = torch.autograd.grad(penalties.sum(), self.variables, allow_unused=True, materialize_grads=True)
        return penalties.detach(), slopes

    def _remember(self, objectives: list[float], distances: list[float]) -> None:
        self.history.append(objectives)
        better = [k for k in range(self.lanes) if objectives[k] < self.best[k]]
        if better:
            targets = self._targets(self.variables)
            for k in better:
                self.best[k], self.distances[k] = objectives[k], distances[k]
                self.kept[0][k], self.kept[1][k] = self.variables[0][k].detach(), targets[k].detach()
        if self.keep and _on_grid(len(self.history) - 1):
            self.frames.append((len(self.history) - 1, self.kept[0].clone()))
        first = self.history[0]
        if not any(math.isfinite(v) and v <= 1e6 * abs(w) for v, w in zip(objectives, first, strict=True)):
            raise _Stop("diverged")
        if self.distance <= self.attack.tolerance * self.scale:
            raise _Stop("tolerance")
        if time.perf_counter() > self.deadline:
            raise _Stop("time limit")


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
