"""What the layers of a network are fed with while it computes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def recorded_inputs(
    model: nn.Module, kinds_or_modules: type | tuple[type, ...] | Collection[nn.Module]
) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Record what layers are fed with, each at its first use, in order of use, as long as the context lasts.

    Args:
        model: The network.
        kinds_or_modules: Which of its modules: types, or the modules themselves.

    Returns:
        A list that fills up with pairs (module, its first argument).
    """
    recorded: list[tuple[nn.Module, Tensor]] = []
    if isinstance(kinds_or_modules, (type, tuple)):
        modules = [module for module in model.modules() if isinstance(module, kinds_or_modules)]
    else:
        modules = list(kinds_or_modules)

    def record(module: nn.Module, given: tuple[Any, ...]) -> None:
        if all(module is not visited for visited, _ in recorded):
            recorded.append((module, given[0]))

    handles = [module.register_forward_pre_hook(record) for module in modules]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
