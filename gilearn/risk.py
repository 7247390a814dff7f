"""How much a gradient can give away (survey, section 4.3, and the rank analysis of 3.2): a client's questions to
itself.

Unlike an attack, these functions look at the private input; unlike an attack, they say what *no* attack can do.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from gilearn.federated import LOSSES
from gilearn.federated.checks import check_batch, check_name


def gradient_spectrum(
    model: nn.Module, x: Tensor, y: Tensor, *, loss: str = "cross_entropy", chunk: int = 128
) -> Tensor:
    """Return the singular values of the Jacobian of the shared gradient with respect to the input.

    A direction with a singular value of zero changes the input and not the gradient: no attack sees it without prior
    knowledge. The ratio of largest to smallest says how slowly a search by gradients must converge.

    Args:
        model: The network; it is not changed. Its mode (train or eval) is respected.
        x: Inputs (batch, ...) at which to linearize.
        y: Their labels (batch,), or class probabilities, taken as known.
        loss: A key of :data:`gilearn.federated.LOSSES`.
        chunk: Directions per pass; more need more memory.

    Returns:
        As many values as ``x`` has numbers, float64, falling. They are computed from a Gram matrix, so that those below
        1e-8 times the largest are zero up to rounding. Memory: 8 bytes x numbers in ``x`` x parameters.

    Raises:
        ValueError: The batch does not fit the model, or ``chunk`` is not positive.

    Chapter: deep-leakage. Source: survey, section 3.2.
    """
    check_name("loss", loss, LOSSES)
    check_batch(model, x, y, None)
    if chunk < 1:
        raise ValueError(f"chunk: got {chunk}, wanted at least 1")
    model = copy.deepcopy(model).double()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    device = next(iter(parameters.values())).device
    x = x.detach().to(device).double()
    y = y.to(device)

    def objective(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return LOSSES[loss](functional_call(model, weights, (inputs,)), y)

    def shared(flat: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in grad(objective)(parameters, flat.view_as(x)).values()])

    flat = x.flatten()
    directions = torch.eye(len(flat), dtype=torch.float64, device=device)
    jacobian = torch.empty(len(flat), sum(p.numel() for p in parameters.values()), dtype=flat.dtype, device=device)
    for part, rows in zip(torch.split(directions, chunk), torch.split(jacobian, chunk), strict=True):
        rows.copy_(vmap(lambda v: jvp(shared, (flat,), (v,))[1])(part))
    gram = jacobian @ jacobian.T
    values: Tensor = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()
    return values
