"""Regularizers: what is zero where, that weights weigh, and that nothing undeclared is used."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gilearn import data, federated, models
from gilearn.attacks.iteration import (
    L2,
    BatchNormStatistics,
    GroupConsistency,
    Guess,
    LabelConsistency,
    Orthogonality,
    Regularizer,
    TotalVariation,
)
from gilearn.attacks.iteration.regularizers import registered_mean

ALL = [
    TotalVariation(weight=1.0),
    TotalVariation(weight=1.0, isotropic=True),
    L2(weight=1.0),
    BatchNormStatistics(weight=1.0),
    BatchNormStatistics(weight=1.0, source="declared"),
    GroupConsistency(weight=1.0),
    LabelConsistency(weight=1.0),
    Orthogonality(weight=1.0),
]
each_regularizer = pytest.mark.parametrize("regularizer", ALL, ids=repr)


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def seen():
    model = models.convnet(3, 4, size=8, widths=(4, 4), strides=(1, 2), batch_norm=True, activation="sigmoid").double()
    return federated.observe(model, rand(3, 3, 8, 8), torch.tensor([0, 1, 3]), declare=["labels", "batch_norm"])


def guess_at(seen, x, consensus=None):
    return Guess(seen=seen, inputs=x, targets=torch.tensor([0, 1, 3])[: len(x)], consensus=consensus)


@each_regularizer
def test_twice_the_weight_is_twice_the_term_and_no_weight_is_none(seen, regularizer):
    assert isinstance(regularizer, Regularizer)
    x, consensus = rand(3, 3, 8, 8, seed=1), rand(3, 3, 8, 8, seed=2)
    once = regularizer(guess_at(seen, x, consensus)).detach()
    twice = dataclasses.replace(regularizer, weight=2.0)(guess_at(seen, x, consensus)).detach()
    assert float(once) > 0
    torch.testing.assert_close(twice, 2 * once)
    assert float(dataclasses.replace(regularizer, weight=0.0)(guess_at(seen, x, consensus)).detach()) == 0
    with pytest.raises(ValueError, match="weight"):
        dataclasses.replace(regularizer, weight=-1.0)


@each_regularizer
def test_derivatives(seen, regularizer):
    x, consensus = rand(3, 3, 8, 8, seed=1).requires_grad_(), rand(3, 3, 8, 8, seed=2)
    assert torch.autograd.gradcheck(lambda v: regularizer(guess_at(seen, v, consensus)), x, nondet_tol=1e-12)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("isotropic", [False, True])
def test_total_variation(seen, channels, isotropic):
    """Zero, derivative included, on a constant picture of any number of channels; no border is punished."""
    variation = TotalVariation(weight=1.0, isotropic=isotropic)
    x = torch.full((2, channels, 6, 9), 0.7, dtype=torch.float64, requires_grad=True)
    value = variation(guess_at(seen, x))
    assert float(value.detach()) == 0
    assert not torch.autograd.grad(value, x)[0].any()
    ramp = torch.arange(9.0).expand(1, channels, 6, 9)  # one step to the right, none down
    assert float(variation(guess_at(seen, ramp))) == 1


def test_statistics_are_those_of_the_batch(seen):
    x = rand(3, 3, 8, 8)
    assert float(BatchNormStatistics(weight=1.0, source="declared")(guess_at(seen, x)).detach()) == 0
    assert float(BatchNormStatistics(weight=1.0, source="declared")(guess_at(seen, x + 0.1)).detach()) > 0.01


def test_running_statistics_are_the_model_s(seen):
    wanted = BatchNormStatistics(weight=1.0).wanted(seen)
    assert [tuple(mean.shape) for mean, _ in wanted] == [(4,), (4,)]
    assert all((mean == 0).all() and (variance == 1).all() for mean, variance in wanted)


def test_statistics_that_are_not_there(seen):
    x = rand(3, 3, 8, 8)
    plain = federated.observe(models.convnet(3, 4, size=8).double(), x, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="no batch normalization"):
        BatchNormStatistics(weight=1.0)(guess_at(plain, x))
    undeclared = dataclasses.replace(seen, knowledge={})
    with pytest.raises(ValueError, match="batch_norm: the observation does not declare"):
        BatchNormStatistics(weight=1.0, source="declared")(guess_at(undeclared, x))
    with pytest.raises(ValueError, match="source"):
        BatchNormStatistics(weight=1.0, source="private")


def test_group(seen):
    x = rand(3, 3, 8, 8)
    group = GroupConsistency(weight=1.0)
    assert float(group(guess_at(seen, x))) == 0
    assert float(group(guess_at(seen, x, x))) == 0
    stack = torch.stack([x, x + 2])
    torch.testing.assert_close(group.consensus(stack, 0.0, 0, None), x + 1)


def test_registration_brings_shifted_pictures_together():
    photo = data.photos(32, names=["astronaut"])[0]
    shifted = torch.stack([photo, photo.roll((3, -2), dims=(-2, -1)), photo.roll((-1, 4), dims=(-2, -1))])
    torch.testing.assert_close(registered_mean(shifted, photo), photo)
    assert (shifted.mean(0) - photo).abs().max() > 0.1
    group = GroupConsistency(weight=1.0, register=True, after=0.5, every=10)
    assert torch.equal(group.consensus(shifted, 0.4, 4, None), shifted.mean(0))
    before = photo + 1
    assert group.consensus(shifted, 0.6, 63, before) is before
    assert not torch.equal(group.consensus(shifted, 0.6, 60, before), before)
    with pytest.raises(ValueError, match="after, every"):
        GroupConsistency(weight=1.0, every=0)


def test_label_consistency_takes_the_attacker_s_label(seen):
    x = rand(2, 3, 8, 8)
    hard = LabelConsistency(weight=1.0)(guess_at(seen, x))
    soft = torch.nn.functional.one_hot(torch.tensor([0, 1]), 4).double()
    torch.testing.assert_close(LabelConsistency(weight=1.0)(Guess(seen=seen, inputs=x, targets=soft)), hard)


def test_orthogonality(seen):
    left, right = torch.zeros(2, 1, 1, 4, 4)
    left[0, 0, :2], right[0, 0, 2:] = 1.0, 1.0
    term = Orthogonality(weight=1.0)
    assert float(term(guess_at(seen, torch.cat([left, right])))) == 0
    assert abs(float(term(guess_at(seen, torch.cat([left, 2 * left])))) - 1) < 1e-6
    assert float(term(guess_at(seen, left))) == 0
