"""One division: exact where it must be, refused or shown to fail where it cannot work."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks.recursion import gradient_division


def observe(model, x, y, dtype=torch.float64, **options):
    return federated.observe(model.to(dtype), x.to(dtype), y, **options)


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rows", ["least_squares", "largest"])
def test_fifty_random_networks(digits, dtype, bar, rows):
    attack = attacks.GradientDivision(rows=rows)
    errors = []
    for k in range(50):
        activation = ("sigmoid", "tanh", "relu", "leaky_relu", "gelu")[k % 5]
        model = models.mlp(64, ((32,), (32, 16), ())[k % 3], activation=activation, seed=k)
        seen = observe(model, digits[0][k : k + 1], digits[1][k : k + 1], dtype)
        result = attack(seen)
        assert result.inputs.dtype == torch.float64
        errors.append(metrics.relative_error(result.inputs, digits[0][k : k + 1]))
        assert result.residual < bar
    assert max(errors) < bar


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_depth_does_not_help(digits, depth):
    model = models.mlp(64, (32,) * depth)
    seen = observe(model, digits[0][:1], digits[1][:1])
    assert metrics.relative_error(attacks.PPDL_AHE(seen).inputs, digits[0][:1]) < 1e-12


def test_a_single_neuron():
    x = data.faces(1)[0].double()
    neuron = models.mlp(625, (), num_classes=1).double()
    seen = federated.observe(neuron, x, torch.tensor([1]), loss="logistic")
    torch.testing.assert_close(seen.shared[0] / seen.shared[1], x.flatten(1))
    assert metrics.relative_error(attacks.PPDL_AHE(seen).inputs, x) < 1e-12


def test_a_colour_photograph_through_its_normalization(photos):
    x, y = photos[0][4:5].double(), photos[1][4:5]
    model = models.Normalized(models.mlp(3072), (0.5, 0.4, 0.3), (0.2, 0.3, 0.2)).double()
    result = attacks.PPDL_AHE(federated.observe(model, x, y))
    assert metrics.relative_error(result.inputs, x) < 1e-12
    assert result.details["layer"] == "model.1"


def test_a_local_update_of_one_step(digits):
    local = federated.LocalSteps(steps=1, lr=0.1)
    seen = observe(models.mlp(64), digits[0][:1], digits[1][:1], local=local)
    assert metrics.relative_error(attacks.PPDL_AHE(seen).inputs, digits[0][:1]) < 1e-10


def test_every_layer_s_input(digits):
    model = models.mlp(64, (32, 16), activation="tanh")
    x = digits[0][3:4].double()
    found = gradient_division.layer_inputs(observe(model, x, digits[1][3:4]))
    assert list(found) == ["1", "3", "5"]
    for name, value in found.items():
        torch.testing.assert_close(value, model[: int(name)](x)[0])


def test_the_features_in_front_of_a_convolutional_network_s_classifier(photos):
    model = models.lenet().double()
    x = photos[0][:1].double()
    found = gradient_division.layer_inputs(federated.observe(model, x, photos[1][:1]))
    torch.testing.assert_close(found["7"], model[:7](x)[0])


def test_weight_decay_is_subtracted(digits):
    model = models.mlp(64).double()
    x, y = digits[0][:1].double(), digits[1][:1]
    loss = F.cross_entropy(model(x), y) + 0.05 * sum(p.square().sum() for p in model.parameters())
    shared = torch.autograd.grad(loss, list(model.parameters()))
    seen = federated.Observation.from_gradients(model, shared, input_shape=(1, 8, 8), batch_size=1)
    assert metrics.relative_error(attacks.PPDL_AHE(seen).inputs, x) > 0.1
    assert metrics.relative_error(attacks.GradientDivision(weight_decay=0.1)(seen).inputs, x) < 1e-12


def test_a_batch_is_a_mixture(digits):
    """The quotient at a neuron is the mean of the batch, weighted by that neuron's deltas; the residual says so."""
    model = models.mlp(64, (32,)).double()
    x, y = digits[0][:3].double(), digits[1][:3]
    seen = federated.observe(model, x, y)
    hidden = model[1](x.flatten(1)).detach().requires_grad_()
    delta = torch.autograd.grad(F.cross_entropy(model[2:](hidden), y), hidden)[0]
    live, quotients = gradient_division.quotients(*seen.shared[:2])
    expected = (delta.T @ x.flatten(1)) / delta.sum(0)[:, None]
    assert len(live) == 32
    torch.testing.assert_close(quotients, expected)
    torch.testing.assert_close(gradient_division.layer_input(*seen.shared[:2], rows=5), expected[5])
    assert attacks.PPDL_AHE(seen).residual > 0.05


def test_a_neuron_that_one_example_activates_returns_it(digits):
    """Two examples, a ReLU neuron that fires for one of them only."""
    model = models.mlp(64, (64,), activation="relu", seed=1).double()
    x, y = digits[0][:2].double(), digits[1][:2]
    active = model[1](x.flatten(1)) > 0
    lone = (active.sum(0) == 1).nonzero().flatten()
    assert len(lone) > 5
    live, quotients = gradient_division.quotients(*federated.observe(model, x, y).shared[:2])
    position = {int(n): k for k, n in enumerate(live)}
    for neuron in lone.tolist():
        owner = int(active[:, neuron].nonzero())
        torch.testing.assert_close(quotients[position[neuron]], x[owner].flatten())


def test_without_bias_only_the_direction_is_left(digits):
    model = models.mlp(64, (32,), bias=False).double()
    x = digits[0][:1].double()
    seen = federated.observe(model, x, digits[1][:1])
    with pytest.raises(ValueError, match="layer '1' has no bias; direction"):
        attacks.PPDL_AHE(seen)
    direction = gradient_division.direction(seen.shared[0])
    torch.testing.assert_close(direction, x.flatten() / x.norm())
    assert gradient_division.layer_inputs(seen) == {}


def test_dead_neurons(digits):
    model = models.mlp(64, (32,), activation="relu").double()
    with torch.no_grad():
        model[1].bias -= 100
    seen = federated.observe(model, digits[0][:1].double(), digits[1][:1])
    with pytest.raises(ValueError, match="bias_gradient: got zero where it divides"):
        attacks.PPDL_AHE(seen)
    with torch.no_grad():
        model[1].bias[:4] += 100
    seen = federated.observe(model, digits[0][:1].double(), digits[1][:1])
    result = attacks.PPDL_AHE(seen)
    assert 1 <= result.details["live_neurons"] <= 4
    assert metrics.relative_error(result.inputs, digits[0][:1]) < 1e-12


def test_saturation_shrinks_delta_until_it_is_zero(digits):
    model = models.mlp(64, (64,)).double()
    shares = []
    for factor in (1, 500):
        wide = copy.deepcopy(model)
        with torch.no_grad():
            wide[1].weight *= factor
        bias = federated.observe(wide.float(), digits[0][:1], digits[1][:1]).shared[1]
        shares.append(float((bias == 0).double().mean()))
    assert shares[0] == 0
    assert shares[1] > 0.2


def test_noise_breaks_it_gracefully(digits):
    """The error grows with the noise; least squares suffers less than one neuron."""
    seen = observe(models.mlp(64, (32,)), digits[0][:1], digits[1][:1])
    generator = torch.Generator().manual_seed(0)
    errors = {}
    for sigma in (1e-6, 1e-4, 1e-2):
        draws = []
        for _ in range(20):
            noisy = tuple(g + sigma * torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in seen.shared)
            noisy = dataclasses.replace(seen, shared=noisy)
            draws.append(
                [
                    metrics.mse(attacks.GradientDivision(rows=r)(noisy).inputs, digits[0][:1])
                    for r in ("least_squares", "largest")
                ]
            )
        errors[sigma] = torch.tensor(draws).median(0).values
    assert errors[1e-6][0] < 1e-8
    assert errors[1e-6][0] < errors[1e-4][0] < errors[1e-2][0]
    assert all(e[0] < e[1] for e in errors.values())


def test_refusals(photos, digits):
    with pytest.raises(ValueError, match="first layer is Conv2d.*R-GAP"):
        attacks.PPDL_AHE(federated.observe(models.lenet(), photos[0][:1], photos[1][:1]))
    seen = federated.observe(models.mlp(64), digits[0][:1], digits[1][:1])
    withheld = dataclasses.replace(seen, shared=(seen.shared[0], None, *seen.shared[2:]))
    with pytest.raises(ValueError, match="gradient of layer '1' is withheld"):
        attacks.PPDL_AHE(withheld)
    with pytest.raises(ValueError, match="rows: got 'all'"):
        attacks.GradientDivision(rows="all")
    with pytest.raises(ValueError, match="weight_decay: got -1"):
        attacks.GradientDivision(weight_decay=-1)
    weight, bias = seen.shared[:2]
    for arguments, message in (
        ((weight[0], bias), "weight_gradient: got shape"),
        ((weight, bias[:-1]), "bias_gradient: got shape"),
        ((weight / 0, bias), "weight_gradient: got NaN"),
        ((weight, bias * torch.nan), "bias_gradient: got NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            gradient_division.layer_input(*arguments)
    with pytest.raises(ValueError, match="rows: got neuron 64, wanted 0 to 63"):
        gradient_division.layer_input(weight, bias, rows=64)
    with pytest.raises(ValueError, match="weight_gradient: got zeros"):
        gradient_division.direction(0 * weight)


def test_a_layer_that_sees_something_else_is_not_taken(digits):
    """The layer must be fed with the input itself, not with as many numbers made of it."""

    class Squared(nn.Module):
        def forward(self, x):
            return x.square()

    model = nn.Sequential(Squared(), *models.mlp(64))
    with pytest.raises(ValueError, match="no fully connected layer is fed with the input"):
        attacks.PPDL_AHE(federated.observe(model, digits[0][:1], digits[1][:1]))
