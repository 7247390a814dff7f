"""A layer as a linear system in its input: what its weights say about it, and what its weight gradient says.

For a convolution z = W * x + b with delta = dL/dz, two maps are linear in the input x: the convolution itself, which
must return z - b, and the weight gradient, the correlation of x with delta, which must return the shared dL/dW. Stacked
they are one system (Zhu and Blaschko, 2021). Both maps are products with the input's patches, so the matrix is
never stored; the library solver is LSMR (Fong and Saunders, 2011), in float64, on the device of the layer's tensors.
A fully connected layer needs no solver: its weight gradient is the outer product of delta and the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gilearn.linear.algebra import LinearMap, float64, gram_rank, rank_and_condition

EXACT_RANK_UP_TO = 1024
"""Unknowns up to which ``solve`` measures rank and condition by a singular value decomposition, by default."""

_WORTH_A_THREAD = 30_000_000  # multiplications


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How far to trust what a layer's system says about its input.

    Args:
        unknowns: Values of the input.
        equations: Rows of the system.
        rank: Of the system's matrix: measured by its singular values if ``measured``, else the bound of
            :meth:`ConvSystem.rank_bound`, which it cannot exceed.
        measured: Whether ``rank`` was measured.
        condition: Ratio of the largest singular value to the smallest that is not zero, of the system as it is solved:
            with its blocks scaled, and its columns if all of them are determined. LSMR's estimate, from below, where
            the rank was not measured.
        residual: Norm of what the solution leaves unexplained over the norm of the right-hand side, both scaled.
        iterations: Of LSMR.
    """

    unknowns: int
    equations: int
    rank: int
    measured: bool
    condition: float
    residual: float
    iterations: int

    @property
    def deficiency(self) -> int:
        """How many directions of the input the system leaves open; at least as many if not ``measured``."""
        return self.unknowns - self.rank


@dataclass(frozen=True, kw_only=True)
class Solution(Trust):
    """The input of one layer, and how far to trust it.

    Args:
        x: The input, float64, in its shape. Where ``rank`` is below ``unknowns``: of all that solve the system as well,
            the one of least norm.
    """

    x: Tensor = field(repr=False)


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
        known: Which outputs are known, bool, in the output's shape; the others are no equations. ``None`` for all.

    Chapter: convolution. Source: zhu2021; survey section 2.2.
    """

    weight: Tensor = field(repr=False)
    delta: Tensor | None = field(repr=False)
    input_shape: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    known: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, layer: nn.Conv2d, input_shape: tuple[int, ...], delta: Tensor | None, known: Tensor | None = None
    ) -> ConvSystem:
        """Return the system of a PyTorch layer.

        Raises:
            ValueError: The layer pads with anything but zeros, or the shapes do not fit it.
        """
        if layer.padding_mode != "zeros":
            raise ValueError(f"layer: got padding_mode {layer.padding_mode!r}, wanted 'zeros'")
        left, right, top, bottom = layer._reversed_padding_repeated_twice
        system = cls(
            weight=float64(layer.weight),
            delta=None if delta is None else float64(delta),
            input_shape=tuple(input_shape),
            stride=(int(layer.stride[0]), int(layer.stride[1])),
            padding=(left, right, top, bottom),
            dilation=(int(layer.dilation[0]), int(layer.dilation[1])),
            groups=layer.groups,
            known=known,
        )
        if len(input_shape) != 3 or input_shape[0] != layer.in_channels:
            raise ValueError(f"input_shape: got {tuple(input_shape)}, wanted ({layer.in_channels}, height, width)")
        for name, value in (("delta", delta), ("known", known)):
            if value is not None and tuple(value.shape) != system.output_shape:
                raise ValueError(f"{name}: got shape {tuple(value.shape)}, wanted {system.output_shape}")
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
        return self.num_outputs + (0 if self.delta is None else self.weight.numel()), int(np.prod(self.input_shape))

    @property
    def num_outputs(self) -> int:
        """How many outputs are known: the rows that come first."""
        return int(np.prod(self.output_shape)) if self._kept is None else len(self._kept)

    @cached_property
    def _kept(self) -> Tensor | None:
        return None if self.known is None else self.known.flatten().nonzero().flatten()

    def kept(self, output: Tensor) -> Tensor:
        """Return the known ones of values in the output's shape, flat."""
        return output.flatten() if self._kept is None else output.flatten()[self._kept]

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
        """Return the system's matrix times an input: known outputs, then the weight gradient, shape (equations,)."""
        patches = self._patches(x)
        rows = self.kept(self._filters(self.weight) @ patches)
        if self.delta is None:
            return rows
        return torch.cat([rows, (self._places(self.delta) @ patches.mT).flatten()])

    def rmatvec(self, rows: Tensor) -> Tensor:
        """Return the transposed matrix times a vector of as many values as there are equations, shape (unknowns,)."""
        outputs = rows[: self.num_outputs]
        if self._kept is not None:
            outputs = rows.new_zeros(int(np.prod(self.output_shape))).index_put((self._kept,), outputs)
        patches = self._filters(self.weight).mT @ self._places(outputs)
        if self.delta is not None:
            patches = patches + self._filters(rows[self.num_outputs :]).mT @ self._places(self.delta)
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
        ones = self.weight.new_ones(self.output_shape) if self.known is None else self.known.to(self.weight)
        outputs = self.transposed(self.weight.square(), ones).flatten()
        if self.delta is None:
            return outputs, torch.zeros_like(outputs)
        return outputs, self.transposed(torch.ones_like(self.weight), self.delta.square()).flatten()

    def dense(self) -> Tensor:
        """Return the matrix itself, (equations, unknowns): for small systems and for comparison."""
        unit = torch.eye(self.shape[1], dtype=self.weight.dtype, device=self.weight.device)
        return torch.func.vmap(self.matvec, chunk_size=256)(unit).T

    def gradient_scale(self) -> float:
        """Return the factor that brings the gradient's rows to the norm of the outputs' rows."""
        outputs, gradient = (float(norms.sum()) for norms in self.column_norms())
        return float((outputs / gradient) ** 0.5) if outputs > 0 and gradient > 0 else 1.0

    def rank_bound(self) -> int:
        """Return the rank that the system cannot exceed, and that generic weights attain if all outputs are known.

        Known outputs plus the rank of the gradient's rows, less the relations between the two: for output channels o
        and p of a group, the gradient of filter o in the direction of filter p is delta of o times output p, whatever
        the input. These are (channels x rank of delta) relations, of which those count that need known outputs only.
        The gradient's rows see every input channel through the same matrix, the shifts of delta; where a stride lets
        many filter positions meet few pixels, its rank is not full.
        """
        outputs, of_gradient = self.column_norms()
        rank = self.num_outputs
        if self.delta is not None:
            known = torch.ones_like(self.delta, dtype=torch.bool) if self.known is None else self.known
            for delta, mask in zip(self.delta.chunk(self.groups), known.chunk(self.groups), strict=True):
                rank += self.weight.shape[1] * self._rank_of_shifts(delta)
                flat = delta.flatten(1)
                rank -= len(delta) * gram_rank(flat) - sum(gram_rank(flat[:, ~m]) for m in mask.flatten(1))
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
        return gram_rank(matrix)

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

    The gradient's rows are scaled to the norm of the outputs' rows, and every column to norm one, which the solution
    does not notice. Where a column scaling would change it, because directions stay open, there is none.

    Args:
        system: The layer.
        outputs: What the convolution must return, bias subtracted, shape (out, rows, columns); read where it is known.
        gradient: What the weight gradient must be; ``None`` if the system has no such rows.
        tolerance: Of LSMR, relative to the right-hand side and to the matrix.
        iterations: At most this many, from 1.
        exact_rank_up_to: Measure rank and condition by singular values up to this many unknowns.

    Raises:
        ValueError: A right-hand side is missing, does not fit, or is not finite.

    Chapter: convolution. Source: zhu2021; fong2011.
    """
    right = _right_hand_side(system, outputs, gradient)
    rows = torch.ones_like(right)
    rows[system.num_outputs :] = system.gradient_scale()
    of_outputs, of_gradient = system.column_norms()
    norms = (of_outputs + system.gradient_scale() ** 2 * of_gradient).sqrt()
    columns = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
    rank, condition = system.rank_bound(), None
    measured = system.shape[1] <= exact_rank_up_to
    if measured:
        matrix = rows[:, None] * system.dense()
        rank, condition = rank_and_condition(matrix * columns)
    if rank < system.shape[1]:
        columns = torch.ones_like(columns)
        condition = rank_and_condition(matrix)[1] if measured else None
    scaled = LinearMap(
        matvec=lambda v: rows * system.matvec(columns * v),
        rmatvec=lambda u: columns * system.rmatvec(rows * u),
        shape=system.shape,
        device=system.weight.device,
    )
    with _threads_for(system.weight.numel() * int(np.prod(system.output_shape[1:]))):
        found = scaled.solve(rows * right, tolerance=tolerance, iterations=iterations)
    return Solution(
        x=(columns * found.x).view(system.input_shape),
        unknowns=system.shape[1],
        equations=system.shape[0],
        rank=rank,
        measured=measured,
        condition=found.condition if condition is None else condition,
        residual=found.residual,
        iterations=found.iterations,
    )


def _right_hand_side(system: ConvSystem, outputs: Tensor, gradient: Tensor | None) -> Tensor:
    if (system.delta is None) != (gradient is None):
        raise ValueError(f"gradient: got {'none' if gradient is None else 'one'}, and the system has it otherwise")
    if tuple(outputs.shape) != system.output_shape:
        raise ValueError(f"outputs: got shape {tuple(outputs.shape)}, wanted {system.output_shape}")
    parts = {"outputs": system.kept(float64(outputs))}
    if gradient is not None:
        if gradient.shape != system.weight.shape:
            raise ValueError(f"gradient: got shape {tuple(gradient.shape)}, wanted {tuple(system.weight.shape)}")
        parts["gradient"] = float64(gradient).flatten()
    for name, value in parts.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}: got NaN or infinite values, wanted finite ones")
    return torch.cat(list(parts.values()))


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
