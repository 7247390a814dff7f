"""What a client computes: the gradient of one step, or the update of several. Client and attacker run the same code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gilearn.federated.checks import check_mixes_nothing, check_name
from gilearn.federated.defense import Client, Defense, Gradients
from gilearn.federated.explicit import Explicit


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.ndim > 2:  # a sequence model: every position is an example, its classes are on the last axis
        targets = targets.flatten(0, -2) if targets.is_floating_point() else targets.flatten()
        logits = logits.flatten(0, -2)
    return F.cross_entropy(logits, targets)


def _logistic(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.flatten(), targets.to(logits.dtype).flatten())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": _cross_entropy, "logistic": _logistic}
"""The losses by name, averaged over the batch. ``cross_entropy`` takes logits (batch, classes), or those of a sequence
model (batch, length, classes), and averages over all positions. ``logistic`` is for one logit and labels 0 and 1."""


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


class Objective(nn.Module):
    """A client's loss as a module of its model: ``objective(inputs, targets)``, a scalar.

    Args:
        model: The client's model.
        loss: A key of :data:`LOSSES`.
    """

    def __init__(self, model: nn.Module, loss: str) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss."""
        return LOSSES[self.loss](self.model(inputs), targets)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a client does with a batch, from data to what it shares; a server that simulates one does the same.

    Args:
        model: The model, in the mode that the client computes in.
        num_classes: Number of classes.
        loss: A key of :data:`LOSSES`.
        local: The schedule of local steps; ``None`` for one gradient.
        defense: What the client does about leakage, or what the attacker knows of it.

    Chapter: federated-learning.
    """

    model: nn.Module = field(repr=False)
    num_classes: int
    loss: str = "cross_entropy"
    local: LocalSteps | None = None
    defense: Defense = Defense()

    def share(self, inputs: Tensor, targets: Tensor, **options: Any) -> Gradients:
        """Return what is shared for a batch; the arguments are those of :meth:`run`."""
        return self.run(inputs, targets, **options)[0]

    def run(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        generator: torch.Generator | None = None,
        memory: dict[Any, Any] | None = None,
        explicit: Explicit | None = None,
        create_graph: bool = False,
        functional: bool = False,
    ) -> tuple[Gradients, Client]:
        """Return what is shared for a batch, and the client with the data that its loss saw.

        Args:
            inputs: Inputs (batch, ...).
            targets: Labels (batch,), or class probabilities (batch, num_classes).
            generator: Draws what the defense draws; ``None`` for an imagined client.
            memory: What the defense remembers from round to round.
            explicit: The mode that the forward passes run under; ``None``: no dropout, no vectors for tokens.
            create_graph: Keep the result differentiable with respect to inputs and targets.
            functional: Differentiate with ``torch.func``, which ``torch.func.vmap`` and ``torch.compile`` take.
        """
        memory = {} if memory is None else memory
        client = Client(model=self.model, num_classes=self.num_classes, generator=generator, memory=memory)
        client.inputs, client.targets = inputs, targets = self.defense.data(inputs, targets, client)
        objective = self.defense.objective(self._objective, client)
        how = _How(self, objective, client, explicit, create_graph=create_graph, functional=functional)
        if self.local is None:
            shared = self.defense.step(how.gradient(None, inputs, targets), client)
        else:
            shared = self._update(self.local, how, inputs, targets)
        shared = self.defense.shared(shared, client)
        if not (create_graph or functional):
            shared = tuple(g if g is None else g.detach() for g in shared)
        return shared, client

    @cached_property
    def named_parameters(self) -> dict[str, Tensor]:
        """The model's parameters by name, looked up once: every evaluation of a search needs them."""
        return dict(self.model.named_parameters())

    @cached_property
    def _objective(self) -> nn.Module:
        """The undefended loss, made once: a compiler does not take a module that is made on the way."""
        return Objective(self.model, self.loss)

    def _update(self, local: LocalSteps, how: _How, inputs: Tensor, targets: Tensor) -> Gradients:
        """Return the sum of the steps taken: exact where the weights before less those after would cancel."""
        weights = self.named_parameters
        if how.functional:
            weights = {name: weight.detach() for name, weight in weights.items()}
        keep = how.create_graph or how.functional
        moved: list[Tensor | None] = [None] * len(weights)
        for step in range(local.steps):
            rows = local.rows(step, len(inputs))
            gradients = self.defense.step(how.gradient(weights, inputs[rows], targets[rows]), how.client)
            steps = [None if g is None else local.lr * (g if keep else g.detach()) for g in gradients]
            weights = {
                name: weight if step is None else weight - step
                for (name, weight), step in zip(weights.items(), steps, strict=True)
            }
            if not keep:
                weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            moved = [b if a is None else a if b is None else a + b for a, b in zip(moved, steps, strict=True)]
        return tuple(moved)


class _How:
    """One client's way to a gradient: by autograd, by ``torch.func``, or example by example."""

    def __init__(
        self,
        task: Task,
        objective: nn.Module,
        client: Client,
        explicit: Explicit | None,
        *,
        create_graph: bool,
        functional: bool,
    ) -> None:
        self.objective = objective if objective is task._objective else _Once(objective)
        self.client, self.explicit = client, explicit
        self.create_graph, self.functional, self.defense = create_graph, functional, task.defense
        self.parameters = task.named_parameters
        self.trained = [parameter.requires_grad for parameter in self.parameters.values()]
        if self.defense.per_example:
            check_mixes_nothing(task.model)

    def gradient(self, weights: Mapping[str, Tensor] | None, inputs: Tensor, targets: Tensor) -> Gradients:
        """Return the gradient at these weights, by default the model's own, before the defense's ``step``."""
        if self.defense.per_example:
            each = self._examples(weights, inputs, targets)
            return tuple(g if g is None else g.mean(dim=0) for g in self.defense.examples(each, self.client))
        if self.functional:
            return self._functional(weights, inputs, targets, self.explicit)
        leaves = list((self.parameters if weights is None else weights).values())
        trained = [leaf for leaf, moves in zip(leaves, self.trained, strict=True) if moves]
        with torch.enable_grad():
            value = self._value(weights, inputs, targets, self.explicit)
            found = iter(torch.autograd.grad(value, trained, create_graph=self.create_graph, materialize_grads=True))
        gradients = tuple(next(found) if moves else None for moves in self.trained)
        past = () if self.explicit is None else self.explicit.bypassed
        return tuple(
            None if any(leaf is weight for weight in past) else gradient
            for leaf, gradient in zip(leaves, gradients, strict=True)
        )

    def _functional(
        self, weights: Mapping[str, Tensor] | None, inputs: Tensor, targets: Tensor, explicit: Explicit | None
    ) -> Gradients:
        given = {name: weight.detach() for name, weight in self.parameters.items()} if weights is None else weights
        moving = {name: weight for (name, weight), moves in zip(given.items(), self.trained, strict=True) if moves}
        bypassed: set[str] = set()

        def value(moving: dict[str, Tensor]) -> Tensor:
            loss = self._value({**given, **moving}, inputs, targets, explicit)
            past = () if explicit is None else explicit.bypassed
            bypassed.update(name for name, weight in moving.items() if any(weight is other for other in past))
            return loss

        found = torch.func.grad(value)(moving)
        return tuple(None if name in bypassed else found.get(name) for name in self.parameters)

    def _examples(self, weights: Mapping[str, Tensor] | None, inputs: Tensor, targets: Tensor) -> Gradients:
        """Return every example's own gradient, each (batch, *shape)."""
        masks: list[Tensor] = []
        if self.explicit is not None:  # draw, or take, the masks of one pass outside of the mapping
            before = len(self.explicit.used)
            with torch.no_grad():
                self._value(weights, inputs, targets, self.explicit)
            masks = self.explicit.used[before:]

        def one(x: Tensor, y: Tensor, *own: Tensor) -> list[Tensor]:
            mode = None if self.explicit is None else Explicit(masks=[mask[None] for mask in own])
            found = self._functional(weights, x[None], y[None], mode)
            missing.update(k for k, g in enumerate(found) if g is None)
            return [g for g in found if g is not None]

        missing: set[int] = set()
        each = iter(vmap(one)(inputs, targets, *masks))
        return tuple(None if k in missing else next(each) for k in range(len(self.parameters)))

    def _value(
        self, weights: Mapping[str, Tensor] | None, inputs: Tensor, targets: Tensor, explicit: Explicit | None
    ) -> Tensor:
        """Return the loss at these weights."""
        arguments = (inputs, targets)
        named = {} if weights is None else {f"model.{name}": weight for name, weight in weights.items()}
        with nullcontext() if explicit is None else explicit:
            loss: Tensor = functional_call(self.objective, named, arguments) if named else self.objective(*arguments)
        return loss


class _Once(nn.Module):
    """A defense's loss, with its model registered once.

    A loss that wraps another holds the model twice, and ``functional_call`` then leaves the weights that it was given
    behind in it: the second of the two swaps takes them for the module's own.
    """

    objective: Any

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.model = cast(nn.Module, objective.model)
        object.__setattr__(self, "objective", objective)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss."""
        loss: Tensor = self.objective(inputs, targets)
        return loss


def client_gradient(
    model: nn.Module, x: Tensor, targets: Tensor, *, loss: str = "cross_entropy", create_graph: bool = False
) -> Gradients:
    """Return the gradient of the loss over one batch, as FedSGD shares it.

    Args:
        model: The network; its mode (train or eval) is respected.
        x: Inputs (batch, ...).
        targets: Labels (batch,), or class probabilities (batch, num_classes).
        loss: A key of :data:`LOSSES`.
        create_graph: Keep the result differentiable with respect to ``x`` and ``targets``.

    Returns:
        One tensor per parameter: zero where a parameter has no influence, ``None`` where it is not trained.

    Chapter: federated-learning. Source: survey, Eq. (1).
    """
    check_name("loss", loss, LOSSES)
    return Task(model=model, num_classes=0, loss=loss).share(x, targets, create_graph=create_graph)


def client_update(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    local: LocalSteps,
    *,
    loss: str = "cross_entropy",
    create_graph: bool = False,
) -> Gradients:
    """Return what FedAvg shares: the weights before minus the weights after ``local.steps`` steps.

    The steps are unrolled, so that with ``create_graph`` the update is differentiable with respect to ``x`` and
    ``targets``. The arguments and the result are those of :func:`client_gradient`; ``model`` is not changed.

    Chapter: federated-learning. Source: mcmahan2017; geiping2020 for the unrolling.
    """
    check_name("loss", loss, LOSSES)
    return Task(model=model, num_classes=0, loss=loss, local=local).share(x, targets, create_graph=create_graph)
