"""A layer as a linear system in its input: what its weights say about it, and what its weight gradient says.

For a convolution z = W * x + b with delta = dL/dz, two maps are linear in the input x: the convolution itself, which
must return z - b, and the weight gradient, the correlation of x with delta, which must return the shared dL/dW. Stacked
they are one system (Zhu and Blaschko, 2021). Both maps are products with the input's patches, so the matrix is
never stored; the library solver is LSMR (Fong and Saunders, 2011), in float64, on the device of the layer's tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, lsmr
from torch import Tensor, nn

EXACT_RANK_UP_TO = 1024
"""Unknowns up to which ``solve`` measures rank and condition by a singular value decomposition, by default."""


_WORTH_A_THREAD = 30_000_000  # multiplications


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The input of one layer, and how far to trust it.

    Args:
        x: The input, float64, in its shape; of all that solve the system, the one of least norm.
        unknowns: Values of ``x``.
        equations: Rows of the system.
        rank: Of the system's matrix: measured by its singular values if ``measured``, else the bound of
            :meth:`ConvSystem.rank_bound`, which generic weights attain.
        measured: Whether ``rank`` was measured.
        condition: Ratio of the largest singular value to the smallest that is not zero, of the system as it is solved,
            that is with its blocks and columns scaled; LSMR's estimate, from below, where the rank was not measured.
        residual: Norm of what the solution leaves unexplained over the norm of the right-hand side, both scaled.
        iterations: Of LSMR.
    """

    x: Tensor = field(repr=False)
    unknowns: int
    equations: int
    rank: int
    measured: bool
    condition: float
    residual: float
    iterations: int

    @property
    def deficiency(self) -> int:
        """How many directions of the input the layer does not determine."""
        return self.unknowns - self.rank


@dataclass(frozen=True, kw_only=True)
class ConvSystem:
    """The system of one convolution, matrix-free: ``matvec`` multiplies by it, ``rmatvec`` by its transpose.

    Padding is exact: only the pixels inside are unknown.

    Args:
        weight: Filters, shape (out, in / groups, height, width), float64.
        delta: Gradient of the loss in the layer's output, shape (out, rows, columns); ``None`` leaves the gradient's
            rows out.
        input_shape: (in, height, width).
        stride: Vertical, horizontal.
        padding: Zeros on the left, right, top and bottom.
        dilation: Vertical, horizontal.
        groups: Groups of channels.

    Chapter: convolution. Source: zhu2021; survey section 2.2.
    """

    weight: Tensor = field(repr=False)
    delta: Tensor | None = field(repr=False)
    input_shape: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, layer: nn.Conv2d, input_shape: tuple[int, ...], delta: Tensor | None) -> ConvSystem:
        """Return the system of a PyTorch layer.

        Raises:
            ValueError: The layer pads with anything but zeros, or the shapes do not fit it.
        """
        if layer.padding_mode != "zeros":
            raise ValueError(f"layer: got padding_mode {layer.padding_mode!r}, wanted 'zeros'")
        left, right, top, bottom = layer._reversed_padding_repeated_twice
        system = cls(
            weight=layer.weight.detach().double(),
            delta=None if delta is None else delta.detach().double(),
            input_shape=tuple(input_shape),
            stride=(int(layer.stride[0]), int(layer.stride[1])),
            padding=(left, right, top, bottom),
            dilation=(int(layer.dilation[0]), int(layer.dilation[1])),
            groups=layer.groups,
        )
        if len(input_shape) != 3 or input_shape[0] != layer.in_channels:
            raise ValueError(f"input_shape: got {tuple(input_shape)}, wanted ({layer.in_channels}, height, width)")
        if delta is not None and tuple(delta.shape) != system.output_shape:
            raise ValueError(f"delta: got shape {tuple(delta.shape)}, wanted {system.output_shape}")
        return system

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(out, rows, columns)."""
        _, height, width = self._padded
        sides = [
            (side - span * (kernel - 1) - 1) // step + 1
            for side, span, kernel, step in zip(
                (height, width), self.dilation, self.weight.shape[2:], self.stride, strict=True
            )
        ]
        return (len(self.weight), *sides)

    @property
    def shape(self) -> tuple[int, int]:
        """Equations, unknowns."""
        rows = int(np.prod(self.output_shape)) + (0 if self.delta is None else self.weight.numel())
        return rows, int(np.prod(self.input_shape))

    def outputs(self, x: Tensor) -> Tensor:
        """The weight constraints: return the convolution of ``x``, without bias."""
        return (self._filters(self.weight) @ self._patches(x)).view(self.output_shape)

    def weight_gradient(self, x: Tensor) -> Tensor:
        """The gradient constraints: return the weight gradient that the input ``x`` would have, given delta."""
        assert self.delta is not None
        return (self._places(self.delta) @ self._patches(x).mT).view(self.weight.shape)

    def transposed(self, filters: Tensor, output: Tensor) -> Tensor:
        """Return the transpose of the convolution with ``filters``, applied to ``output``, in the input's shape."""
        return self._folded(self._filters(filters).mT @ self._places(output))

    def matvec(self, x: Tensor) -> Tensor:
        """Return the system's matrix times an input: outputs first, then the weight gradient, shape (equations,)."""
        patches = self._patches(x)
        rows = (self._filters(self.weight) @ patches).flatten()
        if self.delta is None:
            return rows
        return torch.cat([rows, (self._places(self.delta) @ patches.mT).flatten()])

    def rmatvec(self, rows: Tensor) -> Tensor:
        """Return the transposed matrix times a vector of as many values as there are equations, shape (unknowns,)."""
        outputs = int(np.prod(self.output_shape))
        patches = self._filters(self.weight).mT @ self._places(rows[:outputs])
        if self.delta is not None:
            patches = patches + self._filters(rows[outputs:]).mT @ self._places(self.delta)
        return self._folded(patches).flatten()

    def _patches(self, x: Tensor) -> Tensor:
        """Return what the filters see of an input at every place, shape (groups, values of a patch, places)."""
        padded = F.pad(x.view(1, *self.input_shape), self.padding)
        patches = F.unfold(padded, tuple(self.weight.shape[2:]), self.dilation, 0, self.stride)
        return patches.view(self.groups, -1, patches.shape[-1])

    def _folded(self, patches: Tensor) -> Tensor:
        """Return the transpose of ``_patches``: the sum of all patches at their places, in the input's shape."""
        left, right, top, bottom = self.padding
        _, height, width = self._padded
        flat = patches.reshape(1, -1, patches.shape[-1])
        padded = F.fold(flat, (height, width), tuple(self.weight.shape[2:]), self.dilation, 0, self.stride)[0]
        return padded[:, top : height - bottom, left : width - right]

    def _filters(self, filters: Tensor) -> Tensor:
        """Return values in the weight's shape as (groups, filters of a group, values of a patch)."""
        return filters.reshape(self.groups, len(self.weight) // self.groups, -1)

    def _places(self, output: Tensor) -> Tensor:
        """Return values in the output's shape as (groups, filters of a group, places)."""
        return output.reshape(self.groups, len(self.weight) // self.groups, -1)

    def column_norms(self) -> tuple[Tensor, Tensor]:
        """Return the squared norm of every column, of the outputs' and of the gradient's rows, shape (unknowns,)."""
        ones = self.weight.new_ones(self.output_shape)
        outputs = self.transposed(self.weight.square(), ones).flatten()
        if self.delta is None:
            return outputs, torch.zeros_like(outputs)
        return outputs, self.transposed(torch.ones_like(self.weight), self.delta.square()).flatten()

    def dense(self) -> Tensor:
        """Return the matrix itself, (equations, unknowns): for small systems and for comparison."""
        unit = torch.eye(self.shape[1], dtype=self.weight.dtype, device=self.weight.device)
        return torch.func.vmap(self.matvec, chunk_size=256)(unit).T

    def rank_bound(self) -> int:
        """Return the rank that the system cannot exceed, and that generic weights attain.

        Outputs plus the rank of the gradient's rows, less the relations between the two: for output channels o and p of
        a group, the gradient of filter o in the direction of filter p is delta of o times output p, whatever the input.
        These are (channels x rank of delta) relations. The gradient's rows see every input channel through the same
        matrix, the shifts of delta; where a stride lets many filter positions meet few pixels, its rank is not full.
        """
        outputs, of_gradient = self.column_norms()
        rank = int(np.prod(self.output_shape))
        if self.delta is not None:
            for delta in self.delta.chunk(self.groups):
                rank += self.weight.shape[1] * self._rank_of_shifts(delta) - len(delta) * _rank(delta.flatten(1))
        return min(rank, int((outputs + of_gradient > 0).sum()))

    def _rank_of_shifts(self, delta: Tensor) -> int:
        """Return the rank of the map from one input channel to its part of the weight gradient."""
        _, height, width = self._padded
        left, right, top, bottom = self.padding
        kernel = tuple(self.weight.shape[2:])
        shifts = delta.new_zeros(len(delta), *kernel, height, width)
        (down, across), (step_down, step_across) = self.dilation, self.stride
        _, rows, columns = delta.shape
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                window = shifts[:, i, j, i * down :: step_down, j * across :: step_across]
                window[:, :rows, :columns] = delta
        matrix = shifts[..., top : height - bottom, left : width - right].flatten(3).flatten(0, 2)
        return _rank(matrix)

    @property
    def _padded(self) -> tuple[int, int, int]:
        left, right, top, bottom = self.padding
        channels, height, width = self.input_shape
        return channels, height + top + bottom, width + left + right


def solve(
    system: ConvSystem,
    outputs: Tensor,
    gradient: Tensor | None,
    *,
    tolerance: float = 1e-15,
    iterations: int = 20_000,
    exact_rank_up_to: int = EXACT_RANK_UP_TO,
) -> Solution:
    """Solve a layer's system for its input by least squares.

    The gradient's rows are scaled to the norm of the outputs' rows, and every column to norm one.

    Args:
        system: The layer.
        outputs: What the convolution must return, bias subtracted, shape (out, rows, columns).
        gradient: What the weight gradient must be; ``None`` if the system has no such rows.
        tolerance: Of LSMR, relative to the right-hand side and to the matrix.
        iterations: At most this many, from 1.
        exact_rank_up_to: Measure rank and condition by singular values up to this many unknowns.

    Raises:
        ValueError: A right-hand side is missing, does not fit, or is not finite.

    Chapter: convolution. Source: zhu2021; fong2011.
    """
    if (system.delta is None) != (gradient is None):
        raise ValueError(f"gradient: got {'none' if gradient is None else 'one'}, and the system has it otherwise")
    wanted = {"outputs": (outputs, system.output_shape)}
    if gradient is not None:
        wanted["gradient"] = (gradient, tuple(system.weight.shape))
    for name, (value, shape) in wanted.items():
        if tuple(value.shape) != shape:
            raise ValueError(f"{name}: got shape {tuple(value.shape)}, wanted {shape}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}: got NaN or infinite values, wanted finite ones")
    of_outputs, of_gradient = system.column_norms()
    ratio = float(of_outputs.sum() / of_gradient.sum()) if float(of_gradient.sum()) > 0 else 0.0
    rows = torch.ones(system.shape[0], dtype=torch.float64, device=system.weight.device)
    rows[outputs.numel() :] = ratio**0.5
    norms = (of_outputs + ratio * of_gradient).sqrt()
    columns = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
    right = torch.cat([value.double().flatten() for value, _ in wanted.values()]) * rows

    scaled = Scaled(
        matvec=lambda v: rows * system.matvec(columns * v),
        rmatvec=lambda u: columns * system.rmatvec(rows * u),
        shape=system.shape,
        device=system.weight.device,
    )
    with _threads_for(system.weight.numel() * int(np.prod(system.output_shape[1:]))):
        found = scaled.solve(right, tolerance=tolerance, iterations=iterations)
    bound = system.rank_bound()
    measured = system.shape[1] <= exact_rank_up_to
    rank, condition = bound, found.condition
    if measured:
        values = torch.linalg.svdvals(rows[:, None] * system.dense() * columns)
        rank = int((values > 1e-12 * values[0] * max(system.shape) ** 0.5).sum())
        condition = float(values[0] / values[rank - 1]) if rank else float("inf")
    return Solution(
        x=(columns * found.x).view(system.input_shape),
        unknowns=system.shape[1],
        equations=system.shape[0],
        rank=rank,
        measured=measured,
        condition=condition,
        residual=found.residual,
        iterations=found.iterations,
    )


@dataclass(frozen=True)
class Found:
    """What LSMR returns: solution, condition estimate, relative residual, iterations."""

    x: Tensor
    condition: float
    residual: float
    iterations: int


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Any linear map of flat float64 tensors, with its transpose, as the library's solver wants it."""

    matvec: Callable[[Tensor], Tensor]
    rmatvec: Callable[[Tensor], Tensor]
    shape: tuple[int, int]
    device: torch.device

    def dense(self) -> Tensor:
        """Return the matrix itself, column by column."""
        unit = torch.eye(self.shape[1], dtype=torch.float64, device=self.device)
        return torch.stack([self.matvec(column) for column in unit], dim=1)

    def solve(self, right: Tensor, *, tolerance: float, iterations: int) -> Found:
        """Return the least-squares solution of least norm."""

        def lifted(map_: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
            return lambda v: map_(torch.from_numpy(np.ravel(v)).to(self.device)).cpu().numpy()

        operator = LinearOperator(self.shape, lifted(self.matvec), lifted(self.rmatvec), dtype=np.float64)
        norm = float(right.norm())
        if norm == 0:
            return Found(right.new_zeros(self.shape[1]), 1.0, 0.0, 0)
        x, _, count, left, _, _, condition, _ = lsmr(
            operator, right.cpu().numpy(), atol=tolerance, btol=tolerance, conlim=0, maxiter=iterations
        )
        return Found(torch.from_numpy(x).to(self.device), float(condition), float(left) / norm, int(count))


@contextmanager
def _threads_for(multiplications: int) -> Iterator[None]:
    """Compute on one thread while a product is small: to wake a second one takes longer than the product itself."""
    threads = torch.get_num_threads()
    if multiplications < _WORTH_A_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rank(matrix: Tensor) -> int:
    """Return the rank, by the Gram matrix of the rows brought to norm one: to about 1e-6 of the largest value."""
    norms = matrix.norm(dim=1, keepdim=True)
    matrix = matrix / torch.where(norms > 0, norms, torch.ones_like(norms))
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    values = torch.linalg.eigvalsh(gram)
    return int((values > 1e-13 * values[-1] * len(gram)).sum()) if float(values[-1]) > 0 else 0
