"""An attack sees an Observation and nothing else.

The private batch, its labels and its statistics are overwritten after the observation, in place and through every
reference that the client holds; every attack must return the very same result.
"""

from __future__ import annotations

import inspect

import pytest
import torch

from gilearn import attacks, federated, models
from gilearn.attacks import labels

short = {"iterations": 2, "restarts": 1}
ATTACKS = {
    "DLG": attacks.DLG.replace(**short),
    "DLG, declared labels": attacks.DLG.replace(labels=labels.Declared(), **short),
    "iDLG": attacks.iDLG.replace(**short),
    "CPL": attacks.CPL.replace(**short),
    "InvGrad": attacks.InvGrad.replace(iterations=2),
    "SAPAG": attacks.SAPAG.replace(iterations=2),
    "GradInversion": attacks.GradInversion.replace(iterations=2, restarts=2, parallel=2),
    "PPDL_AHE": attacks.PPDL_AHE,
    "PPDL_SPN": attacks.PPDL_SPN,
    "RGAP": attacks.RGAP,
    "COPA": attacks.COPA,
}


def run(name, model, x, y, spoil):
    seen = federated.observe(model, x, y, declare=["labels", "batch_norm"])
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
        if name in ("RGAP", "COPA"):
            return models.lenet(width=16, strides=(2,)).eval()
        return models.convnet(batch_norm=True, activation="sigmoid")

    clean = run(name, victim(), photos[0][3:4].clone(), photos[1][3:4].clone(), spoil=False)
    spoiled = run(name, victim(), photos[0][3:4].clone(), photos[1][3:4].clone(), spoil=True)
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
    assert public - {"GradDisagg"} <= set(ATTACKS), "a new attack belongs into ATTACKS"  # test_disaggregation has it
