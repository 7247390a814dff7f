"""Attacks on an update of local steps that do not know all of its schedule: one gradient in its place, or a search for
the order.

An update whose order is known needs nothing from here: ``Observation.simulate`` takes the client's steps.
"""

from __future__ import annotations

import copy
import itertools
import time
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from gilearn.attacks.base import Attack, Reconstruction
from gilearn.attacks.iteration.checks import check_kind
from gilearn.attacks.iteration.initialization import FromImage
from gilearn.attacks.iteration.matching import GradientMatching
from gilearn.attacks.iteration.presets import iDLG
from gilearn.attacks.iteration.spaces.base import Bounds, check_bounds
from gilearn.attacks.labels.base import Declared
from gilearn.attacks.verdict import mismatch
from gilearn.federated import LocalSteps, Observation, Visits
from gilearn.federated.checks import check_number, check_whole

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
    check_kind("seen", seen, Observation)
    if seen.local is None:
        raise ValueError("seen: got a single gradient, wanted an update of local steps")
    check_number("share", share, lambda share: 0 <= share <= 1, "0 to 1")
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

    A start supposes an order. For known inputs, swaps between two mini-batches of an epoch are made as long as one lets
    the simulated update come closer; for a known order, the inputs are searched; and so on. The first start, and every
    other one, takes its first inputs from :func:`surrogate`, which needs no order. Labels are read once, for the batch
    as a whole: which example has which does not matter, since the order is free.

    Args:
        search: Finds the inputs, under an order or without one. Its ``explained`` has to be small: a wrong order of
            similar examples can leave less than a thousandth of an update.
        bounds: Least and largest value of an input, to which inputs are clipped before orders are compared; ``None``:
            not at all.
        turns: How often at most inputs are searched under an order from one start, from 1.
        starts: How many orders to start from at most, from 1; one that explains the update is the last.

    Raises:
        ValueError: A number is out of range, or the search is none. When called: the observation has no local steps.

    Chapter: local-steps. Source: dimitrov2022 for the threat model; they search the inputs of every epoch apart.
    """

    search: GradientMatching = iDLG.replace(labels=Declared(), iterations=10, restarts=1, explained=1e-5)
    bounds: Bounds | None = (0.0, 1.0)
    turns: int = 4
    starts: int = 6

    def __post_init__(self) -> None:
        check_kind("search", self.search, GradientMatching)
        check_bounds(self.bounds)
        for name in ("turns", "starts"):
            check_whole(name, getattr(self, name))

    def reconstruct(self, seen: Observation, *, seed: int, time_limit: float | None, **options: Any) -> Reconstruction:
        """Run the attack on checked arguments."""
        if getattr(seen, "local", None) is None:
            raise ValueError("seen: got no local steps, wanted an update of several")
        began = time.perf_counter()

        def searched(view: Observation, attack: GradientMatching, number: int) -> Reconstruction:
            left = None if time_limit is None else max(1e-3, time_limit - (time.perf_counter() - began))
            return attack(view, seed=seed + number, time_limit=left, **options)

        generator = torch.Generator().manual_seed(seed)
        steps = cast(LocalSteps, seen.local).steps
        without = searched(surrogate(seen, share=(steps - 1) / (2 * steps)), self.search, 0)
        found: list[Reconstruction] = []
        over = False
        for start in range(self.starts):
            rows, attack = _drawn(seen, generator), self.search
            if start % 2 == 0:
                rows = self._improved(seen, rows, without)
            for turn in range(self.turns):
                result = searched(_supposing(seen, rows), attack, turn)
                found.append(replace(result, details={"rows": rows}))
                spent = time.perf_counter() - began
                over = result.residual < self.search.explained or (time_limit is not None and spent > time_limit)
                better = rows if over else self._improved(seen, rows, result)
                if better == rows:
                    break
                rows, attack = better, self.search.replace(initialization=FromImage(picture=result.inputs))
            if over:
                break
        best = min(found, key=lambda result: result.residual)
        turns = tuple({**result.restarts[0], **result.details} for result in found)
        return replace(best, attack=repr(self), seed=seed, restarts=turns, seconds=time.perf_counter() - began)

    def _improved(self, seen: Any, rows: tuple[int, ...], result: Reconstruction) -> tuple[int, ...]:
        """Return the order after swaps between mini-batches of an epoch, each of which lowers the mismatch."""
        inputs = result.inputs if self.bounds is None else result.inputs.clamp(*self.bounds)

        def left(rows: tuple[int, ...]) -> float:
            return mismatch(_supposing(seen, rows).simulate(inputs, result.labels, create_graph=False), seen.shared)

        size, best, again = seen.local.batch_size or seen.batch_size, left(rows), True
        pairs = [
            (a, b)
            for first in range(0, len(rows), seen.batch_size)
            for a, b in itertools.combinations(range(first, first + seen.batch_size), 2)
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
