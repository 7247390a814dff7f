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
from gilearn.attacks.recursion import (
    RGAP,
    RankWarning,
    Recursion,
    SaturationWarning,
    TwinWarning,
    layer_table,
)
from gilearn.attacks.recursion.heads import TURNING_POINT, margins

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, no_cuda])]


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
    assert found.details["twins"] == ()
    with pytest.warns(TwinWarning, match="2 inputs in the range"):
        twin = Recursion(value_range=(0.0, 1e9))(seen)
    factor = float(twin.inputs.norm() / found.inputs.norm())
    assert factor > 10
    assert metrics.relative_error(twin.inputs / factor, x) < 1e-6
    assert twin.residual < 1e-6
    assert torch.equal(twin.details["twins"][0], twin.inputs)
    torch.testing.assert_close(twin.details["twins"][1], found.inputs)


def test_a_dark_picture_that_is_classified_with_confidence_is_among_the_twins(photos):
    """Margin 1 at half brightness: the brighter twin is in range too, and is returned; the truth is the other one."""
    x = small(photos) / 2
    model = chain((16,), (2,))
    with torch.no_grad():
        model[-1].weight /= model(x).item()  # a margin of 1 for label 1
    with pytest.warns(TwinWarning):
        found = RGAP(observed(model, x, label=1))
    assert found.residual < 1e-9
    assert found.verdict.explained
    assert "2 inputs in the range of values explain the gradient" in found.verdict.reason
    errors = [metrics.relative_error(twin, x) for twin in found.details["twins"]]
    assert errors[0] > 0.3 > 1e-8 > errors[1]


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
        (nn.ReLU6(), "ReLU6: it is flat at both ends"),
        (nn.Hardtanh(), "Hardtanh: it is flat at both ends"),
        (nn.PReLU(init=-0.5), "PReLU with weight -0.5: it has no inverse"),
        (nn.LeakyReLU(-0.5), "LeakyReLU with negative_slope -0.5"),
        (nn.ELU(alpha=0), "ELU with alpha 0"),
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


@pytest.mark.parametrize("filters", [24, 32, 48])
def test_a_relu_layer_by_leaving_out_what_it_hides(photos, filters):
    """The bar: ten pictures of 16 pixels, stride 2, error below 1e-10."""
    pictures = small(photos, rows=slice(0, 10))
    for k, x in enumerate(pictures.split(1)):
        model = chain((filters,), (2,), activation="relu", classes=10, bias=True, seed=k)
        found = Recursion(exact_rank_up_to=0)(observed(model, x, label=k))
        assert metrics.relative_error(found.inputs, x) < 1e-10
        assert found.residual < 1e-10
        report = found.details["layers"][-1]
        assert 0.3 * filters * 64 < report.dropped < 0.8 * filters * 64
        assert report.equations == filters * 64 - report.dropped + filters * 27


@pytest.mark.parametrize(("classes", "bias"), [(1, False), (1, True), (7, False)])
def test_relus_in_depth_with_batch_norm_every_head_and_in_place(photos, classes, bias):
    x = small(photos, size=8)
    model = chain((32, 24), (1, 2), activation="relu", classes=classes, bias=bias, size=8, norm=True).eval()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    assert metrics.relative_error(RGAP(observed(model, x)).inputs, x) < 1e-9


def test_a_relu_layer_with_too_few_filters_says_so(photos):
    x = small(photos)
    with pytest.warns(RankWarning, match="layer '0'") as caught:
        found = RGAP(observed(chain((10,), (2,), activation="relu", classes=10, bias=True), x))
    assert caught[0].filename == __file__  # it points at the line that calls the attack
    assert "layer '0': its system has rank" in found.verdict.causes[0]
    report = found.details["layers"][-1]
    assert report.measured
    assert report.deficiency > 0
    assert report.rank < chain_rank_without_relu(10)
    assert metrics.relative_error(found.inputs, x) > 0.05


def chain_rank_without_relu(filters):
    return min(768, filters * 64 + 27 * filters - filters**2)


def test_hidden_rows_of_a_fully_connected_layer_are_left_out(digits):
    """Its gradient withheld, its weights still say what they say about the neurons that are on."""
    x = digits[0][:1].double()
    model = models.mlp(64, (256,), activation="relu").double()
    seen = federated.observe(model, x, digits[1][:1])
    blind = dataclasses.replace(seen, shared=(None, None, *seen.shared[2:]))
    found = RGAP(blind)
    assert metrics.relative_error(found.inputs, x) < 1e-9
    report = found.details["layers"][-1]
    assert report.dropped == int((model[1](x.flatten(1)) <= 0).sum()) > 0


def test_a_fully_connected_layer_whose_relus_are_all_off_says_nothing(digits):
    x = digits[0][:1].double()
    model = models.mlp(64, (32, 16), activation="relu").double()
    with torch.no_grad():
        model[1].bias -= 100
    with pytest.warns(RankWarning, match="layer '1': its system has rank 0 for 64 unknowns"):
        found = RGAP(federated.observe(model, x, digits[1][:1]))
    assert (found.inputs == 0).all()


@pytest.mark.parametrize(
    "activation",
    [nn.ELU(0.7), nn.CELU(1.5), nn.SELU(), nn.PReLU(init=0.3), nn.PReLU(16), nn.Softplus(beta=2)],
    ids=lambda module: repr(module),
)
def test_invertible_activations_are_walked(photos, activation):
    x = small(photos, size=8)
    model = chain((16, 16), (2, 1), activation="identity", classes=7, bias=True, size=8)
    model[1] = model[3] = activation.double()  # one module, used twice
    if isinstance(activation, nn.PReLU) and activation.num_parameters > 1:
        with torch.no_grad():
            activation.weight.copy_(torch.linspace(0.1, 0.9, 16))
    found = RGAP(observed(model, x))
    assert metrics.relative_error(found.inputs, x) < 1e-8
    assert found.labels.tolist() == [1]


def test_saturation_is_told(photos):
    """Wide weights: full rank everywhere, and an error, because a tanh's output of 1 has no digits left."""
    x = small(photos, size=8)
    model = chain((16, 16), (2, 1), activation="tanh", classes=7, bias=True, size=8)
    assert RGAP(observed(model, x)).details["layers"][-1].saturated == 0
    with torch.no_grad():
        model[0].weight *= 100
    with pytest.warns(SaturationWarning, match="of the 256 values that an activation hands to it"):
        found = RGAP(observed(model, x))
    layer = found.details["layers"][-2]
    z = model[0](x)
    assert layer.saturated == int((z.tanh().abs() > 1 - 2**-26).sum())
    assert "saturated" in str(layer)
    assert found.details["deficiency"] == 0


def test_the_report_prints_and_tabulates(photos):
    x = small(photos, size=8)
    seen = observed(chain((16, 16), (2, 1), size=8), x)
    found = Recursion(exact_rank_up_to=200)(seen)
    assert [str(r).split(",")[0] for r in found.details["layers"]] == [
        "5: rank 256 of 256",
        "2: rank at most 256 of 256",
        "0: rank 192 of 192",
    ]
    table = layer_table(found.details["layers"])
    assert list(table.index) == ["5", "2", "0"]
    assert list(table["measured"]) == [True, False, True]
    assert list(table["rank"]) == [256, 256, 192]


def test_one_call_for_all_attacks(photos):
    seen = observed(chain((16,), (2,), size=8), small(photos, size=8))
    plain = RGAP(seen)
    found = RGAP(seen, seed=3, snapshots=2, progress=True, time_limit=0.001)
    assert torch.equal(found.inputs, plain.inputs)
    assert found.seed is None
    assert found.snapshots == ()
    assert RGAP.replace(iterations=7).iterations == 7


def test_the_residual_is_the_mismatch_of_the_gradient(photos):
    """Of a deficient layer the system is solved exactly, and the gradient is still another one."""
    with pytest.warns(RankWarning):
        found = RGAP(observed(chain((16, 2), (1, 2), size=8), small(photos, size=8), declare=["labels"]))
    assert max(r.residual for r in found.details["layers"][:2]) < 1e-10 < 1e-3 < found.residual
    assert not found.verdict.explained


def test_a_layer_that_is_used_twice(photos):
    """An activation may be; a layer with weights has one gradient for both uses."""
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.Tanh(), conv, nn.Flatten(), nn.Linear(192, 5)).double()
    with pytest.raises(ValueError, match="layer '2' is used twice"):
        RGAP(observed(model, small(photos, size=8)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_devices_and_types(photos, device, dtype):
    x = small(photos, size=8)
    for activation in ("leaky_relu", "relu"):
        model = chain((24, 16), (2, 1), activation=activation, classes=5, size=8).to(device, dtype)
        found = RGAP(observed(model, x.to(device, dtype)))
        assert found.inputs.device.type == found.labels.device.type == device
        assert found.inputs.dtype == torch.float64
        assert metrics.relative_error(found.inputs.cpu(), x) < (1e-8 if dtype == torch.float64 else 0.1)


def test_it_is_public():
    assert attacks.RGAP is RGAP
    assert Recursion() == RGAP
