"""What a client computes: the gradient of one step, or the update of several. The attacker runs the same two
functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from gilearn.federated.checks import check_name


def _logistic(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.flatten(), targets.to(logits.dtype).flatten())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": F.cross_entropy, "logistic": _logistic}
"""The losses by name, averaged over the batch. ``logistic`` is for one logit and labels 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class LocalSteps:
    """The public schedule of FedAvg: plain gradient steps that a client takes before it shares its update.

    Step k uses the next ``batch_size`` rows of the client's data, in order, starting again at the end.

    Args:
        steps: Number of steps, from 1.
        lr: Learning rate, positive.
        batch_size: Rows of one step; ``None`` for all of the client's data at every step.

    Raises:
        ValueError: A number is out of range.

    Chapter: federated-learning. Source: mcmahan2017.
    """

    steps: int
    lr: float
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "lr", "batch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: got {value}, wanted a positive number")

    def rows(self, step: int, n: int) -> list[int]:
        """Return which of the client's n rows step number ``step`` (from 0) trains on."""
        size = n if self.batch_size is None else min(self.batch_size, n)
        return [(step * size + offset) % n for offset in range(size)]


def client_gradient(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    *,
    loss: str = "cross_entropy",
    create_graph: bool = False,
    functional: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return the gradient of the loss over one batch, as FedSGD shares it.

    Args:
        model: The network; its mode (train or eval) is respected.
        x: Inputs (batch, ...).
        targets: Labels (batch,), or class probabilities (batch, num_classes).
        loss: A key of :data:`LOSSES`.
        create_graph: Keep the result differentiable with respect to ``x`` and ``targets``.
        functional: Differentiate with ``torch.func``, which ``torch.func.vmap`` and ``torch.compile`` take.

    Returns:
        One tensor per parameter: zero where a parameter has no influence, ``None`` where it is not trained.

    Chapter: federated-learning. Source: survey, Eq. (1).
    """
    check_name("loss", loss, LOSSES)
    if functional:
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        return tuple(_functional_gradient(model, weights, x, targets, loss).values())
    value = LOSSES[loss](model(x), targets)
    return _gradient(value, list(model.parameters()), create_graph)


def client_update(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    local: LocalSteps,
    *,
    loss: str = "cross_entropy",
    create_graph: bool = False,
    functional: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return what FedAvg shares: the weights before minus the weights after ``local.steps`` steps.

    The steps are unrolled, so that with ``create_graph`` the update is differentiable with respect to ``x`` and
    ``targets``. The arguments and the result are those of :func:`client_gradient`; ``model`` is not changed.

    Chapter: federated-learning. Source: mcmahan2017; geiping2020 for the unrolling.
    """
    check_name("loss", loss, LOSSES)
    before = dict(model.named_parameters())
    after: dict[str, Tensor] = {n: w.detach() for n, w in before.items()} if functional else dict(before)
    keep = create_graph or functional
    for step in range(local.steps):
        rows = local.rows(step, len(x))
        if functional:
            gradients = _functional_gradient(model, after, x[rows], targets[rows], loss)
        else:
            value = LOSSES[loss](functional_call(model, after, (x[rows],)), targets[rows])
            gradients = dict(zip(after, _gradient(value, list(after.values()), create_graph), strict=True))
        stepped = {
            name: weight if (gradient := gradients[name]) is None else weight - local.lr * gradient
            for name, weight in after.items()
        }
        after = stepped if keep else {n: w.detach().requires_grad_() for n, w in stepped.items()}
    moved = tuple((w.detach() if functional else w) - after[n] if w.requires_grad else None for n, w in before.items())
    return moved if keep else tuple(None if change is None else change.detach() for change in moved)


def _gradient(value: Tensor, parameters: list[Tensor], create_graph: bool) -> tuple[Tensor | None, ...]:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = iter(torch.autograd.grad(value, trained, create_graph=create_graph, materialize_grads=True))
    return tuple(next(gradients) if parameter.requires_grad else None for parameter in parameters)


def _functional_gradient(
    model: nn.Module, weights: Mapping[str, Tensor], x: Tensor, targets: Tensor, loss: str
) -> dict[str, Tensor | None]:
    """Return the gradient at these weights by name, ``None`` where the model's parameter is not trained."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    moving = {name: weight for name, weight in weights.items() if name in trained}
    fixed = {name: weight.detach() for name, weight in weights.items() if name not in trained}

    def value(moving: dict[str, Tensor]) -> Tensor:
        return LOSSES[loss](functional_call(model, {**fixed, **moving}, (x,)), targets)

    gradients = torch.func.grad(value)(moving)
    return {name: gradients.get(name) for name in weights}
