"""The hook recorder: first uses in order, every use on demand, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gilearn import hooks


@pytest.fixture(autouse=True)
def layers_of_our_own():
    with torch.random.fork_rng(devices=[]):
        yield


class Twice(nn.Module):
    """Uses its layers in another order than they are registered in, and one of them twice."""

    def __init__(self):
        super().__init__()
        self.last, self.first = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

    def forward(self, x):
        return self.last(self.first(self.first(x)))


def test_inputs_at_first_use_in_order_of_use():
    model, x = Twice(), torch.ones(1, 2)
    with hooks.recorded_inputs(model, model.children()) as recorded:
        model(x)
    assert [module for module, _ in recorded] == [model.first, model.last]
    assert recorded[0][1] is x
    assert recorded[1][1].requires_grad, "an input is kept as it is, so that what is made of it can be differentiated"
    model(x)
    assert len(recorded) == 2, "no hook stays behind"


def test_read_before_anything_works_in_place():
    model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    with hooks.recorded_inputs(model, [model[0]], read=lambda x: x.min().item()) as recorded:
        model(torch.tensor([-1.0, 2.0]))
    assert recorded == [(model[0], -1.0)]


def test_every_call():
    model = Twice()
    with hooks.recorded_calls(model, model.children()) as recorded:
        output = model(torch.ones(1, 2))
    assert [module for module, _ in recorded] == [model.first, model.first, model.last]
    outputs = [kept[1] for _, kept in recorded]
    assert recorded[1][1][0] == (outputs[0],)
    assert outputs[-1] is output
    with hooks.recorded_calls(model, [model.last], read=lambda arguments, output: output.shape) as recorded:
        model(torch.ones(3, 2))
    assert recorded == [(model.last, (3, 2))]


def test_hooks_go_when_the_pass_fails():
    model = Twice()
    with pytest.raises(RuntimeError), hooks.recorded_inputs(model, [model.first]):
        model(torch.ones(1, 3))
    assert not model.first._forward_pre_hooks


def test_evaluating_gives_every_module_its_mode_back():
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).eval())
    with hooks.evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False]


def test_a_stranger_is_refused():
    with pytest.raises(ValueError, match="modules: got a Linear that is none of the model's modules"):
        hooks.recorded_inputs(Twice(), [nn.Linear(1, 1)]).__enter__()
    with pytest.raises(ValueError, match="^modules: got a int, wanted modules of the model"):
        hooks.recorded_calls(Twice(), 3).__enter__()
    with pytest.raises(ValueError, match="^model: got a str, wanted a torch.nn.Module"):
        hooks.recorded_inputs("model", []).__enter__()
