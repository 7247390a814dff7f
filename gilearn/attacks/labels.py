"""Label extraction (survey, section 2.1.1): read the labels off the gradient of the last fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gilearn.federated import Observation


@runtime_checkable
class LabelRule(Protocol):
    """Anything that reads the labels of a batch off an observation."""

    def __call__(self, seen: Observation) -> Tensor:
        """Return the labels (batch,), int64, or raise a ``ValueError`` that says why this rule cannot."""
        ...


@dataclass(frozen=True)
class Declared:
    """The labels that the threat model hands to the attacker: no extraction at all. Chapter: deep-leakage."""

    def __call__(self, seen: Observation) -> Tensor:
        """Return the declared labels, or raise a ``ValueError`` if the observation declares none."""
        labels: Tensor = seen.known("labels")
        return labels


@dataclass(frozen=True)
class IDLG:
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
        if seen.batch_size != 1:
            raise ValueError(f"seen: got a batch of {seen.batch_size}; iDLG's rule is for one example")
        weight, bias = last_layer(seen)
        if seen.loss == "logistic":
            return _negative(bias).long()
        if weight is None:
            raise ValueError("seen: the weight gradient of the last layer is withheld, and iDLG's rule reads it")
        rows = weight.double()
        products = rows @ rows.T
        products.fill_diagonal_(-torch.inf)
        fits = (products <= 0).all(dim=1) & (rows != 0).any(dim=1)
        if int(fits.sum()) == 2 and bias is not None:  # two rows that point apart: only their bias tells which is which
            fits &= _negative(bias)
        if int(fits.sum()) != 1:
            raise ValueError(
                f"seen: {int(fits.sum())} classes fit iDLG's rule, wanted one (soft labels? noise? two classes?)"
            )
        return fits.nonzero().flatten()


def last_layer(seen: Observation) -> tuple[Tensor | None, Tensor | None]:
    """Return the shared gradient of the last fully connected layer: weight (classes, features) and bias (classes,).

    Either is ``None`` where the client withheld it, or where there is no bias.

    Raises:
        ValueError: The model ends in no fully connected layer.
    """
    linear = [module for module in seen.model.modules() if isinstance(module, nn.Linear)]
    outputs = seen.num_classes if seen.loss == "cross_entropy" else 1
    if not linear or linear[-1].out_features != outputs:
        raise ValueError(f"seen: the model's last layer is no nn.Linear with {outputs} outputs, which label rules need")
    return seen.gradient_of(linear[-1].weight), seen.gradient_of(linear[-1].bias)


def _negative(bias: Tensor | None) -> Tensor:
    """Say for each output whether its bias gradient is negative, as it is for the true class alone."""
    if bias is None or not (bias != 0).any():
        raise ValueError(
            "seen: the bias gradient of the last layer is withheld, absent or zero, and the label hides in it"
        )
    return bias < 0
