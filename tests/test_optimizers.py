"""Optimizers: what their settings do to the steps."""

from __future__ import annotations

import pytest
import torch

from gilearn.attacks.iteration.optimizers import LBFGS, SGD, Adam, AdamW, Optimizer, StepDecay, WarmupCosine


def path(optimizer, steps=3, start=4.0, iterations=100, seed=0):
    """Minimize the square of two numbers; return where it went."""
    variable = torch.tensor([start, -start], dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(seed)
    stepper = optimizer.build([variable], iterations=iterations, generator=generator)
    assert isinstance(stepper, torch.optim.Optimizer)
    places = [variable.detach().clone()]

    def closure():
        value = variable.square().sum() / 2
        (variable.grad,) = torch.autograd.grad(value, variable)
        return value

    for _ in range(steps):
        stepper.step(closure)
        places.append(variable.detach().clone())
    return torch.stack(places)


@pytest.mark.parametrize("optimizer", [LBFGS(), Adam(), AdamW(), SGD()], ids=repr)
def test_they_go_down(optimizer):
    assert isinstance(optimizer, Optimizer)
    assert path(optimizer, steps=100)[-1].norm() < 0.1
    assert optimizer.separable == (not isinstance(optimizer, LBFGS))


def test_plain_and_signed_steps():
    torch.testing.assert_close(path(SGD(lr=0.25), 1)[1], torch.tensor([3.0, -3.0], dtype=torch.float64))
    torch.testing.assert_close(path(SGD(lr=0.25, signed=True), 1)[1], torch.tensor([3.75, -3.75]).double())
    torch.testing.assert_close(path(Adam(lr=0.25, signed=True), 1)[1], torch.tensor([3.75, -3.75]).double())


def test_decay_pulls_to_zero():
    assert path(AdamW(lr=0.1, weight_decay=1.0), 1)[1, 0] < path(Adam(lr=0.1), 1)[1, 0]


def test_step_decay():
    schedule = StepDecay()
    assert [round(schedule(k, 80), 6) for k in (0, 29, 30, 50, 70, 79)] == [1, 1, 0.1, 0.01, 0.001, 0.001]
    places = path(SGD(lr=0.1, signed=True, schedule=StepDecay(factor=0.5, at=(0.5,))), 4, iterations=4)
    torch.testing.assert_close(places[:, 0], torch.tensor([4, 3.9, 3.8, 3.75, 3.7]).double())


def test_warmup_and_cosine():
    schedule = WarmupCosine(warmup=10)
    assert schedule(0, 110) == 0.1
    assert schedule(9, 110) == schedule(10, 110) == 1
    assert abs(schedule(60, 110) - 0.5) < 1e-12
    assert schedule(109, 110) < 1e-3


def test_langevin_noise_is_seeded_and_scales_with_the_rate():
    quiet, loud = path(SGD(lr=0.1), 1), path(SGD(lr=0.1, noise=0.2), 1)
    assert torch.equal(loud, path(SGD(lr=0.1, noise=0.2), 1))
    assert not torch.equal(loud, path(SGD(lr=0.1, noise=0.2), 1, seed=1))
    twice = path(SGD(lr=0.2, noise=0.2), 1) - path(SGD(lr=0.2), 1)
    torch.testing.assert_close(twice[1], 2 * (loud - quiet)[1])


def test_noise_takes_the_variables_type_and_no_more_memory(monkeypatch):
    """It is drawn as the variables are, not in float64 on the CPU and then converted."""
    drawn = []
    plain = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: drawn.append(k["dtype"]) or plain(*a, **k))
    variable = torch.zeros(1000, requires_grad=True)
    stepper = SGD(lr=0.5, noise=0.2).build([variable], iterations=1, generator=torch.Generator().manual_seed(0))
    variable.grad = torch.zeros(1000)
    stepper.step(lambda: variable.sum())
    assert drawn == [torch.float32]
    assert abs(float(variable.detach().std()) - 0.1) < 0.01


def test_noise_and_schedule_count_the_same_steps():
    """The first step's noise has the first step's rate, before the schedule lowers it."""
    schedule = StepDecay(factor=0.0, at=(0.25,))
    places = path(SGD(lr=0.1, noise=1.0, schedule=schedule), steps=4, iterations=4)
    assert not torch.equal(places[1], places[0])
    torch.testing.assert_close(
        places[1] - path(SGD(lr=0.1), 1)[1], (path(SGD(lr=0.1, noise=1.0), 1) - path(SGD(lr=0.1), 1))[1]
    )
    assert torch.equal(places[2], places[1])


def test_patience_goes_with_the_optimizer():
    assert LBFGS().patience == 3
    assert Adam().patience is None
    assert SGD(patience=5).patience == 5


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        (Adam, {"lr": -1.0}),
        (Adam, {"noise": -0.1}),
        (Adam, {"patience": -1}),
        (LBFGS, {"lr": 0.0}),
        (LBFGS, {"max_iter": 0}),
        (LBFGS, {"history_size": 0}),
        (LBFGS, {"patience": -1}),
        (LBFGS, {"line_search_fn": "armijo"}),
    ],
)
def test_refusals(optimizer, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        optimizer(**arguments)
