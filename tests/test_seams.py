"""The seams hold: a defense with its adaptive attack, a search through a decoder, an aggregate, tokens, a mask.

Each is added here by a few lines of a user's, without a word of it in engine, observation or base.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gilearn import attacks, defenses, federated, metrics, models
from gilearn.attacks import distances, labels, optimizers, spaces
from gilearn.federated import Defense, LocalSteps

MATCH = attacks.iDLG.replace(labels=labels.Declared(), restarts=2)


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def victim():
    return models.lenet(1, size=8, strides=(1, 1, 1)).double()


@dataclass(frozen=True, kw_only=True)
class TopK(Defense):
    """Share the k largest entries of every tensor; which they are is public."""

    k: int

    def shared(self, gradients, client):
        def sparse(g):
            cut = g.abs().flatten().topk(min(self.k, g.numel())).values[-1]
            return g * (g.abs() >= cut)

        return tuple(map(sparse, gradients))

    def public(self, seen):
        return Kept(masks=tuple(g != 0 for g in seen.shared))


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept(Defense):
    masks: tuple

    def shared(self, gradients, client):
        return tuple(g * mask for g, mask in zip(gradients, self.masks, strict=True))


def test_a_users_pruning_and_the_attack_that_knows_it(digits):
    x, y = digits[0][:1].double(), digits[1][:1]
    errors = {}
    for declare in (["labels"], ["labels", "defense"]):
        seen = federated.observe(victim(), x, y, defense=TopK(k=60), declare=declare)
        errors[len(declare)] = metrics.mse(MATCH(seen, seed=0).inputs, x)
    assert errors[2] < 1e-8
    assert errors[1] > 1e-3


@dataclass(frozen=True, kw_only=True)
class Decoded(spaces.Space):
    """Search the codes of a decoder of the user's own."""

    decoder: nn.Module
    width: int

    def begin(self, seen, initialization, generator):
        code = torch.randn(seen.batch_size, self.width, generator=generator, dtype=torch.float64)
        return {"code": code.to(seen.device, seen.dtype)}

    def decode(self, variables):
        return {"inputs": self.decoder(variables["code"])}


def test_a_users_latent_search(digits):
    """Twelve numbers in place of 64 pixels: found exactly where the picture is one of the decoder's."""
    layers = lambda: nn.Sequential(nn.Linear(12, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))  # noqa: E731
    decoder = seeded(layers).double().requires_grad_(False)
    code = torch.randn(1, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x, y = decoder(code), digits[1][:1]
    seen = federated.observe(victim(), x, y, declare=["labels"])
    result = MATCH.replace(space=Decoded(decoder=decoder, width=12))(seen, seed=0)
    assert metrics.mse(result.inputs, x) < 1e-10
    torch.testing.assert_close(result.variables["code"], code, rtol=1e-3, atol=1e-4)


def test_an_aggregate_of_five_clients(digits):
    """The sum over five clients of one digit each is attacked like a batch; the attack takes nothing else."""
    x, y = digits[0][:5].double(), digits[1][:5]
    clients = [(x[k : k + 1], y[k : k + 1]) for k in range(5)]
    (only,) = federated.fedavg(
        victim(), clients, LocalSteps(steps=2, lr=0.05), num_rounds=1, declare=["labels"], aggregation="sum"
    )
    seen = only.aggregate()
    result = MATCH(seen, seed=1)
    assert metrics.mse(result.inputs, x) < 1e-6
    assert result.residual < 1e-4


def test_a_pool_of_examples_behind_several_rounds(digits):
    """Six batches of four examples each, with known rows: the pool of eight is one search."""
    x, y = digits[0][:8].double(), digits[1][:8]
    rows = tuple(tuple((3 * k + j) % 8 for j in range(4)) for k in range(6))
    parts = tuple(federated.observe(victim(), x[list(r)], y[list(r)], declare=["labels"]) for r in rows)
    pool = federated.Several(parts=parts, rows=rows)
    result = MATCH(pool, seed=0)
    assert metrics.mse(result.inputs, x) < 1e-6
    # Known rows tell the examples apart: no matching is needed.
    assert float((result.inputs - x).square().mean()) < 1e-6


class Reader(nn.Module):
    def __init__(self, words=25, width=24):
        super().__init__()
        self.embed, self.mix = nn.Embedding(words, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embed(tokens))).mean(dim=1))


@pytest.mark.parametrize("space", ["Embeddings", "SoftTokens"])
def test_tokens_of_a_sentence(space):
    """A classifier of sentences: the words come back, from vectors in their place."""
    reader = seeded(Reader).double()
    tokens = torch.tensor([[3, 17, 8, 21]])
    seen = federated.observe(reader, tokens, torch.tensor([2]), declare=["labels"])
    result = MATCH.replace(space=getattr(spaces, space)(), restarts=3)(seen, seed=0)
    assert result.residual < 1e-4
    found = result.details["tokens"]
    # A mean over positions knows no order: compare the bag.
    assert found.flatten().sort().values.tolist() == sorted(tokens.flatten().tolist())


def dropping():
    first, last = nn.Linear(64, 24), nn.Linear(24, 10)
    return nn.Sequential(nn.Flatten(), first, nn.Sigmoid(), nn.Dropout(0.5), last)


def test_a_mask_is_searched_together_with_the_picture(digits):
    """The naive attack fails on a dropped layer; one that reads the mask, or searches it, does not."""
    x, y = digits[0][:1].double(), digits[1][:1]
    model = seeded(dropping).double()
    naive = federated.observe(model, x, y, declare=["labels"])
    told = federated.observe(model, x, y, declare=["labels", "masks"])
    errors = {
        "naive": metrics.mse(MATCH(naive, seed=0).inputs, x),
        "told": metrics.mse(MATCH(told, seed=0).inputs, x),
        "searched": metrics.mse(MATCH.replace(space=spaces.Pixels() & spaces.Masks())(naive, seed=0).inputs, x),
    }
    assert errors["told"] < 1e-8
    assert errors["searched"] < 1e-4
    assert errors["naive"] > 1e-2


@dataclass(frozen=True, kw_only=True)
class Huber:
    """A reader's own distance."""

    width: float = 1e-3

    def __call__(self, simulated, shared):
        pairs = distances.pairs(simulated, shared)
        return distances.total(F.huber_loss(a, b, reduction="sum", delta=self.width) for a, b in pairs)


def test_a_readers_distance_and_regularizer(digits):
    x, y = digits[0][:1], digits[1][:1]
    seen = federated.observe(victim().float(), x, y, declare=["labels"])

    def darkness(candidates):
        return 1e-6 * candidates.inputs.square().flatten(1).sum(dim=1)

    attack = attacks.InvGrad.replace(distance=Huber(), regularizers=(darkness,), iterations=300)
    attack = attack.replace(optimizer=optimizers.Adam(lr=0.05), parallel=2, restarts=2)
    assert metrics.psnr(attack(seen, seed=0).inputs, x) > 30


def exported():
    return {
        name: getattr(attacks, name) for name in attacks.__all__ if isinstance(getattr(attacks, name), attacks.Attack)
    }


@pytest.mark.parametrize("name", exported())
def test_one_call_for_every_attack(name, digits):
    """The same seed gives the same bits, on a network that drops units where the attack takes one."""
    attack = exported()[name]
    if isinstance(attack, attacks.GradientMatching):
        attack = attack.replace(iterations=2, restarts=min(2, attack.restarts), parallel=min(2, attack.parallel))
        layers = models.convnet(1, size=8, widths=(4,), strides=(1,), batch_norm=True, activation="sigmoid")
        model = nn.Sequential(*layers[:-1], nn.Dropout(0.5), layers[-1])
    elif name in ("PPDL_AHE", "PPDL_SPN"):
        model = models.mlp(64, (16,))
    else:
        model = models.lenet(1, size=8, width=12, strides=(1,))
    for search in ("search", "matching"):
        if hasattr(attack, search):
            attack = attack.replace(**{search: getattr(attack, search).replace(iterations=2)})
    if name == "CAFE":
        model = models.loop_net((1, 8, 8), widths=(4,), hidden=(8,))
        rounds = {"batch_size": 1, "num_rounds": 2, "declare": ["rows"]}
        seen = federated.Several(parts=tuple(federated.vertical_rounds(model, digits[0][:2], digits[1][:2], **rounds)))
    else:
        noise = defenses.GaussianNoise(std=1e-3) if name == "Bayesian" else None
        seen = federated.observe(model, digits[0][:1], digits[1][:1], declare=["labels", "defense"], defense=noise)
    first, again = (attack(seen, seed=0, snapshots=2, progress=False, time_limit=600.0) for _ in range(2))
    assert torch.equal(first.inputs, again.inputs)
    assert first.residual == again.residual
    assert first.verdict is not None
