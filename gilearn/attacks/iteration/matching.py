"""The engine of every iteration-based attack: find inputs whose gradient is the shared one (survey, section 2.1).

A search is put together from ingredients, and knows none of them: a space and labels that begin, decode and project, a
distance, regularizers and an optimizer that are built. ``objective`` computes the distance; here are the value, whose
fields the ingredients are, and the loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from gilearn.attacks.base import Attack, Reconstruction
from gilearn.attacks.iteration.checks import check_ingredient, check_tuple
from gilearn.attacks.iteration.distances import Distance, Euclidean, total
from gilearn.attacks.iteration.initialization import Gaussian, Initialization
from gilearn.attacks.iteration.objective import Arguments, objective
from gilearn.attacks.iteration.optimizers import LBFGS, Optimizer
from gilearn.attacks.iteration.regularizers import Candidates, Regularizer, Term
from gilearn.attacks.iteration.spaces import Factor, Pixels, Product, Space
from gilearn.attacks.labels.base import Joint, as_factor
from gilearn.attacks.verdict import EXPLAINED, judge, mismatch
from gilearn.federated import Observed, Several


@dataclass(frozen=True, kw_only=True)
class GradientMatching(Attack):
    """Minimize the distance between simulated and shared gradient over the inputs: the survey's Eq. (1).

    The fields are the columns of the survey's Table 1, and the space that is searched. A published attack is a value of
    this class (``presets.py``), and ``InvGrad.replace(distance=distances.Manhattan())`` swaps one ingredient of it.

    Args:
        initialization: Draws what the search starts from.
        space: What is searched: the inputs' pixels, or what stands for them.
        labels: A rule that reads the labels off the observation first, labels that are known, or ``Joint()``, which
            searches them too.
        distance: Between the simulated and the shared gradient.
        regularizers: What else is known of the inputs; added to the distance.
        optimizer: Moves the variables; its ``patience`` says when a start has stalled.
        iterations: Steps of the optimizer per start, from 1.
        restarts: At most how many times to start, from 1. Within a start the least objective is kept; between starts
            the one with the least distance is returned.
        parallel: How many starts to run at a time, as one batched computation, from 1; needs an optimizer that is
            separable, and memory for as many.
        compiled: Compile the distance and its derivative with ``torch.compile``: up to a minute at first, faster
            afterwards. What the compiler makes of it is compared with the plain computation at the start.
        tolerance: A start ends, and the search with it, when the distance falls below this share of the distance
            between the shared gradient and zero; 0: never.
        explained: A start whose residual ends below this share explains the gradient and is the last; 0: start again
            regardless. DLG's starts that find a digit or a photograph of 32 pixels end at 1e-6 to 5e-5, those that do
            not above 0.1; on the way, a photograph's mean squared error is 5e-3 where the residual is 1e-3.
        dtype: Floating-point type to compute in; ``None`` for the model's. Line searches want float64.
        parts: At how many parts of a pool (``federated.Several``) an iteration looks, drawn anew each time;
            regularizers see their examples alone. ``None``: at all. Values of different draws cannot be compared: the
            last iterate is returned in place of the best, and only the budget or the time ends a start.

    Raises:
        ValueError: A number is out of range, an ingredient is none, or the optimizer or a regularizer does not fit
            ``parallel`` or ``parts``.

    Chapter: anatomy. Source: survey, section 2.1.
    """

    initialization: Initialization = Gaussian()
    space: Space = Pixels()
    labels: Any = Joint()
    distance: Distance = Euclidean()
    regularizers: tuple[Regularizer | Term, ...] = ()
    optimizer: Optimizer = LBFGS()
    iterations: int = 300
    restarts: int = 1
    parallel: int = 1
    compiled: bool = False
    tolerance: float = 0.0
    explained: float = EXPLAINED
    dtype: torch.dtype | None = None
    parts: int | None = None

    def __post_init__(self) -> None:
        check_ingredient("initialization", self.initialization, "initialization.Gaussian()", "__call__")
        check_ingredient("space", self.space, "spaces.Pixels()", "build")
        check_ingredient("labels", self.labels, "attacks.Joint() or labels.Declared()", "build", "__call__")
        check_ingredient("distance", self.distance, "distances.Euclidean()", "__call__")
        check_ingredient("optimizer", self.optimizer, "optimizers.Adam(lr=0.1)", "build")
        example = "regularizers.TotalVariation(weight=1e-2)"
        check_tuple("regularizers", self.regularizers, example)
        for regularizer in self.regularizers:
            check_ingredient("regularizers", regularizer, example, "build", "__call__")
        object.__setattr__(self, "regularizers", tuple(self.regularizers))
        for name, least in (("iterations", 1), ("restarts", 1), ("parallel", 1), ("tolerance", 0), ("explained", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least {least}")
        if self.parts is not None:
            self._check_parts(self.parts)
        if self.parallel > 1 and not self.optimizer.separable:
            raise ValueError(f"parallel: got {self.parallel}, and {self.optimizer} moves one start at a time")
        smallest = min(self.parallel, self.restarts, self.restarts % self.parallel or self.parallel)
        for regularizer in self.regularizers:
            if smallest == 1 and getattr(regularizer, "compares", False):
                raise ValueError(
                    f"restarts, parallel: got {self.restarts} and {self.parallel}, which leaves a restart alone, and "
                    f"{type(regularizer).__name__} compares restarts that run in parallel"
                )

    def _check_parts(self, parts: int) -> None:
        """Refuse what compares values of the objective between iterations, or remembers one of them."""
        if parts < 1:
            raise ValueError(f"parts: got {parts}, wanted at least 1, or None")
        wrong = {
            "optimizer": not self.optimizer.separable or getattr(self.optimizer, "patience", None) is not None,
            "tolerance": self.tolerance > 0,
            "compiled": self.compiled,
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            raise ValueError(
                f"parts: got {parts} with {name}={getattr(self, name)}, wanted a first-order optimizer without "
                "patience, no tolerance and nothing compiled: every iteration has another objective"
            )

    def reconstruct(
        self, seen: Observed, *, seed: int, snapshots: int, progress: bool, time_limit: float | None
    ) -> Reconstruction:
        """Run the attack on checked arguments.

        Raises:
            ValueError: The labels cannot be had by the chosen rule, the loss allows no joint labels, the space does not
                fit the model, or a regularizer asks for what is not declared.

        Warns:
            RuntimeWarning: The compiler fails, or computes something else; the plain computation is used instead.
        """
        began = time.perf_counter()
        deadline = math.inf if time_limit is None else began + time_limit
        if self.parts is not None and not (isinstance(seen, Several) and self.parts <= len(seen.parts)):
            most = f"Several of {len(seen.parts)} parts" if isinstance(seen, Several) else f"a {type(seen).__name__}"
            raise ValueError(f"parts: got {self.parts} for {most}, wanted federated.Several of at least as many parts")
        working = seen if self.dtype in (None, seen.dtype) else seen.to(dtype=self.dtype)
        space = Product(spaces=(self.space.build(working), cast(Factor, as_factor(self.labels, cast(Any, working)))))
        generator = torch.Generator().manual_seed(seed)
        best: _Search | None = None
        logs: list[Mapping[str, Any]] = []
        while len(logs) < self.restarts:
            number = min(self.parallel, self.restarts - len(logs))
            search = _Search(self, working, space, generator, number, deadline, keep=snapshots > 0)
            search.run(progress)
            logs += search.logs()
            if best is None or search.distance < best.distance:
                best = search
            if search.over or search.residuals[search.best_restart] < self.explained:
                break
        assert best is not None  # there is at least one start
        k = best.best_restart
        variables, arguments = best.best_variables[k], best.best_arguments(k)
        targets = arguments["targets"]
        return Reconstruction(
            inputs=arguments["inputs"].to(seen.dtype, copy=True),
            labels=targets.argmax(dim=-1) if targets.is_floating_point() else targets.clone(),
            residual=best.residuals[k],
            seconds=time.perf_counter() - began,
            attack=repr(self),
            seed=seed,
            history=torch.tensor(best.history[k], dtype=torch.float64),
            snapshots=_thinned([(evaluation, frame[k]) for evaluation, frame in best.frames], snapshots),
            restarts=tuple(logs),
            variables=variables,
            details=space.details(variables),
            verdict=judge(self, working, arguments=arguments, residual=best.residuals[k], restarts=logs),
        )


class _Search:
    """One or several restarts that run in parallel: their variables, and what is remembered of the way.

    Every variable has the restarts in front: (restarts, batch, ...).
    """

    def __init__(
        self,
        attack: GradientMatching,
        seen: Observed,
        space: Factor,
        generator: torch.Generator,
        number: int,
        deadline: float,
        *,
        keep: bool,
    ) -> None:
        self.attack, self.seen, self.space, self.generator = attack, seen, space, generator
        self.number, self.deadline, self.keep = number, deadline, keep
        self.stopped: list[str | None] = [None] * number
        self.over = False
        self.iteration = self.evaluations = 0
        self.history: list[list[float]] = [[] for _ in range(number)]
        self.frames: list[tuple[int, list[Tensor]]] = []
        drawn = [space.begin(seen, attack.initialization, generator) for _ in range(number)]
        self.variables = {
            name: torch.stack([start[name] for start in drawn]).to(seen.device, seen.dtype).requires_grad_()
            for name in drawn[0]
        }
        self._project()
        self.rows: Tensor | None = None
        self.objective = objective(seen, attack.distance, self._decoded(), compiled=attack.compiled)
        self.terms = [built(r, seen) for r in attack.regularizers]
        nothing = [None if g is None else torch.zeros_like(g) for g in seen.shared]
        self.scale = float(attack.distance(nothing, seen.shared)) or 1.0
        self.best_objective, self.distances, self.residuals = ([math.inf] * number for _ in range(3))
        self.best_variables = [_copied(self._of(k)) for k in range(number)]

    @property
    def best_restart(self) -> int:
        """The restart with the least distance."""
        return min(range(self.number), key=self.distances.__getitem__)

    @property
    def distance(self) -> float:
        """The least distance."""
        return min(self.distances)

    @torch.no_grad()
    def best_arguments(self, restart: int) -> dict[str, Any]:
        """Return a restart's best, as arguments of ``simulate``."""
        return self.space.decode(self.best_variables[restart])

    def logs(self) -> list[Mapping[str, Any]]:
        """Return one record per restart."""
        names = ("distance", "residual", "evaluations", "stopped")
        columns = (self.distances, self.residuals, map(len, self.history), self.stopped)
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def run(self, progress: bool) -> None:
        """Take the optimizer's steps until every restart has a reason to stop."""
        attack = self.attack
        variables = list(self.variables.values())
        optimizer = attack.optimizer.build(variables, iterations=attack.iterations, generator=self.generator)
        patience = getattr(attack.optimizer, "patience", None)
        idle = [0] * self.number
        bar = tqdm(range(attack.iterations), disable=not progress, desc="matching", unit="it")
        try:
            for self.iteration in bar:
                before = list(self.best_objective)
                self._draw()
                optimizer.step(self.evaluate)  # type: ignore[arg-type]
                self._project()
                bar.set_postfix(distance=f"{self.distance:.2e}", refresh=False)
                for k in range(self.number):
                    idle[k] = 0 if self.best_objective[k] < 0.999 * before[k] else idle[k] + 1
                    if patience is not None and idle[k] > patience and self.stopped[k] is None:
                        self.stopped[k] = "stalled"
                self._end_if_done()
        except _Over:
            pass
        finally:
            bar.close()
        self.stopped = [reason or "budget" for reason in self.stopped]
        for k in range(self.number):
            simulated = self.seen.simulate(**self.best_arguments(k), create_graph=False)
            self.residuals[k] = mismatch(simulated, self.seen.shared)
            if attack.parts is not None:  # the distances of the last draws cannot be compared
                self.distances[k] = float(attack.distance(simulated, self.seen.shared))
        if self.keep and self.frames[-1][0] < self.evaluations - 1:
            self._keep_frame()

    def evaluate(self) -> Tensor:
        """Return the sum of the objectives, with its derivatives in the variables; remember the best."""
        arguments = self._decoded()
        # The terms come first: autograd then adds their derivatives to the distance's, and not the reverse.
        penalties = self._penalties(arguments) if self.terms else None
        distances = self.objective(arguments)
        objectives = distances if penalties is None else distances + penalties
        variables = list(self.variables.values())
        slopes = torch.autograd.grad(objectives.sum(), variables, allow_unused=True, materialize_grads=True)
        for variable, slope in zip(variables, slopes, strict=True):
            variable.grad = slope
        objectives = objectives.detach()
        self._remember(objectives.tolist(), distances.tolist())
        return objectives.sum()

    def _draw(self) -> None:
        """Choose the parts of a pool that this iteration looks at, where it does not look at all."""
        if self.attack.parts is not None:
            part = cast(Several, self.seen).drawn(self.attack.parts, self.generator)
            self.rows = torch.tensor(sorted({row for rows in part.rows for row in rows}), device=self.seen.device)
            self.objective = objective(part, self.attack.distance, self._decoded(), compiled=False)

    def _penalties(self, arguments: Sequence[Arguments]) -> Tensor:
        """Return the sum of the regularizers' terms, (restarts,)."""
        inputs, targets = (torch.stack([start[name] for start in arguments]) for name in ("inputs", "targets"))
        if self.rows is not None:
            inputs, targets = inputs[:, self.rows], targets[:, self.rows]
        candidates = Candidates(
            seen=self.seen,
            inputs=inputs,
            targets=targets,
            masks=[start.get("masks") for start in arguments],
            iteration=self.iteration,
            progress=self.iteration / self.attack.iterations,
            rows=self.rows,
        )
        return total(term(candidates) for term in self.terms)

    def _decoded(self) -> list[dict[str, Any]]:
        """Return every restart's arguments of ``simulate``, differentiable in the variables."""
        return [self.space.decode(self._of(k)) for k in range(self.number)]

    def _of(self, restart: int) -> dict[str, Tensor]:
        return {name: variable[restart] for name, variable in self.variables.items()}

    @torch.no_grad()
    def _project(self) -> None:
        """Move every restart's variables to where they may be; one that has stopped stays at its best."""
        for k, stopped in enumerate(self.stopped):
            self.space.project(self._of(k))
            if stopped is not None:
                for name, variable in self.variables.items():
                    variable[k] = self.best_variables[k][name]

    def _remember(self, objectives: list[float], distances: list[float]) -> None:
        """Keep what is better than before, or, of sampled parts, the last; end what has a reason to end."""
        self.evaluations += 1
        for k in range(self.number):
            if self.stopped[k] is None:
                self.history[k].append(objectives[k])
                if objectives[k] < self.best_objective[k] or self.rows is not None:
                    self.best_objective[k], self.distances[k] = objectives[k], distances[k]
                    self.best_variables[k] = _copied(self._of(k))
        if self.keep and _on_grid(self.evaluations - 1):
            self._keep_frame()
        for k in range(self.number):
            if self.stopped[k] is None:
                if not (math.isfinite(objectives[k]) and objectives[k] <= 1e6 * abs(self.history[k][0])):
                    self.stopped[k] = "diverged"
                elif self.attack.tolerance > 0 and self.distances[k] <= self.attack.tolerance * self.scale:
                    self.stopped[k], self.over = "tolerance", True
        if time.perf_counter() > self.deadline:
            self.over = True
        if self.over:
            rest = "another restart" if "tolerance" in self.stopped else "time limit"
            self.stopped = [reason or rest for reason in self.stopped]
        self._end_if_done()

    def _end_if_done(self) -> None:
        if None not in self.stopped:
            raise _Over

    def _keep_frame(self) -> None:
        frame = [self.best_arguments(k)["inputs"].clone() for k in range(self.number)]
        self.frames.append((self.evaluations - 1, frame))


class _Over(Exception):
    """Every restart has a reason to stop."""


def _copied(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: variable.detach().clone() for name, variable in variables.items()}


def _on_grid(evaluation: int) -> bool:
    """Say whether this evaluation is one to keep a frame of: every one at first, then ever fewer, 10 % apart."""
    return evaluation < 10 or int(math.log(evaluation, 1.1)) > int(math.log(evaluation - 1, 1.1))


def _thinned(frames: list[tuple[int, Tensor]], number: int) -> tuple[tuple[int, Tensor], ...]:
    if len(frames) <= number:
        return tuple(frames)
    chosen = torch.linspace(0, len(frames) - 1, number).round().long().tolist()
    return tuple(frames[k] for k in chosen)


def built(ingredient: Any, seen: Observed) -> Any:
    """Return what an ingredient builds for an observation, or itself if it builds nothing."""
    return ingredient.build(seen) if hasattr(ingredient, "build") else ingredient
