"""What a label rule is, and the gradient of the last layer, which all of them read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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


def rows(seen: Observation) -> Tensor:
    """Return the last layer's weight gradient (classes, features), float64 on the CPU."""
    if seen.loss != "cross_entropy":
        raise ValueError(f"seen: got the loss {seen.loss!r}; this rule is for cross_entropy")
    weight, _ = last_layer(seen)
    if weight is None:
        raise ValueError("seen: the weight gradient of the last layer is withheld, and this rule reads it")
    if not (weight != 0).any():
        raise ValueError("seen: the weight gradient of the last layer is zero")
    return weight.detach().cpu().double()


def last_linear(seen: Observation) -> nn.Linear:
    """Return the last fully connected layer, or raise a ``ValueError`` if the model does not end in one."""
    last_layer(seen)  # refuses a model that ends otherwise
    return [module for module in seen.model.modules() if isinstance(module, nn.Linear)][-1]
