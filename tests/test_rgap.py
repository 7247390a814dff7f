"""R-GAP: exact where every rank is full, honest where one is not, and clear about what it cannot walk back."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gilearn import attacks, federated, metrics, models
from gilearn.attacks.recursion import RGAP, RankWarning, Recursion
from gilearn.attacks.recursion.heads import TURNING_POINT, margins


@pytest.fixture(autouse=True)
def layers_may_draw():
    """PyTorch's layers draw their weights from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small(photos, size=16, rows=slice(0, 1)):
    return F.interpolate(photos[0][rows], size=size, mode="area").double()


def chain(widths, strides, *, activation="leaky_relu", classes=1, bias=False, size=16, seed=0, norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers, channels = [], 3
        for width, stride in zip(widths, strides, strict=True):
            layers.append(nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=bias))
            if norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(models.ACTIVATIONS[activation]())
            channels, size = width, -(-size // stride)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, classes, bias=bias)).double()


def observed(model, x, label=1, **options):
    loss = "logistic" if model[-1].out_features == 1 else "cross_entropy"
    return federated.observe(model, x, torch.full((len(x),), label), loss=loss, **options)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("label", [0, 1])
def test_cnn6_on_photographs(photos, seed, label):
    """The paper's network and size, both labels, which take both branches of the scalar equation."""
    for k in (0, 3):
        x = photos[0][k : k + 1].double()
        seen = federated.observe(models.cnn6(seed=seed).double(), x, torch.tensor([label]), loss="logistic")
        found = Recursion(exact_rank_up_to=0)(seen)
        assert float(metrics.psnr(found.inputs, x)) > 150
        assert found.labels.tolist() == [label]
        assert found.residual < 1e-10


@pytest.mark.parametrize(("widths", "full"), [((16,), True), ((16, 24), True), ((4,), False), ((6, 6), False)])
def test_full_rank_is_exact_and_the_report_predicts_it(photos, widths, full):
    x = small(photos)
    model = chain(widths, (2, 1)[: len(widths)])
    seen = observed(model, x, declare=["labels"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = RGAP(seen)
    error = metrics.relative_error(found.inputs, x)
    assert (found.details["deficiency"] == 0) == full
    assert any(issubclass(w.category, RankWarning) for w in caught) != full
    assert error < 1e-8 if full else error > 0.05


@pytest.mark.parametrize("activation", ["leaky_relu", "sigmoid", "tanh", "identity"])
@pytest.mark.parametrize(("classes", "bias"), list(itertools.product([1, 2, 7], [False, True])))
def test_heads_activations_and_biases(photos, activation, classes, bias):
    x = small(photos, size=8)
    found = RGAP(observed(chain((16, 16), (2, 1), activation=activation, classes=classes, bias=bias, size=8), x))
    assert metrics.relative_error(found.inputs, x) < 1e-7
    assert found.labels.tolist() == [1]


def test_a_softmax_head_finds_every_label(photos):
    x = small(photos, size=8)
    for label, seed in itertools.product(range(5), range(3)):
        model = chain((16,), (2,), classes=5, size=8, seed=seed)
        with torch.no_grad():
            model[-1].weight *= 30  # confident, right or wrong
        found = RGAP(observed(model, x, label))
        assert found.labels.tolist() == [label]
        assert metrics.relative_error(found.inputs, x) < 1e-6


@pytest.mark.parametrize("mu", [-30.0, -2.0, -1e-4, 0.0, 1e-4, 0.7, 1.2, 1.4, 3.0, 12.0])
def test_margins_are_all_solutions(mu):
    def product(value):
        return -value / (1 + math.exp(value))

    found = margins(product(mu))
    assert any(abs(value - mu) < 1e-6 * max(1, abs(mu)) for value in found)
    assert len(found) == (2 if mu > 0 else 1)
    for value in found:
        assert abs(product(value) - product(mu)) < 1e-12


def test_margins_below_the_minimum_are_the_minimum_s():
    assert margins(-0.3) == [TURNING_POINT]


def test_a_multiple_of_the_picture_is_a_twin(photos):
    """With LeakyReLUs and no biases the other branch explains the gradient too; only the range of pixels decides."""
    x = small(photos)
    model = chain((16,), (2,))
    seen = observed(model, x, label=int(model(x) > 0))  # classified right: two branches
    found = RGAP(seen)
    twin = Recursion(value_range=(0.0, 1e9))(seen)
    assert metrics.relative_error(found.inputs, x) < 1e-10
    factor = float(twin.inputs.norm() / found.inputs.norm())
    assert factor > 10
    assert metrics.relative_error(twin.inputs / factor, x) < 1e-6
    assert twin.residual < 1e-6


def test_normalized_batch_norm_in_eval_mode_and_float32_gradients(photos):
    x = small(photos, size=8)
    model = chain((16, 16), (2, 1), norm=True, size=8).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
                module.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    wrapped = models.Normalized(model, [0.5] * 3, [0.25] * 3).double()
    seen = federated.observe(wrapped, x, torch.tensor([1]), loss="logistic", declare=["labels"])
    assert metrics.relative_error(RGAP(seen).inputs, x) < 1e-7
    single = federated.observe(wrapped.float(), x.float(), torch.tensor([1]), loss="logistic", declare=["labels"])
    found = RGAP(single)
    assert found.inputs.dtype == torch.float64
    assert metrics.relative_error(found.inputs, x) < 0.05


def test_fully_connected_networks_and_the_mixture_of_a_batch(digits):
    x = digits[0][:2].double()
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 40, bias=False), nn.LeakyReLU(0.2), nn.Linear(40, 1, bias=False)
    ).double()
    one = RGAP(federated.observe(model, x[:1], torch.tensor([1]), loss="logistic", declare=["labels"]))
    assert metrics.relative_error(one.inputs, x[:1]) < 1e-9
    both = RGAP(federated.observe(model, x, torch.tensor([1, 0]), loss="logistic"))
    assert both.labels is None
    assert both.residual > 1e-3
    basis = torch.linalg.lstsq(x.flatten(1).T, both.inputs.flatten()[:, None]).solution
    assert float((x.flatten(1).T @ basis - both.inputs.flatten()[:, None]).norm() / both.inputs.norm()) < 1e-9


def test_a_withheld_gradient_leaves_the_weights_equations(photos):
    x = small(photos)
    seen = observed(chain((16,), (2,)), x, declare=["labels"])
    blind = dataclasses.replace(seen, shared=(None, *seen.shared[1:]))
    assert metrics.relative_error(RGAP(blind).inputs, x) < 1e-9


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.MaxPool2d(2), "MaxPool2d: pooling has no inverse.*stride"),
        (nn.AvgPool2d(2), "AvgPool2d: pooling"),
        (nn.ReLU(), "ReLU: .*LeakyReLU"),
        (nn.BatchNorm2d(4), "BatchNorm2d in train mode.*eval"),
        (nn.Dropout(0.5), "Dropout in train mode"),
        (nn.GELU(), "GELU: .*plain chain"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding mode 'reflect'"),
    ],
)
def test_what_it_cannot_walk_back_is_refused_by_name(photos, module, message):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), module, nn.Flatten(), nn.LazyLinear(2))
    x = photos[0][:1]
    model(x)
    with pytest.raises(ValueError, match=message):
        RGAP(federated.observe(model, x, torch.tensor([1])))


def test_shortcuts_batches_updates_and_endings_are_refused(photos):
    x, y = photos[0][:2], photos[1][:2]
    with pytest.raises(ValueError, match=r"ResNet.*shortcuts"):
        RGAP(federated.observe(models.resnet18(), x[:1], y[:1]))
    with pytest.raises(ValueError, match="batch has 2 examples"):
        RGAP(federated.observe(models.cnn6(), x, torch.tensor([0, 1]), loss="logistic"))
    local = federated.LocalSteps(steps=3, lr=0.1)
    with pytest.raises(ValueError, match="3 local steps"):
        RGAP(federated.observe(models.lenet(), x[:1], y[:1], local=local))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.LogSoftmax(1))
    with pytest.raises(ValueError, match="LogSoftmax"):
        RGAP(federated.observe(model, x[:1], y[:1]))


@pytest.mark.parametrize("options", [{"tolerance": 2}, {"iterations": 0}])
def test_parameters_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Recursion(**options)


def test_zero_and_withheld_heads_are_refused(photos):
    seen = observed(chain((16,), (2,)), small(photos))
    with pytest.raises(ValueError, match="gradient of the last layer '3' is zero"):
        RGAP(dataclasses.replace(seen, shared=tuple(torch.zeros_like(g) for g in seen.shared)))
    with pytest.raises(ValueError, match="withheld"):
        RGAP(dataclasses.replace(seen, shared=(seen.shared[0], None)))


def test_it_is_public():
    assert attacks.RGAP is RGAP
    assert Recursion() == RGAP
