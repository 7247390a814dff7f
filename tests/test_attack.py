"""What every attack is: its one call, refusals of what is no observation or ingredient, the verdict on its result."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from gilearn import attacks, federated, models
from gilearn.attacks import labels
from gilearn.attacks.iteration.distances import Cosine, Euclidean
from gilearn.attacks.iteration.optimizers import SGD, Adam
from gilearn.attacks.iteration.regularizers import L2, TotalVariation
from gilearn.attacks.verdict import EXPLAINED
from gilearn.federated import Observation


@pytest.fixture(scope="module")
def victim():
    return models.lenet(1, size=8, strides=(1, 1, 1))


@pytest.fixture(scope="module")
def seen(victim, digits):
    return federated.observe(victim, digits[0][:1], digits[1][:1], declare=["labels"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (nn.Sequential(nn.Linear(1, 1)), r"seen: got a Sequential, wanted an Observation; federated\.observe\(model"),
        (torch.zeros(1), "seen: got a Tensor, wanted an Observation"),
        (None, "seen: got a NoneType"),
    ],
)
@pytest.mark.parametrize("attack", [attacks.DLG, attacks.RGAP], ids=["DLG", "RGAP"])
def test_what_is_no_observation_is_refused(attack, value, message):
    with pytest.raises(ValueError, match=message):
        attack(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snapshots": -1}, "snapshots: got -1"),
        ({"time_limit": 0}, "time_limit: got 0"),
        ({"seed": 0.5}, "seed: got 0.5"),
    ],
)
def test_options_are_checked(seen, options, message):
    with pytest.raises(ValueError, match=message):
        attacks.DLG(seen, **options)


def test_a_field_in_a_call_says_how_it_is_changed(seen):
    for call in (lambda: attacks.DLG(seen, iterations=20), lambda: attacks.DLG(iterations=20)):
        with pytest.raises(TypeError, match=r"iterations: .*attack\.replace\(iterations=20\)\(seen\)"):
            call()
    with pytest.raises(TypeError, match="number: an attack's call takes seen, seed, snapshots"):
        attacks.DLG(seen, number=20)
    with pytest.raises(TypeError, match="seen: got nothing"):
        attacks.DLG()


def test_the_signature_is_that_of_the_call():
    parameters = inspect.signature(attacks.DLG).parameters
    assert list(parameters) == ["seen", "seed", "snapshots", "progress", "time_limit"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"distance": Euclidean},
            r"distance: got the class Euclidean, wanted a value such as distances\.Euclidean\(\)",
        ),
        ({"distance": "l2"}, "distance: got 'l2', wanted a value"),
        ({"regularizers": L2(weight=1.0)}, r"regularizers: got a bare L2\(weight=1.0\), wanted a tuple"),
        ({"regularizers": L2}, "regularizers: got the class L2"),
        ({"regularizers": (L2,)}, "regularizers: got the class L2"),
        ({"optimizer": torch.optim.Adam}, r"optimizer: got the class torch\.optim\.Adam.*optimizers\.Adam\(lr=0.1\)"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, r"optimizer: got a torch\.optim\.SGD over tensors"),
        ({"initialization": torch.zeros(1)}, "initialization: got tensor"),
        ({"space": Cosine()}, r"space: got Cosine\(\), wanted a value such as spaces\.Pixels\(\)"),
        ({"labels": torch.tensor([1])}, "labels: got tensor"),
        ({"explained": -1.0}, "explained: got -1.0"),
        ({"patience": None}, "patience: GradientMatching has no such field"),
    ],
)
def test_ingredients_that_are_none_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        attacks.DLG.replace(**changes)


def test_a_list_of_regularizers_is_taken():
    assert attacks.DLG.replace(regularizers=[L2(weight=1.0)]) == attacks.DLG.replace(regularizers=(L2(weight=1.0),))


def test_results_and_attacks_compare(seen):
    one, two = (attacks.iDLG.replace(iterations=1, restarts=1)(seen) for _ in range(2))
    assert one == one
    assert one != two
    assert len({one, two}) == 2
    assert attacks.iDLG != attacks.DLG


def test_a_result_that_explains_the_gradient_says_so(seen):
    result = attacks.DLG(seen)
    assert result.verdict.explained
    assert result.verdict.reason.startswith("Explains the gradient: a residual of ")
    assert not result.verdict.causes
    assert "Explains the gradient" in str(result)
    assert "labels [0]" in str(result)
    few = seen.replace(shared=(*(None,) * 7, seen.shared[7]))
    assert "10 numbers for 64 unknowns: other inputs explain it too" in attacks.DLG(few).verdict.reason


def said(result):
    assert not result.verdict.explained
    assert result.residual > EXPLAINED
    return str(result.verdict)


def test_a_relu_network_under_a_quasi_newton_method(digits):
    model = models.lenet(1, size=8, strides=(1, 1, 1), activation="relu")
    seen = federated.observe(model, digits[0][:1], digits[1][:1], declare=["labels"])
    verdict = said(attacks.DLG.replace(iterations=15)(seen))
    assert "Did not explain the gradient" in verdict
    assert "The network has ReLUs" in verdict
    assert "attacks.InvGrad" in verdict
    assert "ReLU" not in said(attacks.InvGrad.replace(iterations=5)(seen))


@pytest.mark.filterwarnings("ignore:model. it drops units")
def test_dropout_of_which_nobody_knows(digits):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(32, 10))
    seen = federated.observe(model, digits[0][:1], digits[1][:1], declare=["labels"])
    attack = attacks.DLG.replace(iterations=10, restarts=1)
    assert "spaces.Pixels() & spaces.Masks()" in said(attack(seen))
    declared = federated.observe(model, digits[0][:1], digits[1][:1], declare=["labels", "masks"])
    assert "dropout" not in str(attack(declared).verdict)


def test_gradients_of_a_summed_loss(victim, digits):
    """No mean over a batch has such a bias gradient: the verdict knows it whatever the attack arrives at."""
    x, y = digits[0][:8], digits[1][:8]
    loss = nn.functional.cross_entropy(victim(x), y, reduction="sum")
    summed = torch.autograd.grad(loss, list(victim.parameters()))
    options = {"input_shape": (1, 8, 8), "batch_size": 8, "knowledge": {"labels": y}}
    seen = Observation.from_gradients(victim, summed, **options)
    assert 'reduction="sum"' in said(attacks.DLG.replace(iterations=3)(seen))
    mean = Observation.from_gradients(victim, [g / 8 for g in summed], **options)
    assert 'reduction="sum"' not in said(attacks.DLG.replace(iterations=3)(mean))


def test_gradients_of_another_scale(victim, digits):
    """Twice a single gradient, accumulated over two steps: InvGrad finds the direction, and the verdict the factor."""
    seen = federated.observe(victim, digits[0][:1], digits[1][:1], declare=["labels"])
    half = seen.replace(shared=tuple(g / 2 for g in seen.shared))
    attack = attacks.InvGrad.replace(iterations=300, regularizers=())
    assert "times 0.5 leaves" in said(attack(half))
    assert "times" not in str(attack(seen).verdict)


@pytest.mark.parametrize(
    ("attack", "options", "advice"),
    [
        (attacks.iDLG.replace(iterations=1, restarts=1), {}, "More iterations"),
        (attacks.DLG, {"time_limit": 1e-6}, "A longer time_limit"),
        (attacks.iDLG.replace(optimizer=Adam(lr=0.0, patience=1), restarts=1), {}, "Other starts"),
        (attacks.iDLG.replace(optimizer=SGD(lr=1e12), restarts=1), {}, "A smaller learning rate"),
    ],
    ids=["budget", "time limit", "stalled", "diverged"],
)
def test_advice_goes_by_why_it_stopped(digits, attack, options, advice):
    model = models.lenet(1, size=8, strides=(1, 1, 1), activation="softplus")
    seen = federated.observe(model, digits[0][:1], digits[1][:1], declare=["labels"])
    verdict = said(attack(seen, **options))
    assert f"Try: {advice}" in verdict
    assert "Cause? Noise, pruning or another defense" in verdict


def test_a_recursion_has_a_verdict_too(digits):
    model = models.mlp(64, (16,))
    seen = federated.observe(model, digits[0][:1], digits[1][:1])
    assert attacks.PPDL_AHE(seen).verdict.explained


def test_a_regularizer_of_one_s_own(seen):
    """A plain function of the candidates is one."""
    plain = attacks.InvGrad.replace(iterations=3, regularizers=())
    own = plain.replace(regularizers=(lambda candidates: 7 + 0 * candidates.inputs.flatten(1).sum(1),))
    assert float(own(seen).history[0] - plain(seen).history[0]) == pytest.approx(7, abs=1e-4)


def test_labels_that_are_given(seen, digits):
    fixed = attacks.iDLG.replace(
        labels=labels.Fixed(digits[1][:1]), iterations=2, regularizers=(TotalVariation(weight=0.0),)
    )
    declared = fixed.replace(labels=labels.Declared())
    assert torch.equal(fixed(seen).inputs, declared(seen).inputs)
