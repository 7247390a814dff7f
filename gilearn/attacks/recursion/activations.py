"""Back through the layers without a system: the inverse of each activation that has one, and what a ReLU leaves known.

From a layer's output and the loss's gradient there to those at its input. A ReLU has no inverse, but it hides less than
it seems to: where its output is positive that is its input, and where it is zero no gradient passes. So the gradient at
its input is known everywhere, and the layer below only loses the equations of the outputs that are hidden.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from gilearn.attacks.recursion.chain import Link

INVERTIBLE = (
    nn.LeakyReLU, nn.PReLU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.BatchNorm2d
)  # fmt: skip
"""The elementwise layers with an inverse (with restrictions that ``chain.links`` checks)."""

_EDGE = 1e-12  # how close to its bounds a saturated activation's value is taken to be
_LOST = 0.01  # a share of values out of bounds that is no rounding: then their signs are taken as they are
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # of PyTorch


class WalkedBack(NamedTuple):
    """What is known at a layer's input, for one example.

    ``value`` and ``delta``, the gradient of the loss in it, are float64 in the input's shape. ``known`` is bool in this
    shape where a ReLU hides values, and ``None`` where none does. ``saturated`` counts outputs so near to a bound that
    less than half of their digits survive the inverse. ``violation`` is the norm of what lies beyond the bounds, where
    no output can be, over the norm of the output.
    """

    value: Tensor
    delta: Tensor
    known: Tensor | None = None
    saturated: int = 0
    violation: float = 0.0


def walk_back(link: Link, value: Tensor, delta: Tensor, known: Tensor | None = None) -> WalkedBack:
    """Go back through a layer without a system.

    Args:
        link: The layer, without weights to solve for.
        value: Its output for one example, float64.
        delta: Gradient of the loss in that output, same shape.
        known: Where ``value`` is known, bool, same shape; ``None`` for everywhere.
    """
    module = link.module
    if not isinstance(module, (nn.ReLU, *INVERTIBLE)):
        mask = None if known is None else known.view(link.input_shape)
        return WalkedBack(value.view(link.input_shape), delta.view(link.input_shape), mask)
    low, high, unit = _range(module)
    visible = value if known is None else value[known]
    beyond = visible - visible.clamp(low, high)
    violation = float(beyond.norm() / visible.norm()) if float(beyond.norm()) else 0.0
    if is_relu(module):
        # No output is negative, so the lowest value found shows how far from zero zeros are, unless the layer was lost.
        noise = _EDGE * float(value.abs().max())
        if 0 < violation < _LOST:
            noise = max(noise, 3 * float(beyond.abs().max()))
        active = value > noise if known is None else (value > noise) & known
        return WalkedBack(value * active, delta * active, active, 0, violation)
    near = unit * link.precision**0.5
    saturated = int(((visible < low + near) | (visible > high - near)).sum())
    before = _inverse(module, value.clamp(low + _EDGE * unit, high - _EDGE * unit)).requires_grad_()
    with torch.enable_grad():
        (pulled,) = torch.autograd.grad(module(before[None])[0], before, delta)
    return WalkedBack(before.detach(), pulled, known, saturated, violation)


def is_relu(module: nn.Module) -> bool:
    """Say whether a layer is a ReLU, or a LeakyReLU of slope zero."""
    return isinstance(module, nn.ReLU) or (isinstance(module, nn.LeakyReLU) and module.negative_slope == 0)


def _range(module: nn.Module) -> tuple[float, float, float]:
    """Return the bounds of an activation's outputs, and the unit in which nearness to them is measured."""
    if isinstance(module, nn.Sigmoid):
        return 0.0, 1.0, 1.0
    if isinstance(module, nn.Tanh):
        return -1.0, 1.0, 1.0
    if isinstance(module, (nn.ELU, nn.CELU)):
        return -module.alpha, math.inf, module.alpha
    if isinstance(module, nn.SELU):
        return -_SELU_SCALE * _SELU_ALPHA, math.inf, _SELU_SCALE * _SELU_ALPHA
    if isinstance(module, nn.Softplus):
        return 0.0, math.inf, 1 / module.beta
    return (0.0 if is_relu(module) else -math.inf), math.inf, 1.0


def _inverse(module: nn.Module, y: Tensor) -> Tensor:
    """Return the input of an activation from its output, which lies inside its bounds."""
    if isinstance(module, nn.Sigmoid):
        return torch.logit(y)
    if isinstance(module, nn.Tanh):
        return torch.atanh(y)
    if isinstance(module, nn.LeakyReLU):
        return torch.where(y < 0, y / module.negative_slope, y)
    if isinstance(module, nn.PReLU):
        return torch.where(y < 0, y / module.weight.detach().view(-1, *[1] * (y.ndim - 1)), y)
    if isinstance(module, nn.ELU):
        return torch.where(y < 0, torch.log1p(y.clamp(max=0) / module.alpha), y)
    if isinstance(module, nn.CELU):
        return torch.where(y < 0, module.alpha * torch.log1p(y.clamp(max=0) / module.alpha), y)
    if isinstance(module, nn.SELU):
        y = y / _SELU_SCALE
        return torch.where(y < 0, torch.log1p(y.clamp(max=0) / _SELU_ALPHA), y)
    if isinstance(module, nn.Softplus):
        scaled = module.beta * y
        return torch.where(scaled > module.threshold, y, y + torch.log(-torch.expm1(-scaled)) / module.beta)
    assert isinstance(module, nn.BatchNorm2d)
    assert module.running_mean is not None
    assert module.running_var is not None
    scale = (module.running_var + module.eps).rsqrt()
    shift = torch.zeros_like(scale)
    if module.affine:
        scale, shift = scale * module.weight.detach(), module.bias.detach()
    scale, shift, mean = (v.view(-1, 1, 1) for v in (scale, shift, module.running_mean))
    return (y - shift) / scale + mean
