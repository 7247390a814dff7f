"""How much leaked: error, PSNR, SSIM, labels, success rates with their intervals.

A reconstruction of a batch has no order, so every image metric first matches reconstructions to originals one to one,
by the assignment with the least total squared error. Images are compared as they are: nothing is clipped or rescaled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def match(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Return the one-to-one assignment of reconstructions to originals with the least total squared error.

    Args:
        reconstruction: Inputs (batch, ...).
        original: Inputs of the same shape.

    Returns:
        Indices (batch,): ``reconstruction[match(...)]`` is in the order of the originals.

    Raises:
        ValueError: The shapes differ, the batch is empty, or a value is NaN or infinite.

    Chapter: measuring-leakage. Component: ``scipy.optimize.linear_sum_assignment``.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = _pair(reconstruction, original)
    # Not by way of a matrix product, which would lose the small errors to cancellation.
    errors = torch.cdist(b.flatten(1), a.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").square()
    _, order = linear_sum_assignment(errors.numpy())  # of as many rows as columns: they come in their own order
    return torch.as_tensor(order, dtype=torch.long)


def mse(reconstruction: Tensor, original: Tensor, *, reduction: str = "mean") -> float | Tensor:
    """Return the mean squared error per input after matching, then averaged.

    Args:
        reconstruction: Inputs (batch, ...).
        original: Inputs of the same shape.
        reduction: ``"mean"``, or ``"none"`` for one value per original, shape (batch,).

    Raises:
        ValueError: As :func:`match`; also for another ``reduction``.

    Chapter: measuring-leakage.
    """
    a, b = _matched(reconstruction, original)
    return _summary((a - b).square().flatten(1).mean(1), reduction)


def psnr(
    reconstruction: Tensor, original: Tensor, *, data_range: float = 1.0, reduction: str = "mean"
) -> float | Tensor:
    """Return the peak signal-to-noise ratio in dB, per image after matching, then averaged.

    An exact image would have an infinite ratio and hide every other one in the mean. So no ratio counts for more than
    that of a rounding error in the reconstruction's own type: 313 dB in float64, 138 dB in float32 or less, whatever
    the type of the original. Recursions return float64, searches the model's type: where both are exact, the numbers
    differ by the types alone, and a comparison should convert both to float32 first.

    Args:
        reconstruction: Inputs (batch, ...).
        original: Inputs of the same shape.
        data_range: Largest value minus smallest value that an input can have: 1 for images in [0, 1].
        reduction: ``"mean"``, or ``"none"`` for one value per original, shape (batch,).

    Raises:
        ValueError: As :func:`match`; also for another ``reduction``, or if ``data_range`` is not positive.

    Chapter: measuring-leakage.
    """
    _check_range(data_range)
    precise = reconstruction.dtype == torch.float64  # the original is the truth: its type says nothing of the error
    floor = (data_range * torch.finfo(torch.float64 if precise else torch.float32).eps) ** 2
    error = torch.as_tensor(mse(reconstruction, original, reduction="none")).clamp_min(floor)
    return _summary(10 * torch.log10(data_range**2 / error), reduction)


def ssim(
    reconstruction: Tensor, original: Tensor, *, data_range: float = 1.0, reduction: str = "mean"
) -> float | Tensor:
    """Return the structural similarity index per image after matching, then averaged: 1 is exact, about 0 unrelated.

    Args:
        reconstruction: Images (batch, channels, height, width), at least 7 pixels a side.
        original: Images of the same shape.
        data_range: Largest value minus smallest value that a pixel can have.
        reduction: ``"mean"``, or ``"none"`` for one value per original, shape (batch,).

    Raises:
        ValueError: As :func:`match`; also for other shapes, another ``reduction``, or if ``data_range`` is not
            positive.

    Chapter: measuring-leakage. Component: ``skimage.metrics.structural_similarity`` (7x7 windows).
    """
    from skimage.metrics import structural_similarity

    _check_range(data_range)
    a, b = _matched(reconstruction, original)
    if a.ndim != 4 or min(a.shape[2:]) < 7:
        raise ValueError(f"reconstruction: got shape {tuple(a.shape)}, wanted images of at least 7 by 7 pixels")
    pairs = zip(a.numpy(), b.numpy(), strict=True)
    values = [structural_similarity(p, q, channel_axis=0, data_range=data_range) for p, q in pairs]
    return _summary(torch.tensor(values, dtype=torch.float64), reduction)


def relative_error(reconstruction: Tensor, original: Tensor, *, reduction: str = "mean") -> float | Tensor:
    """Return the norm of the error over the norm of the original, per input after matching, then averaged.

    Args:
        reconstruction: Inputs (batch, ...).
        original: Inputs of the same shape; none all zero.
        reduction: ``"mean"``, or ``"none"`` for one value per original, shape (batch,).

    Raises:
        ValueError: As :func:`match`; also for another ``reduction``, or if an original is all zero.

    Chapter: measuring-leakage.
    """
    a, b = _matched(reconstruction, original)
    norms = b.flatten(1).norm(dim=1)
    if (norms == 0).any():
        raise ValueError("original: got an all-zero input, for which a relative error means nothing")
    return _summary((a - b).flatten(1).norm(dim=1) / norms, reduction)


def label_accuracy(labels: Tensor, truth: Tensor) -> float:
    """Return the share of a batch's labels that were found, in any order, repeats counted: multiset overlap / batch
    size.

    Args:
        labels: Extracted labels, one-dimensional.
        truth: The true labels (batch,).

    Raises:
        ValueError: A tensor is not one-dimensional, or ``truth`` is empty.

    Chapter: measuring-leakage.
    """
    if labels.ndim != 1 or truth.ndim != 1 or len(truth) == 0:
        raise ValueError(
            f"labels: got shapes {tuple(labels.shape)} and {tuple(truth.shape)}, wanted two lists of labels"
        )
    classes = torch.unique(truth.cpu())
    found = sum(min(int((labels == c).sum()), int((truth == c).sum())) for c in classes.tolist())
    return found / len(truth)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval.

    Args:
        estimate: The rate, mean or median.
        low: Lower end.
        high: Upper end.
        n: Number of trials behind it.
    """

    estimate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}] (n={self.n})"


def success_rate(successes: Iterable[bool], *, confidence: float = 0.95) -> Interval:
    """Return the share of successful trials with its Wilson interval.

    Args:
        successes: One truth value per trial; a failed or diverged trial counts as False, none is dropped.
        confidence: Coverage of the interval, between 0 and 1.

    Raises:
        ValueError: There is no trial, or ``confidence`` is out of range.

    Chapter: measuring-leakage. Component: ``scipy.stats.binomtest``.
    """
    from scipy.stats import binomtest

    trials = [bool(success) for success in successes]
    _check_trials(len(trials), confidence)
    test = binomtest(sum(trials), len(trials))
    ends = test.proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(estimate=sum(trials) / len(trials), low=float(ends.low), high=float(ends.high), n=len(trials))


def interval(
    values: Iterable[float],
    *,
    groups: Iterable[Hashable] | None = None,
    statistic: Callable[..., float] = np.mean,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a statistic of the values, by default their mean, with its confidence interval.

    A mean of fewer than 20 trials has Student's t interval, everything else the bootstrap's, bias-corrected and
    accelerated (BCa): of few trials the plain bootstrap's percentiles lie too close together. Without ``groups`` the
    trials count as independent. Two seeds on one picture, or two pictures of one batch, are not: they vary less than
    two pictures do, and the interval comes out too short for a claim about other pictures.

    Args:
        values: One finite number per trial, at least two trials.
        groups: What each trial shares with others, the name of its picture, say: whole groups count as one trial, and
            ``n`` is their number.
        statistic: Of an array, along ``axis``: ``numpy.mean``, ``numpy.median``, ...
        confidence: Coverage of the interval, between 0 and 1.
        seed: Seeds the resampling.

    Raises:
        ValueError: There are fewer than two trials or groups, a value is not finite, not every value has its group, or
            ``confidence`` is out of range.

    Chapter: measuring-leakage. Source: efron1987. Component: ``scipy.stats.bootstrap``.
    """
    data = np.asarray(list(values), dtype=float)
    _check_trials(len(data), confidence)
    if not np.isfinite(data).all():
        raise ValueError("values: got NaN or infinite values; count failures with success_rate, do not average them")
    members = _members(range(len(data)) if groups is None else list(groups), len(data))
    if len(members) < 2:
        raise ValueError(f"values: got {len(members)} independent trial, wanted at least two: one has no interval")
    if statistic is np.mean and len(members) < 20:
        low, high = _students_t(data, members, confidence)
    else:
        low, high = _bootstrap(data, members, statistic, confidence, seed)
    return Interval(estimate=float(statistic(data)), low=low, high=high, n=len(members))


def _students_t(data: np.ndarray[Any, Any], members: list[list[int]], confidence: float) -> tuple[float, float]:
    """Return the t interval of a mean; of groups, by the sums of their deviations, whatever their sizes are."""
    from scipy.stats import t

    mean, n = data.mean(), len(members)
    sums = np.array([(data[member] - mean).sum() for member in members])
    error = np.sqrt(n / (n - 1) * np.square(sums).sum()) / len(data)
    reach = float(t.ppf((1 + confidence) / 2, n - 1) * error)
    return float(mean) - reach, float(mean) + reach


def _bootstrap(
    data: np.ndarray[Any, Any],
    members: list[list[int]],
    statistic: Callable[..., float],
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Return the BCa interval; where it is undefined, because nearly all resamples agree, that of the percentiles."""
    from scipy.stats import bootstrap

    even = len({len(member) for member in members}) == 1

    def of_groups(picked: np.ndarray[Any, Any], axis: int = -1) -> Any:
        picked = np.moveaxis(picked, axis, -1)
        if even:
            return statistic(data[np.array(members)[picked]].reshape(*picked.shape[:-1], -1), axis=-1)
        flat = picked.reshape(-1, picked.shape[-1])
        drawn = [statistic(np.concatenate([data[members[k]] for k in pick]), axis=0) for pick in flat]
        return np.array(drawn).reshape(picked.shape[:-1])

    indices = (np.arange(len(members)),)
    options: dict[str, Any] = {"confidence_level": confidence, "n_resamples": 9999, "rng": np.random.default_rng(seed)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is undefined is seen below
        found = bootstrap(indices, of_groups, vectorized=True, method="BCa", **options)
    ends = found.confidence_interval
    if not (np.isfinite(ends.low) and np.isfinite(ends.high)):
        ends = bootstrap(
            indices,
            of_groups,
            vectorized=True,
            method="percentile",
            bootstrap_result=found,
            **(options | {"n_resamples": 0}),
        ).confidence_interval
    return float(ends.low), float(ends.high)


def _members(groups: Sequence[Hashable], number: int) -> list[list[int]]:
    """Return the indices of each group's trials."""
    if len(groups) != number:
        raise ValueError(f"groups: got {len(groups)} for {number} values, wanted one each")
    members: dict[Hashable, list[int]] = {}
    for k, group in enumerate(groups):
        members.setdefault(group, []).append(k)
    return list(members.values())


def _pair(reconstruction: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    if reconstruction.shape != original.shape or original.ndim < 2 or len(original) == 0:
        raise ValueError(
            f"reconstruction: got shape {tuple(reconstruction.shape)}, wanted (batch, ...) like the original's "
            f"{tuple(original.shape)}"
        )
    a, b = (tensor.detach().cpu().double() for tensor in (reconstruction, original))
    for name, tensor in (("reconstruction", a), ("original", b)):
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: got NaN or infinite values, wanted finite ones")
    return a, b


def _matched(reconstruction: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _pair(reconstruction, original)
    return a[match(a, b)], b


def _summary(values: Tensor, reduction: str) -> float | Tensor:
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction: got {reduction!r}, wanted 'mean' or 'none'")
    return values if reduction == "none" else float(values.mean())


def _check_range(data_range: float) -> None:
    if not data_range > 0:
        raise ValueError(f"data_range: got {data_range}, wanted a positive number")


def _check_trials(n: int, confidence: float) -> None:
    if n == 0:
        raise ValueError("got no trial, wanted at least one")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence}, wanted a number between 0 and 1")
