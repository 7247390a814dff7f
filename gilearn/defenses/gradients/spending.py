"""What clipping and noise over many rounds spend of a privacy budget: one example's, by Renyi differential privacy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

from gilearn.defenses._extra import library
from gilearn.defenses.gradients.dynamic import Decay, FedCDP, FedSDP
from gilearn.federated.checks import check_name, check_number, check_whole

History = list[tuple[float, float, int]]
"""Noise multiplier over the sensitivity, share of the examples that a step samples, number of steps: one row after the
other, as Opacus' accountants keep it."""

ORDERS = (1.01, 1.02, 1.05, *(1 + k / 10 for k in range(1, 100)), *range(11, 64), 80, 96, 128, 192, 256, 384, 512)
"""Orders of the divergence among which the best is taken."""


def instance_rate(*, batch_size: int, participants: int, examples: int) -> float:
    """Return the share q = B K / N of all examples that one step of all participating clients looks at.

    Args:
        batch_size: B, of one client's step.
        participants: K, clients of one round.
        examples: N, of all clients together.

    Raises:
        ValueError: A number is no positive whole number, or the steps look at more examples than there are.

    Chapter: dynamic-noise. Source: wei2021.
    """
    for name, value in (("batch_size", batch_size), ("participants", participants), ("examples", examples)):
        check_whole(name, value)
    if batch_size * participants > examples:
        wanted = f"at most the number of examples, {examples}"
        raise ValueError(f"batch_size: got {batch_size} for each of {participants} clients, wanted {wanted}")
    return batch_size * participants / examples


def history(
    defense: FedCDP | FedSDP,
    *,
    rounds: int,
    layers: int,
    batch_size: int = 1,
    steps: int = 1,
    rate: float = 1.0,
    changed: int = 1,
    neighbours: Literal["replace", "remove"] = "replace",
) -> History:
    """Return what an observer is given about an example: a normal mechanism after the other.

    Of Fed-CDP an observer sees means of B examples. Replacing one of them moves the mean by at most
    2 C sqrt(layers) / B, and its noise has deviation s C / sqrt(B), s being the defense's multiplier. What counts is
    the ratio, s sqrt(B) / (2 sqrt(layers)): neither the clip nor how it decays is in it. Of Fed-SDP one sees a mean of
    one, the client; with its scope ``"whole"`` of one layer.

    Args:
        defense: What the client does, in every round.
        rounds: How many of them the client takes part in.
        layers: Of the model.
        batch_size: B, how many examples are averaged before the observer looks; 1 for who looks during local training.
        steps: Of a round, that an example may be part of. Fed-SDP has one.
        rate: Probability with which it is part of one, each time anew; 1: it is for certain. Below 1 the accountant
            supposes Poisson sampling, for which ``neighbours`` have to differ by an example that is there or not. It
            says nothing about batches in a fixed order, in which an example is certain to come.
        changed: Of the batch's examples, in how many neighbouring data differ: ``batch_size`` for all of a client's.
        neighbours: Data in which an example is replaced by another, or by nothing, a gradient of zero; then half of it
            moves. The noise of the place is supposed to stay: a client that has one example fewer in a step also adds
            one noise fewer, by which the batch's size shows; and B is that of the step, where sampling varies it.

    Returns:
        Rows as :data:`History` has them, equal neighbours joined.

    Raises:
        ValueError: A number is out of range, or the defense is another one.

    Chapter: dynamic-noise. Source: wei2021 for the two mechanisms.
    """
    if not isinstance(defense, (FedCDP, FedSDP)):
        raise ValueError(f"defense: got {defense!r}, wanted a FedCDP or a FedSDP")
    sizes = (("rounds", rounds), ("layers", layers), ("batch_size", batch_size), ("steps", steps), ("changed", changed))
    for name, value in sizes:
        check_whole(name, value)
    check_name("neighbours", neighbours, ("replace", "remove"))
    check_number("rate", rate, lambda value: 0 < value <= 1, "above 0, at most 1")
    if rate < 1 and neighbours == "replace":
        raise ValueError(f"rate: got {rate} for neighbours='replace', wanted 1, or neighbours='remove'")
    if changed > batch_size:
        raise ValueError(f"changed: got {changed}, wanted at most the batch's {batch_size} examples")
    moves = (2 if neighbours == "replace" else 1) * math.sqrt(layers)
    if isinstance(defense, FedSDP):
        moves = moves if defense.scope == "layer" else moves / math.sqrt(layers)
        return [(defense.noise_multiplier / moves, rate, rounds)]
    found: History = []
    for number in range(1, rounds + 1):
        multiplier = float(defense.at(number).noise_multiplier) * math.sqrt(batch_size) / (moves * changed)  # type: ignore[arg-type]
        if found and math.isclose(found[-1][0], multiplier, rel_tol=1e-12):
            found[-1] = (*found[-1][:2], found[-1][2] + steps)
        else:
            found.append((multiplier, rate, steps))
    return found


def epsilon(spent: Sequence[tuple[float, float, int]], *, delta: float) -> float:
    """Return the epsilon at a delta of mechanisms that differ in their noise, added up order by order.

    Args:
        spent: As :func:`history` returns it.
        delta: Above 0, below 1.

    Raises:
        ValueError: A number is out of range.
        ImportError: Opacus is not installed.

    Chapter: dynamic-noise. Component: ``opacus.accountants.RDPAccountant``.
    """
    check_number("delta", delta, lambda value: 0 < value < 1, "above 0, below 1")
    rows = list(spent) if isinstance(spent, Sequence) else [spent]
    for row in rows:
        if not isinstance(row, tuple | list) or len(row) != 3:
            raise ValueError(f"spent: got {row!r}, wanted rows of multiplier, rate and steps, as history returns them")
    for multiplier, rate, steps in rows:
        check_number("spent", multiplier, lambda value: 0 <= value < math.inf, "multipliers of 0 or more")
        check_number("spent", rate, lambda value: 0 < value <= 1, "rates above 0, at most 1")
        check_whole("spent", steps)
    if any(multiplier == 0 for multiplier, _, _ in rows):
        return math.inf
    accountant = library("opacus.accountants").RDPAccountant()
    accountant.history = rows
    with warnings.catch_warnings():  # the first or the last order can be the best: a bound all the same
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(accountant.get_epsilon(delta=delta, alphas=list(ORDERS)))


def at_epsilon(defense: FedCDP | FedSDP, wanted: float, *, delta: float, **options: object) -> FedCDP | FedSDP:
    """Return the defense with its noise scaled, by one factor in all rounds, so that it spends this epsilon.

    Args:
        defense: Its multiplier must not be 0; of a decay the shape stays.
        wanted: The epsilon, positive.
        delta: Above 0, below 1.
        options: Of :func:`history`.

    Raises:
        ValueError: A number is out of range, or no factor from 1e-3 to 1e3 has that epsilon.

    Chapter: dynamic-noise. Component: ``scipy.optimize.brentq``.
    """
    from scipy.optimize import brentq

    check_number("wanted", wanted, lambda value: 0 < value < math.inf, "a positive number")
    if not isinstance(defense, (FedCDP, FedSDP)):
        raise ValueError(f"defense: got {defense!r}, wanted a FedCDP or a FedSDP")
    if not defense.noise_multiplier:
        raise ValueError("noise_multiplier: got 0, wanted noise: no factor makes any of none")

    def scaled(logarithm: float) -> FedCDP | FedSDP:
        multiplier, factor = defense.noise_multiplier, math.exp(logarithm)
        if isinstance(multiplier, Decay):
            return defense.replace(
                noise_multiplier=multiplier.replace(start=factor * multiplier.start, end=factor * multiplier.end)
            )
        return defense.replace(noise_multiplier=factor * multiplier)

    def excess(logarithm: float) -> float:
        spent = epsilon(history(scaled(logarithm), **options), delta=delta)  # type: ignore[arg-type]
        return math.log(max(spent, 1e-300) / wanted)  # a large delta pays for everything: an epsilon of 0

    low, high = math.log(1e-3), math.log(1e3)
    if not (math.isfinite(excess(low)) and excess(low) > 0 > excess(high)):
        raise ValueError(f"wanted: got {wanted}, wanted an epsilon that a factor from 1e-3 to 1e3 of the noise spends")
    return scaled(float(brentq(excess, low, high, xtol=1e-6)))
