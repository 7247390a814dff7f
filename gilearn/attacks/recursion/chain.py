"""A network as the chain of layers that a recursion walks back, and the models that it cannot walk back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gilearn.attacks.recursion.activations import INVERTIBLE
from gilearn.federated import Observation, Observed
from gilearn.linear import float64, float64_device
from gilearn.models import unwrapped


@dataclass(frozen=True, kw_only=True)
class Link:
    """One layer of the chain, with what the server knows about it.

    Args:
        name: The module's name in the model.
        module: The layer, float64.
        input_shape: Shape of one example at its input.
        weight_gradient: Shared, float64; ``None`` if the layer has none or it was withheld.
        bias_gradient: The same of the bias.
        precision: Relative rounding error of the shared gradients.
    """

    name: str
    module: nn.Module = field(repr=False)
    input_shape: tuple[int, ...]
    weight_gradient: Tensor | None = field(default=None, repr=False)
    bias_gradient: Tensor | None = field(default=None, repr=False)
    precision: float = torch.finfo(torch.float64).eps

    @property
    def solves(self) -> bool:
        """Whether this layer has weights, hence a system to solve."""
        return isinstance(self.module, (nn.Conv2d, nn.Linear))


def links(seen: Observation) -> list[Link]:
    """Return the model's layers in order of use; a :class:`gilearn.models.Normalized` around them is not one of them.

    Raises:
        ValueError: A layer cannot be walked back (pooling, a shortcut, batch normalization in train mode, an activation
            without inverse) or is used twice, the batch mixes where it must not, or the gradient is of more than one
            step. The message names the layer and what would work.
    """
    if seen.local is not None and seen.local.steps > 1:
        raise ValueError(
            f"seen: got an update of {seen.local.steps} local steps, wanted the gradient of one; "
            "GradientMatching unrolls local steps"
        )
    double = in_float64(seen)
    network, _, _ = unwrapped(double.model)
    found: list[Link] = []
    value = torch.zeros(1, *seen.input_shape, dtype=torch.float64, device=double.device)
    for name, module in _leaves(network, "" if network is double.model else "model"):
        _refuse(name, module, seen.batch_size)
        if any(module is earlier.module and earlier.solves for earlier in found):
            raise ValueError(f"seen: layer {name!r} is used twice: its gradient is the sum over its uses")
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]  # the walk needs what is there before
        found.append(
            Link(
                name=name,
                module=module,
                input_shape=tuple(value.shape[1:]),
                weight_gradient=_gradient(double, module, "weight"),
                bias_gradient=_gradient(double, module, "bias"),
                precision=torch.finfo(seen.dtype).eps,
            )
        )
        with torch.no_grad():
            value = module(value)
    if not found or not isinstance(found[-1].module, nn.Linear):
        last = type(found[-1].module).__name__ if found else "nothing"
        raise ValueError(f"seen: the model ends with {last}, and the recursion starts at a fully connected layer")
    return found


def one_client(seen: Observed) -> Observation:
    """Return the observation, if it is one whose gradient can be read parameter by parameter.

    Raises:
        ValueError: It is several of one pool.
    """
    if not isinstance(seen, Observation):
        raise ValueError(f"seen: got {type(seen).__name__}, wanted an Observation; a recursion reads one gradient")
    return seen


def in_float64(seen: Observation) -> Observation:
    """Return a copy of the observation in float64, on its device, or on the CPU where the device has no such type."""
    return seen.to(device=float64_device(seen.device)).to(dtype=torch.float64)


def denormalized(seen: Observation, inputs: Tensor) -> Tensor:
    """Return the images in [0, 1] behind a normalized input, (1, *input_shape), float64."""
    _, mean, std = unwrapped(seen.model)
    return inputs * float64(std) + float64(mean)


def _gradient(double: Observation, module: nn.Module, name: str) -> Tensor | None:
    parameter = getattr(module, name, None)
    return double.gradient_of(parameter) if isinstance(parameter, nn.Parameter) else None


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential):
        for part, child in module._modules.items():  # named_children leaves out a module's second use
            assert child is not None
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
    if isinstance(module, _FLAT):
        raise ValueError(
            f"{here}: it is flat at both ends, where its inputs are gone; LeakyReLU and Softplus have an inverse, "
            "of a ReLU the rows that it hides are left out, and GradientMatching needs no inverse"
        )
    falling = {"negative_slope": module.negative_slope} if isinstance(module, nn.LeakyReLU) else {}
    if isinstance(module, nn.PReLU):
        falling = {"weight": float(module.weight.detach().min())}
    if isinstance(module, (nn.ELU, nn.CELU)):
        falling = {"alpha": module.alpha}
    for argument, value in falling.items():
        if value < 0 or (value == 0 and not isinstance(module, nn.LeakyReLU)):
            raise ValueError(f"{here} with {argument} {value:g}: it has no inverse; a positive one has")
    if isinstance(module, nn.Dropout) and module.training and module.p > 0:
        raise ValueError(
            f"{here} in train mode: the recursion does not know which units it dropped; model.eval() works"
        )
    known = (nn.Conv2d, nn.Linear, nn.Flatten, nn.Identity, nn.Dropout, nn.ReLU, *INVERTIBLE)
    if list(module.children()) or not isinstance(module, known) or isinstance(module, nn.ReLU6):
        raise ValueError(
            f"{here}: the recursion walks back a plain chain (nn.Sequential) of "
            f"{', '.join(kind.__name__ for kind in known)}; "
            "shortcuts and other layers have no inverse here, GradientMatching needs none"
        )


_FLAT = (nn.Hardtanh, nn.Hardsigmoid)  # ReLU6 is a Hardtanh
