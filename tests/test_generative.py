"""Generators and GIAS: what they were trained on, what they can draw, and the two searches through them."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from gilearn import attacks, data, defenses, federated, generators, metrics, models
from gilearn.attacks import GIAS, GradientMatching, Joint, distances, labels, optimizers, spaces
from gilearn.attacks.iteration.initialization import Gaussian
from gilearn.content import checksum

FOLDER = Path(generators.__file__).parents[1] / "data" / "weights"
BRIEF = {"iterations": 12, "restarts": 1, "parallel": 1}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def prior():
    return generators.trained("digits")


def observed(x, y, *, share=0.0, declare=("labels",), seed=0):
    model = models.lenet(1, 10, size=8, strides=(1, 1, 1), seed=seed)
    return federated.observe(model, x, y, declare=list(declare), defense=defenses.Pruning(share=share))


def brief(prior, **changes):
    attack = GIAS(generator=prior, shape=(16,))
    return attack.both(**BRIEF).replace(**changes)


# Generators


@pytest.mark.parametrize(("size", "channels", "latent"), [(8, 1, 16), (25, 1, 32), (32, 3, 4)])
def test_a_decoder_draws_pictures(size, channels, latent):
    z = torch.randn(2, latent, generator=generator())
    pictures = generators.decoder(latent, size=size, channels=channels, width=5)(z).detach()
    assert pictures.shape == (2, channels, size, size)
    assert 0 < float(pictures.min()) <= float(pictures.max()) < 1
    same, other = (generators.decoder(latent, size=size, channels=channels, width=5, seed=s)(z) for s in (0, 1))
    assert torch.equal(pictures, same)
    assert not torch.equal(pictures, other)


@pytest.mark.parametrize("name", generators.TRAINED)
def test_trained_generators_are_the_recorded_ones(name):
    record = json.loads((FOLDER / "index.json").read_text())[f"generator-{name}"]
    path = FOLDER / f"generator-{name}.pt"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
    assert record["trained_on_checksum"] == checksum([generators.training(name)[0]])
    assert not generators.trained(name).training
    assert record["psnr"] > 17


def test_all_generators_are_small():
    assert sum(path.stat().st_size for path in FOLDER.glob("generator-*.pt")) < 2e6


@pytest.mark.parametrize(("name", "total"), [("digits", 1797), ("faces", 100)])
def test_a_generator_was_trained_on_no_picture_that_is_attacked(name, total):
    """On no fold: the training pictures are the same for all, and none of the others equals one of them."""
    known, _ = generators.training(name)
    all_others, kinds = generators.held_out(name)
    assert len(known) + len(all_others) == total
    for fold in range(4):
        others, labels_of = generators.held_out(name, fold=fold)
        assert float(torch.cdist(others.flatten(1), known.flatten(1)).min()) > 0.1
        assert torch.equal(labels_of, kinds)
        assert torch.equal(others.flatten(1).sum(1).sort().values, all_others.flatten(1).sum(1).sort().values)
        assert (fold == 0) == torch.equal(others, all_others)
    few, few_labels = generators.held_out(name, 3)
    assert torch.equal(few, all_others[:3])
    assert torch.equal(few_labels, kinds[:3])


def test_the_digits_generator_draws_digits_and_the_other_one_does_not(prior):
    """The floor: nearest pictures of either range, for digits that neither was trained on."""
    x, _ = generators.held_out("digits", 8)
    wrong = nn.Sequential(generators.trained("faces"), nn.AdaptiveAvgPool2d(8))
    own = metrics.psnr(generators.nearest(prior, x, (16,), starts=1, steps=100)[0], x)
    other = metrics.psnr(generators.nearest(wrong, x, (32,), starts=1, steps=100)[0], x)
    mean = metrics.psnr(generators.training("digits")[0].mean(0, keepdim=True).expand_as(x), x)
    assert own > 20
    assert own > other + 2
    assert own > mean + 8


def test_nearest_of_a_linear_generator_is_the_projection():
    linear = nn.Sequential(nn.utils.skip_init(nn.Linear, 3, 16), nn.Unflatten(1, (1, 4, 4))).double()
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator(), dtype=torch.float64))
    x = torch.rand(2, 1, 4, 4, generator=generator(1), dtype=torch.float64)
    weight, bias = (parameter.detach() for parameter in linear[0].parameters())
    wanted = torch.linalg.lstsq(weight, (x.flatten(1) - bias).T).solution.T
    pictures, latents = generators.nearest(linear, x, (3,), starts=1, steps=600)
    torch.testing.assert_close(latents, wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(pictures, linear(wanted).detach(), atol=1e-3, rtol=0)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in linear.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generators.decoder(0), "latent: got 0, wanted positive sizes"),
        (lambda: generators.decoder(size=0), "size: got 0"),
        (lambda: generators.trained("cats"), "name: got 'cats', wanted one of digits, faces"),
        (lambda: generators.training("cats"), "name: got 'cats'"),
        (lambda: generators.held_out("cats"), "name: got 'cats'"),
        (lambda: generators.held_out("faces", 26), "n: got 26, wanted 1 to 25"),
        (lambda: generators.held_out("faces", fold=-1), "fold: got -1"),
        (lambda: generators.nearest(nn.Flatten(), torch.ones(1, 4), (4,), steps=0), "steps: got 0"),
        (
            lambda: generators.nearest(generators.decoder(4), torch.ones(1, 1, 8, 8), (5,)),
            r"shape: the generator does not take latents of shape \(5,\)",
        ),
        (lambda: generators.nearest(nn.Flatten(), torch.ones(1, 4), (3,)), r"generator: got pictures of shape \(3,\)"),
    ],
)
def test_refused_generators(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# One copy of the weights for every example


def test_every_example_has_its_own_weights(prior):
    x, y = generators.held_out("digits", 2)
    latent = torch.randn(2, 16, generator=generator())
    space = spaces.Weights(generator=prior, latent=latent, redraw=False, each=True).build(observed(x, y))
    variables = space.begin(observed(x, y), Gaussian(), generator())
    own = dict(prior.named_parameters())
    assert all(torch.equal(variables[f"weights.{n}"], torch.stack([own[n], own[n]])) for n in own)
    torch.testing.assert_close(space.decode(variables)["inputs"], prior(latent).detach())
    variables["weights.0.bias"][1] += 1
    moved = copy.deepcopy(prior)
    with torch.no_grad():
        moved[0].bias += 1
    wanted = torch.cat([prior(latent[:1]), moved(latent[1:])]).detach()
    torch.testing.assert_close(space.decode(variables)["inputs"], wanted)


def test_copies_are_redrawn_one_by_one(prior):
    x, y = generators.held_out("digits", 2)
    space = spaces.Weights(generator=prior, latent=torch.ones(2, 16), each=True).build(observed(x, y))
    drawn = space.begin(observed(x, y), Gaussian(), generator())["weights.0.weight"]
    assert drawn.shape == (2, 128, 16)
    assert not torch.equal(drawn[0], drawn[1])


# GIAS


def test_it_is_two_calls_of_the_engine(prior):
    """The same by hand, bit for bit, for a batch of two."""
    x, y = generators.held_out("digits", 2)
    seen = observed(x, y)
    attack = brief(prior)
    result = attack(seen, seed=3)
    first = attack.search.replace(space=spaces.Latent(generator=prior, shape=(16,)))(seen, seed=3)
    space = spaces.Weights(generator=prior, latent=first.variables["latent"], redraw=False, each=True)
    second = attack.refine.replace(space=space)(seen, seed=3)
    assert torch.equal(result.details["latent_inputs"], first.inputs)
    assert torch.equal(result.inputs, second.inputs)
    assert torch.equal(result.history, torch.cat([first.history, second.history]))
    assert result.details["latent_evaluations"] == len(first.history) == 12
    assert result.details["latent_residual"] == first.residual
    assert result.residual == second.residual < first.residual
    assert len(result.restarts) == 2
    assert set(result.variables) == {"latent"} | set(second.variables)
    assert result.attack == repr(attack)
    assert torch.equal(result.inputs, attack(seen, seed=3).inputs)


def test_the_second_phase_leaves_the_range_of_the_generator(prior):
    """With a clean gradient: above the first phase, and above everything that the generator draws."""
    x, y = generators.held_out("digits", 1)
    steady = optimizers.Adam(lr=0.1)
    attack = GIAS(generator=prior, shape=(16,)).both(iterations=80, restarts=1, parallel=1)
    attack = attack.replace(
        search=attack.search.replace(optimizer=steady), refine=attack.refine.replace(optimizer=steady.replace(lr=3e-4))
    )
    result = attack(observed(x, y))
    floor = metrics.psnr(generators.nearest(prior, x, (16,), steps=150)[0], x)
    assert metrics.psnr(result.details["latent_inputs"], x) < floor + 0.5
    assert metrics.psnr(result.inputs, x) > floor + 2


def test_the_first_phase_alone(prior):
    x, y = generators.held_out("digits", 1)
    result = brief(prior, refine=None)(observed(x, y), snapshots=8)
    assert torch.equal(result.inputs, result.details["latent_inputs"])
    torch.testing.assert_close(result.inputs, prior(result.variables["latent"]).detach())
    assert set(result.variables) == {"latent"}
    assert brief(prior, refine=None).both(iterations=3).refine is None


def test_snapshots_go_through_both_phases(prior):
    x, y = generators.held_out("digits", 1)
    result = brief(prior)(observed(x, y), snapshots=6)
    evaluations = [evaluation for evaluation, _ in result.snapshots]
    assert len(evaluations) == 6
    assert evaluations == sorted(evaluations)
    assert evaluations[2] < 12 <= evaluations[3]


def test_a_time_limit_ends_both(prior):
    x, y = generators.held_out("digits", 1)
    result = brief(prior).both(iterations=10_000)(observed(x, y), time_limit=0.5)
    assert result.seconds < 10
    assert len(result.history) < 10_000


def test_labels_that_were_searched_are_kept(prior):
    x, y = generators.held_out("digits", 1)
    result = brief(prior).both(labels=Joint())(observed(x, y, declare=()))
    first = brief(prior, refine=None).both(labels=Joint())(observed(x, y, declare=()))
    assert torch.equal(result.labels, first.labels)
    assert "weights.0.bias" in result.variables


def test_what_was_pruned_is_taken_for_zero_unless_it_is_masked(prior):
    """The generator helps the attacker who takes the zeros at their word; the pixels alone suffice for the other."""
    gain, masked = [], []
    for k in range(2):
        x, y = (values[k : k + 1] for values in generators.held_out("digits", 2))
        seen = observed(x, y, share=0.95, seed=k)
        pixels = GradientMatching(
            labels=labels.Declared(),
            distance=distances.Cosine(),
            optimizer=optimizers.Adam(lr=0.1),
            iterations=60,
            space=spaces.Pixels(bounds=(0.0, 1.0)),
        )
        latent = pixels.replace(space=spaces.Latent(generator=prior, shape=(16,)), optimizer=optimizers.Adam(lr=0.03))
        mask = pixels.replace(distance=distances.Masked(distance=distances.Cosine()))
        found = [metrics.psnr(attack(seen, seed=k).inputs, x) for attack in (pixels, latent, mask)]
        gain.append(found[1] - found[0])
        masked.append(found[2])
    assert sum(gain) / 2 > 2
    assert min(masked) > 15


def test_values_compare_by_what_they_hold(prior):
    one, same = (GIAS(generator=generators.trained("digits"), shape=(16,)) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != one.both(iterations=3)
    assert repr(one).startswith("GIAS(generator=<Sequential ")
    assert one.both(distance=distances.Manhattan()).refine.distance == distances.Manhattan()
    assert one.search.optimizer.lr == 3e-2
    assert one.refine.optimizer.lr == 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": torch.tanh}, "generator: got .*, wanted an nn.Module"),
        ({"bounds": (1.0, 0.0)}, "bounds: got"),
        ({"search": None}, "search: got a NoneType, wanted a GradientMatching"),
        ({"search": 3}, "search: got a int"),
        ({"refine": attacks.RGAP}, "refine: got a .*, wanted a GradientMatching"),
        ({"search": attacks.InvGrad}, "search: got Pixels.*, wanted no space of its own"),
        ({"refine": attacks.DLG.replace(space=spaces.Coarse())}, "refine: got Coarse"),
    ],
)
def test_refused_arguments(prior, changes, message):
    with pytest.raises(ValueError, match=message):
        GIAS(**{"generator": prior, "shape": (16,)} | changes)


def test_refused_observations(prior):
    x, y = data.digits(1, size=16)
    seen = federated.observe(models.lenet(1, 10, size=16), x, y, declare=["labels"])
    with pytest.raises(ValueError, match=r"generator: got outputs of shape \(1, 1, 8, 8\)"):
        brief(prior)(seen)
    with pytest.raises(ValueError, match="generator: it does not take latents of shape"):
        brief(prior, shape=(3,))(observed(*generators.held_out("digits", 1)))
    with pytest.raises(ValueError, match="steps: GradientMatching has no such field"):
        brief(prior).both(steps=3)
