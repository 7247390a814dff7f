"""PPDL-SPN: exact for fully connected layers, inconsistent for convolutions; its bound holds."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gilearn import federated, metrics, models
from gilearn.attacks.recursion import SPN, GradientDivision
from gilearn.attacks.recursion.rgap import RGAP
from gilearn.attacks.recursion.spn import perturbation_bound


def as_fully_connected(seen):
    """The system, neuron by neuron, solved without any shortcut: the oracle."""
    layer = seen.model[0]
    weight, bias = (g.double() for g in seen.shared[:2])
    shape = seen.input_shape
    numbers = torch.arange(1.0, 1 + torch.Size(shape).numel(), dtype=torch.float64).view(1, *shape)
    padding, stride = layer.padding[0], layer.stride
    patches = F.unfold(numbers, layer.kernel_size, padding=padding, stride=stride)[0].long()  # 0: padding
    rows, right = [], []
    for o in range(len(weight)):
        for patch in patches.T:
            for number, value in zip(patch.tolist(), weight[o].flatten(), strict=True):
                if number:
                    row = torch.zeros(numbers.numel(), dtype=torch.float64)
                    row[number - 1] = bias[o]
                    rows.append(row)
                    right.append(value)
    matrix, right = torch.stack(rows), torch.stack(right)
    x = torch.linalg.lstsq(matrix, right[:, None]).solution[:, 0]
    left = float((matrix @ x - right).norm())
    return x.view(1, *shape), left


def test_it_solves_the_system_of_all_neurons(photos):
    x = F.interpolate(photos[0][:1], size=6, mode="area")
    model = models.convnet(size=6, widths=(4,), strides=(2,), activation="sigmoid")
    seen = federated.observe(model, x, torch.tensor([1]))
    found = SPN()(seen)
    expected, left = as_fully_connected(seen)
    torch.testing.assert_close(found.inputs, expected)
    places = 9
    norm = float((places * seen.shared[0].double().square().sum()).sqrt())
    assert found.residual == pytest.approx(left / norm, rel=1e-6)


def test_ignoring_the_reuse_of_weights_is_inconsistent_where_the_layer_s_system_is_not(photos):
    x = photos[0][3:4].double()
    model = nn.Sequential(*models.convnet(widths=(16,), strides=(2,), activation="leaky_relu")).double()
    seen = federated.observe(model, x, torch.tensor([1]))
    found = SPN()(seen)
    assert found.residual > 0.05
    assert metrics.relative_error(found.inputs, x) > 0.1
    exact = RGAP(seen)
    assert exact.residual < 1e-10
    assert metrics.relative_error(exact.inputs, x) < 1e-8


def test_a_fully_connected_layer_is_the_perceptron(digits):
    x = digits[0][:1].double()
    seen = federated.observe(models.mlp(64).double(), x, digits[1][:1])
    torch.testing.assert_close(SPN()(seen).inputs, GradientDivision()(seen).inputs)


def test_refusals(photos, digits):
    x, y = photos[0][:1], photos[1][:1]
    with pytest.raises(ValueError, match="no bias"):
        SPN()(federated.observe(models.cnn6(), x, torch.tensor([1]), loss="logistic"))
    seen = federated.observe(models.lenet(), x, y)
    with pytest.raises(ValueError, match="withheld"):
        SPN()(dataclasses.replace(seen, shared=(None, *seen.shared[1:])))
    with pytest.raises(ValueError, match="all zero"):
        SPN()(dataclasses.replace(seen, shared=tuple(torch.zeros_like(g) for g in seen.shared)))


def test_the_bound_holds_in_a_hundred_draws():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    met = failed = 0
    while met < 100:
        examples = 1 + met % 4
        matrix, x = normal(12, examples), normal(examples, 30)
        level = 10 ** float(-4 + 4 * torch.rand(1, generator=generator))
        noise, right_noise = level * normal(12, examples), level * normal(12, 30)
        bound = perturbation_bound(matrix, matrix @ x, noise, right_noise)
        solved = torch.linalg.lstsq(matrix + noise, matrix @ x + right_noise).solution
        if bound.condition < 1:
            met += 1
            assert float((solved - x).norm() / x.norm()) <= bound.bound
        else:
            failed += 1
            assert bound.bound == float("inf")
    assert failed > 0


def test_the_bound_refuses():
    eye = torch.eye(3)
    with pytest.raises(ValueError, match="matrix_noise: got shape"):
        perturbation_bound(eye, eye, torch.eye(2), eye)
    with pytest.raises(ValueError, match="full column rank"):
        perturbation_bound(torch.ones(3, 2), torch.ones(3, 4), torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="right: got shape"):
        perturbation_bound(eye, torch.ones(2, 3), eye, torch.ones(2, 3))
