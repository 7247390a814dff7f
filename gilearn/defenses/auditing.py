"""Privacy audits: from errors of an adversary to a lower bound on epsilon; and what a Gaussian mechanism guarantees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gilearn.defenses.distinguishing import ExampleCanary, GradientCanary, NoisyTraining, noisy_sum
from gilearn.defenses.gradients import accounting
from gilearn.federated.checks import check_name, check_number, check_whole
from gilearn.values import Value

__all__ = [
    "Audit",
    "ExampleCanary",
    "GradientCanary",
    "NoisyTraining",
    "audit",
    "best_threshold",
    "gaussian_epsilon",
    "gaussian_tradeoff",
    "guarantee",
    "lower_bound",
    "noisy_sum",
    "upper_limit",
]

FORMS = ("dp", "gdp")
"""What is claimed: ``"dp"``, (epsilon, delta)-differential privacy, or ``"gdp"``, mu-Gaussian differential privacy."""


@dataclass(frozen=True, kw_only=True)
class Audit(Value):
    """What an adversary got wrong in trainings that no threshold was chosen on, and what follows.

    Args:
        threshold: A score above it was taken for a training with the canary.
        false_positives: Trainings without the canary that were taken for one with it.
        false_negatives: The reverse.
        trials: Trainings of each kind.
        delta: Of the guarantee.
        confidence: With which the bound holds, between 0 and 1.
        form: What is audited, one of :data:`FORMS`.

    Raises:
        ValueError: As :func:`lower_bound`.

    Chapter: auditing-privacy.
    """

    threshold: float
    false_positives: int
    false_negatives: int
    trials: int
    delta: float
    confidence: float = 0.95
    form: str = "dp"

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, math.isfinite, "a finite number")
        self._bound()

    @cached_property
    def epsilon(self) -> float:
        """The lower bound on epsilon at delta, at least 0."""
        return self._bound()

    def _bound(self) -> float:
        return lower_bound(
            self.false_positives,
            self.false_negatives,
            self.trials,
            delta=self.delta,
            confidence=self.confidence,
            form=self.form,
        )


def audit(
    holdout: tuple[Tensor, Tensor],
    runs: tuple[Tensor, Tensor],
    *,
    delta: float,
    confidence: float = 0.95,
    form: str = "dp",
) -> Audit:
    """Choose a threshold on some trainings' scores, and count the errors that it makes on others.

    Args:
        holdout: Scores without the canary and with it, (trainings,) each: what :meth:`NoisyTraining.play` returns. The
            threshold is chosen here.
        runs: Scores of other trainings, as many without as with; the bound comes from these.
        delta: Of the guarantee, from 0 to below 1.
        confidence: With which the bound holds, between 0 and 1.
        form: What is audited, one of :data:`FORMS`.

    Raises:
        ValueError: The same trainings came twice, scores are no numbers, or a number is out of range.

    Chapter: auditing-privacy. Source: nasr2021.
    """
    settings: dict[str, Any] = {"delta": delta, "confidence": confidence, "form": form}
    without, present = _scores("runs", runs)
    if any(map(np.array_equal, _scores("holdout", holdout), (without, present))):
        raise ValueError("runs: got the trainings of the holdout, wanted others: the threshold was chosen on those")
    if len(without) != len(present):
        raise ValueError(f"runs: got {len(without)} scores without and {len(present)} with, wanted as many")
    threshold = best_threshold(*holdout, **settings)
    return Audit(
        threshold=threshold,
        false_positives=int((without > threshold).sum()),
        false_negatives=int((present <= threshold).sum()),
        trials=len(without),
        **settings,
    )


def best_threshold(
    without: Tensor, present: Tensor, *, delta: float, confidence: float = 0.95, form: str = "dp"
) -> float:
    """Return the threshold whose errors on these scores give the largest lower bound.

    The limits on the errors are so wide that they hold at all thresholds together. With narrower ones, a threshold in
    the tails often wins by luck, where few errors are counted, and proves little on other trainings.

    Args:
        without: Scores of trainings without the canary (trainings,).
        present: Scores of trainings with it (trainings,), as many.
        delta: As in :func:`lower_bound`.
        confidence: As in :func:`lower_bound`.
        form: As in :func:`lower_bound`.

    Raises:
        ValueError: Scores are no numbers, or not as many without as with; or as :func:`lower_bound`.

    Chapter: auditing-privacy.
    """
    low, high = (np.sort(scores) for scores in _scores("holdout", (without, present)))
    if len(low) != len(high):
        raise ValueError(f"holdout: got {len(low)} scores without and {len(high)} with, wanted as many")
    values = np.unique(np.concatenate([low, high]))
    places = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    positives = len(low) - np.searchsorted(low, places, side="right")
    negatives = np.searchsorted(high, places, side="right")
    _check_confidence(confidence)
    bounds = _bounds(positives, negatives, len(low), delta, 1 - (1 - confidence) / len(places), form)
    return float(places[int(np.argmax(bounds))])


def lower_bound(
    false_positives: int,
    false_negatives: int,
    trials: int,
    *,
    delta: float,
    confidence: float = 0.95,
    form: str = "dp",
) -> float:
    """Return the epsilon below which a mechanism's guarantee is refuted by an adversary's errors.

    Both error rates are replaced by their upper limits, each at the confidence that lets the two hold together: half
    of what is missing to 1 may go wrong on either side.

    Args:
        false_positives: Errors in the trials without the canary.
        false_negatives: Errors in the trials with it.
        trials: Of each kind, from 1.
        delta: Of the guarantee, from 0 to below 1; above 0 for ``"gdp"``.
        confidence: With which the bound holds, between 0 and 1.
        form: ``"dp"``: from the inequality of (epsilon, delta)-differential privacy; ``"gdp"``: the largest mu that the
            errors refute for a Gaussian mechanism, expressed as the epsilon that it has at delta.

    Returns:
        The bound, at least 0.

    Raises:
        ValueError: A number is out of range.

    Chapter: auditing-privacy. Source: nasr2021; nasr2023 for ``"gdp"``.
    """
    check_whole("trials", trials)
    for name, errors in (("false_positives", false_positives), ("false_negatives", false_negatives)):
        check_whole(name, errors, 0)
        if errors > trials:
            raise ValueError(f"{name}: got {errors} of {trials} trials, wanted no more errors than trials")
    found = _bounds(np.array([false_positives]), np.array([false_negatives]), trials, delta, confidence, form)
    if form == "gdp":
        return gaussian_epsilon(max(float(found[0]), 0.0), delta)
    return max(float(found[0]), 0.0)


def upper_limit(errors: int, trials: int, *, confidence: float = 0.95) -> float:
    """Return the one-sided upper limit of Clopper and Pearson on the probability of an error.

    Args:
        errors: How many.
        trials: Of how many, from 1.
        confidence: Of the limit, between 0 and 1.

    Raises:
        ValueError: A number is out of range.

    Chapter: auditing-privacy. Source: clopper1934. Component: ``scipy.stats.beta``.
    """
    check_whole("trials", trials)
    check_whole("errors", errors, 0)
    if errors > trials:
        raise ValueError(f"errors: got {errors} of {trials} trials, wanted no more errors than trials")
    _check_confidence(confidence)
    return float(_limits(np.array([errors]), trials, confidence)[0])


def gaussian_tradeoff(alpha: Tensor, mu: float) -> Tensor:
    """Return the least false negative rate at a false positive rate, against a mu-Gaussian mechanism.

    Args:
        alpha: False positive rates in [0, 1].
        mu: Sensitivity over standard deviation of the noise, not negative.

    Raises:
        ValueError: A rate or mu is out of range.

    Chapter: auditing-privacy. Source: dong2022.
    """
    _check_mu(mu)
    alpha = _as_tensor("alpha", alpha, "rates from 0 to 1")
    if not bool(((alpha >= 0) & (alpha <= 1)).all()):
        raise ValueError(f"alpha: got {alpha.tolist()}, wanted rates from 0 to 1")
    return accounting.tradeoff(alpha, mu)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the least epsilon that a mu-Gaussian mechanism has at delta, exactly.

    T steps without subsampling have mu = sqrt(T) / noise multiplier, whatever was chosen on the way.

    Args:
        mu: Sensitivity over standard deviation of the noise, not negative.
        delta: Above 0, below 1.

    Raises:
        ValueError: A number is out of range.

    Chapter: auditing-privacy. Source: balle2018; dong2022.
    """
    _check_mu(mu)
    check_number("delta", delta, lambda value: 0 < value < 1, "a number above 0 and below 1")
    return accounting.gaussian_epsilon(1 / mu, delta=delta) if mu else 0.0


def guarantee(training: NoisyTraining, delta: float) -> float:
    """Return the epsilon that theory guarantees for a training, whatever example is added to its data or taken away.

    Without subsampling it is exact, :func:`gaussian_epsilon`; with it, an upper bound by Opacus' accountant of privacy
    loss random variables. It is that of :func:`noisy_sum`, whatever the training releases: what is claimed.

    Args:
        training: The training.
        delta: Above 0, below 1.

    Raises:
        ValueError: Delta is out of range.
        ImportError: The examples are subsampled, and Opacus is not installed.

    Chapter: auditing-privacy. Source: abadi2016; balle2018. Component: ``opacus.accountants.PRVAccountant``.
    """
    if not isinstance(training, NoisyTraining):
        raise ValueError(f"training: got a {type(training).__name__}, wanted a NoisyTraining")
    check_number("delta", delta, lambda value: 0 < value < 1, "a number above 0 and below 1")
    if training.rate == 1:
        return gaussian_epsilon(math.sqrt(training.steps) / training.noise, delta)
    return accounting.sampled_epsilon(
        training.noise, delta=delta, sample_rate=training.rate, steps=training.steps, accountant="prv"
    )


def _bounds(
    positives: np.ndarray[Any, Any],
    negatives: np.ndarray[Any, Any],
    trials: int,
    delta: float,
    confidence: float,
    form: str,
) -> np.ndarray[Any, Any]:
    """Return a bound for each pair of errors: on epsilon, or for ``"gdp"`` on mu; it may be negative."""
    from scipy.special import ndtri

    _check_confidence(confidence)
    check_name("form", form, FORMS)
    least = "0" if form == "dp" else "above 0"
    check_number("delta", delta, lambda value: 0 <= value < 1 and (form == "dp" or value > 0), f"{least} to below 1")
    each = (1 + confidence) / 2
    alpha, beta = (_limits(errors, trials, each) for errors in (positives, negatives))
    if form == "gdp":
        found: np.ndarray[Any, Any] = -ndtri(alpha) - ndtri(beta)
        return found
    with np.errstate(divide="ignore"):
        pairs = [np.log(np.maximum(1 - delta - a, 0)) - np.log(b) for a, b in ((alpha, beta), (beta, alpha))]
    larger: np.ndarray[Any, Any] = np.maximum(*pairs)
    return larger


def _limits(errors: np.ndarray[Any, Any], trials: int, confidence: float) -> np.ndarray[Any, Any]:
    if len(errors) > 1:  # a search: most counts occur, and the next search wants the same
        of_each: np.ndarray[Any, Any] = _table(trials, confidence)[errors]
        return of_each
    return _quantiles(errors, trials, confidence)


@lru_cache(maxsize=8)
def _table(trials: int, confidence: float) -> np.ndarray[Any, Any]:
    """Return the limits for 0 to all errors."""
    return _quantiles(np.arange(trials + 1), trials, confidence)


def _quantiles(errors: np.ndarray[Any, Any], trials: int, confidence: float) -> np.ndarray[Any, Any]:
    from scipy.stats import beta

    inner = beta.ppf(confidence, errors + 1, np.maximum(trials - errors, 1))
    found: np.ndarray[Any, Any] = np.where(errors >= trials, 1.0, inner)
    return found


def _scores(name: str, pair: Any) -> list[np.ndarray[Any, Any]]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"{name}: got {type(pair).__name__}, wanted scores without the canary and with it")
    found = []
    for given in pair:
        scores = _as_tensor(name, given, "scores (trainings,)").detach().cpu().numpy()
        if scores.ndim != 1 or len(scores) == 0:
            raise ValueError(f"{name}: got scores of shape {scores.shape}, wanted (trainings,), at least one")
        if not np.isfinite(scores).all():
            raise ValueError(f"{name}: got NaN or infinite scores, wanted finite ones")
        found.append(scores)
    return found


def _as_tensor(name: str, given: Any, wanted: str) -> Tensor:
    try:
        return torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: got a {type(given).__name__}, wanted {wanted}") from error


def _check_confidence(confidence: float) -> None:
    check_number("confidence", confidence, lambda value: 0 < value < 1, "a number between 0 and 1")


def _check_mu(mu: float) -> None:
    check_number("mu", mu, lambda value: 0 <= value < math.inf, "a number, 0 or more")
