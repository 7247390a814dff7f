"""Watching a forward pass: what its modules are given, and what they return; and a model without others' hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn


@contextmanager
def recorded_inputs(
    model: nn.Module, modules: Iterable[nn.Module], *, read: Callable[[Tensor], Any] | None = None
) -> Iterator[list[tuple[nn.Module, Any]]]:
    """Record what modules are given, each at its first use, in order of use, while the context lasts.

    Args:
        model: The model that will be run.
        modules: Those of its modules to watch.
        read: What to keep of an input, computed before the module runs; by default the input itself, undetached, which
            a later operation in place would change.

    Yields:
        A list that grows as the model runs: pairs (module, input).

    Raises:
        ValueError: A module is none of the model's.
    """
    recorded: list[tuple[nn.Module, Any]] = []
    used: set[nn.Module] = set()

    def record(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if module not in used:
            used.add(module)
            recorded.append((module, arguments[0] if read is None else read(arguments[0])))

    with _hooked(model, modules, lambda module: module.register_forward_pre_hook(record)):
        yield recorded


@contextmanager
def recorded_calls(
    model: nn.Module, modules: Iterable[nn.Module], *, read: Callable[[tuple[Any, ...], Any], Any] | None = None
) -> Iterator[list[tuple[nn.Module, Any]]]:
    """Record every use of modules, in order of use, while the context lasts.

    Args:
        model: The model that will be run.
        modules: Those of its modules to watch.
        read: What to keep of arguments and output, computed before anything works on the output in place; by default
            both.

    Yields:
        A list that grows as the model runs: pairs (module, what was kept).

    Raises:
        ValueError: A module is none of the model's.
    """
    recorded: list[tuple[nn.Module, Any]] = []

    def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        recorded.append((module, (arguments, output) if read is None else read(arguments, output)))

    with _hooked(model, modules, lambda module: module.register_forward_hook(record)):
        yield recorded


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in evaluation mode while the context lasts; every module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _hooked(model: nn.Module, modules: Iterable[nn.Module], register: Callable[[nn.Module], Any]) -> Iterator[None]:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got a {type(model).__name__}, wanted a torch.nn.Module")
    if not isinstance(modules, Iterable):
        raise ValueError(f"modules: got a {type(modules).__name__}, wanted modules of the model")
    chosen, own = list(dict.fromkeys(modules)), set(model.modules())
    for module in chosen:
        if module not in own:
            raise ValueError(
                f"modules: got a {type(module).__name__} that is none of the model's modules, wanted those"
            )
    handles = [register(module) for module in chosen]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def bare(model: nn.Module) -> nn.Module:
    """Return a model; of one that Opacus wrapped (``GradSampleModule``) a copy without the wrapper and its hooks."""
    if not type(model).__module__.startswith("opacus.") or not hasattr(model, "to_standard_module"):
        return model
    standard: nn.Module = cast(Any, copy.deepcopy(model)).to_standard_module()
    return standard
