"""COPA (Chen and Campbell, 2021): where a layer leaves directions open, its predecessor closes them.

R-GAP solves layer by layer. A layer whose system has fewer independent rows than its input has values leaves directions
open. But that input is the output of an earlier layer, and not every value can be one: an earlier convolution that puts
out more numbers than it takes in reaches only a subspace, and has a weight gradient of its own. COPA pulls these
constraints forward to the open directions. They are linear up to the signs that a piecewise-linear activation turns at,
so Gauss-Newton solves for them: solve, look at the signs, solve again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gilearn.attacks.recursion.activations import is_relu, walk_back
from gilearn.attacks.recursion.chain import Link
from gilearn.attacks.recursion.reports import LayerReport
from gilearn.attacks.recursion.rgap import Recursion, State, system_of
from gilearn.linear import GRAM_TOLERANCE, RANK_TOLERANCE, ConvSystem, least_squares, rank_and_condition


@dataclass(frozen=True, kw_only=True)
class PullBack(Recursion):
    """R-GAP with pull-back: the directions that a convolution leaves open are closed by the convolution before it.

    Where all ranks are full this is R-GAP. Our reading of the paper's abstract: its exact functional is not in the text
    that we work from. The pull-back reaches one convolution back, through any activations that have an inverse (a
    ReLU has none), and holds the layer's matrix in memory: 32 bytes x the square of its unknowns.

    A layer whose open directions were closed, or tried to, has a report with both layers' names; its rank counts both
    layers' constraints, and ``iterations`` are those of Gauss-Newton.

    Args:
        steps: Gauss-Newton steps per pull-back, from 1.
        pull_back_up_to: Unknowns of a layer up to which it is tried; beyond, the layer is solved as R-GAP does.

    Chapter: copa. Source: chen2021; survey section 2.2.
    """

    steps: int = 40
    pull_back_up_to: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "pull_back_up_to"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least 1")

    def step(self, chain: list[Link], state: State) -> tuple[State, int]:
        """Go back through the chain's last link, with the help of the convolution before it where it needs one."""
        link = chain[-1]
        if isinstance(link.module, nn.Conv2d):
            system = system_of(link, state)
            earlier = next((k for k in range(len(chain) - 2, -1, -1) if chain[k].solves), None)
            if earlier is not None and isinstance(chain[earlier].module, nn.Conv2d):
                wanting = system.rank_bound() < system.shape[1] <= self.pull_back_up_to
                if wanting and not any(is_relu(between.module) for between in chain[earlier:]):
                    return self._pulled_back(chain[earlier:], system, state), 1
        return super().step(chain, state)

    def _pulled_back(self, chain: list[Link], system: ConvSystem, state: State) -> State:
        """Solve for the input of the last of these links, with what the first says about it."""
        start, directions, left_over = self._open(chain[-1], system, state.value)
        delta = system.transposed(system.weight, state.delta)
        earlier = PullBackConstraints(chain[:-1], delta)
        coefficients = torch.zeros(directions.shape[1], dtype=torch.float64, device=start.device)
        # Reachability alone is exact in the signs that the layer already fixes; the gradient joins in afterwards, if at
        # all: with wrong signs its rows mislead.
        closed, spread = 0, float("inf")
        courses: list[tuple[float, ...]] = []
        for with_gradient in (False, True):
            coefficients, misfit, tangent, course = self._newton(
                earlier, start, directions, coefficients, with_gradient
            )
            courses.append(course)
            closed, spread = rank_and_condition(tangent)
            if closed == len(coefficients) or not earlier.implies_gradient:
                break
        report = LayerReport(
            layer=f"{chain[0].name} + {chain[-1].name}",
            unknowns=len(start),
            equations=system.shape[0] + len(misfit),
            rank=len(start) - len(coefficients) + closed,
            measured=True,
            condition=spread,
            residual=max(left_over, float(misfit.norm()) / earlier.size),
            iterations=sum(len(course) - 1 for course in courses),
            dropped=0 if system.known is None else int((~system.known).sum()),
            courses=tuple(courses),
        )
        value = (start + directions @ coefficients).view(system.input_shape)
        return dataclasses.replace(state, value=value, delta=delta, known=None, reports=(*state.reports, report))

    def _newton(
        self, earlier: PullBackConstraints, start: Tensor, directions: Tensor, coefficients: Tensor, with_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor, tuple[float, ...]]:
        """Move along the open directions until the earlier layer's constraints hold, or no step helps."""
        misfit, tangent = earlier.constraints(start + directions @ coefficients, directions, with_gradient)
        course = [float(misfit.norm()) / earlier.size]
        while len(course) <= self.steps and float(misfit.norm()) > 1e-14 * earlier.size:
            move = least_squares(tangent, misfit)
            length = 1.0
            while length > 1e-3:
                moved = coefficients - length * move
                there = earlier.constraints(start + directions @ moved, directions, with_gradient)
                if there[0].norm() < misfit.norm():
                    break
                length /= 2
            else:
                break
            gained = float(misfit.norm() / there[0].norm().clamp_min(1e-300))
            coefficients, (misfit, tangent) = moved, there
            course.append(float(misfit.norm()) / earlier.size)
            if gained < 1.001:
                break
        return coefficients, misfit, tangent, tuple(course)

    def _open(self, link: Link, system: ConvSystem, value: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return the layer's solution of least norm, a basis of the directions it leaves open, and the residual."""
        found = self.solve(link, system, value)
        matrix = system.dense()
        matrix[system.num_outputs :] *= system.gradient_scale()
        values, vectors = torch.linalg.eigh(matrix.T @ matrix)
        bound = system.rank_bound()
        wide = int((values <= GRAM_TOLERANCE * values[-1]).sum())
        directions = vectors[:, : max(wide, system.shape[1] - bound)]
        x = found.x.flatten()
        return x - directions @ (directions.T @ x), directions, found.residual


COPA = PullBack()
"""The attack of Chen and Campbell (2021) as the survey's Table 1 names it: least squares, pull-back constraints.

Chapter: copa. Source: chen2021.
"""


class PullBackConstraints:
    """What the links before a layer say about its input: which inputs they reach, and which gradient those imply.

    Args:
        chain: A convolution and the activations after it.
        delta: Gradient of the loss at the end of this chain.
    """

    def __init__(self, chain: list[Link], delta: Tensor) -> None:
        self.first, self.after, self.delta = chain[0], chain[1:], delta
        assert isinstance(self.first.module, nn.Conv2d)
        bias = self.first.module.bias
        self.bias = None if bias is None else bias.detach().view(-1, 1, 1)
        matrix = ConvSystem.of(self.first.module, self.first.input_shape, None).dense()
        rows, unknowns = matrix.shape
        basis, triangle = torch.linalg.qr(matrix, mode="complete" if rows >= unknowns else "reduced")
        diagonal = triangle.diagonal().abs()
        self.determined = rows >= unknowns and bool(diagonal.min() > RANK_TOLERANCE * diagonal.max())
        if self.determined:
            self.unreachable = basis[:, unknowns:].T
            self.split = basis[:, :unknowns], triangle[:unknowns]
        else:
            left, sizes, _ = torch.linalg.svd(matrix, full_matrices=True)
            self.unreachable = left[:, int((sizes > RANK_TOLERANCE * sizes[0]).sum()) :].T
        self.implies_gradient = self.determined and self.first.weight_gradient is not None
        self.size = 1.0

    def constraints(self, x: Tensor, directions: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """Return by how much an input violates the constraints, and the derivative of that along the directions."""
        value, slope = x.view(self.delta.shape), torch.ones_like(self.delta)
        for link in reversed(self.after):
            value, slope, *_ = walk_back(link, value, slope)
        moved = directions / slope.flatten()[:, None]
        output = (value if self.bias is None else value - self.bias).flatten()
        self.size = float(output.norm())
        misfit, tangent = self.unreachable @ output, self.unreachable @ moved
        if not (with_gradient and self.implies_gradient):
            return misfit, tangent
        assert isinstance(self.first.module, nn.Conv2d)
        assert self.first.weight_gradient is not None
        gradient = self.first.weight_gradient
        system = ConvSystem.of(self.first.module, self.first.input_shape, slope * self.delta)
        scale = self.size / float(gradient.norm())
        of_gradient = scale * (system.weight_gradient(self._input(output[:, None])[:, 0]) - gradient).flatten()
        pulled = torch.func.vmap(system.weight_gradient, chunk_size=256)(self._input(moved).T)
        return torch.cat([misfit, of_gradient]), torch.cat([tangent, scale * pulled.flatten(1).T])

    def _input(self, outputs: Tensor) -> Tensor:
        """Return the inputs of the earlier layer that put out the columns, as nearly as any do."""
        basis, triangle = self.split
        inputs: Tensor = torch.linalg.solve_triangular(triangle, basis.T @ outputs, upper=True)
        return inputs
