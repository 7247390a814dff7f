"""Spaces: what begins, what it decodes to, where it is kept; and searches through each of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import GradientMatching, Joint, labels
from gilearn.attacks.iteration.distances import Euclidean
from gilearn.attacks.iteration.initialization import Constant, FromImage, Gaussian
from gilearn.attacks.iteration.optimizers import LBFGS, Adam
from gilearn.attacks.iteration.regularizers import LabelConsistency
from gilearn.attacks.iteration.spaces import (
    Coarse,
    Embeddings,
    Latent,
    Masks,
    Pixels,
    Product,
    SoftTokens,
    Weights,
)


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def seen():
    x, y = data.digits(1)
    return federated.observe(models.lenet(1, size=8, strides=(1, 1, 1)), x, y, declare=["labels"])


def decoder(latent=4):
    return seeded(
        lambda: nn.Sequential(nn.Linear(latent, 16), nn.Tanh(), nn.Linear(16, 64), nn.Unflatten(1, (1, 8, 8)))
    )


def began(space, seen, initialization=Gaussian(), seed=0):  # noqa: B008
    bound = space.build(seen)
    return bound, bound.begin(seen, initialization, generator(seed))


def test_pixels(seen):
    bound, variables = began(Pixels(bounds=(0.0, 1.0)), seen)
    inputs = bound.decode(variables)["inputs"]
    assert torch.equal(inputs, Gaussian()((1, 1, 8, 8), generator()))
    bound.project(variables)
    assert torch.equal(variables["inputs"], Gaussian()((1, 1, 8, 8), generator()).clamp(0, 1))
    free, variables = began(Pixels(), seen)
    free.project(variables)
    assert float(variables["inputs"].min()) < 0


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_coarse_pixels_are_enlarged(seen, mode):
    bound, variables = began(Coarse(factor=4, mode=mode), seen)
    assert variables["coarse"].shape == (1, 1, 2, 2)
    inputs = bound.decode(variables)["inputs"]
    assert inputs.shape == (1, 1, 8, 8)
    corners = None if mode == "nearest" else False
    wanted = torch.nn.functional.interpolate(variables["coarse"], scale_factor=4, mode=mode, align_corners=corners)
    torch.testing.assert_close(inputs, wanted)


def test_a_search_of_coarse_pixels_finds_a_coarse_picture(seen):
    truth = Coarse(factor=2).decode({"coarse": torch.rand(1, 1, 4, 4, generator=generator())})["inputs"]
    coarse = federated.observe(seen.model, truth, torch.tensor([3]), declare=["labels"])
    result = attacks.iDLG.replace(space=Coarse(factor=2, bounds=(0.0, 1.0)), iterations=20)(coarse)
    assert metrics.mse(result.inputs, truth) < 1e-8
    assert result.variables["coarse"].shape == (1, 1, 4, 4)


def test_a_search_of_latent_vectors(seen):
    """Through a decoder, which is copied: neither its weights nor their flags move, and it follows the type."""
    toy = decoder().float()
    before = copy.deepcopy(toy.state_dict())
    truth = toy(torch.tensor([[0.3, -1.2, 0.5, 0.9]])).detach()
    behind = federated.observe(seen.model, truth, torch.tensor([3]), declare=["labels"])
    attack = attacks.DLG.replace(space=Latent(generator=toy, shape=(4,)), labels=labels.Declared(), iterations=30)
    result = attack(behind)
    assert metrics.mse(result.inputs, truth) < 1e-9
    assert result.variables["latent"].dtype == torch.float64
    torch.testing.assert_close(
        result.variables["latent"][0].float(), torch.tensor([0.3, -1.2, 0.5, 0.9]), atol=1e-3, rtol=0
    )
    assert all(torch.equal(toy.state_dict()[name], value) for name, value in before.items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in toy.parameters())


def test_latents_keep_their_bounds(seen):
    attack = GradientMatching(
        space=Latent(generator=decoder(), shape=(4,), bounds=(-0.5, 0.5)),
        labels=labels.Declared(), optimizer=Adam(lr=0.3), iterations=10,
    )  # fmt: skip
    assert float(attack(seen).variables["latent"].abs().max()) == 0.5


def test_a_search_of_an_untrained_decoder_s_weights(seen):
    """Every restart redraws the weights; the same seed draws the same, and the user's decoder stays as it is."""
    toy, latent = decoder(), torch.ones(1, 4)
    before = copy.deepcopy(toy.state_dict())
    space = Weights(generator=toy, latent=latent)
    attack = GradientMatching(
        space=space, labels=labels.Declared(), optimizer=Adam(lr=0.01), iterations=150, restarts=2, explained=0.0
    )
    result = attack(seen)
    first, second = (start["distance"] for start in result.restarts)
    assert first != second
    assert metrics.mse(result.inputs, data.digits(1)[0]) < 0.01
    assert torch.equal(result.inputs, attack(seen).inputs)
    assert all(torch.equal(toy.state_dict()[name], value) for name, value in before.items())
    assert set(result.variables) == {f"weights.{name}" for name, _ in toy.named_parameters()}
    _, kept = began(space.replace(redraw=False), seen)
    assert all(torch.equal(kept[f"weights.{name}"], value) for name, value in before.items())


def test_restarts_through_a_decoder_run_in_parallel(seen):
    alone = GradientMatching(
        space=Latent(generator=decoder(), shape=(4,)), labels=Joint(), optimizer=Adam(lr=0.1), iterations=10, restarts=3
    )
    one, many = alone(seen), alone.replace(parallel=3)(seen)
    for a, b in zip(one.restarts, many.restarts, strict=True):
        assert a["distance"] == pytest.approx(b["distance"], rel=1e-3)


class Bag(nn.Module):
    """A text classifier: the mean of the words' embeddings, and one hidden layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.read = nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.Sigmoid(), nn.Linear(16, 3))

    def forward(self, tokens):
        return self.read(self.embed(tokens))


@pytest.fixture(scope="module")
def text():
    words = torch.tensor([[4, 17, 9]])
    return federated.observe(seeded(Bag).double(), words, torch.tensor([2]), declare=["labels"]), words


@pytest.mark.parametrize("space", [Embeddings(), Embeddings(layer="embed"), SoftTokens()], ids=repr)
def test_words_are_found(text, space):
    seen, words = text
    result = attacks.DLG.replace(space=space, labels=labels.Declared(), iterations=50)(seen)
    assert torch.equal(result.details["tokens"], words)
    assert result.inputs.shape == (1, 3, 8 if isinstance(space, Embeddings) else 20)


def dropping():
    layers = lambda: (nn.Flatten(), nn.Linear(64, 48), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(48, 10))  # noqa: E731
    return seeded(lambda: nn.Sequential(*layers())).double()


def test_a_mask_is_searched_together_with_the_pixels(digits):
    x, y = digits[0][:1].double(), digits[1][:1]
    seen = federated.observe(dropping(), x, y, declare=["labels"])
    attack = attacks.iDLG.replace(labels=labels.Declared(), iterations=100, optimizer=LBFGS(patience=10), restarts=1)
    naive = attack(seen)
    found = attack.replace(space=Pixels() & Masks())(seen)
    assert naive.residual > 0.1
    assert found.residual < 1e-5
    assert metrics.mse(found.inputs, x) < 1e-4 < 1e-2 < metrics.mse(naive.inputs, x)
    assert torch.equal(found.inputs, attack.replace(space=Pixels() & Masks())(seen).inputs)


def test_masks_are_searched_in_parallel_and_regularized(digits):
    x, y = digits[0][:2].double(), digits[1][:2]
    seen = federated.observe(dropping(), x, y, declare=["labels"])
    attack = GradientMatching(
        space=Pixels() & Masks(initialization=Gaussian()), labels=Joint(), optimizer=Adam(lr=0.1), iterations=8,
        restarts=2, regularizers=(LabelConsistency(weight=0.1),),
    )  # fmt: skip
    one, many = attack(seen), attack.replace(parallel=2)(seen)
    for a, b in zip(one.restarts, many.restarts, strict=True):
        assert a["distance"] == pytest.approx(b["distance"], rel=1e-6)


def test_a_product_has_the_variables_of_both(digits):
    seen = federated.observe(dropping(), digits[0][:2].double(), digits[1][:2])
    bound, variables = began(Pixels(bounds=(0.0, 1.0)) & Masks(), seen)
    assert set(variables) == {"inputs", "mask.0"}
    bound.project(variables)
    assert float(variables["inputs"].min()) == 0
    arguments = bound.decode(variables)
    assert arguments["masks"][0].shape == (2, 48)
    assert (arguments["masks"][0] == 1).all()
    with pytest.raises(ValueError, match="both have 'inputs'"):
        began(Pixels() & Pixels(), seen)
    both, variables = began(Pixels() & Coarse(), seen)
    with pytest.raises(ValueError, match="both have 'inputs'"):
        both.decode(variables)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pixels(bounds=(1.0, 0.0)), "bounds: got"),
        (lambda: Coarse(factor=0), "factor: got 0"),
        (lambda: Coarse(mode="cubic"), "mode: got 'cubic'"),
        (lambda: Latent(generator=torch.tanh, shape=(4,)), "generator: got .*, wanted an nn.Module"),
        (lambda: Latent(generator=nn.Identity(), shape=(4,), bounds=(2.0, 1.0)), "bounds: got"),
        (lambda: Weights(generator=torch.tanh, latent=torch.ones(1)), "generator: got"),
    ],
)
def test_refused_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Coarse(factor=3), r"factor: got 3, which does not divide the sides \(8, 8\)"),
        (Latent(generator=nn.Linear(4, 5), shape=(4,)), r"generator: got outputs of shape \(1, 5\)"),
        (Latent(generator=nn.Linear(4, 5), shape=(3,)), "generator: it does not take latents of shape"),
        (Weights(generator=nn.Flatten(), latent=torch.ones(1, 64)), "generator: no module of it has reset_parameters"),
        (Masks(), "space: the model drops nothing"),
        (Pixels() & Masks(), "space: the model drops nothing"),
        (Embeddings(), "layer: got None, wanted a model with an nn.Embedding"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_refused_observations(seen, space, message):
    with pytest.raises(ValueError, match=message):
        space.build(seen)


def test_what_draws_random_numbers_is_no_generator(seen):
    noisy = nn.Sequential(decoder(), nn.Dropout(0.5))
    with pytest.raises(ValueError, match="generator: it draws random numbers"):
        Latent(generator=noisy, shape=(4,)).build(seen)
    Latent(generator=noisy.eval(), shape=(4,)).build(seen)


def test_tokens_are_no_pixels(text):
    with pytest.raises(ValueError, match="the model takes tokens"):
        attacks.DLG(text[0])
    with pytest.raises(ValueError, match="layer: got 'words', wanted one of 'embed'"):
        Embeddings(layer="words").build(text[0])


def test_spaces_that_hold_networks_compare_and_show_what_they_hold():
    one, same, other = (Latent(generator=decoder(), shape=(4,)) for _ in range(3))
    assert one == same
    assert hash(one) == hash(same)
    nn.init.zeros_(other.generator[0].bias)
    assert one != other
    assert repr(one).startswith("Latent(generator=<Sequential ")
    assert Pixels() != one
    assert attacks.DLG.replace(space=one) == attacks.DLG.replace(space=same) != attacks.DLG.replace(space=other)


def test_an_initialization_that_holds_a_picture_compares_and_shows_it():
    x = torch.rand(1, 8, 8, generator=generator())
    assert FromImage(picture=x) == FromImage(picture=x.clone()) != FromImage(picture=x + 1)
    assert hash(FromImage(picture=x)) == hash(FromImage(picture=x.clone()))
    assert repr(FromImage(picture=x)).startswith("FromImage(picture=<(1, 8, 8) float32 ")
    assert repr(FromImage(picture=x)) != repr(FromImage(picture=x + 1))
    assert attacks.DLG.replace(initialization=FromImage(picture=x)) != attacks.DLG


def test_a_space_of_one_s_own(seen):
    """Two methods are enough: a search among pictures of one shade."""

    class Shade(attacks.spaces.Space):
        def begin(self, seen, initialization, generator):
            return {"shade": initialization((seen.batch_size, 1, 1, 1), generator)}

        def decode(self, variables):
            return {"inputs": variables["shade"].expand(-1, 1, 8, 8)}

    gray = federated.observe(seen.model, torch.full((1, 1, 8, 8), 0.3), torch.tensor([1]), declare=["labels"])
    attack = attacks.iDLG.replace(
        space=Shade(), initialization=Constant(value=0.9), distance=Euclidean(), iterations=20
    )
    assert float(attack(gray).variables["shade"]) == pytest.approx(0.3, abs=1e-4)


def test_a_product_of_products(seen):
    bound = Product(spaces=(Product(spaces=(Pixels(),)), labels.Fixed(torch.tensor([1])))).build(seen)
    assert set(bound.decode(bound.begin(seen, Gaussian(), generator()))) == {"inputs", "targets"}
