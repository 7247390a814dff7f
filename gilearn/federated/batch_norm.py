"""What batch normalizations see of a batch: the statistics that some attackers know and others compare."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager

from torch import Tensor, nn

from gilearn.hooks import recorded_inputs

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def batch_norms(model: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]:
    """Return a model's batch normalizations."""
    return [module for module in model.modules() if isinstance(module, BATCH_NORMS)]


def recorded_statistics(model: nn.Module) -> AbstractContextManager[list[tuple[nn.Module, tuple[Tensor, Tensor]]]]:
    """Record mean and biased variance of every batch normalization's input, at its first use, in order of use.

    Returns:
        A context, whose list of pairs (layer, (mean, variance)) grows as the model runs.
    """
    return recorded_inputs(model, batch_norms(model), read=_statistics)


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


def _statistics(inputs: Tensor) -> tuple[Tensor, Tensor]:
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    return inputs.mean(axes), inputs.var(axes, correction=0)
