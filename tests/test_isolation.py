"""An attack sees an Observation and nothing else.

The private batch, its labels and its statistics are overwritten after the observation, in place and through every
reference that the client holds; every attack must return the very same result.
"""

from __future__ import annotations

import inspect

import pytest
import torch

from gilearn import attacks, defenses, federated, generators, models
from gilearn.attacks import bayesian, labels, priors

short = {"iterations": 2, "restarts": 1}
ATTACKS = {
    "DLG": attacks.DLG.replace(**short),
    "DLG, declared labels": attacks.DLG.replace(labels=labels.Declared(), **short),
    "iDLG": attacks.iDLG.replace(**short),
    "CPL": attacks.CPL.replace(**short),
    "InvGrad": attacks.InvGrad.replace(iterations=2),
    "GradAttack": attacks.GradAttack.replace(iterations=2),
    "SAPAG": attacks.SAPAG.replace(iterations=2),
    "GradInversion": attacks.GradInversion.replace(iterations=2, restarts=2, parallel=2),
    "Bayesian": attacks.Bayesian.replace(search=attacks.Bayesian.search.replace(iterations=2)),
    "Bayesian, in a ball": attacks.Bayesian.replace(
        search=attacks.Bayesian.search.replace(iterations=2), delta=1.0, draws=1
    ),
    "MAP": bayesian.MAP(prior=priors.GaussianPrior.fit(torch.arange(2.0 * 192).view(2, 3, 8, 8) / 400), steps=1),
    "GIAS": attacks.GIAS(generator=generators.decoder(4, size=32, channels=3, width=8), shape=(4,)).both(
        iterations=2, restarts=1, parallel=1
    ),
    "Bypass": attacks.Bypass(attack=attacks.InvGrad.replace(iterations=2)),
    "PPDL_AHE": attacks.PPDL_AHE,
    "PPDL_SPN": attacks.PPDL_SPN,
    "RGAP": attacks.RGAP,
    "COPA": attacks.COPA,
    "UnknownOrder": attacks.UnknownOrder(search=attacks.InvGrad.replace(iterations=2), turns=1, starts=2),
    "LearnedInversion": attacks.LearnedInversion(
        inputs=torch.arange(4.0 * 3072).view(4, 3, 32, 32) / 12288, labels=torch.arange(4)
    ),
    "CAFE": attacks.CAFE.replace(matching=attacks.CAFE.matching.replace(iterations=2)),
}


def run(name, model, x, y, spoil):
    noise = defenses.GaussianNoise(std=0.01) if name.startswith(("Bayesian", "MAP")) else None
    defense = defenses.Soteria() if name == "Bypass" else noise
    if name == "CAFE":
        rounds = federated.vertical_rounds(model, x, y, batch_size=1, num_rounds=2, declare=["rows"], seed=1)
        seen = federated.Several(parts=tuple(rounds))
    else:
        local = federated.LocalSteps(steps=2, lr=0.1) if name == "UnknownOrder" else None
        declare = ["labels", "batch_norm", "defense"]
        seen = federated.observe(model, x, y, declare=declare, defense=defense, local=local)
    if spoil:
        with torch.no_grad():
            x.fill_(0.123)
            y.fill_(0)
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.fill_(1)
    return ATTACKS[name](seen)


@pytest.mark.parametrize("name", ATTACKS)
def test_result_does_not_depend_on_the_private_batch_any_more(name, photos):
    def victim():
        if name == "PPDL_AHE":
            return models.mlp(3072, (16,))
        if name == "MAP":
            return models.mlp(192, (8,))
        if name in ("RGAP", "COPA"):
            return models.lenet(width=16, strides=(2,)).eval()
        if name == "CAFE":
            return models.loop_net((3, 32, 32), widths=(4, 4), hidden=(8, 8))
        return models.convnet(batch_norm=True, activation="sigmoid")

    picture = photos[0][3:4, :, 12:20, 12:20] if name == "MAP" else photos[0][3:4]
    clean = run(name, victim(), picture.clone(), photos[1][3:4].clone(), spoil=False)
    spoiled = run(name, victim(), picture.clone(), photos[1][3:4].clone(), spoil=True)
    assert torch.equal(clean.inputs, spoiled.inputs)
    assert clean.residual == spoiled.residual
    if clean.labels is not None:
        assert torch.equal(clean.labels, spoiled.labels)


def test_undeclared_knowledge_changes_nothing(photos):
    """An attack that does not ask for labels returns the same with and without them."""
    model = models.lenet()
    attack = ATTACKS["DLG"]
    results = [
        attack(federated.observe(model, photos[0][:1], photos[1][:1], declare=declared)).inputs
        for declared in ([], ["labels"])
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_takes_an_observation_and_options_that_hold_no_data(name):
    parameters = list(inspect.signature(ATTACKS[name]).parameters.values())
    assert parameters[0].name == "seen"
    assert {p.name for p in parameters[1:]} <= {"seed", "snapshots", "progress", "time_limit"}
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[1:])


def test_every_public_attack_is_isolated_here():
    public = {
        name
        for name in attacks.__all__
        if callable(getattr(attacks, name)) and not inspect.isclass(getattr(attacks, name))
    }
    elsewhere = {"GradDisagg", "surrogate", "untouched", "accumulated"}  # test_disaggregation has the first; views
    assert public - elsewhere <= set(ATTACKS), "a new attack belongs into ATTACKS"
