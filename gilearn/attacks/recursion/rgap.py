"""R-GAP (Zhu and Blaschko, 2021): walk a chain of layers back from its loss to its input, one linear system each."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gilearn.attacks.base import Reconstruction, residual
from gilearn.attacks.recursion.chain import Link, denormalized, links, walk_back
from gilearn.attacks.recursion.heads import heads
from gilearn.attacks.recursion.systems import EXACT_RANK_UP_TO, ConvSystem, Solution, solve
from gilearn.federated import Observation


class RankWarning(UserWarning):
    """A layer does not determine its input: what comes back is the input of least norm, and wrong."""


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What the recursion found at one layer; see :class:`gilearn.attacks.recursion.systems.Solution`.

    Args:
        layer: The module's name.
        unknowns: Values of its input.
        equations: Rows of its system.
        rank: Of the system.
        measured: Whether ``rank`` was measured, or is the bound that generic weights attain.
        condition: Of the scaled system; an estimate from below where the rank was not measured.
        residual: Relative, of the scaled system.
        iterations: Of the solver.
    """

    layer: str
    unknowns: int
    equations: int
    rank: int
    measured: bool
    condition: float
    residual: float
    iterations: int

    @property
    def deficiency(self) -> int:
        """How many directions of the layer's input its system leaves open."""
        return self.unknowns - self.rank


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a walk stands: value and loss gradient at the output of the next layer to go through, and its story.

    Args:
        value: At this place of the network, for one example, float64.
        delta: Gradient of the loss there, same shape.
        label: That the walk started from.
        branch: Which solution of the head's equation it started from.
        reports: One for every solved layer so far, last layer first.
    """

    value: Tensor = field(repr=False)
    delta: Tensor = field(repr=False)
    label: int | None
    branch: str
    reports: tuple[LayerReport, ...] = ()


Step = Callable[[list[Link], State], tuple[State, int]]
"""Goes back from the output of the chain's last link; returns the state at an earlier input and the links it took."""


@dataclass(frozen=True, kw_only=True)
class Recursion:
    """Recover the input of a chain of convolutions, fully connected layers and invertible activations.

    Exact, to the precision of float64 times the layers' conditions, for one example, if every layer's system has full
    column rank. Every start that explains the last layer is tried, and the one whose systems are consistent is kept.
    Some are consistent twins: without biases, a network of LeakyReLUs gives a picture and a multiple of it the same
    gradient, one of tanh a picture and its negative. Then what the attacker knows of the values decides: of the twins
    in range the brightest, or else the one that leaves the range least.

    Args:
        value_range: Least and largest value of an input.
        tolerance: Of the solver, relative.
        iterations: Of the solver per layer, from 1.
        exact_rank_up_to: Measure rank and condition of a layer by singular values up to this many unknowns; beyond,
            report the bound that generic weights attain. Measuring takes memory of 16 bytes x unknowns x equations.

    Raises:
        ValueError: A number is out of range.

    Chapter: r-gap. Source: zhu2021; survey section 2.2.
    """

    value_range: tuple[float, float] = (0.0, 1.0)
    tolerance: float = 1e-15
    iterations: int = 20_000
    exact_rank_up_to: int = EXACT_RANK_UP_TO

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance: got {self.tolerance}, wanted 0 to 1")
        if self.iterations < 1:
            raise ValueError(f"iterations: got {self.iterations}, wanted at least 1")

    def __call__(self, seen: Observation) -> Reconstruction:
        """Run the attack.

        Returns:
            The input, (1, *input_shape), float64; of a batch (fully connected networks only) the mixture of its inputs.
            ``details["layers"]`` holds a :class:`LayerReport` for every layer, ``details["branch"]`` the solution of
            the head's equation that was taken, ``details["deficiency"]`` the directions that stay open, summed.

        Raises:
            ValueError: A layer cannot be walked back, or a gradient that the recursion needs was withheld or is zero.

        Warns:
            RankWarning: A layer does not determine its input.
        """
        return recur(self, seen, self.step)

    def step(self, chain: list[Link], state: State) -> tuple[State, int]:
        """Go back through the chain's last link."""
        link = chain[-1]
        if not link.solves:
            value, delta = walk_back(link, state.value, state.delta)
            return State(value=value, delta=delta, label=state.label, branch=state.branch, reports=state.reports), 1
        if isinstance(link.module, nn.Linear):
            value, report = _linear(link, state.delta, state.value)
            weight = link.module.weight.detach()
            delta = weight.T @ (state.delta if link.bias_gradient is None else link.bias_gradient)
        else:
            system = system_of(link, state.delta)
            found = self.solve(link, system, state.value)
            value, delta, report = found.x, system.transposed(system.weight, state.delta), _report(link.name, found)
        return State(
            value=value, delta=delta, label=state.label, branch=state.branch, reports=(*state.reports, report)
        ), 1

    def solve(self, link: Link, system: ConvSystem, value: Tensor) -> Solution:
        """Solve a convolution's system for the layer's output ``value``."""
        assert isinstance(link.module, nn.Conv2d)
        bias = 0 if link.module.bias is None else link.module.bias.detach().view(-1, 1, 1)
        return solve(
            system,
            value - bias,
            link.weight_gradient,
            tolerance=self.tolerance,
            iterations=self.iterations,
            exact_rank_up_to=self.exact_rank_up_to,
        )


def recur(attack: Recursion, seen: Observation, step: Step) -> Reconstruction:
    """Walk back from every start that explains the last layer, drop those that do not fit, return the one that does."""
    began = time.perf_counter()
    chain = links(seen)
    declared = seen.knowledge.get("labels")
    label = int(declared) if declared is not None and declared.numel() == 1 else None
    last = chain[-1]
    assert isinstance(last.module, nn.Linear)
    walks: list[tuple[int, State]] = []
    for head in heads(last, loss=seen.loss, batch_size=seen.batch_size, label=label):
        report = LayerReport(
            layer=last.name,
            unknowns=head.features.numel(),
            equations=last.module.weight.numel(),
            rank=head.features.numel(),
            measured=True,
            condition=1.0,
            residual=_outer_misfit(last, head.delta, head.features),
            iterations=0,
        )
        delta = last.module.weight.detach().T @ head.delta
        start = State(value=head.features, delta=delta, label=head.label, branch=head.branch, reports=(report,))
        walks.append((len(chain) - 1, start))
    while any(at > 0 for at, _ in walks):
        furthest = max(at for at, _ in walks)
        moved = []
        for at, state in walks:
            if at == furthest:
                state, taken = step(chain[:at], state)
                at -= taken
            moved.append((at, state))
        walks = _consistent(moved)
    state = _chosen(seen, [state for _, state in walks], attack.value_range)
    for report in state.reports:
        if report.deficiency:
            warnings.warn(
                f"layer {report.layer!r}: its system has rank {report.rank} for {report.unknowns} unknowns, "
                f"{report.deficiency} directions of its input stay open",
                RankWarning,
                stacklevel=3,
            )
    inputs = denormalized(seen, state.value[None])
    found = None if state.label is None else torch.tensor([state.label], device=seen.device)
    return Reconstruction(
        inputs=inputs,
        labels=found,
        residual=_mismatch(seen, state),
        seconds=time.perf_counter() - began,
        attack=repr(attack),
        details={
            "layers": state.reports,
            "branch": state.branch,
            "deficiency": sum(report.deficiency for report in state.reports),
        },
    )


def system_of(link: Link, delta: Tensor) -> ConvSystem:
    """Return a convolution's system; without the gradient's rows where its gradient was withheld."""
    assert isinstance(link.module, nn.Conv2d)
    return ConvSystem.of(link.module, link.input_shape, None if link.weight_gradient is None else delta)


def _linear(link: Link, delta: Tensor, value: Tensor) -> tuple[Tensor, LayerReport]:
    """Divide at a fully connected layer; with a bias, by the bias gradient, whatever the walk brought along."""
    assert isinstance(link.module, nn.Linear)
    weight, gradient = link.module.weight.detach(), link.weight_gradient
    delta = delta if link.bias_gradient is None else link.bias_gradient
    if gradient is not None and (delta != 0).any():
        x = gradient.T @ delta / (delta @ delta)
        rank, misfit = x.numel(), _outer_misfit(link, delta, x)
    else:  # the weights alone
        right = value if link.module.bias is None else value - link.module.bias.detach()
        x = torch.linalg.lstsq(weight, right[:, None], driver="gelsd" if weight.device.type == "cpu" else None)[0][:, 0]
        rank, misfit = int(torch.linalg.matrix_rank(weight)), float((weight @ x - right).norm() / right.norm())
    report = LayerReport(
        layer=link.name,
        unknowns=x.numel(),
        equations=len(weight) + (0 if gradient is None else gradient.numel()),
        rank=rank,
        measured=True,
        condition=1.0,
        residual=misfit,
        iterations=0,
    )
    return x, report


def _outer_misfit(link: Link, delta: Tensor, x: Tensor) -> float:
    assert link.weight_gradient is not None
    return float((link.weight_gradient - torch.outer(delta, x)).norm() / link.weight_gradient.norm())


def _report(name: str, found: Solution) -> LayerReport:
    return LayerReport(
        layer=name,
        unknowns=found.unknowns,
        equations=found.equations,
        rank=found.rank,
        measured=found.measured,
        condition=found.condition,
        residual=found.residual,
        iterations=found.iterations,
    )


def _consistent(walks: list[tuple[int, State]]) -> list[tuple[int, State]]:
    """Drop the walks whose worst system so far leaves far more unexplained than the best walk's."""
    worst = [max(report.residual for report in state.reports) for _, state in walks]
    best = min(worst)
    return [walk for walk, left in zip(walks, worst, strict=True) if left <= max(100 * best, 1e-9) or best > 0.1]


def _chosen(seen: Observation, states: list[State], value_range: tuple[float, float]) -> State:
    """Choose by what the attacker can compute: the mismatch with the shared gradient; between twins, by the range."""
    if len(states) == 1:
        return states[0]
    scores = [_mismatch(seen, state) for state in states]
    best = min(scores)
    twins = [state for state, score in zip(states, scores, strict=True) if score <= max(100 * best, 1e-9)]

    def preference(state: State) -> tuple[float, float]:
        inputs = denormalized(seen, state.value[None])
        outside = float((inputs - inputs.clamp(*value_range)).square().mean().sqrt())
        return -round(outside, 3), float(inputs.sum())

    return max(twins, key=preference)


def _mismatch(seen: Observation, state: State) -> float:
    if state.label is None:
        return max(report.residual for report in state.reports)
    inputs = denormalized(seen, state.value[None])
    return residual(seen.to(dtype=torch.float64), inputs, torch.tensor([state.label], device=seen.device))


RGAP = Recursion()
"""The attack of Zhu and Blaschko (2021) as the survey's Table 1 names it: inverse matrix, ConvNet, one example.

Chapter: r-gap. Source: zhu2021.
"""
