"""A network as the chain of layers that a recursion walks back, and the inverse of each layer that has one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gilearn.federated import Observation
from gilearn.models import Normalized

_EDGE = 1e-12  # how close to its bounds a saturated activation's value is taken to be


@dataclass(frozen=True, kw_only=True)
class Link:
    """One layer of the chain, with what the server knows about it.

    Args:
        name: The module's name in the model.
        module: The layer, float64.
        input_shape: Shape of one example at its input.
        weight_gradient: Shared, float64; ``None`` if the layer has none or it was withheld.
        bias_gradient: The same of the bias.
    """

    name: str
    module: nn.Module = field(repr=False)
    input_shape: tuple[int, ...]
    weight_gradient: Tensor | None = field(default=None, repr=False)
    bias_gradient: Tensor | None = field(default=None, repr=False)

    @property
    def solves(self) -> bool:
        """Whether this layer has weights, hence a system to solve."""
        return isinstance(self.module, (nn.Conv2d, nn.Linear))


def links(seen: Observation) -> list[Link]:
    """Return the model's layers in order of use; a :class:`gilearn.models.Normalized` around them is not one of them.

    Raises:
        ValueError: A layer cannot be walked back (pooling, a shortcut, batch normalization in train mode, an activation
            without inverse), the batch mixes where it must not, or the gradient is of more than one step. The message
            names the layer and what would work.
    """
    if seen.local is not None and seen.local.steps > 1:
        raise ValueError(
            f"seen: got an update of {seen.local.steps} local steps, wanted the gradient of one; "
            "GradientMatching unrolls local steps"
        )
    double = seen.to(dtype=torch.float64)
    model, prefix = (double.model.model, "model.") if isinstance(double.model, Normalized) else (double.model, "")
    found: list[Link] = []
    value = torch.zeros(1, *seen.input_shape, dtype=torch.float64, device=seen.device)
    for name, module in _leaves(model, prefix.rstrip(".")):
        _refuse(name, module, seen.batch_size)
        found.append(
            Link(
                name=name,
                module=module,
                input_shape=tuple(value.shape[1:]),
                weight_gradient=double.gradient_of(getattr(module, "weight", None)),
                bias_gradient=double.gradient_of(getattr(module, "bias", None)),
            )
        )
        with torch.no_grad():
            value = module(value)
    if not found or not isinstance(found[-1].module, nn.Linear):
        last = type(found[-1].module).__name__ if found else "nothing"
        raise ValueError(f"seen: the model ends with {last}, and the recursion starts at a fully connected layer")
    return found


def walk_back(link: Link, value: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Go back through a layer without a system: from its output and the loss's gradient there to those at its input.

    Args:
        link: A layer whose ``solves`` is false.
        value: Its output for one example, float64.
        delta: Gradient of the loss in that output, same shape.

    Returns:
        The input and the gradient in it, both of the layer's input shape.
    """
    module = link.module
    if isinstance(module, nn.LeakyReLU):
        slope = torch.ones_like(value).masked_fill(value < 0, module.negative_slope)
        return value / slope, delta * slope
    if isinstance(module, nn.Sigmoid):
        value = value.clamp(_EDGE, 1 - _EDGE)
        return torch.logit(value), delta * value * (1 - value)
    if isinstance(module, nn.Tanh):
        value = value.clamp(_EDGE - 1, 1 - _EDGE)
        return torch.atanh(value), delta * (1 - value.square())
    if isinstance(module, nn.BatchNorm2d):
        assert module.running_mean is not None
        assert module.running_var is not None
        scale = (module.running_var + module.eps).rsqrt()
        shift = torch.zeros_like(scale)
        if module.affine:
            scale, shift = scale * module.weight.detach(), module.bias.detach()
        scale, shift, mean = (v.view(-1, 1, 1) for v in (scale, shift, module.running_mean))
        return (value - shift) / scale + mean, delta * scale
    return value.view(link.input_shape), delta.view(link.input_shape)


def denormalized(seen: Observation, inputs: Tensor) -> Tensor:
    """Return the images in [0, 1] behind a normalized input, (1, *input_shape)."""
    if isinstance(seen.model, Normalized):
        return inputs * seen.model.std.double() + seen.model.mean.double()
    return inputs


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential):
        for part, child in module.named_children():
            yield from _leaves(child, f"{name}.{part}".lstrip("."))
    else:
        yield name, module


def _refuse(name: str, module: nn.Module, batch_size: int) -> None:
    kind = type(module).__name__
    here = f"seen: layer {name!r} is a {kind}" if name else f"seen: the model is a {kind}"
    if isinstance(module, nn.Conv2d) and batch_size > 1:
        raise ValueError(
            f"{here}, and the batch has {batch_size} examples: a convolution's gradient does not keep them apart; "
            "the recursion takes one example, GradientMatching takes batches"
        )
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        raise ValueError(f"{here} with padding mode {module.padding_mode!r}; the recursion knows zeros")
    if "Pool" in kind:
        raise ValueError(
            f"{here}: pooling has no inverse, and no weights whose gradient would make up for it; "
            "a convolution with a stride in its place works, and so does GradientMatching"
        )
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
        raise ValueError(
            f"{here} in train mode: its statistics are the batch's, which the recursion does not know; "
            "model.eval() makes it a known scale and shift"
        )
    if isinstance(module, (nn.ReLU, nn.ReLU6)) or (isinstance(module, nn.LeakyReLU) and not module.negative_slope):
        raise ValueError(
            f"{here}: it sends every negative number to zero and has no inverse; LeakyReLU has one, "
            "and GradientMatching needs none"
        )
    if isinstance(module, nn.Dropout) and module.training and module.p > 0:
        raise ValueError(
            f"{here} in train mode: the recursion does not know which units it dropped; model.eval() works"
        )
    if list(module.children()) or not isinstance(module, _KNOWN):
        raise ValueError(
            f"{here}: the recursion walks back a plain chain (nn.Sequential) of "
            f"{', '.join(known.__name__ for known in _KNOWN)}; "
            "shortcuts and other layers have no inverse here, GradientMatching needs none"
        )


_KNOWN = (
    nn.Conv2d, nn.Linear, nn.Flatten, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Identity, nn.BatchNorm2d, nn.Dropout
)  # fmt: skip
