"""R-GAP (Zhu and Blaschko, 2021): walk a chain of layers back from its loss to its input, one linear system each."""

from __future__ import annotations

import dataclasses
import time
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gilearn.attacks.base import Attack, Reconstruction, residual
from gilearn.attacks.recursion.activations import walk_back
from gilearn.attacks.recursion.chain import Link, denormalized, in_float64, links, one_client
from gilearn.attacks.recursion.heads import heads
from gilearn.attacks.recursion.reports import LayerReport, remarks
from gilearn.attacks.verdict import EXPLAINED, Verdict, judge
from gilearn.federated import Observation, Observed
from gilearn.linear import (
    EXACT_RANK_UP_TO,
    ConvSystem,
    Solution,
    divide,
    least_squares,
    outer_residual,
    rank_and_condition,
    solve,
)


@dataclass(frozen=True, kw_only=True)
class State:
    """State of a backward recursion: the next layer's output, the loss's gradient in it, the reports so far.

    Args:
        value: At this place of the network, for one example, float64.
        delta: Gradient of the loss there, same shape.
        label: That the walk started from.
        branch: Which solution of the head's equation it started from.
        reports: One for every solved layer so far, last layer first.
        known: Where ``value`` is known, bool, same shape; ``None`` for everywhere.
    """

    value: Tensor = field(repr=False)
    delta: Tensor = field(repr=False)
    label: int | None
    branch: str
    reports: tuple[LayerReport, ...] = ()
    known: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Recursion(Attack):
    """Recover the input of a chain of convolutions, fully connected layers, ReLUs and invertible activations.

    Exact, to the precision of float64 times the layers' conditions, for one example, if every layer's system has full
    column rank. Every start that explains the last layer is tried, and the one whose systems are consistent is kept.
    Some are consistent twins: without biases, a network of LeakyReLUs gives a picture and a multiple of it the same
    gradient, one of tanh a picture and its negative. Then what the attacker knows of the values decides: of the twins
    in range the brightest, or else the one that leaves the range least.

    It computes in float64, whatever the model's type, and returns float64: on the model's device, or on the CPU where
    the device has no such type (MPS).

    Args:
        value_range: Least and largest value of an input.
        tolerance: Of the solver, relative.
        iterations: Of the solver per layer, from 1.
        exact_rank_up_to: Measure rank and condition of a layer by singular values up to this many unknowns; beyond,
            report a bound from above, which generic weights attain. Measuring takes memory of 16 bytes x unknowns x
            equations.

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

    def reconstruct(
        self, seen: Observed, *, seed: int, snapshots: int, progress: bool, time_limit: float | None
    ) -> Reconstruction:
        """Run the attack; it draws nothing and has no steps, so that the options have no effect.

        Returns:
            The input, (1, *input_shape), float64; of a batch (fully connected networks only) the mixture of its inputs.
            ``residual`` is the mismatch of the gradient; of a batch, which has no single label, that of its worst
            system. ``details["layers"]`` holds a :class:`LayerReport` for every layer, with the residuals of the
            systems; ``details["branch"]`` the solution of the head's equation that was taken, ``details["deficiency"]``
            the directions that stay open, summed, and ``details["twins"]`` all inputs in the range of values that
            explain the gradient, the returned one first, if there are several; else it is empty.

        Raises:
            ValueError: A layer cannot be walked back, or a gradient that the recursion needs was withheld or is zero.

        Warns:
            RankWarning: A layer does not determine its input.
            SaturationWarning: An activation's outputs lie at its bounds.
            TwinWarning: Several inputs in range explain the gradient.
        """
        return _recur(self, one_client(seen))

    def step(self, chain: list[Link], state: State) -> tuple[State, int]:
        """Go back through the chain's last link; return the state at an earlier input and the links that took."""
        link = chain[-1]
        if not link.solves:
            back = walk_back(link, state.value, state.delta, state.known)
            last = state.reports[-1]
            told = dataclasses.replace(
                last, saturated=last.saturated + back.saturated, violation=max(last.violation, back.violation)
            )
            return dataclasses.replace(
                state, value=back.value, delta=back.delta, known=back.known, reports=(*state.reports[:-1], told)
            ), 1
        if isinstance(link.module, nn.Linear):
            value, report = _linear(link, state)
            weight = link.module.weight.detach()
            delta = weight.T @ (state.delta if link.bias_gradient is None else link.bias_gradient)
        else:
            system = system_of(link, state)
            found = self.solve(link, system, state.value)
            dropped = 0 if system.known is None else int((~system.known).sum())
            trust = {name: told for name, told in vars(found).items() if name != "x"}
            report = LayerReport(layer=link.name, dropped=dropped, **trust)
            value, delta = found.x, system.transposed(system.weight, state.delta)
        return dataclasses.replace(state, value=value, delta=delta, known=None, reports=(*state.reports, report)), 1

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


def _recur(attack: Recursion, seen: Observation) -> Reconstruction:
    """Walk back from every start that explains the last layer, drop those that do not fit, return the one that does."""
    began = time.perf_counter()
    chain = links(seen)
    walks = [(len(chain) - 1, state) for state in _starts(seen, chain[-1])]
    while any(at > 0 for at, _ in walks):
        furthest = max(at for at, _ in walks)
        moved = []
        for at, state in walks:
            if at == furthest:
                state, taken = attack.step(chain[:at], state)
                at -= taken
            moved.append((at, state))
        walks = _consistent(moved)
    state, mismatch, twins = _chosen(seen, [state for _, state in walks], attack.value_range)
    inputs = denormalized(seen, state.value[None])
    labels = None if state.label is None else torch.tensor([state.label], device=seen.device)
    said = remarks(state.reports, len(twins))
    for warning in said:
        warnings.warn(warning, stacklevel=5)  # the line that calls the attack
    arguments = None if labels is None else {"inputs": inputs.to(seen.device, seen.dtype), "targets": labels}
    return Reconstruction(
        inputs=inputs,
        labels=labels,
        residual=mismatch,
        seconds=time.perf_counter() - began,
        attack=repr(attack),
        verdict=_verdict(attack, seen, arguments, mismatch, [str(warning) for warning in said]),
        details={
            "layers": state.reports,
            "branch": state.branch,
            "deficiency": sum(report.deficiency for report in state.reports),
            "twins": twins,
        },
    )


def system_of(link: Link, state: State) -> ConvSystem:
    """Return a convolution's system: of the known outputs, and of its gradient unless that was withheld."""
    assert isinstance(link.module, nn.Conv2d)
    delta = None if link.weight_gradient is None else state.delta
    return ConvSystem.of(link.module, link.input_shape, delta, state.known)


def _starts(seen: Observation, last: Link) -> list[State]:
    """Return the state in front of the last layer, for every solution of the last layer's equation."""
    declared = seen.knowledge.get("labels")
    label = int(declared) if declared is not None and declared.numel() == 1 else None
    assert isinstance(last.module, nn.Linear)
    states = []
    for head in heads(last, loss=seen.loss, batch_size=seen.batch_size, label=label):
        assert last.weight_gradient is not None  # heads refuses a withheld one
        report = LayerReport(
            layer=last.name,
            unknowns=head.features.numel(),
            equations=last.module.weight.numel(),
            rank=head.features.numel(),
            measured=True,
            condition=1.0,
            residual=outer_residual(last.weight_gradient, head.delta, head.features),
            iterations=0,
        )
        delta = last.module.weight.detach().T @ head.delta
        states.append(State(value=head.features, delta=delta, label=head.label, branch=head.branch, reports=(report,)))
    return states


def _linear(link: Link, state: State) -> tuple[Tensor, LayerReport]:
    """Divide at a fully connected layer; with a bias, by the bias gradient, whatever the walk brought along."""
    assert isinstance(link.module, nn.Linear)
    weight, gradient = link.module.weight.detach(), link.weight_gradient
    delta = state.delta if link.bias_gradient is None else link.bias_gradient
    dropped, condition = 0, 1.0
    if gradient is not None and (delta != 0).any():
        x = divide(gradient, delta)
        rank, misfit = x.numel(), outer_residual(gradient, delta, x)
    else:  # the weights alone
        right = state.value if link.module.bias is None else state.value - link.module.bias.detach()
        if state.known is not None:
            dropped = int((~state.known).sum())
            weight, right = weight[state.known], right[state.known]
        x = least_squares(weight, right)
        rank, condition = rank_and_condition(weight)
        misfit = float((weight @ x - right).norm() / right.norm()) if right.any() else 0.0
    report = LayerReport(
        layer=link.name,
        unknowns=x.numel(),
        equations=len(weight) + (0 if gradient is None else gradient.numel()),
        rank=rank,
        measured=True,
        condition=condition,
        residual=misfit,
        iterations=0,
        dropped=dropped,
    )
    return x, report


def _consistent(walks: list[tuple[int, State]]) -> list[tuple[int, State]]:
    """Drop the walks whose worst layer so far fits far worse than the best walk's."""
    worst = [max(report.misfit for report in state.reports) for _, state in walks]
    best = min(worst)
    return [walk for walk, left in zip(walks, worst, strict=True) if left <= max(100 * best, 1e-9) or best > 0.1]


def _chosen(
    seen: Observation, states: list[State], value_range: tuple[float, float]
) -> tuple[State, float, tuple[Tensor, ...]]:
    """Choose by what the attacker can compute: the mismatch with the shared gradient; between twins, by the range.

    Return the state, its mismatch, and all inputs if several explain the gradient and lie in the range.
    """
    double = in_float64(seen)
    scored = [(_mismatch(double, state), state, denormalized(seen, state.value[None])) for state in states]
    best = min(score for score, _, _ in scored)
    twins = [walk for walk in scored if walk[0] <= max(100 * best, 1e-9)]

    def outside(inputs: Tensor) -> float:
        return round(float((inputs - inputs.clamp(*value_range)).square().mean().sqrt()), 3)

    twins.sort(key=lambda walk: (outside(walk[2]), -float(walk[2].sum())))
    score, state, inputs = twins[0]
    others = [
        other
        for _, _, other in twins[1:]
        if outside(other) == 0 and float((other - inputs).norm()) > _SAME * float(inputs.norm())
    ]
    undecided = others and outside(inputs) == 0 and best < EXPLAINED
    return state, score, (inputs, *others) if undecided else ()


def _mismatch(double: Observation, state: State) -> float:
    if state.label is None:
        return max(report.residual for report in state.reports)
    inputs = denormalized(double, state.value[None])
    return residual(double, inputs, torch.tensor([state.label], device=double.device))


def _verdict(
    attack: Attack, seen: Observation, arguments: dict[str, Tensor] | None, mismatch: float, said: list[str]
) -> Verdict:
    """Return the verdict on the mismatch, with what the walk knows beside it."""
    verdict = judge(attack, seen, arguments=arguments, residual=mismatch, restarts=())
    if verdict.explained:
        return dataclasses.replace(verdict, reason=" ".join([verdict.reason, *(f"But {remark}." for remark in said)]))
    return dataclasses.replace(verdict, causes=(*(f"{remark}." for remark in said), *verdict.causes))


_SAME = 1e-6  # inputs that differ by less, relatively, are one


RGAP = Recursion()
"""The attack of Zhu and Blaschko (2021) as the survey's Table 1 names it: inverse matrix, ConvNet, one example.

Chapter: r-gap. Source: zhu2021.
"""
