"""Metrics against their definitions, against scikit-image, and against the ways in which peers got them wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from gilearn import metrics


@pytest.fixture
def pair(photos):
    x = photos[0][:4]
    noise = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return x + noise, x


def test_known_values():
    a, b = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.1)
    assert metrics.mse(a, b) == pytest.approx(0.01)
    assert metrics.psnr(a, b) == pytest.approx(20.0)
    assert metrics.psnr(255 * a, 255 * b, data_range=255) == pytest.approx(20.0)
    assert metrics.relative_error(a, b) == pytest.approx(1.0)


def test_against_scikit_image(pair):
    a, b = pair
    ours = metrics.psnr(a, b, reduction="none"), metrics.ssim(a, b, reduction="none")
    for k in range(4):
        p, q = a[k].double().numpy(), b[k].double().numpy()
        assert float(ours[0][k]) == pytest.approx(peak_signal_noise_ratio(q, p, data_range=1))
        assert float(ours[1][k]) == pytest.approx(structural_similarity(q, p, channel_axis=0, data_range=1))
    assert metrics.psnr(a, b) == pytest.approx(float(ours[0].mean()))


def test_order_of_the_batch_does_not_matter(pair):
    a, b = pair
    shuffled = a[[2, 0, 3, 1]]
    assert metrics.match(shuffled, b).tolist() == [1, 3, 0, 2]
    for metric in (metrics.mse, metrics.psnr, metrics.ssim, metrics.relative_error):
        assert metric(shuffled, b) == pytest.approx(metric(a, b))


def test_one_reconstruction_counts_once(photos):
    """Two copies of one exact picture are one success and one failure, not two successes."""
    x = photos[0][:2]
    both = torch.stack([x[0], x[0]])
    assert (metrics.mse(both, x, reduction="none") < 1e-9).sum() == 1


def test_one_exact_picture_does_not_hide_a_bad_one(photos):
    x = photos[0][:2]
    a = x.clone()
    a[1] += 0.1
    each = metrics.psnr(a, x, reduction="none")
    assert float(each[1]) == pytest.approx(20, abs=1e-4)
    assert float(each[0]) == pytest.approx(-20 * math.log10(torch.finfo(torch.float32).eps))
    assert math.isfinite(metrics.psnr(a, x))
    assert metrics.psnr(x.double(), x.double()) == pytest.approx(313, abs=1)


@pytest.mark.parametrize("original", [torch.float32, torch.float64])
def test_the_floor_goes_by_the_reconstruction(photos, original):
    """An exact float32 result counts 138 dB and a float64 one 313, whatever type the truth comes in."""
    x = photos[0][:1]
    truth = x.to(original)
    assert metrics.psnr(x, truth) == pytest.approx(-20 * math.log10(torch.finfo(torch.float32).eps))
    assert metrics.psnr(x.double(), truth) == pytest.approx(-20 * math.log10(torch.finfo(torch.float64).eps))
    near = x.double() + 1e-9
    assert metrics.psnr(near, truth) == pytest.approx(180, abs=0.1)
    assert metrics.psnr(x.half(), x.half()) == pytest.approx(138, abs=1)


@pytest.mark.parametrize("metric", [metrics.mse, metrics.psnr, metrics.ssim, metrics.relative_error])
def test_reduction(pair, metric):
    a, b = pair
    each = metric(a, b, reduction="none")
    assert each.shape == (4,)
    assert metric(a, b) == metric(a, b, reduction="mean") == pytest.approx(float(each.mean()))
    with pytest.raises(ValueError, match="reduction: got 'sum', wanted 'mean' or 'none'"):
        metric(a, b, reduction="sum")


def test_nothing_is_clipped():
    x = torch.full((1, 1, 8, 8), 0.5)
    assert metrics.mse(x + 2, x) == pytest.approx(4)


def test_labels():
    accuracy = lambda a, b: metrics.label_accuracy(torch.tensor(a), torch.tensor(b))  # noqa: E731
    assert accuracy([1, 2, 3], [3, 1, 2]) == 1
    assert accuracy([1, 1, 1], [1, 2, 3]) == pytest.approx(1 / 3)
    assert accuracy([1, 1, 2, 2], [1, 1, 1, 2]) == 0.75
    assert accuracy([5], [1]) == 0


def test_success_rate_is_wilson_s():
    rate = metrics.success_rate([True] * 20)
    assert (rate.estimate, rate.n) == (1, 20)
    assert rate.low == pytest.approx(20 / (20 + 1.959964**2), abs=1e-4)
    assert rate.high == 1
    half = metrics.success_rate([True, False] * 50)
    assert half.low == pytest.approx(0.4038, abs=1e-3)
    assert half.high == pytest.approx(0.5962, abs=1e-3)
    assert str(half) == "0.5 [0.404, 0.596] (n=100)"


def test_intervals_cover():
    """The 90 % interval of a mean covers the truth in about 90 % of repetitions, of few trials too."""
    rng = np.random.default_rng(0)
    for size in (3, 5, 10, 40):
        intervals = [metrics.interval(rng.normal(size=size), confidence=0.9, seed=k) for k in range(200)]
        assert 0.81 < np.mean([i.low <= 0 <= i.high for i in intervals]) < 0.97, size
    median = metrics.interval([1, 2, 3, 4, 100], statistic=np.median)
    assert median.estimate == 3
    assert median.low <= 3 <= median.high
    again = {metrics.interval([1, 2, 5], statistic=np.median, seed=1) for _ in range(2)}
    assert len(again) == 1
    for statistic in (np.mean, np.median):
        same = metrics.interval([2.0] * 5, statistic=statistic)
        assert (same.estimate, same.low, same.high) == (2, 2, 2), "nothing varies"


def test_groups_are_resampled_whole():
    """Ten seeds on each of six pictures are six trials: the interval covers, where that of sixty does not."""
    rng, pictures = np.random.default_rng(0), np.repeat(range(6), 10)
    alone, grouped = [], []
    for k in range(40):
        values = np.repeat(rng.normal(size=6), 10) + 0.01 * rng.normal(size=60)
        alone.append(metrics.interval(values, seed=k))
        grouped.append(metrics.interval(values, groups=pictures.tolist(), seed=k))
    assert (
        np.mean([i.low <= 0 <= i.high for i in grouped]) > 0.75 > 0.6 > np.mean([i.low <= 0 <= i.high for i in alone])
    )
    assert (grouped[0].n, alone[0].n) == (6, 60)
    assert grouped[0].estimate == alone[0].estimate
    assert np.mean([i.low <= 0 <= i.high for i in grouped]) > 0.85
    median = metrics.interval([1, 2, 3], groups=[1, 2, 3], statistic=np.median)
    assert (median.estimate, median.low, median.high) == (2, 1, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: metrics.interval([1.0, 2.0], groups=[1]), "groups: got 1 for 2 values"),
        (lambda x: metrics.mse(x, x[:1]), "reconstruction: got shape"),
        (lambda x: metrics.mse(x[:0], x[:0]), "reconstruction: got shape"),
        (lambda x: metrics.psnr(x * torch.nan, x), "reconstruction: got NaN"),
        (lambda x: metrics.psnr(x, x / 0), "original: got NaN"),
        (lambda x: metrics.psnr(x, x, data_range=0), "data_range: got 0"),
        (lambda x: metrics.ssim(x[..., :5], x[..., :5]), "at least 7 by 7"),
        (lambda x: metrics.relative_error(x, 0 * x), "original: got an all-zero input"),
        (lambda x: metrics.label_accuracy(x, x), "labels: got shapes"),
        (lambda x: metrics.success_rate([]), "got no trial"),
        (lambda x: metrics.interval([1.0], confidence=1), "confidence: got 1"),
        (lambda x: metrics.interval([1.0, math.nan]), "values: got NaN"),
    ],
)
def test_refusals(photos, call, message):
    with pytest.raises(ValueError, match=message):
        call(photos[0][:2])
