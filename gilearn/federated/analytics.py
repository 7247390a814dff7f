"""Rounds behind secure aggregation: what a server keeps of them, and the device analytics that it may hold beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from gilearn.federated.aggregation import AGGREGATIONS
from gilearn.federated.checks import check_name, check_names
from gilearn.federated.observation import Observation
from gilearn.federated.rounds import Round
from gilearn.values import Value

ROUNDS_KNOWLEDGE: Mapping[str, str] = MappingProxyType(
    {"participation": "device analytics: how often each client took part in each window of rounds, (windows, clients)"}
)
"""What :class:`AggregatedRounds` can declare beside the sums, by name; nothing of it is there by default."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AggregatedRounds(Value):
    """All that a server sees of several rounds behind secure aggregation: models out, one aggregate a round back.

    A part is the observation of one round, as if one client had held the data of all who took part. Who they were, and
    how many examples each has, is not in it. :meth:`of` makes one from rounds.

    Args:
        parts: A round each, in order: ``shared`` is the aggregate, ``batch_size`` the number of examples of all clients
            in it, which a server needs for the mean.
        aggregation: What the aggregate is, one of ``federated.AGGREGATIONS``.
        window: Rounds in one window of the analytics, from 1; the last window may be shorter.
        knowledge: Declared knowledge, by the names in :data:`ROUNDS_KNOWLEDGE`; participation in whole numbers.

    Raises:
        ValueError: There are no rounds, they differ in kind, a name is unknown, or ``window`` is below 1.

    Chapter: disaggregation. Source: lam2021.
    """

    parts: tuple[Observation, ...] = field(repr=False)
    aggregation: str = "mean"
    window: int = 10
    knowledge: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_name("aggregation", self.aggregation, AGGREGATIONS)
        check_names("knowledge", tuple(self.knowledge), ROUNDS_KNOWLEDGE)
        if not self.parts or not self.window >= 1:
            raise ValueError(f"parts, window: got {len(self.parts)} and {self.window}, wanted at least 1 of each")
        for name in ("input_shape", "num_classes", "loss", "local"):
            if any(getattr(part, name) != getattr(self.parts[0], name) for part in self.parts):
                raise ValueError(f"parts: they differ in {name}, wanted rounds of one training")
        copies = {name: torch.as_tensor(value).clone() for name, value in self.knowledge.items()}
        object.__setattr__(self, "knowledge", MappingProxyType(copies))

    @classmethod
    def of(
        cls, rounds: Iterable[Round], *, declare: Sequence[str] = (), window: int = 10, num_clients: int | None = None
    ) -> AggregatedRounds:
        """Return what the server keeps of these rounds.

        Args:
            rounds: What :func:`gilearn.federated.fedavg` yields.
            declare: Names from :data:`ROUNDS_KNOWLEDGE` that the threat model hands to the attacker.
            window: Rounds in one window of the analytics. With 1 they say who took part.
            num_clients: Number of clients; by default one more than the last position that took part.

        Raises:
            ValueError: A round is none, a name is unknown, or more clients than ``num_clients`` took part.
        """
        check_names("declare", declare, ROUNDS_KNOWLEDGE)
        rounds = list(rounds)
        if wrong := [type(one).__name__ for one in rounds if not isinstance(one, Round)]:
            raise ValueError(f"rounds: got a {wrong[0]} among them, wanted what fedavg yields")
        last = max((k for r in rounds for k in r.participants), default=0)
        if num_clients is not None and num_clients <= last:
            raise ValueError(f"num_clients: got {num_clients}, and client {last} took part, wanted at least {last + 1}")
        present = torch.zeros(len(rounds), last + 1 if num_clients is None else num_clients, dtype=torch.int64)
        for row, one in zip(present, rounds, strict=True):
            row[list(one.participants)] = 1
        counts = torch.stack([part.sum(0) for part in torch.split(present, max(window, 1))])
        return cls(
            parts=tuple(_seen(one) for one in rounds),
            aggregation=rounds[0].kind if rounds else "mean",
            window=window,
            knowledge={"participation": counts} if "participation" in declare else {},
        )

    def known(self, name: str) -> Tensor:
        """Return declared knowledge, or raise a ``ValueError`` that says how it would be declared."""
        check_name("name", name, ROUNDS_KNOWLEDGE)
        if name not in self.knowledge:
            how = f"AggregatedRounds.of(rounds, declare=[{name!r}]) hands it to the attacker"
            raise ValueError(f"{name}: these rounds do not declare it ({ROUNDS_KNOWLEDGE[name]}); {how}")
        return self.knowledge[name]


def _seen(one: Round) -> Observation:
    total = one.aggregate()
    names = ("model", "shared", "input_shape", "batch_size", "num_classes", "loss", "local", "tokens")
    known = {name: value for name, value in total.knowledge.items() if name == "defense"}
    return Observation(**{name: getattr(total, name) for name in names}, knowledge=known)
