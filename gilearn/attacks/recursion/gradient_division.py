"""PPDL-AHE, attack part (Phong et al., 2018): the input of a fully connected layer is one gradient over another.

For a layer z = W x + b, whatever follows it, dL/dW = delta x' and dL/db = delta with delta = dL/dz. One division
returns x. Everything here computes and returns float64: on the model's device, or on the CPU where the device has no
such type (MPS).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from gilearn.attacks.base import Attack, Reconstruction
from gilearn.attacks.recursion.chain import denormalized, in_float64, one_client
from gilearn.federated import Observation, Observed
from gilearn.hooks import recorded_inputs
from gilearn.linear import divide, float64, outer_residual
from gilearn.models import unwrapped


@dataclass(frozen=True, kw_only=True)
class GradientDivision(Attack):
    """Recover the input of a network whose first layer is fully connected and has a bias.

    Exact for one example, whatever follows the layer. A batch comes back as a mixture of its inputs, weighted by their
    deltas; ``residual`` then tells that the layer's gradient is no outer product.

    Args:
        rows: ``"least_squares"`` combines all neurons, which suffers less from noise than any single one; ``"largest"``
            divides at the neuron with the largest bias gradient.
        weight_decay: The factor w of a penalty w/2 ||parameters||^2 in the client's loss, not negative; its gradient is
            subtracted first.

    Raises:
        ValueError: ``rows`` is unknown, or ``weight_decay`` negative.

    Chapter: perceptron. Source: phong2018; survey section 2.2.
    """

    rows: Literal["least_squares", "largest"] = "least_squares"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_rows(self.rows)
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: got {self.weight_decay}, wanted 0 or more")

    def reconstruct(
        self, seen: Observed, *, seed: int, snapshots: int, progress: bool, time_limit: float | None
    ) -> Reconstruction:
        """Run the attack; it draws nothing and has no steps, so that the options have no effect.

        Returns:
            The input, shape (1, *input_shape), float64. ``residual`` is what the division leaves unexplained of the
            layer's weight gradient; ``details`` holds the name of the layer and its number of live neurons.

        Raises:
            ValueError: The first layer is not fully connected, has no bias or was withheld, or all its bias gradients
                are zero.
        """
        began = time.perf_counter()
        double = in_float64(one_client(seen))
        name, layer = _first_layer(double)
        weight, bias = _layer_gradients(double, layer, name)
        weight = weight - self.weight_decay * layer.weight.detach()
        bias = bias - self.weight_decay * layer.bias.detach()
        x = layer_input(weight, bias, rows=self.rows)
        return Reconstruction(
            inputs=denormalized(double, x.view(1, *seen.input_shape)),
            labels=None,
            residual=outer_residual(weight, bias, x),
            seconds=time.perf_counter() - began,
            attack=repr(self),
            details={"layer": name, "live_neurons": int((bias != 0).sum()), "neurons": len(bias)},
        )


def layer_input(
    weight_gradient: Tensor,
    bias_gradient: Tensor,
    *,
    rows: Literal["least_squares", "largest"] | int = "least_squares",
) -> Tensor:
    """Divide: return the input of one fully connected layer.

    Args:
        weight_gradient: dL/dW, shape (neurons, inputs).
        bias_gradient: dL/db, shape (neurons,).
        rows: Which neurons to divide at: ``"least_squares"`` for the best x in ||dW - db x'||, ``"largest"`` for the
            neuron with the largest |db|, or the number of one neuron.

    Returns:
        The input, float64, shape (inputs,). For a batch: the mean of its inputs, weighted by their deltas.

    Raises:
        ValueError: The shapes do not fit, a value is not finite, or the bias gradient is zero where it divides.

    Chapter: perceptron. Source: phong2018.
    """
    _check_rows(rows)
    weight, bias = _checked(weight_gradient, bias_gradient)
    row = int(bias.abs().argmax()) if rows in ("largest", "least_squares") else int(rows)
    if not 0 <= row < len(bias):
        raise ValueError(f"rows: got neuron {row}, wanted 0 to {len(bias) - 1}")
    if bias[row] == 0:
        raise ValueError(
            "bias_gradient: got zero where it divides; no loss reaches these neurons (dead ReLU, saturated activation)"
        )
    return divide(weight, bias) if rows == "least_squares" else weight[row] / bias[row]


def repeated_input(weight_gradients: Tensor, bias_gradients: Tensor) -> Tensor:
    """Return the input of one fully connected layer from several noisy gradients of the same example.

    Without noise the rows (dL/dW, dL/db) of all neurons and all looks are multiples of one vector, (x, 1), whatever the
    weights were at each look. With independent normal noise of one size on all entries the most likely such vector is
    their first right singular vector: total least squares.

    Args:
        weight_gradients: dL/dW of every look, shape (looks, neurons, inputs); of one look (neurons, inputs).
        bias_gradients: dL/db of every look, shape (looks, neurons) or (neurons,).

    Returns:
        The input, float64, shape (inputs,).

    Raises:
        ValueError: The shapes do not fit, a value is not finite, or the vector's last entry is zero.

    Chapter: dynamic-noise.
    """
    if weight_gradients.ndim not in (2, 3) or weight_gradients.shape[:-1] != bias_gradients.shape:
        shapes = f"{tuple(weight_gradients.shape)} and {tuple(bias_gradients.shape)}"
        raise ValueError(f"weight_gradients, bias_gradients: got shapes {shapes}, wanted those of the same neurons")
    weight, bias = _checked(weight_gradients.flatten(0, -2), bias_gradients.flatten())
    vector = torch.linalg.svd(torch.cat([weight, bias[:, None]], dim=1), full_matrices=False).Vh[0]
    if vector[-1] == 0:
        raise ValueError("bias_gradients: got zeros, wanted at least one non-zero value")
    return cast(Tensor, vector[:-1] / vector[-1])


def quotients(weight_gradient: Tensor, bias_gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Divide at every neuron that a loss reaches.

    A neuron that a single example of a batch activates returns that example exactly; the others return mixtures.

    Args:
        weight_gradient: dL/dW, shape (neurons, inputs).
        bias_gradient: dL/db, shape (neurons,).

    Returns:
        The numbers of the neurons with a non-zero bias gradient (live,), and their quotients, float64, (live, inputs).

    Raises:
        ValueError: The shapes do not fit, or a value is not finite.

    Chapter: perceptron. Source: phong2018.
    """
    weight, bias = _checked(weight_gradient, bias_gradient)
    live = (bias != 0).nonzero().flatten()
    return live, weight[live] / bias[live, None]


def direction(weight_gradient: Tensor) -> Tensor:
    """Return the input of a layer without bias, up to its sign and scale: the gradient's first right singular vector.

    Args:
        weight_gradient: dL/dW, shape (neurons, inputs), not all zero.

    Returns:
        A unit vector, float64, shape (inputs,), with a non-negative sum: the right sign for images.

    Raises:
        ValueError: The gradient is no matrix, not finite, or zero.

    Chapter: perceptron.
    """
    weight, _ = _checked(weight_gradient, None)
    if not (weight != 0).any():
        raise ValueError("weight_gradient: got zeros, wanted at least one non-zero value")
    vector: Tensor = torch.linalg.svd(weight, full_matrices=False).Vh[0]
    return vector if vector.sum() >= 0 else -vector


def layer_inputs(seen: Observation) -> dict[str, Tensor]:
    """Recover the input of every fully connected layer that has a bias: in an MLP all hidden features, not only the
    data.

    Layers that no loss reaches, and layers that were withheld, are left out.

    Args:
        seen: An observation; exact for one example.

    Returns:
        By module name, the layer's input, float64, shape (inputs,).

    Chapter: perceptron. Source: phong2018.
    """
    found = {}
    for name, module in seen.model.named_modules():
        if isinstance(module, nn.Linear):
            weight, bias = seen.gradient_of(module.weight), seen.gradient_of(module.bias)
            if weight is not None and bias is not None and (bias != 0).any():
                found[name] = layer_input(weight, bias)
    return found


def _first_layer(double: Observation) -> tuple[str, nn.Linear]:
    """Find the fully connected layer that is fed with the flattened input itself."""
    model, _, _ = unwrapped(double.model)
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(1, *double.input_shape, generator=generator, dtype=torch.float64).to(double.device)
    fully_connected = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad(), recorded_inputs(model, fully_connected) as recorded:
        model.eval()(probe)  # of the attacker's own copy
    fed = [layer for layer, given in recorded if torch.equal(given.flatten(), probe.flatten())]
    if not fed:
        first = next(
            m for m in model.modules() if next(m.children(), None) is None and next(m.parameters(), None) is not None
        )
        raise ValueError(
            f"seen: no fully connected layer is fed with the input itself (the first layer is {type(first).__name__}); "
            "layer_inputs recovers the features in front of the fully connected layers, R-GAP inverts convolutions"
        )
    layer = fed[0]
    assert isinstance(layer, nn.Linear)
    return next(name for name, module in double.model.named_modules() if module is layer), layer


def _layer_gradients(seen: Observation, layer: nn.Linear, name: str) -> tuple[Tensor, Tensor]:
    if layer.bias is None:
        raise ValueError(f"seen: layer {name!r} has no bias; direction() recovers its input up to a factor")
    weight, bias = seen.gradient_of(layer.weight), seen.gradient_of(layer.bias)
    if weight is None or bias is None:
        raise ValueError(f"seen: the gradient of layer {name!r} is withheld, and the division needs weight and bias")
    return weight, bias


def _checked(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"weight_gradient: got shape {tuple(weight.shape)}, wanted (neurons, inputs)")
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias_gradient: got shape {tuple(bias.shape)}, wanted ({len(weight)},)")
    for name, tensor in (("weight_gradient", weight), ("bias_gradient", bias)):
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: got NaN or infinite values, wanted finite ones")
    return float64(weight), float64(bias)


def _check_rows(rows: object) -> None:
    if rows not in ("least_squares", "largest") and (isinstance(rows, bool) or not isinstance(rows, int)):
        raise ValueError(f"rows: got {rows!r}, wanted 'least_squares', 'largest' or the number of a neuron")


PPDL_AHE = GradientDivision()
"""The attack of Phong et al. (2018) as the survey's Table 1 names it.

Survey: gradient division, MLP, one example. Ours combines all neurons of the layer by least squares.

Chapter: perceptron. Source: phong2018.
"""
