"""Observers inside a client, who see what it computes before a defense is through with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gilearn.federated.checks import check_name, check_names, check_whole
from gilearn.federated.client import run_client
from gilearn.federated.defense import Client, Composition, Defense, Gradients, as_defense
from gilearn.federated.observation import Observation
from gilearn.federated.task import LocalSteps

POINTS = ("client", "example")
"""Where an observer inside a client looks: at what it is about to share, or at one example's gradient on the way."""


def observe_inside(
    model: nn.Module,
    x: Any,
    y: Any,
    *,
    point: Literal["client", "example"],
    row: int = 0,
    local: LocalSteps | None = None,
    loss: str = "cross_entropy",
    defense: Defense | Sequence[Defense] | None = None,
    declare: Sequence[str] = (),
    num_classes: int | None = None,
    seed: int = 0,
) -> Observation:
    """Return what somebody sees who looks into a client while it works, and nothing else.

    Args:
        model: The global model.
        x: Inputs of the client's batch (batch, ...).
        y: Labels (batch,).
        point: ``"client"``: the gradient or update after local training, before the defense's ``shared`` changes it.
            ``"example"``: the gradient of one example in the first local step, as the defense's ``examples`` leaves
            it, before it is averaged with the others.
        row: Which example that is, from 0; of the batch as the defense's ``data`` leaves it.
        local: The schedule of local steps; who looks at one example sees one gradient.
        loss: A key of :data:`gilearn.federated.LOSSES`.
        defense: What the client does about leakage.
        declare: ``"labels"``, ``"targets"`` or ``"defense"``: the part of it that was at work by then.
        num_classes: Number of classes.
        seed: Seeds what the client draws; the draws are not those of :func:`gilearn.federated.observe`.

    Raises:
        ValueError: The point is unknown, there is no such row, or as :func:`gilearn.federated.observe`.

    Chapter: dynamic-noise. Source: wei2021 for the places of leakage.
    """
    check_name("point", point, POINTS)
    check_whole("row", row, 0)
    check_whole("seed", seed, 0)
    if num_classes is not None:
        check_whole("num_classes", num_classes)
    if local is not None and not isinstance(local, LocalSteps):
        raise ValueError(f"local: got {local!r}, wanted a LocalSteps, or None")
    declare = check_names("declare", declare, ("labels", "targets", "defense"))
    parts = _parts(as_defense(defense))
    early = [Early(defense=part, stepped=point == "client") for part in parts]
    told = [name for name in declare if name != "defense"]
    options: dict[str, Any] = {"loss": loss, "num_classes": num_classes, "memory": {}}
    options |= {"declare": told, "generator": torch.Generator().manual_seed(seed)}
    if point == "client":
        seen = run_client(model, x, y, local=local, defense=Composition(parts=tuple(early)), **options)[0]
    else:
        chosen = Composition(parts=(*early, _Row(row=row)))
        whole = run_client(model, x, y, local=None, defense=chosen, **options)[0]
        known = {name: value[row : row + 1] for name, value in whole.knowledge.items()}
        seen = whole.replace(batch_size=1, knowledge=known)
    if "defense" in declare:
        public = Composition(parts=tuple(part.public(seen) for part in early))
        seen = seen.replace(knowledge={**seen.knowledge, "defense": public})
    return seen


def _parts(defense: Defense) -> tuple[Defense, ...]:
    """Return what a composition is made of, at any depth."""
    if not isinstance(defense, Composition):
        return (defense,)
    return tuple(part for given in defense.parts for part in _parts(given))


@dataclass(frozen=True, kw_only=True)
class Early(Defense):
    """What a defense has done before it changes what is shared.

    Args:
        defense: The defense, no composition.
        stepped: Whether it has also changed the gradients that local steps are taken with.

    Chapter: dynamic-noise.
    """

    defense: Defense
    stepped: bool = True

    def data(self, inputs: Tensor, targets: Tensor, client: Client) -> tuple[Tensor, Tensor]:
        """Apply the defense's."""
        return self.defense.data(inputs, targets, client)

    def objective(self, objective: nn.Module, client: Client) -> nn.Module:
        """Apply the defense's."""
        return self.defense.objective(objective, client)

    def examples(self, gradients: Gradients, client: Client) -> Gradients:
        """Apply the defense's."""
        return self.defense.examples(gradients, client)

    def step(self, gradients: Gradients, client: Client) -> Gradients:
        """Apply the defense's, if it was at work by then."""
        return self.defense.step(gradients, client) if self.stepped else gradients

    def public(self, seen: Observation) -> Defense:
        """Return the public part of the defense, as far as it was at work."""
        return self.replace(defense=self.defense.public(seen))

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """What the defense adds, unless it does so to what is shared."""
        return self.defense.noise if type(self.defense).shared is Defense.shared else ()

    @property
    def per_example(self) -> bool:
        """Whether the defense looks at every example's gradient."""
        return self.defense.per_example


@dataclass(frozen=True, kw_only=True)
class _Row(Defense):
    """Take one example's gradient for the whole batch's."""

    row: int

    def examples(self, gradients: Gradients, client: Client) -> Gradients:
        given = next(len(g) for g in gradients if g is not None)
        if not self.row < given:
            raise ValueError(f"row: got {self.row}, wanted one of {given} examples, from 0")
        return tuple(None if g is None else g[self.row : self.row + 1] for g in gradients)
