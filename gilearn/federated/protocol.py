"""What an attack takes: anything that says what was shared, and what would have been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict, Unpack, runtime_checkable

import torch
from torch import Tensor, nn

from gilearn.federated.defense import Gradients


class Options(TypedDict, total=False):
    """The options of a simulation; :meth:`Observation.simulate` says what each does, and what it is by default."""

    masks: Sequence[Tensor] | None
    generator: torch.Generator | None
    create_graph: bool
    functional: bool


@runtime_checkable
class Observed(Protocol):
    """What every attack takes: one client's :class:`Observation`, an aggregate of several, or several of one pool.

    A server that sees one client has an :class:`Observation`. Behind an aggregation it has a
    :class:`gilearn.federated.Aggregate`. Observations over many rounds whose batches come from one pool are
    :class:`gilearn.federated.Several`. A vertical party needs no kind of its own: the joint model splits its input
    among the parties, and what is withheld from the party that looks is ``None``.

    Chapter: federated-learning.
    """

    @property
    def shared(self) -> Gradients: ...  # noqa: D102
    @property
    def model(self) -> nn.Module: ...  # noqa: D102
    @property
    def network(self) -> nn.Module: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def input_shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def num_classes(self) -> int: ...  # noqa: D102
    @property
    def loss(self) -> str: ...  # noqa: D102
    @property
    def knowledge(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102
    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102

    def simulate(self, inputs: Tensor, targets: Tensor, **options: Unpack[Options]) -> Gradients:
        """Return what would have been shared, had the data been these; see :meth:`Observation.simulate`."""
        ...

    def known(self, name: str) -> Any:
        """Return declared knowledge, or raise a ``ValueError`` that says how it would be declared."""
        ...

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Observed:
        """Return the same on another device, or in another floating-point type."""
        ...
