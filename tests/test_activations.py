"""Back through one layer without weights: the inverse against the layer, the gradient against autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gilearn.attacks.recursion.activations import walk_back
from gilearn.attacks.recursion.chain import Link

SHAPE = (3, 4, 5)


def through(module, seed=0, factor=2.0):
    """Input, output, gradient at the output, and the gradient at the input that autograd says."""
    generator = torch.Generator().manual_seed(seed)
    x = (factor * torch.randn(SHAPE, generator=generator, dtype=torch.float64)).requires_grad_()
    output = module(x[None])[0]
    delta = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    (pulled,) = torch.autograd.grad(output, x, delta)
    return x.detach(), output.detach(), delta, pulled


def link(module, precision=2.0**-52):
    return Link(name="0", module=module, input_shape=SHAPE, precision=precision)


def per_channel():
    module = nn.PReLU(3).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.1, 0.5, 2.0]))
    return module


def batch_norm():
    module = nn.BatchNorm2d(3).double().eval()
    with torch.no_grad():
        for tensor, values in (
            (module.running_mean, [0.1, -0.3, 2.0]),
            (module.running_var, [0.5, 1.5, 3.0]),
            (module.weight, [0.5, -2.0, 1.0]),
            (module.bias, [0.1, 0.2, 0.3]),
        ):
            tensor.copy_(torch.tensor(values))
    return module


@pytest.mark.parametrize(
    "module",
    [
        nn.LeakyReLU(0.2), nn.PReLU().double(), per_channel(), nn.Sigmoid(), nn.Tanh(), nn.ELU(), nn.ELU(0.3),
        nn.CELU(2.0), nn.SELU(), nn.Softplus(), nn.Softplus(beta=3, threshold=5), batch_norm(), nn.Identity(),
    ],
    ids=lambda module: repr(module),
)  # fmt: skip
def test_the_inverse_and_the_gradient(module):
    x, output, delta, pulled = through(module, factor=1.5)
    back = walk_back(link(module), output, delta)
    torch.testing.assert_close(back.value, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back.delta, pulled, rtol=1e-9, atol=1e-9)
    assert back.known is None
    assert back.saturated == 0
    assert back.violation == 0
    assert not back.value.requires_grad


@pytest.mark.parametrize("module", [nn.ReLU(), nn.LeakyReLU(0.0)])
@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_a_relu_hides_values_and_no_gradient(module, noise):
    x, output, delta, pulled = through(module)
    draws = torch.Generator().manual_seed(1)
    output = output + noise * (2 * torch.rand(SHAPE, generator=draws, dtype=torch.float64) - 1)
    back = walk_back(link(module), output, delta)
    assert torch.equal(back.known, x > 0)
    torch.testing.assert_close(back.value[back.known], x[back.known], rtol=0, atol=2 * noise)
    assert torch.equal(back.delta, pulled)
    assert back.violation <= noise


def test_what_is_hidden_stays_hidden_on_the_way():
    x, output, delta, _ = through(nn.ReLU())
    below = walk_back(link(nn.ReLU()), output, delta)
    back = walk_back(link(batch_norm()), below.value, below.delta, below.known)
    assert torch.equal(back.known, x > 0)
    flat = walk_back(
        Link(name="1", module=nn.Flatten(), input_shape=SHAPE), output.flatten(), delta.flatten(), below.known.flatten()
    )
    assert torch.equal(flat.known, x > 0)
    assert torch.equal(flat.value, output)


def test_a_picture_turned_negative_violates_a_relu():
    _, output, delta, _ = through(nn.ReLU())
    back = walk_back(link(nn.ReLU()), -output, delta)
    assert back.violation == 1
    assert not back.known.any()


@pytest.mark.parametrize("module", [nn.Sigmoid(), nn.Tanh(), nn.ELU(), nn.CELU(), nn.Softplus()])
def test_saturation_is_counted_where_half_of_the_digits_are_gone(module):
    """By what the inverse makes of an error in the last place, the layer's derivative says how much."""
    x, output, delta, _ = through(module, factor=15.0)
    back = walk_back(link(module), output, delta)
    slope = torch.func.vmap(torch.func.grad(lambda v: module(v)))(x.flatten())
    lost = int((2.0**-52 / slope > 2.0**-26).sum())
    assert lost > 0
    assert abs(back.saturated - lost) <= 1
    assert torch.isfinite(back.value).all()
    coarse = walk_back(link(module, precision=2.0**-23), output, delta)
    assert coarse.saturated > back.saturated
