"""Soteria: which columns go, who can read it, and the attack that leaves the layer out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gilearn import attacks, data, defenses, federated, metrics, models, survey
from gilearn.attacks import labels
from gilearn.defenses import Soteria
from gilearn.defenses.gradients.soteria import derivatives, representation
from gilearn.federated import LocalSteps, Observation

SEARCH = attacks.iDLG.replace(labels=labels.Declared(), iterations=30, restarts=3)
BOTH = ["labels", "defense"]


def victim(seed=0):
    """Return one convolution with sigmoids, 64 ReLU features, ten classes."""
    encoder = models.lenet(1, size=8, strides=(2,), spread=None, seed=seed)
    head = models.mlp(192, (64,), activation="relu", seed=seed + 500)
    return nn.Sequential(*encoder[:-1], *head[1:]).double()


def digit(k=0, number=1):
    x, y = data.digits()
    return x[k : k + number].double(), y[k : k + number]


def columns(gradient):
    return (gradient != 0).any(0)


@pytest.mark.parametrize("score", ["paper", "code", "pseudo-inverse"])
@pytest.mark.parametrize("number", [1, 5])
def test_half_of_the_active_features_lose_their_column_and_nothing_else_changes(score, number):
    x, y = digit(0, number)
    plain = federated.observe(victim(), x, y).shared
    shared = federated.observe(victim(), x, y, defense=Soteria(share=0.5, score=score)).shared
    before, after = columns(plain[-2]), columns(shared[-2])
    active = int(before.sum())
    assert int(after.sum()) == active - round(active / 2)
    assert not (after & ~before).any()
    assert torch.equal(shared[-2], plain[-2] * after)
    for k in (0, 1, 2, 3, 5):
        assert torch.equal(shared[k], plain[k])


def test_where_more_features_are_dead_than_the_percentile_the_public_code_prunes_nothing():
    """Its threshold is a percentile over all features, and a dead feature's score is zero: nothing is below zero."""
    x, y = digit(3)
    plain = federated.observe(victim(3), x, y).shared[-2]
    dead = float((~columns(plain)).double().mean())
    assert 0.3 < dead < 0.7
    for share, wanted in ((dead - 0.05, False), (dead + 0.15, True)):
        by_code = Soteria(share=share, score="code", among="all")
        shared = federated.observe(victim(3), x, y, defense=by_code).shared[-2]
        assert torch.equal(shared, plain) != wanted
        ours = federated.observe(victim(3), x, y, defense=Soteria(share=share, score="code")).shared[-2]
        assert int(columns(ours).sum()) == int(columns(plain).sum()) - round(share * int(columns(plain).sum()))
    lost = int(columns(plain).sum()) - int(columns(shared).sum())
    assert 0 < lost < 0.15 * 64 + 1, "beyond the dead ones the share goes on to the active"


def test_the_public_code_by_its_own_loop():
    """One backward pass per feature, the ratio added over the batch, and numpy's percentile."""
    import numpy as np

    x, y = digit(0, 3)
    model = victim()
    leaf = x.clone().requires_grad_()
    features = model[:-1](leaf)
    ratios = torch.zeros_like(features)
    for j in range(64):
        (slope,) = torch.autograd.grad(features[:, j].sum(), leaf, retain_graph=True)
        ratios[:, j] = slope.flatten(1).norm(dim=1) / (features[:, j] + 0.1)
    added = ratios.sum(0).detach()
    kept = added.abs() >= np.percentile(added.numpy(), 60)
    shared = federated.observe(model, x, y, defense=Soteria(share=0.6, score="code", among="all")).shared[-2]
    plain = federated.observe(model, x, y).shared[-2]
    assert torch.equal(shared, plain * kept)


def test_paper_and_code_prune_the_same_end():
    """The paper's largest |r| / ||dr/dx|| are the code's least ||dr/dx|| / (r + 0.1): alike but for the 0.1."""
    common, opposite = [], []
    for k in range(6):
        _, features, jacobian = derivatives(victim(k), digit(k)[0])
        paper, code = (Soteria(score=score).pruned(features, jacobian) for score in ("paper", "code"))
        number = int(paper.sum())
        assert number == int(code.sum())
        active = (features[0] > 0).nonzero().flatten()
        ratios = features[0, active] / jacobian[0, active].norm(dim=1)
        least = active[ratios.argsort()][: len(active) // 2]
        common.append(float((paper & code).sum() / number))
        opposite.append(float(paper[least].double().mean()))
    assert min(common) > 0.8
    assert max(opposite) == 0


@pytest.mark.parametrize("batch", [1, 4])
def test_derivatives_are_those_of_jacrev_however_few_are_held_at_a_time(batch, monkeypatch):
    x, _ = digit(0, batch)
    model = victim()
    wanted = torch.stack([torch.func.jacrev(lambda one: model[:-1](one)[0])(one[None]).flatten(1) for one in x])
    for entries in (2**24, 100, 1):
        monkeypatch.setattr("gilearn.defenses.gradients.soteria._ENTRIES", entries)
        layer, features, jacobian = derivatives(model, x)
        assert layer is model[-1]
        torch.testing.assert_close(features, model[:-1](x))
        torch.testing.assert_close(jacobian, wanted)


def test_another_layer():
    x, y = digit()
    model = victim()
    assert representation(model, x, "3")[1].shape == (1, 192)
    plain = federated.observe(model, x, y).shared
    seen = federated.observe(model, x, y, defense=Soteria(share=0.25, layer="3"), declare=BOTH)
    changed = [not torch.equal(a, b) for a, b in zip(seen.shared, plain, strict=True)]
    assert changed == [False, False, True, False, False, False]
    assert int(columns(seen.shared[2]).sum()) == 192 - 48
    assert [g is None for g in attacks.untouched(seen).shared] == changed


@pytest.mark.parametrize("local", [None, LocalSteps(steps=3, lr=0.1, batch_size=2)])
def test_the_mask_can_be_read_off_and_an_attacker_who_knows_it_simulates_exactly(local):
    x, y = digit(0, 4)
    seen = federated.observe(victim(), x, y, defense=Soteria(share=0.6), local=local, declare=BOTH)
    mask = seen.known("defense").masks
    assert [m is None for m in mask] == [True, True, True, True, False, True]
    assert torch.equal(mask[-2], columns(seen.shared[-2]).expand_as(mask[-2]))
    for a, b in zip(seen.simulate(x, y, create_graph=False), seen.shared, strict=True):
        torch.testing.assert_close(a, b)
    blind = seen.replace(knowledge={"labels": y}).simulate(x, y, create_graph=False)
    assert float((blind[-2] - seen.shared[-2]).norm() / blind[-2].norm()) > 0.5


def test_a_declared_mask_survives_the_file(tmp_path):
    x, y = digit()
    seen = federated.observe(victim(), x, y, defense=Soteria(), declare=BOTH)
    seen.save(tmp_path / "seen.pt")
    again = Observation.load(tmp_path / "seen.pt", victim())
    for a, b in zip(again.simulate(x, y), seen.simulate(x, y), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("k", range(2))
def test_defended_and_bypassed(k):
    """The chapter has all 24 cases."""
    x, y = digit(k)
    seen = federated.observe(victim(k), x, y, defense=Soteria(), declare=BOTH)
    blind = seen.replace(knowledge={"labels": y})
    naive, told, bypass = SEARCH(blind, seed=k), SEARCH(seen, seed=k), attacks.Bypass(attack=SEARCH)(seen, seed=k)
    assert metrics.mse(naive.inputs.clamp(0, 1), x) > 0.02
    assert max(metrics.mse(told.inputs, x), metrics.mse(bypass.inputs, x)) < 1e-6
    assert naive.residual > 0.1
    assert bypass.residual < 1e-5


def test_the_layer_below_gives_the_representation_back():
    """A division there returns what it was given, and its weights are public: r = ReLU(W h + b)."""
    x, y = digit()
    model = victim()
    seen = federated.observe(model, x, y, defense=Soteria(share=0.9))
    weights, bias = seen.shared[2:4]
    j = int(bias.abs().argmax())
    back = torch.relu(model[3](weights[j] / bias[j]))
    torch.testing.assert_close(back, model[:-1](x)[0])
    perceptron = models.mlp(64, (32,), activation="relu").double()
    closed = attacks.PPDL_AHE(federated.observe(perceptron, x, y, defense=Soteria(share=0.9)))
    assert metrics.mse(closed.inputs, x) < 1e-20


def test_nothing_is_drawn_and_no_statistics_move():
    x, y = data.photos(16)[0][:4], torch.arange(4)
    clients, step = [(x, y)], LocalSteps(steps=1, lr=0.1)
    model = models.convnet(widths=(4, 4), strides=(2, 2), size=x.shape[-1], batch_norm=True)
    model = nn.Sequential(*model[:-1], nn.Dropout(0.5), model[-1]).train()
    state = torch.get_rng_state()
    one, other = (
        next(iter(federated.fedavg(model, clients, step, num_rounds=1, defense=defense, seed=3))).after
        for defense in (None, Soteria())
    )
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(one.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)
    changed = [not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    assert [k for k, own in enumerate(changed) if own] == [len(changed) - 2]
    assert all(module.training for module in other.modules())


def test_a_bypass_leaves_out_what_the_declared_defense_changes():
    x, y = digit()
    both = (Soteria(), defenses.GaussianNoise(std=0.0))
    seen = federated.observe(victim(), x, y, defense=both, declare=BOTH)
    assert [g is None for g in attacks.untouched(seen).shared] == [False] * 4 + [True, False]
    whole = federated.observe(victim(), x, y, defense=None, declare=BOTH)
    assert all(torch.equal(a, b) for a, b in zip(attacks.untouched(whole).shared, whole.shared, strict=True))
    without = seen.replace(shared=(*seen.shared[:-2], None, seen.shared[-1]))
    assert [g is None for g in attacks.untouched(without).shared] == [False] * 4 + [True, False]
    short = SEARCH.replace(iterations=1, restarts=1)
    result = attacks.Bypass(attack=short)(seen, seed=2, snapshots=2)
    assert torch.equal(result.inputs, short(attacks.untouched(seen), seed=2).inputs)
    assert result.seed == 2
    assert len(result.snapshots) > 0


def test_a_bypass_leaves_out_what_is_changed_example_by_example():
    """Clipping and noise on single examples' gradients come before the mean; the tensors without them stay."""
    x, y = digit(0, 4)
    part = ("1.weight", "1.bias")
    for multiplier in (0.0, 1.0):
        private = defenses.PartialNoise(noise_multiplier=multiplier, clip=0.1, parameters=part, rest="shared")
        model = models.mlp(64, (8,)).double()
        seen = federated.observe(model, x, y, defense=(private, defenses.GaussianNoise(std=0.1)), declare=BOTH)
        assert [g is None for g in attacks.untouched(seen).shared] == [True, True, False, False]
    for defense in (
        defenses.ExampleClipping(norm=50.0),
        defenses.DPSGD(noise_multiplier=1.0, clip=50.0),
        defenses.FedCDP(clip=50.0, noise_multiplier=1.0),
        defenses.BatchClipping(norm=50.0),
    ):
        seen = federated.observe(model, x, y, defense=defense, declare=BOTH)
        with pytest.raises(ValueError, match="^seen: its defense changes every tensor that was shared"):
            attacks.untouched(seen)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: derivatives(None, digit()[0]), "model: got a NoneType, wanted a torch.nn.Module"),
        (lambda: representation(victim(), "x"), r"inputs: got str, wanted a tensor \(batch, ...\)"),
        (lambda: representation(victim(), torch.ones(3)), r"inputs: got \(3,\), wanted a tensor"),
        (lambda: Soteria(score=["paper"]), r"score: got \['paper'\], wanted one of paper, code, pseudo-inverse"),
        (lambda: attacks.Bypass(attack="InvGrad"), "attack: got 'InvGrad', wanted an attack"),
        (lambda: attacks.untouched("seen"), "seen: got a str, wanted an Observation"),
        (
            lambda: attacks.untouched(federated.observe(victim(), *digit())),
            "defense: the observation does not declare it",
        ),
        (
            lambda: attacks.untouched(
                federated.observe(victim(), *digit(), defense=defenses.Pruning(share=0.5), declare=["defense"])
            ),
            "seen: its defense changes every tensor that was shared",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_the_survey_s_row():
    assert survey.implementation(survey.find("Soteria")) is Soteria
