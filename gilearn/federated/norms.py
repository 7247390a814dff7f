"""What batch normalizations see of a batch: the statistics that some attackers know and others compare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def batch_norms(model: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]:
    """Return a model's batch normalizations."""
    return [module for module in model.modules() if isinstance(module, BATCH_NORMS)]


@contextmanager
def recorded_statistics(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record mean and biased variance of every batch normalization's input, at its first use, in order of use."""
    recorded: list[tuple[Tensor, Tensor]] = []
    met: set[nn.Module] = set()

    def record(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if module not in met:
            met.add(module)
            axes = [axis for axis in range(given[0].ndim) if axis != 1]
            recorded.append((given[0].mean(axes), given[0].var(axes, correction=0)))

    handles = [module.register_forward_pre_hook(record) for module in batch_norms(model)]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
