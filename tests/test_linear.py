"""A convolution's system against PyTorch's convolution and autograd, and what solving it returns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gilearn.linear import (
    ConvSystem,
    divide,
    float64_device,
    least_squares,
    outer_residual,
    rank_and_condition,
    solve,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.fixture(autouse=True)
def layers_may_draw():
    """PyTorch's layers draw their weights from the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


LAYERS = {
    "plain": (nn.Conv2d(3, 5, 3), (3, 7, 8)),
    "padded": (nn.Conv2d(2, 4, 3, padding=1), (2, 6, 6)),
    "strided": (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 8, 9)),
    "uneven stride": (nn.Conv2d(2, 3, 3, stride=(2, 3), padding=(2, 1)), (2, 9, 10)),
    "dilated": (nn.Conv2d(2, 3, 3, dilation=2, padding=2), (2, 9, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 6, 5)),
    "depthwise": (nn.Conv2d(3, 6, 3, groups=3, stride=2), (3, 9, 9)),
    "rectangular kernel": (nn.Conv2d(2, 3, (1, 4), padding=(0, 2)), (2, 5, 8)),
    "same, even kernel": (nn.Conv2d(2, 3, 4, padding="same"), (2, 6, 7)),
    "without bias": (nn.Conv2d(1, 3, 2, bias=False), (1, 5, 5)),
    "leaves pixels unseen": (nn.Conv2d(1, 2, 1, stride=2), (1, 6, 6)),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


def case(name):
    layer, shape = LAYERS[name]
    layer = layer.double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        output = layer(x[None])[0]
    delta = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    return layer, x, output, delta


@each_layer
def test_it_is_pytorch_s_convolution_and_autograd_s_weight_gradient(name):
    layer, x, output, delta = case(name)
    system = ConvSystem.of(layer, tuple(x.shape), delta)
    bias = 0 if layer.bias is None else layer.bias.detach().view(-1, 1, 1)
    torch.testing.assert_close(system.outputs(x) + bias, output, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad((layer(x[None])[0] * delta).sum(), layer.weight)
    torch.testing.assert_close(system.weight_gradient(x), gradient, rtol=0, atol=1e-12)
    rows = torch.cat([(output - bias).flatten(), gradient.flatten()])
    torch.testing.assert_close(system.dense() @ x.flatten(), rows, rtol=0, atol=1e-12)


@each_layer
@pytest.mark.parametrize("with_gradient", [True, False])
def test_dot_product(name, with_gradient):
    """<A x, y> = <x, A' y> to 1e-12: the transpose is the transpose."""
    layer, x, _, delta = case(name)
    system = ConvSystem.of(layer, tuple(x.shape), delta if with_gradient else None)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        a = torch.randn(system.shape[1], generator=generator, dtype=torch.float64)
        b = torch.randn(system.shape[0], generator=generator, dtype=torch.float64)
        forward, backward = system.matvec(a), system.rmatvec(b)
        assert abs(float(forward @ b - a @ backward)) < 1e-12 * float(forward.norm() * b.norm())


@each_layer
def test_column_norms_and_rank_bound_are_those_of_the_matrix(name):
    layer, x, _, delta = case(name)
    system = ConvSystem.of(layer, tuple(x.shape), delta)
    matrix = system.dense()
    outputs, gradient = system.column_norms()
    torch.testing.assert_close(outputs + gradient, matrix.square().sum(0), rtol=1e-12, atol=1e-12)
    assert system.rank_bound() == int(torch.linalg.matrix_rank(matrix, rtol=1e-11))


@pytest.mark.parametrize("filters", [1, 2, 3, 4, 6, 9, 12])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_rank_bound_is_the_rank_of_generic_layers(filters, stride):
    """Also where the relations between the blocks, or the shifts that a stride lets meet, take rank away."""
    torch.manual_seed(0)
    for channels, size in ((3, 9), (6, 6)):
        layer = nn.Conv2d(channels, filters, 3, stride=stride, padding=1).double()
        x = torch.randn(1, channels, size, size, dtype=torch.float64)
        delta = torch.randn_like(layer(x))[0].detach()
        system = ConvSystem.of(layer, (channels, size, size), delta)
        assert system.rank_bound() == int(torch.linalg.matrix_rank(system.dense(), rtol=1e-11))


def test_rank_bound_with_filters_and_deltas_that_repeat():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, padding=1).double()
    with torch.no_grad():
        layer.weight[1] = layer.weight[0]
    delta = torch.randn(4, 5, 5, dtype=torch.float64)
    delta[3] = 2 * delta[2]
    system = ConvSystem.of(layer, (2, 5, 5), delta)
    assert int(torch.linalg.matrix_rank(system.dense(), rtol=1e-11)) <= system.rank_bound()


@each_layer
def test_solving_returns_the_input_or_the_least_norm(name):
    layer, x, output, delta = case(name)
    system = ConvSystem.of(layer, tuple(x.shape), delta)
    bias = 0 if layer.bias is None else layer.bias.detach().view(-1, 1, 1)
    found = solve(system, output - bias, system.weight_gradient(x))
    assert found.measured
    assert found.residual < 1e-11
    if found.deficiency == 0:
        assert float((found.x - x).norm() / x.norm()) < 1e-9
    else:
        assert float(found.x.norm()) < float(x.norm())
    assert found.rank == system.rank_bound()
    guessed = solve(system, output - bias, system.weight_gradient(x), exact_rank_up_to=0)
    assert not guessed.measured
    assert guessed.rank == found.rank
    torch.testing.assert_close(guessed.x, found.x)


def test_refusals():
    layer, x, output, delta = case("padded")
    system = ConvSystem.of(layer, tuple(x.shape), delta)
    gradient = system.weight_gradient(x)
    with pytest.raises(ValueError, match="padding_mode"):
        ConvSystem.of(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 6, 6), None)
    with pytest.raises(ValueError, match="input_shape: got"):
        ConvSystem.of(layer, (3, 6, 6), None)
    with pytest.raises(ValueError, match="delta: got shape"):
        ConvSystem.of(layer, (2, 6, 6), delta[:, 1:])
    with pytest.raises(ValueError, match="gradient: got none"):
        solve(system, output, None)
    with pytest.raises(ValueError, match="outputs: got shape"):
        solve(system, output[1:], gradient)
    with pytest.raises(ValueError, match="gradient: got NaN"):
        solve(system, output, gradient * float("nan"))


def masked(name):
    """A case of which a third of the outputs is hidden, and their deltas with them, as a ReLU does."""
    layer, x, output, delta = case(name)
    known = output > output.quantile(1 / 3)
    return layer, x, output, delta * known, known


@each_layer
def test_hidden_outputs_are_rows_left_out(name):
    layer, x, _, delta, known = masked(name)
    whole = ConvSystem.of(layer, tuple(x.shape), delta)
    system = ConvSystem.of(layer, tuple(x.shape), delta, known)
    rows = torch.cat([known.flatten(), torch.ones(layer.weight.numel(), dtype=torch.bool)])
    matrix = system.dense()
    assert matrix.shape == system.shape
    assert torch.equal(matrix, whole.dense()[rows])
    y = torch.randn(system.shape[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(system.rmatvec(y), matrix.T @ y, rtol=0, atol=1e-12)
    outputs, gradient = system.column_norms()
    torch.testing.assert_close(outputs + gradient, matrix.square().sum(0), rtol=1e-12, atol=1e-12)


@each_layer
def test_the_bound_with_hidden_outputs_is_one(name):
    layer, x, _, delta, known = masked(name)
    system = ConvSystem.of(layer, tuple(x.shape), delta, known)
    assert rank_and_condition(system.dense())[0] <= system.rank_bound()


def test_the_bound_with_hidden_outputs_is_attained_where_rows_are_scarce():
    """Two filters; of one of them nothing is hidden, so that its relations count and the other's do not."""
    layer, x, _, delta = case("plain")
    known = torch.ones_like(delta, dtype=torch.bool)
    known[1:, ::2] = False
    system = ConvSystem.of(layer, tuple(x.shape), delta, known)
    everything = ConvSystem.of(layer, tuple(x.shape), delta)
    assert rank_and_condition(system.dense())[0] == system.rank_bound()
    assert rank_and_condition(everything.dense())[0] == everything.rank_bound()


@each_layer
@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("exact_rank_up_to", [0, 1024])
def test_the_solution_of_a_deficient_layer_is_the_pseudoinverse_s(name, hide, exact_rank_up_to):
    """Of all inputs that solve the system, the one of least norm: column scaling may not choose another."""
    layer, x, _, delta, known = masked(name)
    delta = delta * (torch.arange(len(delta)) == 0).view(-1, 1, 1)  # one filter's delta is left
    known = known & (torch.arange(len(delta)) == 0).view(-1, 1, 1) if hide else None
    system = ConvSystem.of(layer, tuple(x.shape), delta, known)
    found = solve(system, system.outputs(x), system.weight_gradient(x), exact_rank_up_to=exact_rank_up_to)
    expected = torch.linalg.pinv(system.dense(), rtol=1e-10) @ system.matvec(x)
    torch.testing.assert_close(found.x.flatten(), expected, rtol=0, atol=1e-8)


def test_division_by_an_outer_product():
    generator = torch.Generator().manual_seed(0)
    delta, x = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (7, 9))
    gradient = torch.outer(delta, x)
    torch.testing.assert_close(divide(gradient, delta), x)
    assert outer_residual(gradient, delta, x) < 1e-15
    noisy = gradient + torch.randn(7, 9, generator=generator, dtype=torch.float64)
    nearest = torch.linalg.lstsq(delta[:, None], noisy).solution[0]
    torch.testing.assert_close(divide(noisy, delta), nearest)
    left = float((noisy - delta[:, None] * nearest).norm() / noisy.norm())
    assert outer_residual(noisy, delta, nearest) == pytest.approx(left)


def test_dense_least_squares_has_the_least_norm():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 3, generator=generator, dtype=torch.float64) @ torch.randn(
        3, 8, generator=generator, dtype=torch.float64
    )
    right = torch.randn(6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(least_squares(matrix, right), torch.linalg.pinv(matrix) @ right)
    assert rank_and_condition(matrix)[0] == 3
    assert torch.equal(least_squares(matrix[:0], right[:0]), torch.zeros(8, dtype=torch.float64))


def test_a_device_without_float64_computes_on_the_cpu():
    assert float64_device(torch.device("mps")) == torch.device("cpu")
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda():
    layer, x, output, delta, known = masked("strided")
    system = ConvSystem.of(layer, tuple(x.shape), delta, known)
    expected = solve(system, output, system.weight_gradient(x))
    system = ConvSystem.of(layer.to("cuda"), tuple(x.shape), delta.to("cuda"), known.to("cuda"))
    found = solve(system, output.to("cuda"), system.weight_gradient(x.to("cuda")))
    assert found.x.is_cuda
    torch.testing.assert_close(found.x.cpu(), expected.x)
