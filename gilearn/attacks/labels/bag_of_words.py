"""Bags of words: the classes that occur, from the column space of the last layer's gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog, lsq_linear
from torch import Tensor

from gilearn.attacks.labels.base import LabelRule
from gilearn.attacks.labels.batch import counts_system, labels_of, rounded
from gilearn.attacks.labels.head import examples, last_layer_gradient
from gilearn.federated import Observation


@dataclass(frozen=True, kw_only=True)
class RLG(LabelRule):
    """The classes that occur, from the columns of the gradient: Revealing Labels from Gradients (Dang et al., 2021).

    The weight gradient of the last layer (classes x features) is (derivatives of the logits) x (features). Its column
    space is that of the derivatives, whatever the features' signs; and every example's derivative is negative at its
    own label alone. So for a class that occurs, some vector of the column space is negative there and nowhere else; a
    linear program finds it. The converse does not hold: a class can pass without occurring, the more often the closer
    the examples come to classes - 1, where every class passes.

    It needs fewer examples than classes and features: S examples, time steps or local steps' examples in all, with
    S < min(features, classes - 1).

    Args:
        tolerance: Singular values below this share of the largest count as zero. Examples that repeat a label have
            small ones; float32 leaves about 1e-8.

    Raises:
        ValueError: ``tolerance`` is not between 0 and 1.

    Chapter: labels-bag-of-words. Source: dang2021. Component: ``scipy.optimize.linprog`` (HiGHS).
    """

    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance: got {self.tolerance}, wanted between 0 and 1")

    def __call__(self, seen: Observation) -> Tensor:
        """Return the labels (batch,), of sequences (batch x length,), int64, ascending.

        Where a class repeats, the counts are those that explain the bias gradient best, as in :class:`ILRG`, with every
        present class at least once and no other.

        Raises:
            ValueError: As :meth:`present`; or there are fewer classes than examples, and no bias gradient to count by.
        """
        present, number = self.present(seen), examples(seen)
        if len(present) > number:
            raise ValueError(f"seen: {len(present)} classes fit a batch of {number}: the rank was misjudged")
        if len(present) == number:
            return present
        system, right = counts_system(seen)
        spare = number - len(present)
        right = right - system[:, present].sum(dim=1)
        more = lsq_linear(system[:, present].numpy(), right.numpy(), bounds=(0, spare)).x
        counts = torch.zeros(system.shape[1], dtype=torch.float64)
        counts[present] = 1 + rounded(torch.from_numpy(more), spare).double()
        return labels_of(counts.long())

    def present(self, seen: Observation) -> Tensor:
        """Return the classes that occur, int64, ascending: the bag of words of a batch or a sentence.

        Raises:
            ValueError: The rank is not below classes - 1 and features, no class can be told, or the weight gradient is
                withheld.
        """
        gradient = last_layer_gradient(seen)
        _, values, basis = torch.linalg.svd(gradient.T, full_matrices=False)  # features x classes
        rank = int((values > self.tolerance * values[0]).sum())
        most = min(gradient.shape[0] - 1, gradient.shape[1])
        if rank >= most:
            raise ValueError(
                f"seen: the gradient has rank {rank}; this rule needs less than {most} (features or classes)"
            )
        columns = basis[:rank].T  # one per class
        sizes = columns.norm(dim=1, keepdim=True)
        # Of length one, since HiGHS drops entries below 1e-9; what is smaller than float32's rounding has no direction.
        columns = torch.where(sizes > 1e-7, columns / sizes, 0).numpy()
        found = [c for c in range(len(columns)) if _separable(columns, c)]
        if not found:
            raise ValueError("seen: no class stands apart from the others; is this the gradient of hard labels?")
        return torch.tensor(found)


def _separable(columns: np.ndarray, c: int) -> bool:
    """Say whether a hyperplane through the origin has column c alone on its negative side (the others may touch it)."""
    signs = -columns.copy()
    signs[c] = columns[c]
    bounds = np.zeros(len(columns))
    bounds[c] = -1.0
    found = linprog(np.zeros(columns.shape[1]), A_ub=signs, b_ub=bounds, bounds=(None, None), method="highs")
    return bool(found.status == 0)
