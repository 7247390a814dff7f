"""Metrics, image by image and trial by trial."""

from __future__ import annotations

import itertools
import math
from functools import partial
from statistics import NormalDist

import numpy as np
import torch
from scipy.special import stdtrit

from formulas.rows import entries, rand, randn, rows
from gilearn.metrics import (
    Interval,
    interval,
    label_accuracy,
    match,
    mse,
    psnr,
    relative_error,
    ssim,
    success_rate,
)

MODULES = ["gilearn.metrics"]
NO_FORMULA = set()
EACH = {"reduction": "none"}


def call(function, *arguments, **options):
    return function(*arguments, **options)


def both(function, *arguments, **options):
    """Return a metric's value for every image, and the one number that sums them up."""
    return [function(*arguments, **EACH, **options), function(*arguments, **options)]


def words(_, *arguments):
    return str(Interval(**dict(zip(("estimate", "low", "high", "n"), arguments, strict=True))))


def in_words(estimate, low, high, n):
    return "0.123 [0.1, 0.2] (n=7)"


def ends(function, *arguments, **options):
    found = function(*arguments, **options)
    return [found.estimate, found.low, found.high, found.n]


def squared(a, b):
    return sum((p - q) ** 2 for p, q in zip(entries(a), entries(b), strict=True))


def assignment(reconstruction, original):
    """Try every order of the reconstructions."""
    orders = itertools.permutations(range(len(original)))
    return min(
        orders, key=lambda order: sum(squared(reconstruction[i], b) for i, b in zip(order, original, strict=True))
    )


def order(reconstruction, original):
    return torch.tensor(assignment(reconstruction, original))


def where_equal(reconstruction, original):
    return torch.tensor([reconstruction.tolist().index(picture) for picture in original.tolist()])


def summed(measure, reconstruction, original):
    """Return a measure of every original and its reconstruction, and their mean."""
    pairs = zip(assignment(reconstruction, original), original, strict=True)
    values = [measure(reconstruction[i].double(), b.double()) for i, b in pairs]
    return [torch.tensor(values, dtype=torch.float64), sum(values) / len(values)]


def mean_square(a, b):
    return squared(a, b) / a.numel()


def decibels(a, b, *, data_range=1.0, eps=2.0**-52):
    error = max(mean_square(a, b), (data_range * eps) ** 2)
    return 20 * math.log10(data_range) - 10 * math.log10(error)


def similarity(a, b, *, data_range=1.0):
    """Return Wang et al.'s index (2004) over all 7 by 7 windows inside the image, with unbiased (co)variances."""
    small, smaller = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for channel in range(a.shape[0]):
        for i in range(a.shape[1] - 6):
            for j in range(a.shape[2] - 6):
                p, q = (image[channel, i : i + 7, j : j + 7].numpy().ravel() for image in (a, b))
                (pp, pq), (_, qq) = np.cov(p, q)
                luminance = (2 * p.mean() * q.mean() + small) / (p.mean() ** 2 + q.mean() ** 2 + small)
                values.append(luminance * (2 * pq + smaller) / (pp + qq + smaller))
    return sum(values) / len(values)


def relative(a, b):
    return math.sqrt(squared(a, b)) / math.sqrt(squared(b, torch.zeros_like(b)))


def overlap(labels, truth):
    left = labels.tolist()
    found = 0
    for label in truth.tolist():
        if label in left:
            left.remove(label)
            found += 1
    return found / len(truth)


def wilson(successes, *, confidence=0.95):
    """Return Wilson's interval (1927)."""
    n, rate = len(successes), sum(map(bool, successes)) / len(successes)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [rate, max(0.0, middle - half), min(1.0, middle + half), n]


def grouped(values, groups):
    names = sorted(set(groups), key=groups.index)
    return [[value for value, group in zip(values, groups, strict=True) if group == name] for name in names]


def student(values, *, groups=None, confidence=0.95):
    """Return the mean and Student's interval (1908), of groups by the linearized variance of a ratio."""
    members = grouped(values, list(range(len(values))) if groups is None else groups)
    n, middle = len(members), sum(values) / len(values)
    left_over = [sum(member) - middle * len(member) for member in members]
    variance = n / (n - 1) * sum(e * e for e in left_over) / len(values) ** 2
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(variance)
    return [middle, middle - half, middle + half, n]


def accelerated(values, *, groups=None, statistic=np.mean, confidence=0.95, seed=0):
    """Return the statistic and Efron's BCa interval (1987) over 9,999 samples of whole groups with replacement."""
    members = grouped(values, list(range(len(values))) if groups is None else groups)
    n, phi, found = len(members), NormalDist(), statistic(values)
    picks = np.random.default_rng(seed).integers(n, size=(9999, n))
    resampled = sorted(statistic([value for i in row for value in members[i]]) for row in picks)
    below = (sum(r < found for r in resampled) + sum(r <= found for r in resampled)) / (2 * len(resampled))
    left_out = [statistic([value for j in range(n) if j != i for value in members[j]]) for i in range(n)]
    deviations = [sum(left_out) / n - value for value in left_out]
    acceleration = sum(d**3 for d in deviations) / (6 * sum(d * d for d in deviations) ** 1.5)
    bias = phi.inv_cdf(below)

    def quantile(share):
        shifted = bias + phi.inv_cdf(share)
        place = phi.cdf(bias + shifted / (1 - acceleration * shifted)) * (len(resampled) - 1)
        low = math.floor(place)
        high = min(low + 1, len(resampled) - 1)
        return resampled[low] + (place - low) * (resampled[high] - resampled[low])

    tail = (1 - confidence) / 2
    return [found, quantile(tail), quantile(1 - tail), n]


def pictures(shape, generator, *, noise=0.3, dtype=torch.float64):
    """Draw originals, and noisy reconstructions of them in another order."""
    original = rand(*shape, generator=generator)
    shuffled = original[torch.randperm(shape[0], generator=generator)]
    return (shuffled + noise * randn(*shape, generator=generator)).to(dtype), original.to(dtype)


def half_exact(generator, *, dtype, truth=None):
    """Draw two pictures, of which one is reconstructed exactly."""
    reconstruction, original = pictures((2, 1, 4, 4), generator, dtype=torch.float32)
    reconstruction[0] = original[1]
    return reconstruction.to(dtype), original.to(truth or dtype)


def nearly_the_same(generator):
    """Draw 40 pictures that differ in the ninth digit alone, in another order."""
    original = 1 + 1e-9 * rand(40, 3, generator=generator)
    return original[torch.randperm(40, generator=generator)], original


def two_lists(generator):
    return torch.randint(5, (7,), generator=generator), torch.randint(5, (9,), generator=generator)


def trials(number, generator):
    return ((torch.rand(number, generator=generator) < 0.4).tolist(),)


def numbers(number, generator):
    return (randn(number, generator=generator).tolist(),)


ANY = [partial(pictures, shape) for shape in ((1, 1, 3, 4), (3, 2, 4, 3), (4, 5), (2, 3, 2, 2))]
SINGLE = [partial(half_exact, dtype=torch.float32)]
MIXED = [partial(half_exact, dtype=torch.float32, truth=torch.float64)]
FAR = [partial(pictures, (5, 2), noise=2.0)] * 6
EXACT = [partial(half_exact, dtype=torch.float64), partial(half_exact, dtype=torch.float64, truth=torch.float32)]
LARGE = [partial(pictures, shape) for shape in ((1, 1, 7, 7), (3, 3, 9, 8))]
WIDE = {"data_range": 2.0}
ROWS = [
    *rows(call, [*ANY, *FAR], [(match, order)]),
    *rows(call, [nearly_the_same], [(match, where_equal)]),
    *rows(
        both,
        ANY,
        [
            (mse, partial(summed, mean_square)),
            (relative_error, partial(summed, relative)),
            (psnr, partial(summed, decibels)),
        ],
    ),
    *rows(partial(both, **WIDE), ANY + EXACT, [(psnr, partial(summed, partial(decibels, **WIDE)))]),
    *rows(both, EXACT, [(psnr, partial(summed, decibels))]),
    *rows(both, SINGLE + MIXED, [(psnr, partial(summed, partial(decibels, eps=2.0**-23)))]),
    *rows(both, LARGE, [(ssim, partial(summed, similarity))]),
    *rows(partial(both, **WIDE), LARGE, [(ssim, partial(summed, partial(similarity, **WIDE)))]),
    *rows(call, [two_lists] * 4, [(label_accuracy, overlap)]),
    *rows(ends, [partial(trials, number) for number in (1, 5, 40)], [(success_rate, wilson)]),
    *rows(partial(ends, confidence=0.5), [partial(trials, 12)], [(success_rate, partial(wilson, confidence=0.5))]),
    *rows(ends, [partial(numbers, number) for number in (2, 6, 19)], [(interval, student)]),
    *rows(partial(ends, confidence=0.8), [partial(numbers, 7)], [(interval, partial(student, confidence=0.8))]),
    *rows(ends, [partial(numbers, number) for number in (20, 31)], [(interval, accelerated)]),
    *rows(
        partial(ends, statistic=np.median, confidence=0.8, seed=3),
        [partial(numbers, 9)],
        [(interval, partial(accelerated, statistic=np.median, confidence=0.8, seed=3))],
    ),
]
for groups in (["a", "b", "a", "c", "c", "b"], ["x", "y", "y", "x", "y", "y"]):
    ROWS += rows(partial(ends, groups=groups), [partial(numbers, 6)], [(interval, partial(student, groups=groups))])
for groups in ([k // 2 for k in range(10)], [0, 0, 0, 1, 1, 2, 3, 3, 4, 5]):
    how = {"groups": groups, "statistic": np.std}
    ROWS += rows(partial(ends, **how), [partial(numbers, 10)], [(interval, partial(accelerated, **how))])
ROWS += rows(words, [lambda _: (0.123456, 0.1, 0.2, 7)], [(Interval, in_words)])
X = torch.rand(2, 1, 7, 7, generator=torch.Generator().manual_seed(0))
SMALL = X[..., :6]
NAN = X.clone().fill_(torch.nan)
REFUSALS = [
    (lambda: match(X, X[:1]), r"^reconstruction: got shape \(2, 1, 7, 7\), wanted .* \(1, 1, 7, 7\)"),
    (lambda: match(X[0, 0, 0], X[0, 0, 0]), r"^reconstruction: got shape \(7,\), wanted"),
    (lambda: match(X[:0], X[:0]), r"^reconstruction: got shape \(0, 1, 7, 7\), wanted"),
    (lambda: match(NAN, X), "^reconstruction: got NaN or infinite values, wanted finite ones"),
    (lambda: match(X, NAN), "^original: got NaN or infinite values, wanted finite ones"),
    (lambda: psnr(X, X, data_range=0.0), "^data_range: got 0.0, wanted a positive number"),
    (lambda: ssim(X, X, data_range=-1.0), "^data_range: got -1.0, wanted a positive number"),
    (lambda: ssim(SMALL, SMALL), r"^reconstruction: got shape \(2, 1, 7, 6\), wanted images of at least 7 by 7"),
    (
        lambda: ssim(X[..., :6, :], X[..., :6, :]),
        r"^reconstruction: got shape \(2, 1, 6, 7\), wanted images of at least",
    ),
    (lambda: ssim(X[0], X[0]), r"^reconstruction: got shape \(1, 7, 7\), wanted images of at least 7 by 7"),
    (lambda: relative_error(X, 0 * X), "^original: got an all-zero input, for which a relative error means nothing"),
    (lambda: label_accuracy(X[0, 0], torch.tensor([1])), r"^labels: got shapes \(7, 7\) and \(1,\), wanted two lists"),
    (lambda: label_accuracy(torch.tensor([1]), X[0, 0]), r"^labels: got shapes \(1,\) and \(7, 7\), wanted two lists"),
    (
        lambda: label_accuracy(torch.tensor([1]), X[0, 0, 0, :0]),
        r"^labels: got shapes \(1,\) and \(0,\), wanted two lists",
    ),
    (lambda: success_rate([]), "^got no trial, wanted at least one"),
    (lambda: success_rate([True], confidence=1.0), "^confidence: got 1.0, wanted a number between 0 and 1"),
    (lambda: interval([1.0], confidence=0.0), "^confidence: got 0.0, wanted a number between 0 and 1"),
    (lambda: interval([]), "^got no trial, wanted at least one"),
    (lambda: interval([1.0, 2.0], groups=["a"]), "^groups: got 1 for 2 values, wanted one each"),
    (lambda: interval([1.0]), "^values: got 1 independent trial, wanted at least two: one has no interval"),
    (lambda: interval([1.0, 2.0], groups=["a", "a"]), "^values: got 1 independent trial, wanted at least two"),
    (lambda: mse(X, X, reduction="sum"), "^reduction: got 'sum', wanted 'mean' or 'none'"),
    (lambda: interval([math.inf]), "^values: got NaN or infinite values; count failures with success_rate"),
]
