"""Refusals: every error names the argument, what came, and what was wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from gilearn.hooks import evaluating


def check_name(argument: str, name: str, known: Iterable[str]) -> None:
    """Raise a ``ValueError`` unless ``name`` is among the known ones."""
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{argument}: got {name!r}, wanted one of {', '.join(known)}")


def check_names(argument: str, names: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return the names as a tuple, or raise a ``ValueError`` unless they are a list of known ones."""
    if isinstance(names, str):
        raise ValueError(f"{argument}: got the text {names!r}, wanted a list of names: [{names!r}]")
    if not isinstance(names, Iterable):
        raise ValueError(f"{argument}: got {names!r}, wanted a list of names")
    names = tuple(names)
    for name in names:
        check_name(argument, name, known)
    return names


def check_whole(argument: str, value: Any, least: int = 1) -> None:
    """Raise a ``ValueError`` unless a value is a whole number, and at least this."""
    if type(value) is bool or not isinstance(value, Integral):
        raise ValueError(f"{argument}: got {value!r}, wanted a whole number, at least {least}")
    if value < least:
        raise ValueError(f"{argument}: got {value}, wanted at least {least}")


def check_number(argument: str, value: Any, fits: Callable[[Any], bool], wanted: str) -> None:
    """Raise a ``ValueError`` unless a value is a number, or a tensor of one, that fits; NaN has to fail there."""
    number = isinstance(value, Real)
    if isinstance(value, Tensor):
        number = value.ndim == 0 and value.dtype != torch.bool and not value.is_complex()
    if isinstance(value, bool) or not number or not fits(value):
        raise ValueError(f"{argument}: got {value!r}, wanted {wanted}")


def check_tensor(argument: str, value: Any, wanted: str = "(n, ...)", *, ndim: int = 2, exact: bool = False) -> None:
    """Raise a ``ValueError`` unless a value is a tensor of finite floating-point numbers, and not empty.

    Args:
        argument: Its name.
        value: What came.
        wanted: Its shape, in words.
        ndim: Axes that it has at least.
        exact: It has just so many.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{argument}: got a {type(value).__name__}, wanted a tensor {wanted}")
    if value.ndim < ndim or (exact and value.ndim != ndim) or value.numel() == 0:
        raise ValueError(f"{argument}: got shape {tuple(value.shape)}, wanted {wanted}, and none of it empty")
    if not value.is_floating_point():
        raise ValueError(f"{argument}: got {value.dtype}, wanted floating-point numbers")
    if not torch.isfinite(value).all():
        raise ValueError(f"{argument}: got NaN or infinite values, wanted finite ones")


def as_batch(model: nn.Module, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Return a private batch as tensors where the model is: arrays and lists too, labels as int64.

    Raises:
        ValueError: An argument is no batch of numbers, or holds NaN or infinite values.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got a {type(model).__name__}, wanted a torch.nn.Module")
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        raise ValueError("model: got a model without parameters, wanted one that shares gradients")
    tensors = {}
    for name, value in (("x", x), ("y", y)):
        try:
            tensors[name] = torch.as_tensor(value).detach().to(parameter.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name}: got a {type(value).__name__}, wanted a tensor or an array ({error})") from error
    inputs, targets = tensors["x"], tensors["y"]
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(f"x: got shape {tuple(inputs.shape)}, wanted (batch, ...) with at least one example")
    if not torch.isfinite(inputs).all():
        raise ValueError("x: got NaN or infinite values, wanted finite ones")
    if inputs.is_complex() or inputs.dtype == torch.bool:
        raise ValueError(f"x: got {inputs.dtype}, wanted floating-point numbers, or integer tokens")
    targets = targets[None] if targets.ndim == 0 else targets
    if targets.dtype == torch.bool or targets.is_complex():
        raise ValueError(f"y: got {targets.dtype}, wanted integer labels, or class probabilities")
    if len(targets) != len(inputs):
        raise ValueError(f"y: got {len(targets)} labels for {len(inputs)} inputs, wanted one each")
    inputs = inputs.to(parameter.dtype) if inputs.is_floating_point() else inputs.long()
    return inputs, targets.to(parameter.dtype) if targets.is_floating_point() else targets.long()


def check_batch(model: nn.Module, x: Any, y: Any, num_classes: int | None = None) -> tuple[Tensor, Tensor, int]:
    """Check a private batch against the model; return it as :func:`as_batch` does, with the number of classes.

    Raises:
        ValueError: As :func:`as_batch`, :func:`check_model_takes` and :func:`check_targets`.
    """
    x, y = as_batch(model, x, y)
    outputs = check_model_takes(model, tuple(x.shape[1:]), None, tokens=not x.is_floating_point())
    num_classes = max(2, outputs[-1]) if num_classes is None else num_classes
    check_targets(y, len(x), outputs, num_classes)
    return x, y, num_classes


def check_targets(y: Tensor, batch: int, outputs: tuple[int, ...], num_classes: int, name: str = "y") -> None:
    """Raise a ``ValueError`` unless targets are labels, or class probabilities, for these outputs.

    Args:
        y: The targets.
        batch: Number of examples.
        outputs: Shape of the model's output for one example: (classes,), or (length, classes) of a sequence model.
        num_classes: Number of classes.
        name: What to call them.
    """
    shape = (batch, *outputs[:-1])
    if y.is_floating_point():
        if tuple(y.shape) != (*shape, num_classes):
            wanted = (*shape, num_classes)
            raise ValueError(f"{name}: got class probabilities of shape {tuple(y.shape)}, wanted {wanted}")
    elif y.shape != shape or not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        shown = y.tolist() if y.numel() < 20 else f"shape {tuple(y.shape)}, from {int(y.min())} to {int(y.max())}"
        count = batch if len(shape) == 1 else shape
        raise ValueError(f"{name}: got {shown}, wanted {count} labels from 0 to {num_classes - 1}")


def check_model_takes(
    model: nn.Module, shape: tuple[int, ...], num_classes: int | None, *, tokens: bool = False
) -> tuple[int, ...]:
    """Run the model on one blank example of that shape; return its output's shape, without the batch.

    Raises:
        ValueError: It has no parameters, does not take the example, or its output is not (num_classes,) or, of a
            sequence model, (length, num_classes); one logit stands for two classes.
    """
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise ValueError("model: got a model without parameters, wanted one that shares gradients")
    dtype = torch.int64 if tokens else parameter.dtype
    try:
        with evaluating(model), torch.no_grad():
            output = model(torch.zeros(1, *shape, dtype=dtype, device=parameter.device))
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error)
        if not tokens and any(isinstance(module, nn.Embedding) for module in model.modules()):
            reason = "it has an embedding: pass integer tokens to observe, or tokens=True; chapter labels-bag-of-words"
        raise ValueError(f"input_shape: got {shape}, which the model does not take ({reason})") from error
    found = tuple(output.shape[1:])
    classes = found[-1] if len(found) in (1, 2) else None
    if classes is None or num_classes not in (None, classes, 2 if classes == 1 else None):
        wanted = "(1, num_classes)" if num_classes is None else f"(1, {num_classes})"
        raise ValueError(f"num_classes: the model's output has shape {tuple(output.shape)}, wanted {wanted}")
    return found


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
    """Turn tensors or arrays, by name or in order, into one tensor or ``None`` per parameter of the model.

    Raises:
        ValueError: A name is unknown, or these are the model's own weights.
    """
    named = dict(model.named_parameters())
    given = [gradients.get(name) for name in named] if isinstance(gradients, Mapping) else gradients
    found = tuple(None if value is None else torch.as_tensor(value) for value in given)
    pairs = [(a, b) for a, b in zip(found, named.values(), strict=False) if a is not None]
    if pairs and all(a.shape == b.shape and torch.equal(a.to(b), b) for a, b in pairs):
        raise ValueError("gradients: got the model's own weights (its state_dict?), wanted their gradients")
    if isinstance(gradients, Mapping):
        for name in gradients:
            check_name("gradients", name, named)
    return found


def check_mixes_nothing(model: nn.Module) -> None:
    """Raise a ``ValueError`` if a layer lets the examples of a batch see each other.

    Batch normalization in train mode does. PyTorch would silently compute something else.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(
                f"model: layer {name!r} is a {type(module).__name__} in train mode, which mixes a batch's examples: "
                "there are no per-example gradients; model.eval(), or a GroupNorm in its place, has them"
            )


def check_knowledge(knowledge: Mapping[str, Any], batch: int, outputs: tuple[int, ...], num_classes: int) -> None:
    """Raise a ``ValueError`` unless declared labels, targets and rows fit the batch."""
    labels, targets = knowledge.get("labels"), knowledge.get("targets")
    if labels is not None:
        if not isinstance(labels, Tensor) or labels.ndim == 0 or len(labels) != batch:
            count = len(labels) if isinstance(labels, Tensor) and labels.ndim else labels
            raise ValueError(f"labels: got {count} for a batch of {batch}, wanted one each")
        check_targets(labels, batch, outputs, num_classes, "labels")
    if targets is not None:
        check_targets(targets, batch, outputs, num_classes, "targets")
    rows = knowledge.get("rows")
    if rows is not None and (
        not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.shape != (batch,) or int(rows.min()) < 0
    ):
        raise ValueError(f"rows: got {rows}, wanted {batch} numbers of examples of the pool, int64, one for each")
