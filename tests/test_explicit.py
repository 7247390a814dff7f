"""Dropout masks and tokens as arguments: drawn by the client, declared or searched, never from a global generator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gilearn import defenses, federated, models
from gilearn.federated import LocalSteps, Observation


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def dropping(rate=0.5):
    layers = models.mlp(64, (32,), activation="tanh")
    return nn.Sequential(*layers[:-1], nn.Dropout(rate), layers[-1]).double()


@pytest.fixture(scope="module")
def batch(digits):
    return digits[0][:4].double(), digits[1][:4]


@pytest.mark.parametrize("local", [None, LocalSteps(steps=3, lr=0.1, batch_size=2)])
def test_dropout_draws_from_the_clients_seed_alone(batch, local):
    shared = lambda seed: federated.observe(dropping(), *batch, local=local, seed=seed).shared[0]  # noqa: E731
    first, again, other = shared(0), shared(0), shared(1)
    with torch.random.fork_rng():
        torch.manual_seed(123)
        elsewhere = shared(0)
    assert torch.equal(first, again)
    assert torch.equal(first, elsewhere)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("local", [None, LocalSteps(steps=3, lr=0.1, batch_size=2)])
@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("defense", [None, defenses.ExampleClipping(norm=0.05)])
def test_with_the_masks_the_simulation_is_exact_and_without_it_is_not(batch, local, functional, defense):
    options = {"local": local, "defense": defense, "declare": ["masks", "defense"] if defense else ["masks"]}
    seen = federated.observe(dropping(), *batch, **options)
    masks = seen.known("masks")
    assert len(masks) == (1 if local is None else 3)
    assert set(masks[0].unique().tolist()) == {0.0, 2.0}
    blind = seen.replace(knowledge={k: v for k, v in seen.knowledge.items() if k != "masks"})
    for observed, options, exact in (
        (seen, {}, True),
        (blind, {"masks": masks}, True),
        (blind, {}, False),
        (blind, {"generator": torch.Generator().manual_seed(5)}, False),
    ):
        simulated = observed.simulate(*batch, functional=functional, **options)
        off = max(float((a - b).detach().norm() / b.norm()) for a, b in zip(simulated, seen.shared, strict=True))
        assert (off < 1e-12) == exact, off


def test_a_simulation_is_differentiable_in_the_masks(batch):
    seen = federated.observe(dropping(), *batch)
    (shape,), (rate,) = seen.mask_shapes, seen.mask_rates
    assert shape == (4, 32)
    assert rate == 0.5
    mask = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = sum(g.square().sum() for g in seen.simulate(*batch, masks=[mask]))
    (slope,) = torch.autograd.grad(value, mask)
    step = torch.zeros_like(mask)
    step[1, 3] = 1e-6
    with torch.no_grad():
        ends = [
            sum(g.square().sum() for g in seen.simulate(*batch, masks=[mask + s * step], create_graph=False))
            for s in (1, -1)
        ]
    assert float(ends[0] - ends[1]) / 2e-6 == pytest.approx(float(slope[1, 3]), rel=1e-4)


@pytest.mark.parametrize("layer", [nn.Dropout2d(0.5), nn.Dropout1d(0.5), nn.Dropout3d(0.5), nn.Dropout(0.25)])
def test_masks_are_those_of_pytorch(layer):
    """Same shape of what is dropped together, same scale, and the same share in the long run."""
    shape = {nn.Dropout1d: (50, 40, 3), nn.Dropout3d: (50, 40, 3, 2, 2)}.get(type(layer), (50, 40, 3, 2))
    x = torch.ones(shape)
    with torch.random.fork_rng():
        theirs = layer(x)
    from gilearn.federated.explicit import Explicit

    with Explicit(generator=torch.Generator().manual_seed(0)) as explicit:
        ours = layer(x)
    assert set(ours.unique().tolist()) == set(theirs.unique().tolist())
    spread = lambda y: float(y.flatten(2).var(dim=2, correction=0).max())  # noqa: E731
    assert (spread(ours) == 0) == (spread(theirs) == 0)
    kept = float((ours != 0).double().mean())
    assert kept == pytest.approx(1 - layer.p, abs=0.05)
    assert explicit.rates == [layer.p]
    with Explicit(generator=torch.Generator().manual_seed(0)):
        assert torch.equal(layer.eval()(x), x)
    layer.train()


def test_without_a_generator_nothing_is_dropped(batch):
    seen = federated.observe(dropping(), *batch)
    quiet = federated.observe(dropping().eval(), *batch)
    for a, b in zip(seen.simulate(*batch, create_graph=False), quiet.shared, strict=True):
        torch.testing.assert_close(a, b)
    assert quiet.mask_shapes == ()


def test_masks_that_do_not_fit(batch):
    seen = federated.observe(dropping(), *batch)
    with pytest.raises(ValueError, match=r"masks\[0\]: got shape \(4, 31\), wanted \(4, 32\)"):
        seen.simulate(*batch, masks=[torch.ones(4, 31)])
    with pytest.raises(ValueError, match="masks: got 0, and the model drops once more"):
        seen.simulate(*batch, masks=[])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = x.view(-1, 8, 8)
        return self.head(self.attention(x, x, x)[0].flatten(1))


def test_what_draws_globally_is_refused(digits):
    """Dropout inside PyTorch's attention escapes: better no gradient than one that no seed reproduces."""
    model = seeded(Attention)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="model: its forward pass draws from PyTorch's global generator"):
        federated.observe(model, *(t[:2] for t in digits))
    assert torch.equal(before, torch.get_rng_state())
    assert federated.observe(model.eval(), *(t[:2] for t in digits)).shared[0] is not None


def test_gradients_from_elsewhere_with_undeclared_masks_warn(batch):
    model = dropping()
    seen = federated.observe(model, *batch, declare=["masks"])
    options = {"input_shape": (1, 8, 8), "batch_size": 4}
    with pytest.warns(UserWarning, match="it drops units in train mode, and the masks"):
        Observation.from_gradients(model, list(seen.shared), **options)
    known = {"masks": seen.known("masks")}
    declared = Observation.from_gradients(model, list(seen.shared), knowledge=known, **options)
    torch.testing.assert_close(declared.simulate(*batch, create_graph=False), seen.shared)


class Reader(nn.Module):
    """A recurrent language model: tokens (batch, length) to logits (batch, length, words)."""

    def __init__(self, words=30, width=16):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.memory = nn.GRU(width, width, batch_first=True)
        self.project = nn.Linear(width, words)

    def forward(self, tokens):
        return self.project(self.memory(self.embed(tokens))[0])


@pytest.fixture
def sentence():
    tokens = torch.randint(30, (2, 6), generator=torch.Generator().manual_seed(0))
    return seeded(Reader), tokens[:, :-1], tokens[:, 1:]


def test_a_token_model_is_observed_as_it_is(sentence):
    """The loss of a sequence model is the mean over all positions."""
    reader, words, following = sentence
    seen = federated.observe(reader, words, following, declare=["labels"])
    assert (seen.input_shape, seen.batch_size, seen.num_classes, seen.tokens) == ((5,), 2, 30, True)
    loss = F.cross_entropy(reader(words).flatten(0, 1), following.flatten())
    wanted = torch.autograd.grad(loss, list(reader.parameters()))
    torch.testing.assert_close(seen.shared, wanted)
    assert torch.equal(seen.known("labels"), following)
    torch.testing.assert_close(seen.simulate(words, following, create_graph=False), seen.shared)
    assert seen.to(dtype=torch.float64).simulate(words, following)[0].dtype == torch.float64


@pytest.mark.parametrize("functional", [False, True])
def test_vectors_in_place_of_tokens(sentence, functional):
    reader, words, following = sentence
    seen = federated.observe(reader, words, following)
    with torch.no_grad():
        vectors = reader.embed(words)
    past, *rest = seen.simulate(vectors, following, functional=functional)
    assert past is None, "nothing is known of the gradient of an embedding that was not used"
    torch.testing.assert_close([g.detach() for g in rest], list(seen.shared[1:]))
    soft = F.one_hot(words, 30).float().requires_grad_()
    simulated = seen.simulate(soft, following, functional=functional)
    torch.testing.assert_close([g.detach() for g in simulated], list(seen.shared))
    if not functional:
        (slope,) = torch.autograd.grad(simulated[0].square().sum(), soft)
        assert float(slope.abs().max()) > 0


def test_vectors_that_fit_nothing(sentence):
    reader, words, following = sentence
    seen = federated.observe(reader, words, following)
    with pytest.raises(ValueError, match=r"inputs: got vectors of 7, wanted 16 \(embeddings\) or 30 \(soft tokens\)"):
        seen.simulate(torch.zeros(2, 5, 7), following)
    square = seeded(lambda: Reader(16, 16))
    seen = federated.observe(square, words.clamp_max(15), following.clamp_max(15))
    with pytest.raises(ValueError, match="could mean both"):
        seen.simulate(torch.zeros(2, 5, 16), following.clamp_max(15))


def test_a_token_observation_survives_the_file(sentence, tmp_path):
    reader, words, following = sentence
    federated.observe(reader, words, following).save(tmp_path / "seen.pt")
    again = Observation.load(tmp_path / "seen.pt", seeded(Reader))
    assert again.tokens
    torch.testing.assert_close(again.simulate(words, following, create_graph=False), again.shared)


def test_an_embedding_model_given_pictures(digits):
    model = seeded(lambda: nn.Sequential(nn.Embedding(30, 4), nn.Flatten(), nn.Linear(256, 10)))
    with pytest.raises(ValueError, match="it has an embedding: pass integer tokens"):
        federated.observe(model, *(t[:1] for t in digits))
