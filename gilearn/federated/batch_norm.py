"""What batch normalizations see of a batch: the statistics that some attackers know and others compare."""

from __future__ import annotations

import copy
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
    visited: set[nn.Module] = set()

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module not in visited:
            visited.add(module)
            axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
            recorded.append((inputs[0].mean(axes), inputs[0].var(axes, correction=0)))

    handles = [module.register_forward_pre_hook(record) for module in batch_norms(model)]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def stripped(model: nn.Module) -> nn.Module:
    """Return a copy that shares the parameters and whose forward passes leave no trace: no running buffer is updated.

    A normalization in train mode uses its batch's statistics in any case; the copy's keeps no running ones.
    """
    network = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.training and module.track_running_stats:
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return network
