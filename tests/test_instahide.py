"""InstaHide's encodings decoded: exact where that is claimed, up to signs where signs are lost, or refused.

Encodings come from the package's own defense; the attack gets what was released.
"""

from __future__ import annotations

import pytest
import torch

from gilearn import attacks, data, defenses, federated, metrics, models
from gilearn.attacks.instahide import labelled_coefficients, pixel_signs, solve, sparse_coefficients
from gilearn.federated import Client


@pytest.fixture(scope="module")
def digits():
    x, y = data.digits(90)
    return x.double(), y


def release(x, y, epochs, center, *, k=4, seed=0, **options):
    """What a client releases: encodings and mixed labels of several epochs, shuffled."""
    defense = defenses.InstaHide(k=k, center=center, entropy="client", **options)
    client = Client(model=torch.nn.Identity(), num_classes=10, generator=torch.Generator().manual_seed(seed))
    encodings, labels = (
        torch.cat(part) for part in zip(*[defense.data(x, y, client) for _ in range(epochs)], strict=True)
    )
    order = torch.randperm(len(encodings), generator=torch.Generator().manual_seed(seed + 1))
    return encodings[order], labels[order]


def mixtures(x, epochs, center, *, k=4, seed=0):
    """Encodings with their coefficients, by hand: what a client keeps for itself."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(epochs * len(x), len(x), dtype=torch.float64)
    for number, row in enumerate(weights):
        others = torch.randperm(len(x), generator=generator)
        who = [number % len(x), *others[others != number % len(x)][: k - 1].tolist()]
        drawn = torch.randn(k, generator=generator, dtype=torch.float64).abs()
        row[who] = drawn / drawn.sum()
    key = torch.randint(2, (len(weights), *x.shape[1:]), generator=generator) * 2 - 1
    return center + key * (torch.einsum("en,n...->e...", weights, x) - center), weights


def worst(found, x):
    return float(metrics.mse(found, x, reduction="none").max()) ** 0.5


@pytest.mark.parametrize("k", [2, 4, 6])
def test_signs_about_zero_hide_nothing_when_coefficients_are_known(digits, k):
    """One encoding a picture is enough."""
    encodings, weights = mixtures(digits[0][:30], 1, 0.0, k=k)
    assert float((solve(encodings, weights, center=0.0) - digits[0][:30]).abs().max()) < 1e-8


def test_signs_about_the_middle_cost_one_sign_a_pixel(digits):
    """With an encoding for every pair; then public digits choose the signs."""
    x = digits[0][:12]
    encodings, weights = mixtures(x, 14, 0.5, k=4)
    found = solve(encodings, weights)
    signs = ((found - 0.5) * (x - 0.5)).sum(0).sign()
    assert float((0.5 + signs * (found - 0.5) - x).abs().max()) < 1e-8, "a pixel is mirrored in all pictures or in none"
    assert float((found - x).abs().max()) > 0.5
    signs = pixel_signs(found - 0.5, digits[0][30:] - 0.5)
    assert float((0.5 + signs * (found - 0.5) - x).abs().max()) < 1e-8


def test_no_encoding_tells_a_mirrored_pixel(digits):
    x = digits[0][:12]
    mirrored = x.clone()
    mirrored[:, :, 3, 4] = 1 - x[:, :, 3, 4]
    one, weights = mixtures(x, 14, 0.5)
    other, _ = mixtures(mirrored, 14, 0.5)
    torch.testing.assert_close((one - 0.5).abs(), (other - 0.5).abs(), rtol=0, atol=1e-15)
    torch.testing.assert_close(solve(one, weights), solve(other, weights), rtol=0, atol=1e-12)


def test_fewer_encodings_are_searched_from_several_starts(digits):
    """Of 12 pictures there are 78 pairs: with 48 encodings some pixels are found, more from more starts."""
    x = digits[0][:12]
    encodings, weights = mixtures(x, 4, 0.5, k=4)
    exact = [
        float(
            (((solve(encodings, weights, restarts=n) - 0.5).abs() - (x - 0.5).abs()).abs().amax(0) < 1e-8)
            .double()
            .mean()
        )
        for n in (1, 40)
    ]
    assert 0.05 < exact[0] < exact[1]


def test_a_search_can_begin_at_pictures_and_its_starts_at_a_seed(digits):
    x = digits[0][:12]
    encodings, weights = mixtures(x, 4, 0.5, k=4)
    assert float((solve(encodings, weights, start=x) - x).abs().max()) < 1e-8
    one, same, other = (solve(encodings, weights, restarts=1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("center", [0.0, 0.5])
def test_pictures_of_disturbed_encodings_stay_in_their_range(digits, center):
    """About zero they are the bounded least squares, pixel by pixel."""
    x = digits[0][:8]
    encodings, weights = mixtures(x, 12, center)
    noise = torch.randn(encodings.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    encodings = encodings + 0.1 * noise
    found = solve(encodings, weights, center=center)
    assert float(found.min()) >= -1e-9
    assert float(found.max()) <= 1 + 1e-9
    if center == 0:
        slope = torch.einsum("ep,e...->p...", weights, torch.einsum("ep,p...->e...", weights, found) - encodings.abs())
        inside = (found > 1e-9) & (found < 1 - 1e-9)
        assert float(slope[inside].abs().max()) < 1e-9
        assert float(slope[found <= 1e-9].min()) > -1e-9
        assert float(slope[found >= 1 - 1e-9].max()) < 1e-9
        assert int((found <= 1e-9).sum()) > 0
        assert int((found >= 1 - 1e-9).sum()) > 0


def test_known_partners_fix_the_signs(digits):
    x = digits[0][:40]
    encodings, weights = mixtures(x, 8, 0.5, k=4)
    found = solve(encodings, weights, known=x[10:], restarts=20)
    assert float((found - x[:10]).abs().max()) < 1e-8
    exact = solve(*mixtures(x, 8, 0.0, k=4), center=0.0, known=x[10:])
    assert float((exact - x[:10]).abs().max()) < 1e-8


@pytest.mark.parametrize("k", [4, 6])
def test_signs_about_zero_hide_nothing_at_all(digits, k):
    """Neither labels, nor coefficients, nor who is in which encoding: encodings alone."""
    x, y = digits[0][:30], digits[1][:30]
    encodings, _ = release(x, y, 5, 0.0, k=k)
    found = solve(encodings, sparse_coefficients(encodings, 30), center=0.0)
    assert worst(found, x) < 1e-8
    single, _ = release(x.float(), y, 5, 0.0, k=k)
    assert worst(solve(single, sparse_coefficients(single, 30), center=0.0), x) < 1e-4


def test_a_known_pool_is_projected_away(digits):
    """Cross-dataset: two private pictures and two of twenty public ones in every encoding."""
    x, y, pool = digits[0][:20], digits[1][:20], digits[0][40:60]
    encodings, labels = release(x, y, 12, 0.0, public_images=pool)
    weights = sparse_coefficients(encodings, 20, known=pool, totals=labels.sum(1))
    assert int((weights > 1e-6).sum(1).unique()) == 2
    torch.testing.assert_close(weights.sum(1), labels.sum(1), rtol=1e-8, atol=1e-8)
    by_class = torch.stack([weights[:, k] @ labels for k in range(20)])
    assert (by_class.argmax(1).bincount(minlength=10) == y.bincount(minlength=10)).all()


def test_clusters_that_labels_help_to_find(digits):
    """Neither coefficients nor assignments, signs about the middle: far better than the best single encoding."""
    x, y = digits[0][:15], digits[1][:15]
    encodings, labels = release(x, y, 20, 0.5)
    weights, start = labelled_coefficients(encodings, labels, 15, restarts=2)
    assert weights.shape == (300, 15)
    assert int((weights > 0).sum(1).max()) <= 4
    found = solve(encodings, weights, start=start)
    found = 0.5 + pixel_signs(found - 0.5, digits[0][30:] - 0.5) * (found - 0.5)
    magnitudes = (encodings - 0.5).abs()
    singles = torch.cat([0.5 - magnitudes, 0.5 + magnitudes]).flatten(1)
    best = torch.stack([-10 * (singles - one).square().mean(1).min().log10() for one in x.flatten(1)])
    assert metrics.psnr(found, x) > float(best.mean()) + 10
    torch.testing.assert_close(weights.sum(1), labels.sum(1))
    assert float(start.min()) >= 0
    assert float(start.max()) <= 1

    def gap(weights, start):
        return float(((torch.einsum("ep,p...->e...", weights, start - 0.5)).abs() - magnitudes).square().mean())

    one, again, other = (labelled_coefficients(encodings, labels, 15, restarts=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one[0], again[0])
    assert not torch.equal(one[0], other[0])
    assert gap(weights, start) <= gap(*one) + 1e-12


def test_shapes_types_and_seeds(digits):
    x, y = digits[0][:12, :, ::2], digits[1][:12]
    encodings, labels = release(x, y, 10, 0.0)
    one, other = (sparse_coefficients(encodings, 12, seed=seed) for seed in (0, 1))
    assert one.shape == (120, 12)
    assert one.dtype == torch.float64
    assert torch.equal(one, sparse_coefficients(encodings, 12, seed=0))
    assert not torch.equal(one, other)
    assert solve(encodings, one, center=0.0).shape == (12, 1, 4, 8)
    weights, start = labelled_coefficients(encodings.float(), labels.float(), 12, center=0.0, rounds=2, restarts=1)
    assert weights.shape == (120, 12)
    assert start.shape == (12, 1, 4, 8)


def test_from_gradients_to_pictures():
    """A client trains on one encoding at a time; the division returns each, and with them everything."""
    x, y = data.digits(6)
    x = x.double()
    encodings, labels = release(x, y, 8, 0.0, k=3)
    model = models.mlp(64, (8,)).double()
    seen = [federated.observe(model, e[None], t[None]) for e, t in zip(encodings, labels, strict=True)]
    returned = torch.cat([attacks.PPDL_AHE(one).inputs for one in seen])
    assert float((returned - encodings).square().mean()) < 1e-12
    assert worst(solve(returned, sparse_coefficients(returned, 6), center=0.0), x) < 1e-6


def test_what_cannot_be_is_refused(digits):
    x, y = digits[0][:30], digits[1][:30]
    encodings, labels = release(x, y, 3, 0.0)
    with pytest.raises(ValueError, match="encodings: got 20 for 30 pictures, wanted at least as many as pictures"):
        solve(encodings[:20], torch.rand(20, 30, generator=torch.Generator().manual_seed(0)))
    weights = torch.zeros(90, 30).index_fill_(1, torch.arange(29), 1.0)
    with pytest.raises(
        ValueError, match="coefficients: got rank 1, wanted 30, .* a picture occurs nowhere, or always in"
    ):
        solve(encodings, weights)
    with pytest.raises(ValueError, match=r"encodings: got magnitudes of rank \d+, wanted at least 80"):
        sparse_coefficients(encodings, 80)
    with pytest.raises(ValueError, match="encodings: got magnitudes of rank 0, wanted at least 30"):
        sparse_coefficients(encodings, 30, known=data.digits(400)[0][100:])
    with pytest.raises(ValueError, match="encodings: found 0 of 30 pictures in 40, wanted more encodings"):
        sparse_coefficients(encodings[:40], 30)
    with pytest.raises(ValueError, match=r"encodings: got 9 for \d+ products of two classes, wanted at least as many"):
        labelled_coefficients(encodings[:9], labels[:9], 30)
