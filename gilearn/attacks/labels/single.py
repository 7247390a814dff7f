"""One example: its label from the signs of the last layer's gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gilearn.attacks.labels.base import LabelRule
from gilearn.attacks.labels.head import examples, last_layer
from gilearn.federated import Observation


@dataclass(frozen=True, kw_only=True)
class IDLG(LabelRule):
    """The label of a single example from the signs of inner products, as iDLG extracts it.

    With one example every row of the last layer's weight gradient is a multiple of the same features, and only the true
    class has a negative factor: its row is the one whose inner products with all others are not positive.

    Chapter: deep-leakage, labels-single. Source: zhao2020; survey, section 2.1.1.
    """

    def __call__(self, seen: Observation) -> Tensor:
        """Return the label, shape (1,), int64.

        Raises:
            ValueError: There is more than one example, the gradient of the last layer is withheld or zero, or not
                exactly one class fits (soft labels, noise; two classes without a bias).
        """
        if examples(seen) != 1:
            raise ValueError(f"seen: got a batch of {examples(seen)}; iDLG's rule is for one example")
        weight, bias = last_layer(seen)
        if seen.loss == "logistic":
            return _negative(bias).long()
        if weight is None:
            raise ValueError("seen: the weight gradient of the last layer is withheld, and iDLG's rule reads it")
        rows = weight.detach().cpu().double()
        products = rows @ rows.T
        products.fill_diagonal_(-torch.inf)
        fits = (products <= 0).all(dim=1) & (rows != 0).any(dim=1)
        # Two rows that point apart, or one that is left after rounding: only the bias tells which is the label's.
        if bias is not None and (int(fits.sum()) == 2 or int((rows != 0).any(dim=1).sum()) == 1):
            fits &= _negative(bias)
        if int(fits.sum()) != 1:
            raise ValueError(
                f"seen: {int(fits.sum())} classes fit iDLG's rule, wanted one (soft labels? noise? two classes?)"
            )
        return fits.nonzero().flatten()


def _negative(bias: Tensor | None) -> Tensor:
    """Say for each output whether its bias gradient is negative, as it is for the true class alone."""
    if bias is None or not (bias != 0).any():
        raise ValueError(
            "seen: the bias gradient of the last layer is withheld, absent or zero, and the label hides in it"
        )
    return bias.detach().cpu() < 0
