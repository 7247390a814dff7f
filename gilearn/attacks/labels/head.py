"""The gradient of the last fully connected layer, which all label rules read."""

from __future__ import annotations

from torch import Tensor, nn

from gilearn.federated import Observation


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


def last_layer_gradient(seen: Observation) -> Tensor:
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
