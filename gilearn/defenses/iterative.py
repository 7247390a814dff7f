"""What steps add up to in privacy, and what privacy says about generalization (survey, section 3.3; he2021)."""

from __future__ import annotations

import math

from gilearn.federated.checks import check_number, check_whole


def composed(epsilon: float, steps: int, *, delta: float = 0.0, slack: float | None = None) -> tuple[float, float]:
    """Return epsilon and delta of several steps, each of which is (epsilon, delta)-differentially private.

    Args:
        epsilon: Of one step, not negative.
        steps: From 1; each may depend on the results of those before.
        delta: Of one step, from 0 to 1.
        slack: ``None`` for basic composition: both numbers add up. Otherwise what advanced composition adds to delta,
            above 0 and below 1.

    Returns:
        Epsilon and delta of all steps together; a delta of 1 says nothing.

    Raises:
        ValueError: A number is out of range.

    Chapter: auditing-privacy. Source: dworkroth2014, theorems 3.16 and 3.20.
    """
    _check(epsilon, delta)
    check_whole("steps", steps)
    if slack is None:
        return steps * epsilon, min(1.0, steps * delta)
    check_number("slack", slack, lambda value: 0 < value < 1, "a number above 0 and below 1")
    spread = math.sqrt(2 * steps * math.log(1 / slack)) * epsilon
    moved = math.expm1(epsilon) if epsilon < 700 else math.inf
    return spread + steps * epsilon * moved, min(1.0, steps * delta + slack)


def largest_gap(epsilon: float, delta: float) -> float:
    """Return how much larger the expected loss on new data can be than that on the training data, at most.

    Losses are between 0 and 1, examples are drawn independently from one distribution, and neighbouring data sets
    differ in the value of one example: a guarantee for adding or removing one has to be converted first.

    Args:
        epsilon: Of the training, not negative.
        delta: Of the training, from 0 to 1.

    Returns:
        The bound on the expected gap, from 0 to 1; also the largest total variation between the two trainings.

    Raises:
        ValueError: A number is out of range.

    Chapter: auditing-privacy, which proves it. Source: he2021, for on-average bounds of this kind.
    """
    _check(epsilon, delta)
    return delta + (1 - delta) * math.tanh(epsilon / 2)


def _check(epsilon: float, delta: float) -> None:
    check_number("epsilon", epsilon, lambda value: value >= 0, "a number, 0 or more")
    check_number("delta", delta, lambda value: 0 <= value <= 1, "a number from 0 to 1")
