"""Attacks on an update of local steps that do not know all of its schedule: one gradient in its place, or a search for
the order.

An update whose order is known needs nothing from here: ``Observation.simulate`` takes the client's steps.
"""

from __future__ import annotations

import copy
import itertools
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from gilearn.attacks.base import Attack, Reconstruction
from gilearn.attacks.iteration.checks import check_kind
from gilearn.attacks.iteration.initialization import FromImage
from gilearn.attacks.iteration.matching import GradientMatching
from gilearn.attacks.iteration.presets import iDLG
from gilearn.attacks.labels.base import Declared
from gilearn.attacks.verdict import mismatch
from gilearn.federated import Observation, Visits

_OF_ONE_GRADIENT = ("labels", "targets", "rows")
"""What an update's knowledge still says of one gradient; masks, statistics and a defense belong to its steps."""


def surrogate(seen: Observation, *, share: float = 0.5) -> Observation:
    """Return an update as one gradient of the whole batch, taken at a model on the line that the client moved along.

    The mean gradient of K steps on all of the data is, to first order in the rate, the gradient at a share of (K - 1) /
    2K. The order in which mini-batches were visited does not matter to it.

    Args:
        seen: An observation with local steps.
        share: Of the update by which the model has moved: 0 is the attacker who takes the update for one gradient, 1
            the model that the client ended with.

    Returns:
        An observation without local steps, for any attack: its model is the one on the way, its gradient the update
        over rate and number of steps. Labels, targets and rows stay declared, all else does not.

    Raises:
        ValueError: There are no local steps, or the share is not between 0 and 1.

    Chapter: local-steps. Source: zhu2023, who search the share together with the inputs.
    """
    if seen.local is None:
        raise ValueError("seen: got a single gradient, wanted an update of local steps")
    if not 0 <= share <= 1:
        raise ValueError(f"share: got {share}, wanted 0 to 1")
    model = copy.deepcopy(seen.model)
    with torch.no_grad():
        for parameter, moved in zip(model.parameters(), seen.shared, strict=True):
            if moved is not None:
                parameter.sub_(share * moved)
    knowledge = {name: seen.knowledge[name] for name in _OF_ONE_GRADIENT if name in seen.knowledge}
    return seen.replace(model=model, shared=seen.gradients, local=None, knowledge=knowledge)


@dataclass(frozen=True, kw_only=True)
class UnknownOrder(Attack):
    """Unroll local epochs whose order the server does not know: search the inputs and the order by turns.

    A start supposes an order. For it the inputs are searched; for these, swaps between two mini-batches of an epoch are
    made as long as one lets the simulated update come closer; from there the inputs are searched again. Labels are read
    once, for the batch as a whole: which example has which does not matter, since the order is free.

    Args:
        search: Finds the inputs under an order.
        turns: How often at most inputs are searched from one start, from 1.
        starts: How many orders to start from at most, from 1; one that explains the update is the last.

    Raises:
        ValueError: A number is out of range, or the search is none. When called: the observation has no local steps, or
            declares an order already.

    Chapter: local-steps. Source: dimitrov2022 for the threat model; they search the inputs of every epoch apart.
    """

    search: GradientMatching = iDLG.replace(labels=Declared(), iterations=20, restarts=1)
    turns: int = 4
    starts: int = 6

    def __post_init__(self) -> None:
        check_kind("search", self.search, GradientMatching)
        for name in ("turns", "starts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least 1")

    def reconstruct(self, seen: Observation, *, seed: int, time_limit: float | None, **options: Any) -> Reconstruction:
        """Run the attack on checked arguments."""
        if getattr(seen, "local", None) is None:
            raise ValueError("seen: got no local steps, wanted an update of several")
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)
        found: list[Reconstruction] = []
        for _ in range(self.starts):
            rows, attack = _drawn(seen, generator), self.search
            for turn in range(self.turns):
                spent = time.perf_counter() - began
                left = None if time_limit is None else max(1e-3, time_limit - spent)
                result = attack(_supposing(seen, rows), seed=seed + turn, time_limit=left, **options)
                found.append(replace(result, details={"rows": rows}))
                if result.residual < self.search.explained or (time_limit is not None and spent > time_limit):
                    break
                better = _improved(seen, rows, result)
                if better == rows:
                    break
                rows, attack = better, self.search.replace(initialization=FromImage(picture=result.inputs))
            if result.residual < self.search.explained or (time_limit is not None and spent > time_limit):
                break
        best = min(found, key=lambda result: result.residual)
        turns = tuple({**result.restarts[0], **result.details} for result in found)
        return replace(best, attack=repr(self), seed=seed, restarts=turns, seconds=time.perf_counter() - began)


def _drawn(seen: Any, generator: torch.Generator) -> tuple[int, ...]:
    """Return a random order of every epoch, one after the other."""
    batch = seen.batch_size
    visits = seen.local.steps * min(seen.local.batch_size or batch, batch)
    orders = [torch.randperm(batch, generator=generator) for _ in range(-(-visits // batch))]
    return tuple(torch.cat(orders).tolist())


def _supposing(seen: Any, rows: tuple[int, ...]) -> Any:
    """Return the observation with an order declared, before whatever defense it declares."""
    known = seen.knowledge.get("defense")
    order = Visits(rows=rows)
    return seen.replace(knowledge={**seen.knowledge, "defense": order if known is None else (order, known)})


def _improved(seen: Any, rows: tuple[int, ...], result: Reconstruction) -> tuple[int, ...]:
    """Return the order after swaps between mini-batches of an epoch, each of which lowers the update's mismatch."""

    def left(rows: tuple[int, ...]) -> float:
        return mismatch(_supposing(seen, rows).simulate(result.inputs, result.labels, create_graph=False), seen.shared)

    size, best, again = seen.local.batch_size or seen.batch_size, left(rows), True
    pairs = [
        (a, b)
        for first in range(0, len(rows), seen.batch_size)
        for a, b in itertools.combinations(range(first, min(first + seen.batch_size, len(rows))), 2)
        if a // size != b // size
    ]
    while again:
        again = False
        for a, b in pairs:
            swapped = list(rows)
            swapped[a], swapped[b] = rows[b], rows[a]
            if (now := left(tuple(swapped))) < best:
                rows, best, again = tuple(swapped), now, True
    return rows
