"""What Gaussian noise is worth: epsilon and delta of one release, of several, and of batches drawn at random.

A noise multiplier is the noise's standard deviation over the largest change that one unit (an example, a client) can
make to what is released. The bounds are about that unit being there or not; where it is exchanged for another one the
change can be twice as large, which is half the noise multiplier.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from gilearn.defenses._extra import library
from gilearn.federated.checks import check_name, check_number, check_whole

ACCOUNTANTS = ("rdp", "rdp-classic", "prv")
"""How the privacy of subsampled steps is added up; see :func:`sampled_epsilon`."""


def gaussian_delta(noise_multiplier: float, *, epsilon: float, steps: int = 1) -> float:
    """Return the least delta for which Gaussian noise is (epsilon, delta)-differentially private: exact.

    Args:
        noise_multiplier: Positive.
        epsilon: Not negative.
        steps: Releases of the same unit with independent noise, each free to depend on the earlier ones, from 1.

    Raises:
        ValueError: A number is out of range.

    Chapter: differential-privacy. Source: balle2018, theorem 8; dong2022, corollary 3.3, for several steps.
    """
    check_number("noise_multiplier", noise_multiplier, lambda value: 0 < value < math.inf, "a positive number")
    check_number("epsilon", epsilon, lambda value: 0 <= value < math.inf, "0 or more")
    check_whole("steps", steps)
    return _delta(math.sqrt(steps) / noise_multiplier, epsilon)


def gaussian_epsilon(noise_multiplier: float, *, delta: float, steps: int = 1) -> float:
    """Return the least epsilon for which Gaussian noise is (epsilon, delta)-differentially private: exact.

    Args:
        noise_multiplier: Positive.
        delta: Above 0, below 1.
        steps: As in :func:`gaussian_delta`.

    Raises:
        ValueError: A number is out of range.

    Chapter: differential-privacy. Source: balle2018. Component: ``scipy.optimize.brentq``.
    """
    from scipy.optimize import brentq

    check_number("noise_multiplier", noise_multiplier, lambda value: 0 < value < math.inf, "a positive number")
    _check_delta(delta)
    check_whole("steps", steps)
    shift = math.sqrt(steps) / noise_multiplier
    if _delta(shift, 0.0) <= delta:
        return 0.0
    enough = shift * shift / 2 + shift * math.sqrt(2 * math.log(1 / delta))
    if math.isinf(enough):
        return math.inf
    return float(brentq(lambda epsilon: _delta(shift, epsilon) - delta, 0.0, enough, xtol=1e-12, rtol=1e-12))


def gaussian_std(epsilon: float, *, delta: float, sensitivity: float = 1.0, steps: int = 1) -> float:
    """Return the least standard deviation of (epsilon, delta)-private Gaussian noise: the analytic mechanism.

    Args:
        epsilon: Positive, however large.
        delta: Above 0, below 1.
        sensitivity: How far one unit can move what is released, in norm, positive; the result is in its units.
        steps: As in :func:`gaussian_delta`.

    Raises:
        ValueError: A number is out of range.

    Chapter: differential-privacy. Source: balle2018, algorithm 1. Component: ``scipy.optimize.brentq``.
    """
    from scipy.optimize import brentq

    _check_epsilon(epsilon)
    _check_delta(delta)
    _check_sensitivity(sensitivity)
    check_whole("steps", steps)
    high = low = 1.0
    while _delta(1 / high, epsilon) > delta:
        high *= 2
    while _delta(1 / low, epsilon) < delta:
        low /= 2
    one = brentq(lambda std: _delta(1 / std, epsilon) - delta, low, high, xtol=1e-14, rtol=1e-13)
    return float(one) * sensitivity * math.sqrt(steps)


def classical_std(epsilon: float, *, delta: float, sensitivity: float = 1.0) -> float:
    """Return the classical Gaussian mechanism's standard deviation, sqrt(2 ln(1.25 / delta)) sensitivity / epsilon.

    Args:
        epsilon: Above 0, at most 1: the theorem is about no more.
        delta: Above 0, below 1.
        sensitivity: As in :func:`gaussian_std`.

    Raises:
        ValueError: A number is out of range.

    Chapter: differential-privacy. Source: dwork2014, theorem A.1.
    """
    check_number("epsilon", epsilon, lambda value: 0 < value <= 1, "above 0, at most 1; gaussian_std(...) goes on")
    _check_delta(delta)
    _check_sensitivity(sensitivity)
    return classical_constant(delta) * sensitivity / epsilon


def classical_constant(delta: float) -> float:
    """Return sqrt(2 ln(1.25 / delta)), the classical noise multiplier for epsilon 1. Chapter: differential-privacy."""
    _check_delta(delta)
    return math.sqrt(2 * math.log(1.25 / delta))


def sampled_epsilon(
    noise_multiplier: float,
    *,
    delta: float,
    sample_rate: float,
    steps: int,
    accountant: Literal["rdp", "rdp-classic", "prv"] = "rdp",
) -> float:
    """Return an epsilon of DP-SGD: steps on batches that every example joins by a coin of its own (Poisson sampling).

    Opacus' own conversion of Renyi divergences to epsilon, ``"rdp"``, is that of Balle et al. (2020), which is lower
    than the one of Mironov (2017) that early tables were made with, ``"rdp-classic"``. ``"prv"`` composes the privacy
    loss' distribution itself, and returns its upper bound.

    Args:
        noise_multiplier: Positive.
        delta: Above 0, below 1.
        sample_rate: Of the coins, above 0, below 1; for 1 :func:`gaussian_epsilon` is exact.
        steps: From 1.
        accountant: One of :data:`ACCOUNTANTS`.

    Raises:
        ValueError: A number is out of range, or the accountant unknown.
        ImportError: Opacus is not installed.

    Chapter: differential-privacy. Source: abadi2016; mironov2019 for the subsampled divergences; balle2020 and
    mironov2017 for the conversions; gopi2021 for ``"prv"``. Component: ``opacus.accountants``.
    """
    check_number("noise_multiplier", noise_multiplier, lambda value: 0 < value < math.inf, "a positive number")
    _check_delta(delta)
    check_number("sample_rate", sample_rate, lambda value: 0 < value < 1, "above 0, below 1; for 1 gaussian_epsilon")
    check_whole("steps", steps)
    check_name("accountant", accountant, ACCOUNTANTS)
    accountants = library("opacus.accountants")
    if accountant == "rdp-classic":
        analysis, orders = library("opacus.accountants.analysis.rdp"), _orders(accountants)
        spent = analysis.compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=steps, orders=orders)
        return float(min(r + math.log(1 / delta) / (order - 1) for r, order in zip(spent, orders, strict=True)))
    counting = {"rdp": accountants.RDPAccountant, "prv": accountants.PRVAccountant}[accountant]()
    counting.history = [(noise_multiplier, sample_rate, steps)]
    with warnings.catch_warnings():  # where its greatest or least order is the best one, its bound is one all the same
        warnings.filterwarnings("ignore", message="Optimal order is the")
        options = {"alphas": _orders(accountants)} if accountant == "rdp" else {}
        return float(counting.get_epsilon(delta, **options))


def least_misses(noise_multiplier: float, *, false_alarms: float, steps: int = 1) -> float:
    """Return the least share of misses of any test for whether the unit took part: the Gaussian trade-off curve.

    Args:
        noise_multiplier: Positive.
        false_alarms: How often the test may say that it did when it did not, from 0 to 1.
        steps: As in :func:`gaussian_delta`.

    Raises:
        ValueError: A number is out of range.

    Chapter: differential-privacy. Source: dong2022, definition 2.6.
    """
    check_number("noise_multiplier", noise_multiplier, lambda value: 0 < value < math.inf, "a positive number")
    check_number("false_alarms", false_alarms, lambda value: 0 <= value <= 1, "0 to 1")
    check_whole("steps", steps)
    alarms = torch.tensor(float(false_alarms), dtype=torch.float64)
    return float(tradeoff(alarms, math.sqrt(steps) / noise_multiplier))


def tradeoff(false_alarms: Tensor, shift: float) -> Tensor:
    """Return the least shares of misses against two normal distributions of variance 1 that are this far apart."""
    misses: Tensor = torch.special.ndtr(-torch.special.ndtri(false_alarms) - shift)
    return misses


def _delta(shift: float, epsilon: float) -> float:
    """Return the delta of two normal distributions of variance 1 that are this far apart."""
    from scipy.special import log_ndtr, ndtr

    half, way = shift / 2, epsilon / shift
    return float(ndtr(half - way) - math.exp(min(0.0, epsilon + log_ndtr(-half - way))))


def _orders(accountants: Any) -> list[float]:
    """Return Opacus' orders of the divergence, with larger ones for small epsilons."""
    return [*accountants.RDPAccountant.DEFAULT_ALPHAS, *map(float, (80, 96, 128, 192, 256, 384, 512, 1024))]


def _check_epsilon(epsilon: float) -> None:
    check_number("epsilon", epsilon, lambda value: 0 < value < math.inf, "a positive number")


def _check_delta(delta: float) -> None:
    check_number("delta", delta, lambda value: 0 < value < 1, "above 0, below 1")


def _check_sensitivity(sensitivity: float) -> None:
    check_number("sensitivity", sensitivity, lambda value: 0 < value < math.inf, "a positive number")
