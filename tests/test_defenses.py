"""Defenses: each does what its formula says, composes, costs an attacker who knows it nothing, and saves.

Per-example gradients equal those of batches of one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from gilearn import attacks, data, defenses, federated, models
from gilearn.federated import Defense, LocalSteps, Observation


@pytest.fixture(scope="module")
def batch(digits):
    return digits[0][:4].double(), digits[1][:4]


@pytest.fixture(scope="module")
def model():
    return models.lenet(1, size=8, strides=(1, 2), width=3).double()


def plain(model, batch, **options):
    return federated.observe(model, *batch, **options).shared


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def by_hand(model, batch):
    """Every example's gradient, from batches of one: one flat row each."""
    return torch.stack([flat(plain(model, (x[None], y[None]))) for x, y in zip(*batch, strict=True)])


PUBLIC = {
    "batch clipping": defenses.BatchClipping(norm=0.05),
    "example clipping": defenses.ExampleClipping(norm=0.05),
    "pruning": defenses.Pruning(share=0.7),
    "global pruning": defenses.Pruning(share=0.7, scope="global"),
    "two of them": (defenses.ExampleClipping(norm=0.1), defenses.Pruning(share=0.5)),
}


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("local", [None, LocalSteps(steps=3, lr=0.1, batch_size=2)])
@pytest.mark.parametrize("functional", [False, True])
def test_an_attacker_who_knows_the_defense_simulates_it_exactly(model, batch, name, local, functional):
    known = federated.observe(model, *batch, defense=PUBLIC[name], local=local, declare=["defense"])
    blind = federated.observe(model, *batch, defense=PUBLIC[name], local=local)
    at_truth = known.simulate(*batch, functional=functional)
    torch.testing.assert_close(flat(at_truth), flat(known.shared), rtol=1e-12, atol=1e-15)
    off = flat(blind.simulate(*batch, create_graph=False)) - flat(blind.shared)
    assert float(off.norm() / flat(blind.shared).norm()) > 0.05


def test_per_example_gradients_are_those_of_batches_of_one(model, batch):
    """Also the clipped mean, by hand: rows longer than the norm are shortened, shorter ones are left."""
    rows = by_hand(model, batch)
    norm = float(rows.norm(dim=1).median())
    clipped = rows * (norm / rows.norm(dim=1)).clamp_max(1)[:, None]
    shared = flat(plain(model, batch, defense=defenses.ExampleClipping(norm=norm)))
    assert float((shared - clipped.mean(0)).norm() / clipped.mean(0).norm()) < 1e-14
    assert int((rows.norm(dim=1) > norm).sum()) in (1, 2)
    loose = flat(plain(model, batch, defense=defenses.ExampleClipping(norm=1e6)))
    assert float((loose - rows.mean(0)).norm() / rows.mean(0).norm()) < 1e-14


def test_per_example_gradients_of_local_steps(model, batch):
    """Two steps of one example each: the clipped step, twice, from where the first one led."""
    local, norm = LocalSteps(steps=2, lr=0.5, batch_size=1), 0.05
    shared = flat(plain(model, batch, defense=defenses.ExampleClipping(norm=norm), local=local))
    at = models.lenet(1, size=8, strides=(1, 2), width=3).double()
    moved = 0
    for k in range(2):
        gradient = flat(plain(at, (batch[0][k : k + 1], batch[1][k : k + 1])))
        step = 0.5 * gradient * min(1, norm / float(gradient.norm()))
        moved = moved + step
        with torch.no_grad():
            at_flat = torch.nn.utils.parameters_to_vector(at.parameters()) - step
            torch.nn.utils.vector_to_parameters(at_flat, at.parameters())
    torch.testing.assert_close(shared, moved, rtol=1e-12, atol=1e-15)


def test_per_example_gradients_where_examples_mix(photos):
    mixing = models.convnet(batch_norm=True)
    with pytest.raises(ValueError, match="layer '1' is a BatchNorm2d in train mode, which mixes a batch's examples"):
        plain(mixing, (photos[0][:2], photos[1][:2]), defense=defenses.ExampleClipping(norm=1.0))
    clipped = plain(mixing.eval(), (photos[0][:2], photos[1][:2]), defense=defenses.ExampleClipping(norm=1.0))
    assert float(flat(clipped).norm()) <= 1 + 1e-6


def test_batch_clipping_keeps_the_direction(model, batch):
    before = flat(plain(model, batch))
    for norm in (0.5, 2.0):
        after = flat(plain(model, batch, defense=defenses.BatchClipping(norm=norm * float(before.norm()))))
        torch.testing.assert_close(after, before * min(1.0, norm))


@pytest.mark.parametrize(
    ("defense", "spread"),
    [(defenses.GaussianNoise(std=0.3), 0.3), (defenses.LaplaceNoise(scale=0.3), 0.3 * 2**0.5)],
)
def test_noise_has_its_distribution(batch, defense, spread):
    wide = models.mlp(64, (400,)).double()
    noise = flat(plain(wide, batch, defense=defense)) - flat(plain(wide, batch))
    assert abs(float(noise.mean())) < 5 * spread / len(noise) ** 0.5
    assert float(noise.std()) == pytest.approx(spread, rel=0.03)
    # a Laplace's mean magnitude is its scale, a normal's is sqrt(2 / pi) of its deviation
    mean = 0.3 if isinstance(defense, defenses.LaplaceNoise) else 0.3 * (2 / torch.pi) ** 0.5
    assert float(noise.abs().mean()) == pytest.approx(mean, rel=0.03)
    kurtosis = float((noise**4).mean() / noise.var() ** 2)
    assert kurtosis == pytest.approx(6 if isinstance(defense, defenses.LaplaceNoise) else 3, rel=0.15)


def test_noise_is_the_clients_draw(model, batch):
    defense = defenses.GaussianNoise(std=0.1)
    one, same, other = (flat(plain(model, batch, defense=defense, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    seen = federated.observe(model, *batch, defense=defense, declare=["defense"])
    imagined = flat(seen.simulate(*batch, create_graph=False))
    torch.testing.assert_close(imagined, flat(plain(model, batch)), msg="an imagined client draws the mean")
    drawn = flat(seen.simulate(*batch, create_graph=False, generator=torch.Generator().manual_seed(7)))
    assert float((drawn - imagined).std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_pruning_keeps_the_largest(model, batch, scope):
    before = plain(model, batch)
    after = plain(model, batch, defense=defenses.Pruning(share=0.8, scope=scope))
    groups = [(flat(before), flat(after))] if scope == "global" else list(zip(before, after, strict=True))
    for a, b in groups:
        kept = b != 0
        assert int((~kept).sum()) == round(0.8 * a.numel())
        assert torch.equal(a[kept], b[kept])
        assert not kept.any() or float(a[kept].abs().min()) >= float(a[~kept].abs().max())
    assert torch.equal(flat(plain(model, batch, defense=defenses.Pruning(share=0.0))), flat(before))


def test_a_composition_applies_in_the_order_given(model, batch):
    noisy_then_pruned = plain(model, batch, defense=(defenses.GaussianNoise(std=0.1), defenses.Pruning(share=0.5)))
    pruned_then_noisy = plain(model, batch, defense=(defenses.Pruning(share=0.5), defenses.GaussianNoise(std=0.1)))
    assert float((flat(noisy_then_pruned) == 0).double().mean()) == pytest.approx(0.5, abs=0.02)
    assert float((flat(pruned_then_noisy) == 0).double().mean()) == 0


@dataclass(frozen=True, kw_only=True)
class Residual(Defense):
    """Share half of every entry now, and add what was kept back next time: error feedback, the simplest there is."""

    def shared(self, gradients, client):
        kept = client.memory.get("kept", [0.0] * len(gradients))
        whole = [g + k for g, k in zip(gradients, kept, strict=True)]
        client.memory["kept"] = [g / 2 for g in whole]
        return tuple(g / 2 for g in whole)


def test_a_defense_remembers_between_rounds_and_each_part_and_client_on_its_own(model, batch):
    clients = [(batch[0][:2], batch[1][:2]), (batch[0][2:], batch[1][2:])]
    step = LocalSteps(steps=1, lr=1e-12)  # the model hardly moves, so that every round has the same gradient
    for defense, factors in ((Residual(), (1 / 2, 3 / 4)), ((Residual(), Residual()), (1 / 4, 1 / 2))):
        rounds = list(federated.fedavg(model, clients, step, num_rounds=2, defense=defense))
        for k, client in enumerate(clients):
            gradient = flat(plain(model, client)) * 1e-12
            for number, factor in enumerate(factors):
                shared = flat(rounds[number].observations[k].shared)
                torch.testing.assert_close(shared, factor * gradient, rtol=1e-6, atol=0)


def test_the_public_part_sees_the_observation_alone(model, batch):
    """What an attacker may apply is made from an observation that does not declare the defense."""
    met = []

    class Spy(Defense):
        def public(self, seen):
            met.append(seen)
            return Defense()

    seen = federated.observe(model, *batch, defense=Spy(), declare=["labels", "defense"])
    assert isinstance(met[0], Observation)
    assert "defense" not in met[0].knowledge
    assert type(seen.known("defense")) is Defense


def test_a_declared_defense_survives_the_file(model, batch, tmp_path):
    seen = federated.observe(
        model, *batch, declare=["defense"], defense=(defenses.ExampleClipping(norm=0.1), defenses.Pruning(share=0.5))
    )
    seen.save(tmp_path / "seen.pt")
    again = Observation.load(tmp_path / "seen.pt", models.lenet(1, size=8, strides=(1, 2), width=3))
    assert repr(again.known("defense")) == repr(seen.known("defense"))
    assert torch.equal(flat(again.simulate(*batch)), flat(seen.simulate(*batch)))
    content = torch.load(tmp_path / "seen.pt", weights_only=True)
    content["knowledge"]["defense"]["defense"] = "somewhere.Else"
    torch.save(content, tmp_path / "seen.pt")
    with pytest.raises(ValueError, match=r"somewhere\.Else, which is not imported: import somewhere first"):
        Observation.load(tmp_path / "seen.pt", model)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (defenses.GaussianNoise, {"std": -1}, "std: got -1, wanted 0 or more"),
        (defenses.LaplaceNoise, {"scale": float("nan")}, "scale: got nan"),
        (defenses.BatchClipping, {"norm": 0}, "norm: got 0, wanted a positive"),
        (defenses.ExampleClipping, {"norm": -2}, "norm: got -2"),
        (defenses.Pruning, {"share": 1}, "share: got 1, wanted 0 to below 1"),
        (defenses.Pruning, {"share": 0.5, "scope": "layer"}, "scope: got 'layer'"),
        (defenses.Polarization, {"split": 0}, "split: got 0"),
        (defenses.Polarization, {"split": 1, "codes": 0}, "codes: got 0"),
        (defenses.Polarization, {"split": 1, "share": 1.5}, "share: got 1.5"),
        (defenses.Polarization, {"split": 1, "margin": 0.0}, "margin: got 0.0"),
    ],
)
def test_refusals(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        (defenses.Pruning, r"defense: got the class Pruning, wanted a value: Pruning\(\.\.\.\)"),
        ("pruning", "defense: got a str, wanted a gilearn.federated.Defense"),
        ([defenses.Pruning(share=0.5), 3], "defense: got a int"),
        (defenses.Mask(masks=()), "masks: got 0, wanted one for each of 6"),
        (defenses.Polarization(split=2), "defense: the polarization has no private head yet"),
    ],
)
def test_observe_refuses_what_is_no_defense(model, batch, defense, message):
    with pytest.raises(ValueError, match=message):
        federated.observe(model, *batch, defense=defense)


def thin():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(32, 10)]
        return nn.Sequential(*layers)


def test_the_polarized_head_disturbs_the_recursion_and_nothing_else():
    x, y = data.digits(400)
    errors = {}
    for share in (1.0, 0.5):
        trained, defense = defenses.Polarization(split=3, share=share, seed=1).train(thin(), x, y, steps=150)
        trained.double()
        seen = federated.observe(trained, x[:1], y[:1], defense=defense)
        whole = federated.observe(trained, x[:1], y[:1])
        same = all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(seen.shared, whole.shared, strict=True))
        assert same == (share == 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            errors[share] = float((attacks.RGAP(seen).inputs - attacks.RGAP(whole).inputs).norm())
    assert errors[1.0] < 1e-9 < errors[0.5]


def test_training_a_head_is_reproducible_and_changes_nothing_given():
    x, y = data.digits(100)
    model = thin()
    before = [p.clone() for p in model.parameters()]
    client = defenses.Polarization(split=3)
    (one, defense), (two, _) = client.train(model, x, y, steps=5), client.train(model, x, y, steps=5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert defense.head.weight.shape == (16, 32)
    with pytest.raises(ValueError, match="split: got 4"):
        defenses.Polarization(split=4).train(model, x, y)


def test_a_missing_library_says_what_to_install():
    from gilearn.defenses._extra import library

    assert library("json").dumps([1]) == "[1]"
    with pytest.raises(
        ImportError, match=r"no_such_library\.part: not installed, wanted pip install 'gilearn\[defenses\]'"
    ):
        library("no_such_library.part")
