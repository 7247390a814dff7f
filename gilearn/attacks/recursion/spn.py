"""PPDL-SPN, attack part (Fan et al., 2020): a convolution taken for a fully connected layer, and a bound under noise.

A convolution is a fully connected layer whose neurons, one for every filter and place, share their weights. If the
sharing is ignored, every neuron's weight gradient is taken to be the filter's, its bias gradient the channel's; then
each neuron gives the division of Phong et al. for its patch, and all of them together a linear system B_I x = B_W.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gilearn.attacks.base import Attack, Reconstruction
from gilearn.attacks.recursion.chain import denormalized, one_client
from gilearn.federated import Observed
from gilearn.linear import ConvSystem, divide, float64, outer_residual
from gilearn.models import unwrapped


@dataclass(frozen=True, kw_only=True)
class SPN(Attack):
    """Solve B_I x = B_W at the first layer by least squares, as if a convolution were fully connected.

    Exact for a fully connected layer and one example. For a convolution the system is inconsistent, because what the
    client shares of a filter is the sum over its places; ``residual`` shows it. Our reading: the paper's text is not
    among those that we work from, the survey says that the attack ignores the reuse of weights (section 2.2).

    Chapter: convolution. Source: fan2020.
    """

    def reconstruct(
        self, seen: Observed, *, seed: int, snapshots: int, progress: bool, time_limit: float | None
    ) -> Reconstruction:
        """Run the attack; it draws nothing and has no steps, so that the options have no effect.

        Returns:
            The input, shape (1, *input_shape), float64: on the model's device, or on the CPU where the device has no
            such type (MPS). ``residual`` is that of the system.

        Raises:
            ValueError: The first layer is neither a convolution nor fully connected, it has no bias, a gradient of it
                was withheld, or all its bias gradients are zero.
        """
        began = time.perf_counter()
        seen = one_client(seen)
        model, _, _ = unwrapped(seen.model)
        layer = next(module for module in model.modules() if next(module.parameters(recurse=False), None) is not None)
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            raise ValueError(f"seen: the first layer is a {type(layer).__name__}, wanted Conv2d or Linear")
        weight, bias = seen.gradient_of(layer.weight), seen.gradient_of(layer.bias)
        if weight is None or bias is None:
            raise ValueError(
                "seen: the first layer has no bias, or its gradient was withheld, and the system needs both"
            )
        weight, bias = float64(weight), float64(bias)
        if not (bias != 0).any():
            raise ValueError("seen: the bias gradients of the first layer are all zero")
        if isinstance(layer, nn.Linear):
            x = divide(weight, bias)
            left = outer_residual(weight, bias, x)
        else:
            system = ConvSystem.of(layer, seen.input_shape, None)
            everywhere = bias.view(-1, 1, 1).expand(system.output_shape)
            weights = system.transposed(torch.ones_like(weight), everywhere.square())
            x = system.transposed(weight, everywhere) / weights.clamp_min(torch.finfo(torch.float64).tiny)
            # sum over neurons and their pixels of (B_I x - B_W)^2, without forming a neuron
            places = everywhere[0].numel()
            inside = system.transposed(weight.square(), torch.ones_like(everywhere)).sum()
            squares = (weights * x.square()).sum() - 2 * (x * system.transposed(weight, everywhere)).sum() + inside
            left = float((squares.clamp_min(0) / (places * weight.square().sum())).sqrt())
        return Reconstruction(
            inputs=denormalized(seen, x.view(1, *seen.input_shape)),
            labels=None,
            residual=left,
            seconds=time.perf_counter() - began,
            attack=repr(self),
        )


@dataclass(frozen=True, kw_only=True)
class PerturbationBound:
    """How far the solution of B_I x = B_W can move when both sides are disturbed.

    Args:
        condition: The norm of the pseudoinverse of B_I times the norm of its disturbance. From 1 on nothing is
            guaranteed: this is the paper's condition for the attack to fail.
        bound: On the relative error of x in the Frobenius norm; infinite if ``condition`` is 1 or more.
    """

    condition: float
    bound: float


def perturbation_bound(matrix: Tensor, right: Tensor, matrix_noise: Tensor, right_noise: Tensor) -> PerturbationBound:
    """Bound the relative error of the least-squares solution of a consistent system under noise.

    With kappa the condition number of the undisturbed matrix B, and spectral norms for B and its noise E:

        ||x' - x|| / ||x|| <= kappa / (1 - ||B^+|| ||E||) * (||right_noise|| / ||right|| + ||E|| / ||B||).

    Args:
        matrix: B_I, undisturbed, shape (equations, examples), of full column rank.
        right: B_W, undisturbed, shape (equations, inputs), equal to B_I x for some x.
        matrix_noise: What was added to ``matrix``.
        right_noise: What was added to ``right``.

    Raises:
        ValueError: The shapes do not fit, or the matrix has not full column rank.

    Chapter: convolution. Source: fan2020; standard perturbation theory.
    """
    for name, value, like in (("matrix_noise", matrix_noise, matrix), ("right_noise", right_noise, right)):
        if value.shape != like.shape:
            raise ValueError(f"{name}: got shape {tuple(value.shape)}, wanted {tuple(like.shape)}")
    if matrix.ndim != 2 or right.ndim != 2 or len(matrix) != len(right):
        raise ValueError(
            f"right: got shape {tuple(right.shape)}, wanted ({len(matrix)}, inputs) for a matrix of 2 axes"
        )
    sizes = torch.linalg.svdvals(float64(matrix))
    if len(matrix) < matrix.shape[1] or not float(sizes[-1]) > 1e-14 * float(sizes[0]):
        raise ValueError("matrix: it has not full column rank, so that the solution is not unique")
    noise = float(torch.linalg.matrix_norm(float64(matrix_noise), 2))
    condition = noise / float(sizes[-1])
    if condition >= 1:
        return PerturbationBound(condition=condition, bound=float("inf"))
    relative = float(float64(right_noise).norm() / float64(right).norm()) + noise / float(sizes[0])
    return PerturbationBound(condition=condition, bound=float(sizes[0] / sizes[-1]) / (1 - condition) * relative)


PPDL_SPN = SPN()
"""The attack of Fan et al. (2020) as the survey's Table 1 names it: linear solving, ConvNet.

Chapter: convolution. Source: fan2020.
"""
