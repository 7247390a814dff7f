"""The model's last fully connected layer, by use, and its gradient, which all label rules read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gilearn.federated import Observation, Observed
from gilearn.hooks import evaluating, recorded_calls


def last_layer(seen: Observation) -> tuple[Tensor | None, Tensor | None]:
    """Return the shared gradient of the last fully connected layer: weight (classes, features) and bias (classes,).

    Either is ``None`` where the client withheld it, or where there is no bias.

    Raises:
        ValueError: The model ends in no fully connected layer, or its weight is used elsewhere too.
    """
    layer = last_linear(seen)
    return seen.gradient_of(layer.weight), seen.gradient_of(layer.bias)


def last_layer_gradient(seen: Observation) -> Tensor:
    """Return the last layer's weight gradient (classes, features), float64 on the CPU.

    Raises:
        ValueError: As :func:`last_layer`; also if the gradient is withheld or zero, or the loss is another than
            cross-entropy.
    """
    if seen.loss != "cross_entropy":
        raise ValueError(f"seen: got the loss {seen.loss!r}; this rule is for cross_entropy")
    weight, _ = last_layer(seen)
    if weight is None:
        raise ValueError("seen: the weight gradient of the last layer is withheld, and this rule reads it")
    if not (weight != 0).any():
        raise ValueError("seen: the weight gradient of the last layer is zero")
    return weight.detach().cpu().double()


def last_linear(seen: Observation) -> nn.Linear:
    """Return the layer of ``seen.network`` whose output is the model's, found by a pass over blank examples.

    Raises:
        ValueError: There is no fully connected one with as many outputs as the loss wants, or its weight is used
            elsewhere too: then the gradient is a sum over both uses, and says nothing certain of either. Or ``seen`` is
            a pool of several observations.
    """
    if not hasattr(seen, "gradient_of"):
        raise ValueError(f"seen: got a {type(seen).__name__}; a label rule reads one observation, or an aggregate")
    trace = traced(seen)
    outputs = seen.num_classes if seen.loss == "cross_entropy" else 1
    if trace.layer is None or trace.shape[-1] != outputs:
        raise ValueError(
            f"seen: the model's last layer is no nn.Linear with {outputs} outputs, which label rules need; "
            "what it puts out has to be the model's output, unchanged"
        )
    if trace.refusal is not None:
        raise ValueError(f"seen: {trace.refusal}")
    layer = seen.network.get_submodule(trace.layer)
    assert isinstance(layer, nn.Linear)
    return layer


def examples(seen: Observed) -> int:
    """Return how many logit vectors the gradient is a mean over: the batch size, times the length of a sequence."""
    return seen.batch_size * int(torch.Size(traced(seen).shape[:-1]).numel())


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a pass over blank examples shows.

    Args:
        shape: Of one example's output: (classes,), or (length, classes) for a sequence.
        layer: Name of the ``nn.Linear`` whose output is the model's; ``None`` if there is none.
        refusal: Why the gradient of this layer cannot be read; ``None`` if it can.
    """

    shape: tuple[int, ...]
    layer: str | None
    refusal: str | None


_TRACES: WeakKeyDictionary[nn.Module, Trace] = WeakKeyDictionary()  # an observation's model never changes


def traced(seen: Observed) -> Trace:
    """Run the model once on blank examples, in evaluation mode; return what that shows."""
    if seen.model not in _TRACES:
        _TRACES[seen.model] = _trace(seen)
    return _TRACES[seen.model]


def as_inputs(values: Tensor, seen: Observed) -> Tensor:
    """Return values of the type that the model takes, where it is: tokens int64, all else the model's own type."""
    return values.to(seen.device, torch.int64 if getattr(seen, "tokens", False) else seen.dtype)


def _trace(seen: Observed) -> Trace:
    network = seen.network
    names = {module: name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    blank = torch.zeros(2, *seen.input_shape, device=seen.device)  # some norms take no single example
    with evaluating(network), torch.enable_grad(), recorded_calls(network, names, read=_stamped) as calls:
        output = network(as_inputs(blank, seen))
    shape = tuple(output.shape[1:])
    for module, (made, version) in reversed(calls):
        if _is_output(made, version, output):
            return Trace(shape=shape, layer=names[module], refusal=_refusal(network, names[module], output))
    return Trace(shape=shape, layer=None, refusal=None)


def _stamped(arguments: tuple[Any, ...], output: Tensor) -> tuple[Tensor, int]:
    return output, output._version


def _is_output(made: Tensor, version: int, output: Tensor) -> bool:
    """Say whether a layer's output is the model's: the same memory in the same order, and nothing done to it since."""
    same = made.untyped_storage().data_ptr() == output.untyped_storage().data_ptr() and made._version == version
    return same and made.numel() == output.numel() and _rows(made) == _rows(output)


def _rows(tensor: Tensor) -> tuple[int, int]:
    """Return length and stride of the last axis."""
    return tensor.shape[-1], tensor.stride(-1)


def _refusal(network: nn.Module, name: str, output: Tensor) -> str | None:
    weight = network.get_submodule(name).weight
    if not isinstance(weight, nn.Parameter):
        return f"the weight of the last layer, {name!r}, is computed from other parameters: it has no gradient"
    if weight.requires_grad and (uses := _uses(weight, output)) != 1:
        named = network.named_parameters(remove_duplicate=False)
        own = f"{name}.weight".lstrip(".")
        others = [other for other, parameter in named if parameter is weight and other != own]
        tied = f", tied to {', '.join(others)}" if others else ""
        return f"the weight of the last layer, {own!r}{tied}, is used {uses} times: its gradient is a sum over all uses"
    return None


def _uses(parameter: Tensor, output: Tensor) -> int:
    """Count the edges of the computation that lead to a parameter."""
    uses, waiting, visited = 0, [output.grad_fn], {output.grad_fn}
    while waiting:
        node = waiting.pop()
        for following, _ in node.next_functions if node is not None else ():
            if getattr(following, "variable", None) is parameter:
                uses += 1
            elif following is not None and following not in visited:
                visited.add(following)
                waiting.append(following)
    return uses
