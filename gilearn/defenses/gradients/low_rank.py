"""A defense that compresses what is shared to low-rank factors: PowerSGD (survey, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gilearn.defenses.gradients.feedback import Compression, check_fits, check_own, width
from gilearn.federated import Client, Defense, Gradients, Observation
from gilearn.federated.checks import check_whole


@dataclass(frozen=True, kw_only=True)
class PowerSGD(Compression):
    """Share every matrix M as two factors: P with orthonormal columns, and Q = M'P, so that a server decodes P Q'.

    P is the orthonormal basis of M Q with the last round's Q, the first being drawn from a normal distribution: one
    step of the power iteration a round. A convolution's kernel is a matrix (out channels, the rest). Tensors of one
    axis are shared as they are. Each client has its own factors here, where workers that add up their gradients would
    average P before Q is computed.

    Args:
        rank: Columns of the factors, from 1; at most the smaller side of a matrix.
        feedback: Add what the factors leave out to the next round's gradient, as the original does.

    Raises:
        ValueError: The rank is no whole number, or below 1.

    Chapter: compression. Source: vogels2019, algorithms 1 and 2.
    """

    rank: int
    feedback: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("rank", self.rank)

    def compressed(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the products of the factors."""
        warm = client.memory.setdefault("factors", {})
        return tuple(
            g if g is None or g.ndim < 2 else self._product(g, client, warm, k) for k, g in enumerate(gradients)
        )

    def bits(self, shared: Gradients) -> int:
        """Return the bits of the factors, or of a matrix itself where it has fewer numbers."""
        return sum(width(g) * self._numbers(g) for g in shared if g is not None)

    def public(self, seen: Observation) -> Defense:
        """Return the projection on the columns of P, which a server has: the first round's factors are P P'M."""
        return Projection(bases=tuple(self._basis(g) for g in seen.shared))

    def factors(self, matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Return P (rows, rank), orthonormal, and Q (columns, rank), from a matrix and the last Q."""
        left = torch.linalg.qr(matrix @ right).Q
        return left, matrix.T @ left

    def _product(self, gradient: Tensor, client: Client, warm: dict[int, Tensor], k: int) -> Tensor:
        matrix = gradient.flatten(1)
        if k not in warm:
            warm[k] = client.draw(matrix.new_empty(matrix.shape[1], min(self.rank, *matrix.shape)))
        left, right = self.factors(matrix, warm[k])
        warm[k] = right.detach()
        return (left @ right.T).view_as(gradient)

    def _numbers(self, gradient: Tensor) -> int:
        if gradient.ndim < 2:
            return gradient.numel()
        rows, columns = gradient.flatten(1).shape
        return min(gradient.numel(), min(self.rank, rows, columns) * (rows + columns))

    def _basis(self, shared: Tensor | None) -> Tensor | None:
        """Return an orthonormal basis of the columns of what was shared, as far as they are not rounding."""
        if shared is None or shared.ndim < 2:
            return None
        left, values, _ = torch.linalg.svd(shared.flatten(1), full_matrices=False)
        tolerance = max(shared.flatten(1).shape) * torch.finfo(shared.dtype).eps
        basis: Tensor = left[:, : min(self.rank, int((values > tolerance * values[0]).sum()))]
        return basis


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection(Defense):
    """Share the projection of every matrix on given columns; a linear map, which a search can simulate.

    Args:
        bases: One matrix (rows, rank) with orthonormal columns per parameter; ``None`` lets a tensor pass.

    Raises:
        ValueError: They are no tuple of matrices.

    Chapter: compression.
    """

    bases: tuple[Tensor | None, ...] = field(repr=False)

    def __post_init__(self) -> None:
        check_own("bases", self.bases, "matrices")
        for basis in self.bases:
            if basis is not None and basis.ndim != 2:
                raise ValueError(f"bases: got one of shape {tuple(basis.shape)}, wanted matrices (rows, rank)")

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the projected gradients.

        Raises:
            ValueError: There are not as many bases as gradients, or one does not fit.
        """
        check_fits("bases", self.bases, gradients, axes=1)
        pairs = zip(gradients, self.bases, strict=True)
        return tuple(g if g is None or basis is None else _projected(g, basis.to(g)) for g, basis in pairs)

    def public(self, seen: Observation) -> Defense:
        """Return this projection."""
        return self


def _projected(gradient: Tensor, basis: Tensor) -> Tensor:
    return (basis @ (basis.T @ gradient.flatten(1))).view_as(gradient)
