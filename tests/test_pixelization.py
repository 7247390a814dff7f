"""DP pixelization: sensitivity, likelihood ratios, what a client keeps, and what its releases give away."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from gilearn import attacks, data, defenses, federated, metrics, models
from gilearn.attacks import releases
from gilearn.defenses import DPBlur, DPPix
from gilearn.federated import LocalSteps, Observation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pictures(digits):
    return digits[0][:2].double(), digits[1][:2]


@pytest.mark.parametrize("channels", [1, 3])
def test_no_neighbour_moves_the_cells_by_more_than_the_sensitivity(channels):
    """And the bound is reached: m pixels of one cell go from black to white."""
    defense, draw = DPPix(cell=4, m=5, epsilon=1.0), generator()
    bound, largest = defense.sensitivity(channels), 0.0
    for _ in range(300):
        x = torch.rand(1, channels, 16, 16, generator=draw, dtype=torch.float64)
        other = x.clone().flatten(2)
        where = torch.randperm(256, generator=draw)[:5]
        other[:, :, where] = torch.rand(1, channels, 5, generator=draw, dtype=torch.float64).round()
        gap = defenses.data.cells(x, 4) - defenses.data.cells(other.view_as(x), 4)
        largest = max(largest, float(gap.abs().sum()))
    assert 0.3 * bound < largest <= bound
    black = torch.zeros(1, channels, 16, 16, dtype=torch.float64)
    white = black.clone()
    white[:, :, 0, :4] = white[:, :, 1, :1] = 1
    gap = defenses.data.cells(black, 4) - defenses.data.cells(white, 4)
    assert float(gap.abs().sum()) == pytest.approx(bound, rel=1e-12)


def test_the_scale_is_the_published_one_in_gray_levels():
    """255 m / (b^2 epsilon), one channel; the budget of three channels is shared by them."""
    for cell, m, epsilon in ((16, 16, 0.5), (16, 16, 0.1), (8, 16, 0.5)):
        defense = DPPix(cell=cell, m=m, epsilon=epsilon)
        assert 255 * defense.scale() == pytest.approx(255 * m / (cell**2 * epsilon))
        assert defense.scale(3) == pytest.approx(defense.replace(epsilon=epsilon / 3).scale())


def test_a_release_s_likelihood_ratio_is_bounded():
    """Histograms of one clipped cell, of two neighbours at the bound: no bin is more than e^epsilon times the other."""
    defense = DPPix(cell=2, m=2, epsilon=0.8)
    black, other = torch.zeros(100_000, 1, 2, 2), torch.zeros(100_000, 1, 2, 2)
    other[:, :, 0] = 1
    a, b = (defense.release(x, seed=k)[:, 0, 0, 0] for k, x in enumerate((black, other)))
    edges = [0.0, 1e-9, 0.25, 0.5, 0.75, 1 - 1e-6, 1.1]
    counts = [[int(((v >= low) & (v < high)).sum()) for low, high in itertools.pairwise(edges)] for v in (a, b)]
    ratios = torch.tensor(counts[0]) / torch.tensor(counts[1])
    assert float(ratios.max()) < math.exp(0.8) * 1.05
    assert float(ratios.min()) > math.exp(-0.8) / 1.05
    assert float(ratios.max()) > math.exp(0.8) * 0.95, "the bound is not reached: too much noise"


def test_a_release_is_the_seed_s():
    x = data.photos(32)[0][:2]
    defense = DPPix(cell=8, m=8, epsilon=5.0)
    one, same, other = (defense.release(x, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    assert one.dtype == x.dtype


def test_a_client_keeps_its_release_unless_told_otherwise(pictures):
    model = models.mlp(64, (16,)).double()
    step = LocalSteps(steps=2, lr=0.1)
    for fresh in (False, True):
        defense = DPPix(cell=2, m=4, epsilon=2.0, fresh=fresh)
        rounds = federated.fedavg(
            model, [(x[None], y[None]) for x, y in zip(*pictures, strict=True)], step, num_rounds=2, server_lr=0.0,
            defense=defense, seed=3,
        )  # fmt: skip
        first, second = (ran.observations for ran in rounds)
        same = [torch.equal(first[k].shared[0], second[k].shared[0]) for k in (0, 1)]
        assert same == [not fresh] * 2
        assert not torch.equal(first[0].shared[0], first[1].shared[0])


def test_another_batch_is_another_release(pictures):
    client = federated.Client(model=models.mlp(64), num_classes=10, generator=generator())
    defense = DPPix(cell=2, m=4, epsilon=2.0)
    one, _ = defense.data(pictures[0], pictures[1], client)
    again, _ = defense.data(pictures[0].clone(), pictures[1], client)
    other, _ = defense.data(pictures[0] / 2, pictures[1], client)
    fewer, _ = defense.data(pictures[0][:1], pictures[1][:1], client)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[:1], fewer)
    reused = pictures[0].clone()
    one, _ = defense.data(reused, pictures[1], client)
    assert not torch.equal(one, defense.data(reused.div_(2), pictures[1], client)[0]), "a buffer that is filled anew"


@pytest.mark.parametrize("defense", [DPPix(cell=2, m=4, epsilon=2.0), DPBlur(cell=2, m=4, epsilon=2.0, sigma=0.7)])
def test_the_closed_form_reaches_the_release_and_no_further(pictures, defense):
    x, y = pictures[0][:1], pictures[1][:1]
    seen = federated.observe(models.mlp(64, (16,)).double(), x, y, defense=defense, seed=5)
    found = attacks.PPDL_AHE(seen).inputs
    torch.testing.assert_close(found, defense.release(x, seed=5), rtol=0, atol=1e-12)
    assert metrics.mse(found, x) > 1e-2


def test_a_search_that_knows_the_cells_reaches_the_release(pictures):
    """Coarse pixels are the release's; and whoever simulates the defense finds a picture with that release."""
    x, y = pictures[0][:1], pictures[1][:1]
    defense = DPPix(cell=2, m=4, epsilon=2.0)
    seen = federated.observe(
        models.lenet(1, size=8, strides=(1, 2), width=6).double(), x, y, defense=defense, declare=["labels"], seed=5
    )
    attack = attacks.iDLG.replace(space=attacks.spaces.Coarse(factor=2, mode="nearest"), iterations=20)
    assert metrics.mse(attack(seen).inputs, defense.release(x, seed=5)) < 1e-8


def test_an_imagined_client_draws_no_noise(pictures, tmp_path):
    x, y = pictures
    defense = DPBlur(cell=2, m=4, epsilon=2.0, sigma=0.5)
    model = models.mlp(64, (16,)).double()
    seen = federated.observe(model, x, y, defense=defense, declare=["defense"])
    still = federated.observe(model, defense.replace(epsilon=math.inf).release(x), y)
    for a, b in zip(seen.simulate(x, y, create_graph=False), still.shared, strict=True):
        torch.testing.assert_close(a, b)
    seen.simulate(x + 3, y, functional=True)  # a search may leave [0, 1]
    seen.save(tmp_path / "seen.pt")
    assert Observation.load(tmp_path / "seen.pt", model).known("defense") == defense


def test_the_median_of_clipped_releases_converges_and_the_mean_does_not():
    x = data.digits(20)[0].double()
    defense = DPPix(cell=2, m=4, epsilon=2.0)
    truth = defense.replace(epsilon=math.inf).release(x)
    many = torch.stack([defense.release(x, seed=seed) for seed in range(64)])
    errors = {
        how: [metrics.mse(releases.combined(many[:k], how=how), truth) for k in (1, 64)] for how in ("median", "mean")
    }
    assert errors["median"][1] < errors["median"][0] / 16
    assert errors["mean"][1] > errors["median"][1] * 3


def test_what_a_linear_map_restores_is_nearer_than_the_release_and_the_mean_picture():
    x = data.digits(600)[0].double()
    public, private = x[:500], x[500:]
    defense = DPPix(cell=2, m=1, epsilon=2.0)
    released = defense.release(private, seed=1)
    found = releases.restored(released, public=public, public_releases=defense.release(public, seed=2))
    error = metrics.mse(found, private)
    assert error < 0.8 * metrics.mse(released, private)
    assert error < 0.8 * metrics.mse(public.mean(0, keepdim=True).expand_as(private), private)


def test_faces_are_told_apart_where_neighbours_are_not():
    faces = data.faces(50, size=24)[0].double()
    defense = DPPix(cell=4, m=4, epsilon=2.0)
    found = releases.identified(defense.release(faces), defense.replace(epsilon=math.inf).release(faces))
    assert int((found == torch.arange(50)).sum()) > 40


def test_pictures_of_another_range_are_refused(pictures):
    model = models.mlp(64, (16,)).double()
    with pytest.raises(ValueError, match=r"pictures: got values from -1 to 1, wanted 0 to 1, which the noise is for"):
        federated.observe(model, pictures[0] * 2 - 1, pictures[1], defense=DPPix(cell=2, m=4, epsilon=2.0))
    with pytest.raises(ValueError, match="cell: got 3, which does not divide"):
        federated.observe(model, *pictures, defense=DPPix(cell=3, m=4, epsilon=2.0))
