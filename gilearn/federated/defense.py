"""What a defense is: hooks at the places where the survey says that one can act (survey, section 3)."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from gilearn.values import Value

if TYPE_CHECKING:
    from gilearn.federated.observation import Observation

Gradients = tuple[Tensor | None, ...]
"""One tensor per parameter of the model, in their order; ``None`` where nothing is shared."""


@dataclass(kw_only=True)
class Client:
    """What a defense may use of the client that it runs at; or of the one that an attacker imagines.

    Args:
        model: The client's model.
        num_classes: Number of classes.
        generator: Draws everything that is drawn; ``None`` for an imagined client, which draws nothing.
        memory: Kept from round to round: error feedback, for instance. Each part of a composition has its own.
        inputs: After the defense's ``data``.
        targets: After the defense's ``data``.
    """

    model: nn.Module
    num_classes: int
    generator: torch.Generator | None = None
    memory: dict[Any, Any] = field(default_factory=dict)
    inputs: Tensor | None = None
    targets: Tensor | None = None

    def draw(self, like: Tensor, kind: Literal["normal", "laplace", "uniform"] = "normal") -> Tensor:
        """Draw independent values in the shape of a tensor, on its device and in its type.

        Args:
            like: The tensor.
            kind: ``"normal"`` with variance 1, ``"laplace"`` with scale 1, or ``"uniform"`` in [0, 1).

        Returns:
            The draw, made in float64 on the CPU, so that every device draws the same; the distribution's mean
            everywhere if the client is an imagined one.

        Raises:
            ValueError: The kind is unknown.
        """
        if kind not in ("normal", "laplace", "uniform"):
            raise ValueError(f"kind: got {kind!r}, wanted 'normal', 'laplace' or 'uniform'")
        if self.generator is None:
            return torch.full_like(like, 0.5 if kind == "uniform" else 0.0)
        options: dict[str, Any] = {"generator": self.generator, "dtype": torch.float64}
        drawn = torch.randn(like.shape, **options) if kind == "normal" else torch.rand(like.shape, **options)
        if kind == "laplace":
            centred = drawn - 0.5
            drawn = -centred.sign() * torch.log1p(-2 * centred.abs().clamp_max(0.5 - 2**-54))
        return drawn.to(like)


@dataclass(frozen=True, kw_only=True)
class Defense(Value):
    """A defense: what a client does to its data, its loss, or what it shares. This one does nothing.

    A subclass is a frozen dataclass that overrides the hooks where it acts. Whatever it draws, it draws from the
    client. ``observe(..., defense=...)`` and ``fedavg(..., defense=...)`` run it; an attacker to whom ``"defense"`` is
    declared runs its :meth:`public` part in every simulation.

    Chapter: soteria. Source: survey, section 3.
    """

    def data(self, inputs: Tensor, targets: Tensor, client: Client) -> tuple[Tensor, Tensor]:
        """Return what the client trains on in place of its data (survey, section 3.1).

        Args:
            inputs: (batch, ...).
            targets: Labels (batch,), or class probabilities (batch, num_classes).
            client: The client.
        """
        return inputs, targets

    def objective(self, objective: nn.Module, client: Client) -> nn.Module:
        """Return the loss that is differentiated in place of the client's: ``objective(inputs, targets)`` (3.2).

        Args:
            objective: Has the client's model as its attribute ``model``, and so must what is returned. Only the
                model's parameters are trained.
            client: The client.
        """
        return objective

    def examples(self, gradients: Gradients, client: Client) -> Gradients:
        """Return other per-example gradients, each (batch, *parameter's shape), before they are averaged (3.3)."""
        return gradients

    def step(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the gradients that a local step is taken with; a single shared gradient is one step (3.3)."""
        return gradients

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return what is shared in place of the gradients, or of the update (3.3)."""
        return gradients

    def public(self, seen: Observation) -> Defense:
        """Return what an attacker who knows this defense applies in its simulations: by default nothing.

        Args:
            seen: The observation, without the defense: what is returned can depend on nothing else of the client.
        """
        return Defense()

    def bits(self, shared: Gradients) -> int:
        """Return the bits of an upload, without entropy coding: by default every entry in its floating-point type.

        Args:
            shared: What a server decodes from the upload, one tensor per parameter.
        """
        return sum(8 * g.element_size() * g.numel() for g in shared if g is not None)

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """What it adds to every entry that is shared, independently: kinds, as :meth:`Client.draw` has, with scales."""
        return ()

    @property
    def selects(self) -> bool:
        """Whether it leaves every entry that is shared as it is, or makes it zero: noise then stays what it was."""
        return type(self).shared is Defense.shared

    @property
    def per_example(self) -> bool:
        """Whether it looks at every example's gradient."""
        return type(self).examples is not Defense.examples


@dataclass(frozen=True, kw_only=True)
class Composition(Defense):
    """Several defenses, applied in this order at every hook.

    Args:
        parts: The defenses.

    Raises:
        ValueError: One of them is no :class:`Defense`.
    """

    parts: tuple[Defense, ...] = ()

    def __post_init__(self) -> None:
        for part in self.parts:
            _check(part)

    def data(self, inputs: Tensor, targets: Tensor, client: Client) -> tuple[Tensor, Tensor]:
        """Apply every part's."""
        for part, own in self._clients(client):
            inputs, targets = part.data(inputs, targets, own)
        return inputs, targets

    def objective(self, objective: nn.Module, client: Client) -> nn.Module:
        """Apply every part's."""
        for part, own in self._clients(client):
            objective = part.objective(objective, own)
        return objective

    def examples(self, gradients: Gradients, client: Client) -> Gradients:
        """Apply every part's."""
        for part, own in self._clients(client):
            gradients = part.examples(gradients, own)
        return gradients

    def step(self, gradients: Gradients, client: Client) -> Gradients:
        """Apply every part's."""
        for part, own in self._clients(client):
            gradients = part.step(gradients, own)
        return gradients

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Apply every part's."""
        for part, own in self._clients(client):
            gradients = part.shared(gradients, own)
        return gradients

    def public(self, seen: Observation) -> Defense:
        """Return the composition of the parts' public parts."""
        return Composition(parts=tuple(part.public(seen) for part in self.parts))

    def bits(self, shared: Gradients) -> int:
        """Return the bits of the last part's upload: what comes after a compressor undoes its saving."""
        return self.parts[-1].bits(shared) if self.parts else super().bits(shared)

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """What the parts add, one after the other.

        Raises:
            ValueError: A part after a noisy one changes the noise.
        """
        found: tuple[tuple[str, float], ...] = ()
        for part in self.parts:
            if found and not (part.noise or part.selects):
                raise ValueError(f"defense: got {part!r} after noise, which changes it: wanted the noise last")
            found += part.noise
        return found

    @property
    def selects(self) -> bool:
        """Whether all of them do."""
        return all(part.selects for part in self.parts)

    @property
    def per_example(self) -> bool:
        """Whether one of them looks at every example's gradient."""
        return any(part.per_example for part in self.parts)

    def _clients(self, client: Client) -> Iterable[tuple[Defense, Client]]:
        for k, part in enumerate(self.parts):
            yield part, replace(client, memory=client.memory.setdefault(k, {}))


@dataclass(frozen=True, kw_only=True)
class Visits(Defense):
    """Train on these rows of the data, one after the other: an order of several epochs, or part of one.

    Local steps take the next rows of it. As an attacker's knowledge it is the order that the attacker was told, or
    supposes: ``seen.replace(knowledge={**seen.knowledge, "defense": Visits(rows=...)})``.

    Args:
        rows: Rows of the data, from 0; each may come several times.

    Raises:
        ValueError: There are none, or one is negative. When applied: there is no such row.

    Chapter: local-steps.
    """

    rows: tuple[int, ...]

    def __post_init__(self) -> None:
        try:
            rows = tuple(operator.index(row) for row in self.rows)
        except TypeError as error:
            raise ValueError(f"rows: got {self.rows!r}, wanted a tuple of whole numbers, from 0") from error
        object.__setattr__(self, "rows", rows)
        if not rows or min(rows) < 0:
            raise ValueError(f"rows: got {rows}, wanted at least one, from 0")

    def data(self, inputs: Tensor, targets: Tensor, client: Client) -> tuple[Tensor, Tensor]:
        """Return the rows, in this order."""
        if not max(self.rows) < len(inputs):
            raise ValueError(f"rows: got row {max(self.rows)}, wanted one of {len(inputs)} examples, from 0")
        rows = list(self.rows)
        return inputs[rows], targets[rows]

    def public(self, seen: Observation) -> Defense:
        """Return itself: who declares the defense hands the order out."""
        return self


def as_defense(defense: Defense | Iterable[Defense] | None) -> Defense:
    """Return one defense: nothing for ``None``, a :class:`Composition` for several.

    Raises:
        ValueError: It is none.
    """
    if defense is None:
        return Defense()
    if isinstance(defense, (tuple, list)):
        return Composition(parts=tuple(defense))
    return _check(defense)


def _check(defense: object) -> Defense:
    if isinstance(defense, type) and issubclass(defense, Defense):
        raise ValueError(f"defense: got the class {defense.__name__}, wanted a value: {defense.__name__}(...)")
    if not isinstance(defense, Defense):
        raise ValueError(f"defense: got a {type(defense).__name__}, wanted a gilearn.federated.Defense")
    return defense
