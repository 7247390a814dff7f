"""Regularizers: what is zero where, that weights weigh, and that nothing undeclared is used."""

from __future__ import annotations

import pytest
import torch

from gilearn import data, federated, models
from gilearn.attacks.iteration.regularizers import (
    L2,
    BatchNormStatistics,
    Candidates,
    GroupConsistency,
    LabelConsistency,
    Orthogonality,
    Regularizer,
    TotalVariation,
    registered_mean,
)

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


def candidates(seen, *restarts, targets=None, **where):
    """Return the candidates of one or several restarts, with the labels 0, 1, 3."""
    labels = torch.tensor([0, 1, 3])[: len(restarts[0])] if targets is None else targets
    return Candidates(seen=seen, inputs=torch.stack(restarts), targets=torch.stack([labels] * len(restarts)), **where)


def term(regularizer, seen, *restarts, **given):
    """Return the built regularizer's terms (restarts,)."""
    return regularizer.build(seen)(candidates(seen, *restarts, **given))


@each_regularizer
def test_twice_the_weight_is_twice_the_term_and_no_weight_is_none(seen, regularizer):
    assert isinstance(regularizer, Regularizer)
    both = rand(3, 3, 8, 8, seed=1), rand(3, 3, 8, 8, seed=2)
    once = term(regularizer, seen, *both).detach()
    assert once.shape == (2,)
    assert (once > 0).all()
    torch.testing.assert_close(term(regularizer.replace(weight=2.0), seen, *both).detach(), 2 * once)
    assert not term(regularizer.replace(weight=0.0), seen, *both).detach().any()
    with pytest.raises(ValueError, match="weight"):
        regularizer.replace(weight=-1.0)


@pytest.mark.parametrize("regularizer", [r for r in ALL if not isinstance(r, GroupConsistency)], ids=repr)
def test_a_restart_s_term_is_that_of_the_restart_alone(seen, regularizer):
    """The batch normalization of one restart does not see the others."""
    one, other = rand(3, 3, 8, 8, seed=1), 3 * rand(3, 3, 8, 8, seed=2)
    together = term(regularizer, seen, one, other)
    torch.testing.assert_close(together, torch.cat([term(regularizer, seen, x) for x in (one, other)]))


@pytest.mark.parametrize("regularizer", [r for r in ALL if not isinstance(r, GroupConsistency)], ids=repr)
def test_derivatives(seen, regularizer):
    x = rand(3, 3, 8, 8, seed=1).requires_grad_()
    built = regularizer.build(seen)
    assert torch.autograd.gradcheck(lambda v: built(candidates(seen, v)), x, nondet_tol=1e-12)


def test_derivatives_of_the_group(seen):
    """Towards a consensus that stays, as it does between two registrations."""
    x, other = rand(3, 3, 8, 8, seed=1).requires_grad_(), rand(3, 3, 8, 8, seed=2)
    built = GroupConsistency(weight=1.0, register=True, after=0.0, every=10).build(seen)
    built(candidates(seen, x.detach(), other))
    assert torch.autograd.gradcheck(lambda v: built(candidates(seen, v, other, iteration=1)), x)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("isotropic", [False, True])
def test_total_variation(seen, channels, isotropic):
    """Zero, derivative included, on a constant picture of any number of channels; no border is punished."""
    variation = TotalVariation(weight=1.0, isotropic=isotropic)
    x = torch.full((2, channels, 6, 9), 0.7, dtype=torch.float64, requires_grad=True)
    value = term(variation, seen, x)
    assert float(value.detach()) == 0
    assert not torch.autograd.grad(value, x)[0].any()
    ramp = torch.arange(9.0).expand(1, channels, 6, 9)  # one step to the right, none down
    assert float(term(variation, seen, ramp)) == 1


def test_statistics_are_those_of_the_batch(seen):
    x = rand(3, 3, 8, 8)
    assert float(term(BatchNormStatistics(weight=1.0, source="declared"), seen, x).detach()) == 0
    assert float(term(BatchNormStatistics(weight=1.0, source="declared"), seen, x + 0.1).detach()) > 0.01


def test_running_statistics_are_the_model_s(seen):
    wanted = BatchNormStatistics(weight=1.0).wanted(seen)
    assert [tuple(mean.shape) for mean, _ in wanted] == [(4,), (4,)]
    assert all((mean == 0).all() and (variance == 1).all() for mean, variance in wanted)


def test_statistics_that_are_not_there(seen):
    x = rand(3, 3, 8, 8)
    plain = federated.observe(models.convnet(3, 4, size=8).double(), x, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="no batch normalization"):
        BatchNormStatistics(weight=1.0).build(plain)
    undeclared = seen.replace(knowledge={})
    with pytest.raises(ValueError, match="batch_norm: the observation does not declare"):
        BatchNormStatistics(weight=1.0, source="declared").build(undeclared)
    with pytest.raises(ValueError, match="source"):
        BatchNormStatistics(weight=1.0, source="private")


def test_group(seen):
    """Half the distance of two restarts, for each of them; every attack keeps a consensus of its own."""
    x = rand(3, 3, 8, 8)
    group = GroupConsistency(weight=1.0)
    assert not term(group, seen, x, x).any()
    torch.testing.assert_close(term(group, seen, x, x + 2), torch.full((2,), x.numel() ** 0.5).double())
    stack = torch.stack([x, x + 2])
    torch.testing.assert_close(group.consensus(stack, 0.0, 0, None), x + 1)
    kept = GroupConsistency(weight=1.0, register=True, after=0.0, every=10)
    first, second = kept.build(seen), kept.build(seen)
    moved = candidates(seen, x + 4, x + 4, iteration=1, progress=0.1)
    first(candidates(seen, x, x))
    assert float(first(moved)[0]) > 1
    assert not second(moved).any()


def test_the_plain_mean_before_the_first_registration_is_not_kept(seen):
    """Registration begins when it is due, not at the next multiple of ``every``: until then the old mean would pull."""
    x = rand(3, 3, 8, 8)
    built = GroupConsistency(weight=1.0, register=True, after=0.5, every=10).build(seen)
    built(candidates(seen, x, x, iteration=5, progress=0.4))
    assert not built(candidates(seen, x + 4, x + 4, iteration=6, progress=0.5)).any()
    assert built(candidates(seen, x + 8, x + 8, iteration=7, progress=0.6)).all()  # now it is kept
    assert not built(candidates(seen, x + 8, x + 8, iteration=10, progress=0.9)).any()


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
    hard = term(LabelConsistency(weight=1.0), seen, x)
    soft = torch.nn.functional.one_hot(torch.tensor([0, 1]), 4).double()
    torch.testing.assert_close(term(LabelConsistency(weight=1.0), seen, x, targets=soft), hard)


def test_orthogonality(seen):
    left, right = torch.zeros(2, 1, 1, 4, 4)
    left[0, 0, :2], right[0, 0, 2:] = 1.0, 1.0
    orthogonality = Orthogonality(weight=1.0)
    assert float(term(orthogonality, seen, torch.cat([left, right]))) == 0
    assert abs(float(term(orthogonality, seen, torch.cat([left, 2 * left]))) - 1) < 1e-6
    assert float(term(orthogonality, seen, left)) == 0


def test_the_candidates_are_passed_with_the_client_s_dropout(digits):
    """In train mode a forward pass drops what the masks say, and draws nothing (a fixture watches the generator)."""
    with torch.random.fork_rng(devices=[]):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 10)).double()
    x, y = digits[0][:2].double(), digits[1][:2]
    seen = federated.observe(model, x, y, declare=["masks"])
    (mask,) = seen.known("masks")
    dropped = candidates(seen, x, targets=y).logits[0]
    torch.testing.assert_close(dropped, model[2](x.flatten(1) * mask))
    searched = candidates(seen, x, targets=y, masks=[(torch.ones_like(mask),)]).logits[0]
    torch.testing.assert_close(searched, model[2](x.flatten(1)))
