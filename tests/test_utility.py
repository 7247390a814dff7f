"""What a defense costs: training is federated averaging, the budget stays, defenses act, and a seed makes a pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from torch import nn

from gilearn import data, defenses, federated, models
from gilearn.defenses import utility
from gilearn.federated import Defense, LocalSteps

SMALL = utility.TASKS["digits"].replace(examples=40, rounds=4, local=LocalSteps(steps=3, lr=0.5, batch_size=20))


def test_it_is_federated_averaging_from_scratch():
    """Two clients, two rounds of two steps, by hand."""
    task = SMALL.replace(clients=2, examples=20, rounds=2, local=LocalSteps(steps=2, lr=0.5, batch_size=10))
    x, y = data.digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    x, y = x[order], y[order]
    model = task.build(3)
    for _ in range(2):
        updated = []
        for k in range(2):
            own = task.build(3)
            own.load_state_dict(model.state_dict())
            for rows in (slice(20 * k, 20 * k + 10), slice(20 * k + 10, 20 * k + 20)):
                own.zero_grad()
                nn.functional.cross_entropy(own(x[rows]), y[rows]).backward()
                with torch.no_grad():
                    for parameter in own.parameters():
                        parameter -= 0.5 * parameter.grad
            updated.append(own.state_dict())
        model.load_state_dict({name: (updated[0][name] + updated[1][name]) / 2 for name in updated[0]})
    rest = slice(40 + (len(x) - 40) // 2, None)
    right = (model(x[rest]).argmax(1) == y[rest]).double().mean()
    found = utility.measure(task, seeds=(3,))
    assert found.accuracy[0] == pytest.approx(float(right), abs=2 / 800)  # a tie may fall either way
    parameters = sum(p.numel() for p in model.parameters())
    assert found.megabytes[0] == pytest.approx(2 * 4 * parameters / 1e6)


def test_a_seed_makes_a_pair_and_another_seed_another_case():
    one, same = (utility.measure(SMALL, seeds=(0, 1)) for _ in range(2))
    assert one.accuracy.tolist() == same.accuracy.tolist()
    assert one.accuracy[0] != one.accuracy[1]
    assert one.seconds.min() > 0
    assert one.megabytes[0] == one.megabytes[1]
    other = utility.measure(SMALL, seeds=(0, 1), fold=1)
    assert other.accuracy.tolist() != one.accuracy.tolist()


def test_training_learns_and_noise_undoes_it():
    plain = utility.measure(SMALL.replace(rounds=20), seeds=(0, 1))
    noisy = utility.measure(SMALL.replace(rounds=20), defense=defenses.GaussianNoise(std=1.0), seeds=(0, 1))
    assert plain.accuracy.min() > 0.7
    assert noisy.accuracy.max() < plain.accuracy.min() - 0.2


def test_validation_and_test_examples_differ():
    asked = []

    def predict(model, x):
        asked.append(x)
        return model(x)

    for validation in (True, False):
        utility.measure(SMALL.replace(rounds=1), seeds=(0,), predict=predict, validation=validation)
    first, second = asked
    assert len(first) + len(second) == 1797 - 160
    assert not (first.flatten(1).unsqueeze(1) == second.flatten(1).unsqueeze(0)).all(2).any(1).float().mean() > 0.1


def test_a_model_predicts_in_inference_mode():
    dropping = SMALL.replace(build=lambda seed: nn.Sequential(models.mlp(64, (16,), seed=seed), nn.Dropout(0.9)))
    modes = []
    utility.measure(
        dropping.replace(rounds=1), seeds=(0,), predict=lambda model, x: modes.append(model.training) or model(x)
    )
    assert modes == [False]


def test_the_budget_stays():
    assert SMALL.steps == 12
    changed = SMALL.spent(LocalSteps(steps=6, lr=0.1))
    assert (changed.rounds, changed.steps) == (2, 12)
    with pytest.raises(ValueError, match="local: got 5 steps a round, wanted a divisor of the budget, 12"):
        SMALL.spent(LocalSteps(steps=5, lr=0.1))


def test_tuned_takes_the_best_rate():
    found = utility.tuned(SMALL, rates=(1e-4, 0.5), seeds=(5,))
    assert found.local == LocalSteps(steps=3, lr=0.5, batch_size=20)
    assert found.replace(local=SMALL.local) == SMALL


def test_tuned_measures_validation_examples_of_other_seeds_with_the_defense(monkeypatch):
    asked = []

    def measure(task, **options):
        asked.append(options)
        return pd.DataFrame({"accuracy": [task.local.lr, 0.5]})

    monkeypatch.setattr(utility, "measure", measure)
    noise = defenses.GaussianNoise(std=1.0)
    assert utility.tuned(SMALL, rates=(0.2, 0.1), defense=noise, fold=1).local.lr == 0.2
    assert asked == [{"seeds": (5, 6), "validation": True, "defense": noise, "fold": 1}] * 2


def test_what_a_defense_draws_follows_from_the_seed():
    drawn = []

    @dataclass(frozen=True, kw_only=True)
    class Drawing(Defense):
        def shared(self, gradients, client):
            drawn.append(float(client.draw(gradients[0]).sum()))
            return gradients

    task = SMALL.replace(clients=2, rounds=1)
    utility.measure(task, defense=Drawing(), seeds=(0, 1, 0))
    assert drawn[:2] == drawn[4:]
    assert len({*drawn}) == 4


def test_divergence_is_a_missing_accuracy():
    wild = SMALL.replace(local=LocalSteps(steps=3, lr=1e30, batch_size=20), rounds=8)
    assert utility.measure(wild, seeds=(0,)).accuracy.isna().all()
    assert utility.tuned(SMALL, rates=(1e30, 0.1), seeds=(5,)).local.lr == 0.1


def test_what_was_uploaded_before_a_divergence_counts():
    @dataclass(frozen=True, kw_only=True)
    class Diverging(Defense):
        def shared(self, gradients, client):
            client.memory["rounds"] = client.memory.get("rounds", 0) + 1
            return tuple(g * (torch.inf if client.memory["rounds"] == 3 else 1) for g in gradients)

    found = utility.measure(SMALL, defense=Diverging(), seeds=(0,))
    assert found.accuracy.isna().all()
    assert found.megabytes[0] == pytest.approx(utility.measure(SMALL.replace(rounds=2), seeds=(0,)).megabytes[0])


@pytest.mark.parametrize("name", utility.TASKS)
def test_tasks(name):
    task = utility.TASKS[name]
    x, y = task.load(0)
    assert x.dtype == torch.float32
    assert 0 <= x.min() < x.max() <= 1
    assert task.clients * task.examples < 0.8 * len(x)
    seen = federated.observe(task.build(0), x[:2], y[:2])
    assert seen.num_classes == len(y.unique())
    assert not torch.equal(task.load(1)[0], x)


def test_tiles_of_a_photograph_do_not_overlap():
    x, y = utility.TASKS["colour"].load(0)
    photos, _ = data.photos(128)
    assert y.bincount().tolist() == [64] * 10
    torch.testing.assert_close(x[64 * 3 + 8 * 2 + 5], photos[3, :, 32:48, 80:96])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples": 0}, "examples: got 0, wanted at least 1"),
        ({"clients": 0}, "clients: got 0, wanted at least 1"),
        ({"rounds": 0}, "rounds: got 0, wanted at least 1"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        SMALL.replace(**change)


def test_refuses_what_cannot_be_measured():
    for rates in (None, "0.1", ["0.1"], [0.0], [math.nan]):
        with pytest.raises(ValueError, match=r"^rates: got .*, wanted (a list of learning rates|positive numbers)"):
            utility.tuned(SMALL, rates=rates)
    with pytest.raises(ValueError, match="^seeds: got tensor"):
        utility.measure(SMALL, seeds=torch.tensor(3))
    with pytest.raises(ValueError, match="seeds: got none"):
        utility.measure(SMALL, seeds=())
    with pytest.raises(ValueError, match="examples: got 1797 for 1797 examples in all"):
        utility.measure(SMALL.replace(clients=1, examples=1797), seeds=(0,))
    with pytest.raises(ValueError, match="defense: got the class GaussianNoise"):
        utility.measure(SMALL, seeds=(0,), defense=defenses.GaussianNoise)
