"""Refusals: every error names the argument, what came, and what was wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def check_name(argument: str, name: str, known: Iterable[str]) -> None:
    """Raise a ``ValueError`` unless ``name`` is among the known ones."""
    if name not in known:
        raise ValueError(f"{argument}: got {name!r}, wanted one of {', '.join(known)}")


def check_batch(model: nn.Module, x: Tensor, y: Tensor, num_classes: int | None) -> int:
    """Check a private batch against the model and return the number of classes."""
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x: got shape {tuple(x.shape)}, wanted (batch, ...) with at least one example")
    if len(y) != len(x):
        raise ValueError(f"y: got {len(y)} labels for {len(x)} inputs, wanted one each")
    if not torch.isfinite(x).all():
        raise ValueError("x: got NaN or infinite values, wanted finite ones")
    if num_classes is None:
        num_classes = max(2, check_model_takes(model, tuple(x.shape[1:]), None))
    if y.is_floating_point():
        if y.shape != (len(x), num_classes):
            raise ValueError(f"y: got class probabilities of shape {tuple(y.shape)}, wanted ({len(x)}, {num_classes})")
    elif y.ndim != 1 or not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise ValueError(f"y: got {y.tolist()}, wanted {len(x)} labels from 0 to {num_classes - 1}")
    return num_classes


def check_model_takes(model: nn.Module, shape: tuple[int, ...], num_classes: int | None) -> int:
    """Run the model on one blank example of that shape; return its number of outputs, which must be ``num_classes``."""
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise ValueError("model: got a model without parameters, wanted one that shares gradients")
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            output = model(torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"input_shape: got {shape}, which the model does not take ({error})") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if output.ndim != 2 or num_classes not in (None, output.shape[1], 2 if output.shape[1] == 1 else None):
        wanted = "(1, num_classes)" if num_classes is None else f"(1, {num_classes})"
        raise ValueError(f"num_classes: the model's output has shape {tuple(output.shape)}, wanted {wanted}")
    return int(output.shape[1])


def check_shared(shared: Sequence[Tensor | None], model: nn.Module) -> tuple[Tensor | None, ...]:
    """Check shared tensors against the model's parameters; return copies of them where the model is."""
    parameters = list(model.named_parameters())
    if len(shared) != len(parameters):
        raise ValueError(f"gradients: got {len(shared)} tensors, wanted {len(parameters)}, one per parameter")
    if all(tensor is None for tensor in shared):
        raise ValueError("gradients: got none, wanted at least one tensor")
    checked: list[Tensor | None] = []
    for (name, parameter), tensor in zip(parameters, shared, strict=True):
        if tensor is None:
            checked.append(None)
            continue
        if tensor.shape != parameter.shape:
            raise ValueError(f"gradients[{name!r}]: got shape {tuple(tensor.shape)}, wanted {tuple(parameter.shape)}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"gradients[{name!r}]: got NaN or infinite values, wanted finite ones")
        checked.append(tensor.detach().to(parameter.device, parameter.dtype, copy=True))
    return tuple(checked)


def as_tensors(gradients: Mapping[str, Any] | Sequence[Any], model: nn.Module) -> tuple[Tensor | None, ...]:
    """Turn tensors or arrays, by name or in order, into one tensor or ``None`` per parameter of the model."""
    if isinstance(gradients, Mapping):
        names = [name for name, _ in model.named_parameters()]
        for name in gradients:
            check_name("gradients", name, names)
        gradients = [gradients.get(name) for name in names]
    return tuple(None if value is None else torch.as_tensor(value) for value in gradients)
