"""What leaves several clients: a sum or mean over them, or many observations of one pool of examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from gilearn.federated.checks import check_name
from gilearn.federated.defense import Gradients
from gilearn.federated.observation import KNOWLEDGE, Observation
from gilearn.federated.protocol import Options
from gilearn.values import Value


@dataclass(frozen=True, kw_only=True, eq=False)
class Aggregate(Observation):
    """What a server sees of several clients behind an aggregation: a weighted sum of what they shared.

    The batch is that of all clients, one after the other. Label rules take it like one client's batch; ``simulate``
    runs every client on its own part, with its own local steps.

    Args:
        counts: Number of examples of every client; they add up to ``batch_size``.
        weights: Of every client in the sum; by default the mean over all examples, counts / batch size.

    Raises:
        ValueError: As :class:`Observation`; also if counts and batch size, or counts and weights, do not fit.

    Chapter: federated-learning. Source: survey, section 2.1.4.
    """

    counts: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        counts = tuple(int(count) for count in self.counts)
        if not counts or min(counts) < 1 or sum(counts) != self.batch_size:
            raise ValueError(f"counts: got {counts}, wanted positive numbers that add up to {self.batch_size}")
        weights = self.weights or tuple(count / self.batch_size for count in counts)
        if len(weights) != len(counts):
            raise ValueError(f"weights: got {len(weights)}, wanted one for each of {len(counts)} clients")
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "weights", tuple(float(weight) for weight in weights))
        super().__post_init__()

    def simulate(self, inputs: Tensor, targets: Tensor, **options: Unpack[Options]) -> Gradients:
        """Return what would have been aggregated, had the clients' data been these, one client after the other.

        The arguments are those of :meth:`Observation.simulate`; masks (batch, ...) are divided among the clients too.
        """
        counts = list(self.counts)
        parts = [torch.split(inputs, counts), torch.split(targets, counts)]
        masks = options.get("masks")
        masks = self.knowledge.get("masks") if masks is None else masks
        of_clients: list[list[Tensor] | None] = [None] * len(self.counts)
        if masks is not None:
            of_clients = [list(own) for own in zip(*(torch.split(mask, counts) for mask in masks), strict=True)]
        total: list[Tensor | None] = [None] * len(self.shared)
        for x, y, own, weight in zip(*parts, of_clients, self.weights, strict=True):
            options["masks"] = own
            shared = super().simulate(x, y, **options)
            terms = [None if g is None else weight * g for g in shared]
            total = [b if a is None else a if b is None else a + b for a, b in zip(total, terms, strict=True)]
        return tuple(total)


@dataclass(frozen=True, kw_only=True, eq=False)
class Several(Value):
    """Several observations whose batches come from one pool of examples: what is searched is the pool.

    Args:
        parts: The observations, of one model architecture; of many rounds, for instance.
        rows: For each of them, which examples of the pool its batch is made of, in order; by default what every part
            declares by that name.
        size: Number of examples in the pool; ``None``: as many as the rows tell of.

    Raises:
        ValueError: There is no part, a part's rows do not fit its batch or the pool, or are not declared, or the parts
            differ in shape.

    Chapter: federated-learning. Source: survey, section 2.1.3; jin2021 for the known rows.
    """

    parts: tuple[Observation, ...] = field(repr=False)
    rows: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    size: int | None = None

    def __post_init__(self) -> None:
        if not self.rows:
            object.__setattr__(self, "rows", tuple(tuple(part.known("rows").tolist()) for part in self.parts))
        if not self.parts or len(self.rows) != len(self.parts):
            raise ValueError(
                f"rows: got {len(self.rows)} for {len(self.parts)} parts, wanted at least one, and as many"
            )
        for part, rows in zip(self.parts, self.rows, strict=True):
            if len(rows) != part.batch_size or min(rows) < 0:
                raise ValueError(f"rows: got {rows}, wanted {part.batch_size} numbers of examples, one for each")
            for name in ("input_shape", "num_classes", "loss", "tokens", "device", "dtype"):
                if getattr(part, name) != getattr(self.parts[0], name):
                    raise ValueError(f"parts: they differ in {name}, wanted observations of one kind")
        object.__setattr__(self, "rows", tuple(tuple(int(row) for row in rows) for rows in self.rows))
        if self.size is not None and self.size < (named := 1 + max(map(max, self.rows))):
            raise ValueError(f"size: got {self.size}, and the rows name example {named - 1}, wanted at least {named}")

    @cached_property
    def shared(self) -> Gradients:
        """What all parts shared, one after the other."""
        return tuple(tensor for part in self.parts for tensor in part.shared)

    @property
    def batch_size(self) -> int:
        """Number of examples in the pool."""
        return 1 + max(map(max, self.rows)) if self.size is None else self.size

    def drawn(self, number: int, generator: torch.Generator) -> Several:
        """Return the same pool behind ``number`` of the parts, drawn without replacement."""
        chosen = torch.randperm(len(self.parts), generator=generator)[:number].tolist()
        parts, rows = (tuple(of[k] for k in chosen) for of in (self.parts, self.rows))
        return self.replace(parts=parts, rows=rows, size=self.batch_size)

    @property
    def model(self) -> nn.Module:
        """The first part's model."""
        return self.parts[0].model

    @property
    def network(self) -> nn.Module:
        """The first part's model, for forward passes."""
        return self.parts[0].network

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.parts[0].input_shape

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.parts[0].num_classes

    @property
    def loss(self) -> str:
        """A key of ``federated.LOSSES``."""
        return self.parts[0].loss

    @property
    def tokens(self) -> bool:
        """Whether the model takes integer tokens."""
        return self.parts[0].tokens

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.parts[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the models."""
        return self.parts[0].dtype

    @property
    def mask_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The masks of every part differ: none is a variable of the pool."""
        return ()

    @property
    def mask_rates(self) -> tuple[float, ...]:
        """None; see ``mask_shapes``."""
        return ()

    @cached_property
    def knowledge(self) -> Mapping[str, Any]:
        """The pool's labels, where every part declares its own and every example of the pool is in one."""
        if any("labels" not in part.knowledge for part in self.parts):
            return MappingProxyType({})
        labels = torch.full((self.batch_size,), -1, dtype=torch.int64, device=self.device)
        for part, rows in zip(self.parts, self.rows, strict=True):
            labels[list(rows)] = part.knowledge["labels"]
        return MappingProxyType({"labels": labels} if bool((labels >= 0).all()) else {})

    def known(self, name: str) -> Any:
        """Return the pool's declared knowledge, or raise a ``ValueError`` that says how it would be declared."""
        check_name("name", name, KNOWLEDGE)
        if name not in self.knowledge:
            raise ValueError(f"{name}: not every part declares it for all of the pool ({KNOWLEDGE[name]})")
        return self.knowledge[name]

    def simulate(self, inputs: Tensor, targets: Tensor, **options: Unpack[Options]) -> Gradients:
        """Return what all parts would have shared, had the pool been this.

        The arguments are those of :meth:`Observation.simulate`, of the whole pool.

        Raises:
            ValueError: Masks are given.
        """
        if options.get("masks") is not None:
            raise ValueError("masks: got some, and the masks of every part differ: declare them part by part")
        return tuple(
            tensor
            for part, rows in zip(self.parts, self.rows, strict=True)
            for tensor in part.simulate(inputs[list(rows)], targets[list(rows)], **options)
        )

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Several:
        """Return the same on another device, or in another floating-point type."""
        return self.replace(parts=tuple(part.to(device=device, dtype=dtype) for part in self.parts))
