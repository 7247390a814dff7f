"""A client: computes on its private batch, and lets out what is shared and what the threat model declares."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gilearn.federated.batch_norm import recorded_statistics, stripped
from gilearn.federated.checks import check_batch, check_name, check_names
from gilearn.federated.defense import Defense, as_defense
from gilearn.federated.explicit import Explicit, dropout_masks
from gilearn.federated.observation import KNOWLEDGE, Observation
from gilearn.federated.task import LOSSES, LocalSteps, Task
from gilearn.hooks import bare


def observe(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    declare: Sequence[str] = (),
    local: LocalSteps | None = None,
    loss: str = "cross_entropy",
    defense: Defense | Iterable[Defense] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Observation:
    """Let a client compute on its private batch, and return what leaves it.

    Args:
        model: The global model. It is not changed. A model that Opacus wrapped is taken without the wrapper.
        x: The private inputs (batch, ...); integers for a model that takes tokens.
        y: The private labels (batch,), or class probabilities (batch, num_classes); of a sequence model labels
            (batch, length).
        declare: Names from :data:`KNOWLEDGE` that the threat model hands to the attacker.
        local: Take these local steps and share the update; ``None`` shares one gradient.
        loss: A key of :data:`LOSSES`.
        defense: What the client does about leakage; several are applied in the order given.
        num_classes: Number of classes; by default the model's number of outputs (2 for one logit).
        seed: Seeds what the client draws: dropout masks, and what its defense draws.

    Returns:
        An :class:`Observation` that shares no memory with the client.

    Raises:
        ValueError: The batch is empty or not finite, labels and inputs do not fit each other or the model, the gradient
            is not finite, or a name is unknown.

    Chapter: federated-learning. Source: survey, section 1; mcmahan2017.
    """
    generator = torch.Generator().manual_seed(seed)
    task: dict[str, Any] = {"local": local, "loss": loss, "defense": as_defense(defense), "num_classes": num_classes}
    return run_client(model, x, y, declare=declare, generator=generator, memory={}, **task)[0]


def run_client(
    model: nn.Module,
    x: Any,
    y: Any,
    *,
    declare: Sequence[str],
    local: LocalSteps | None,
    loss: str,
    defense: Defense,
    num_classes: int | None = None,
    generator: torch.Generator,
    memory: dict[Any, Any],
    rows: Tensor | None = None,
) -> tuple[Observation, nn.Module]:
    """Run one client; return what leaves it, and its own copy of the model, whose running statistics have moved.

    The arguments are those of :func:`observe`; ``memory`` is what the defense keeps from round to round, ``rows``
    which examples of a pool the batch is made of.
    """
    model = bare(model)
    check_name("loss", loss, LOSSES)
    declare = check_names("declare", declare, KNOWLEDGE)
    if "rows" in declare and rows is None:
        raise ValueError(
            "declare: got 'rows', and this batch comes from no pool, wanted federated.vertical_rounds(...)"
        )
    x, y, num_classes = check_batch(model, x, y, num_classes)
    dropout_masks(stripped(model), x[:1].repeat(2, *[1] * (x.ndim - 1)))  # refuses what draws globally
    at_client = copy.deepcopy(model)
    task = Task(model=at_client, num_classes=num_classes, loss=loss, local=local, defense=defense)
    explicit = Explicit(generator=generator)
    with recorded_statistics(at_client) as statistics:
        shared, ran = task.run(x, y, generator=generator, memory=memory, explicit=explicit)
    knowledge = {
        "labels": y,
        "targets": ran.targets,
        "batch_norm": tuple((mean.detach(), variance.detach()) for _, (mean, variance) in statistics),
        "masks": tuple(explicit.used),
        "rows": rows,
    }
    seen = Observation(
        model=model,
        shared=shared,
        input_shape=tuple(x.shape[1:]),
        batch_size=len(x),
        num_classes=num_classes,
        loss=loss,
        local=local,
        tokens=not x.is_floating_point(),
        knowledge={name: knowledge[name] for name in declare if name != "defense"},
    )
    if "defense" in declare:
        seen = seen.replace(knowledge={**seen.knowledge, "defense": defense.public(seen)})
    return seen, at_client
