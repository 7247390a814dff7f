"""COPA: the open directions of a rank-deficient layer, closed by the layer before it, or the rank that says why not."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gilearn import federated, metrics, models, ranks
from gilearn.attacks.recursion import RGAP, RankWarning
from gilearn.attacks.recursion.copa import COPA, PullBack


@pytest.fixture(autouse=True)
def layers_may_draw():
    """PyTorch's layers draw their weights from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def victim(filters, activation, *, bias=False):
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=bias), activation,
        nn.Conv2d(12, filters, 3, stride=2, padding=1, bias=bias), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(36 * filters, 1, bias=bias),
    ).double()  # fmt: skip


def attacked(attack, model, photos, row=0):
    x = F.interpolate(photos[0][row : row + 1], size=12, mode="area").double()
    seen = federated.observe(model, x, torch.tensor([1]), loss="logistic", declare=["labels"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)
        found = attack(seen)
    return metrics.relative_error(found.inputs, x), found


@pytest.mark.parametrize("bias", [False, True])
def test_twelve_filters_then_four(photos, bias):
    model = victim(4, nn.Identity(), bias=bias)
    plain, report = attacked(RGAP, model, photos)
    assert plain > 0.4
    assert report.details["layers"][1].rank == 560
    pulled_back, found = attacked(COPA, model, photos)
    assert pulled_back < 1e-10
    assert found.details["deficiency"] == 0
    assert found.details["layers"][1].layer == "0 + 2"


def test_two_filters_fail_and_say_why(photos):
    x = F.interpolate(photos[0][:1], size=12, mode="area").double()
    seen = federated.observe(victim(2, nn.Identity()), x, torch.tensor([1]), loss="logistic", declare=["labels"])
    # Both layers together determine 275 of the picture's 432 directions.
    with pytest.warns(RankWarning, match=f"{432 - 275} directions"):
        found = COPA(seen)
    assert metrics.relative_error(found.inputs, x) > 0.3
    assert found.details["deficiency"] == 432 - 275


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.Tanh()])
def test_through_an_activation_by_gauss_newton(photos, activation):
    error, found = attacked(COPA, victim(4, activation), photos)
    assert error < 1e-9
    report = found.details["layers"][1]
    assert report.iterations > 1
    assert report.iterations == sum(len(course) - 1 for course in report.courses)
    assert all(course[-1] < course[0] for course in report.courses)
    assert report.courses[-1][-1] == pytest.approx(report.residual, abs=1e-12)


def test_where_all_ranks_are_full_it_is_rgap(photos):
    model = victim(64, nn.LeakyReLU(0.2))
    (_, plain), (error, found) = attacked(RGAP, model, photos), attacked(COPA, model, photos)
    assert torch.equal(plain.inputs, found.inputs)
    assert error < 1e-8


def test_cnn6_d(photos):
    """The paper's deficient network: the plain recursion is lost, the pull-back recovers the photograph."""
    x = photos[0][:1].double()
    model = models.cnn6(widths=(12, 20, 36, 36, 64, 128)).double()
    seen = federated.observe(model, x, torch.tensor([1]), loss="logistic", declare=["labels"])
    with pytest.warns(RankWarning, match="280 directions"):
        assert metrics.relative_error(RGAP(seen).inputs, x) > 0.5
    found = COPA(seen)
    assert metrics.relative_error(found.inputs, x) < 1e-8
    report = ranks.rank_report(model, (3, 32, 32))
    assert report.loc["2", "deficiency"] == 280
    assert report.loc["2", "virtual"] == 396


def test_the_security_index_orders_architectures_as_the_error_does(photos):
    errors, indices = [], []
    for filters in (64, 12, 6, 2):
        model = victim(filters, nn.Identity())
        errors.append(attacked(RGAP, model, photos)[0])
        indices.append(int(ranks.rank_report(model, (3, 12, 12), exact_rank_up_to=0)["deficiency"].sum()))
    assert indices == sorted(indices)
    assert errors == sorted(errors)


@pytest.mark.parametrize("options", [{"steps": 0}, {"pull_back_up_to": 0}, {"iterations": 0}])
def test_parameters_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PullBack(**options)
