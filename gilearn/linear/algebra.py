"""Linear algebra in float64: divisions by an outer product, ranks, and least squares with maps instead of matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, lsmr
from torch import Tensor

RANK_TOLERANCE = 1e-10
"""Singular values below this share of the largest count as zero. Rounding leaves less than 1e-13 of it in the place of
a zero; of a direction weaker than this, float64 returns no more than six digits."""

GRAM_TOLERANCE = 1e-13
"""The same for the eigenvalues of a matrix times its transpose. They are the squares of the singular values, so
rounding leaves 1e-15 where there should be zero, and singular values below 3e-7 cannot be told from it."""


def float64(tensor: Tensor) -> Tensor:
    """Return a detached tensor in float64: on its own device, or on the CPU where the device has no such type (MPS)."""
    return tensor.detach().to(float64_device(tensor.device)).double()


def float64_device(device: torch.device) -> torch.device:
    """Return the device that computes in float64 for this one: itself, or the CPU for MPS."""
    return torch.device("cpu") if device.type == "mps" else device


def divide(weight_gradient: Tensor, delta: Tensor) -> Tensor:
    """Return the input of a fully connected layer, (inputs,): the x whose outer product with delta is nearest to dL/dW.

    Args:
        weight_gradient: dL/dW, shape (outputs, inputs).
        delta: dL/dz at the layer's output, which is dL/db, shape (outputs,), not all zero.

    Chapter: perceptron. Source: phong2018.
    """
    return (delta @ weight_gradient) / (delta @ delta)


def outer_residual(weight_gradient: Tensor, delta: Tensor, x: Tensor) -> float:
    """Return what the outer product of delta and x leaves unexplained of dL/dW, over its norm; over 1 if that is 0."""
    size = float(weight_gradient.norm())
    return float((weight_gradient - torch.outer(delta, x)).norm()) / (size or 1.0)


def rank_and_condition(matrix: Tensor) -> tuple[int, float]:
    """Return the rank of a matrix, and its largest singular value over the smallest that counts."""
    values = torch.linalg.svdvals(matrix)
    rank = int((values > RANK_TOLERANCE * values[0]).sum()) if len(values) else 0
    return rank, float(values[0] / values[rank - 1]) if rank else float("inf")


def gram_rank(matrix: Tensor) -> int:
    """Return the rank, by the Gram matrix of the rows brought to norm one."""
    if 0 in matrix.shape:
        return 0
    norms = matrix.norm(dim=1, keepdim=True)
    matrix = matrix / torch.where(norms > 0, norms, torch.ones_like(norms))
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    values = torch.linalg.eigvalsh(gram)
    return int((values > GRAM_TOLERANCE * values[-1]).sum()) if float(values[-1]) > 0 else 0


def least_squares(matrix: Tensor, right: Tensor) -> Tensor:
    """Return the least-squares solution of least norm, (columns,), of a matrix at hand and a vector (rows,)."""
    if 0 in matrix.shape:
        return right.new_zeros(matrix.shape[1])
    if matrix.device.type != "cpu":
        solution: Tensor = torch.linalg.pinv(matrix, rtol=RANK_TOLERANCE) @ right
    else:
        solution = torch.linalg.lstsq(matrix, right[:, None], rcond=RANK_TOLERANCE, driver="gelsy").solution[:, 0]
    return solution


@dataclass(frozen=True)
class LsmrResult:
    """What LSMR returns: solution, condition estimate, relative residual, iterations."""

    x: Tensor
    condition: float
    residual: float
    iterations: int


@dataclass(frozen=True, kw_only=True)
class LinearMap:
    """Any linear map of flat float64 tensors, with its transpose, as the library's solver wants it."""

    matvec: Callable[[Tensor], Tensor]
    rmatvec: Callable[[Tensor], Tensor]
    shape: tuple[int, int]
    device: torch.device

    def solve(self, right: Tensor, *, tolerance: float, iterations: int) -> LsmrResult:
        """Return the least-squares solution of least norm."""

        def lifted(map_: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
            return lambda v: map_(torch.from_numpy(np.ravel(v)).to(self.device)).cpu().numpy()

        operator = LinearOperator(self.shape, lifted(self.matvec), lifted(self.rmatvec), dtype=np.float64)
        norm = float(right.norm())
        if norm == 0:
            return LsmrResult(right.new_zeros(self.shape[1]), 1.0, 0.0, 0)
        x, _, count, left, _, _, condition, _ = lsmr(
            operator, right.cpu().numpy(), atol=tolerance, btol=tolerance, conlim=0, maxiter=iterations
        )
        return LsmrResult(torch.from_numpy(x).to(self.device), float(condition), float(left) / norm, int(count))
