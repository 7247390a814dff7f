"""Mixing: coefficients have their law, keys are used once, labels stay whole, and what a client mixes is what leaks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gilearn import attacks, federated, metrics, models
from gilearn.defenses import InstaHide, MixUp, MixupInference
from gilearn.federated import Client, LocalSteps

FOUR = MixUp(concentrations=(3.0, 1.0, 1.0, 1.0), cap=0.65)
HIDE = InstaHide(entropy="client")


@pytest.fixture(scope="module")
def batch(digits):
    return digits[0][:12].double(), digits[1][:12]


@pytest.fixture(scope="module")
def public():
    return torch.linspace(0, 1, 9 * 64, dtype=torch.float64).view(9, 1, 8, 8)


def client(seed=0):
    return Client(model=None, num_classes=10, generator=torch.Generator().manual_seed(seed))


def coefficients(defense, number, seed=0):
    """Read off how much of each example is in each encoding: examples that are unit vectors."""
    inputs = torch.eye(number, dtype=torch.float64)
    return defense.data(inputs, torch.arange(number) % 10, client(seed))[0]


@pytest.mark.parametrize("a", [0.4, 1.0, 4.0])
def test_pairs_have_a_beta_law(a):
    """Mean 1/2, variance 1/(4 (2 a + 1)), and the uniform's quartile for a = 1."""
    own = coefficients(MixUp(concentrations=(a, a)), 3000).diagonal()
    assert float(own.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(own.var()) == pytest.approx(1 / (4 * (2 * a + 1)), rel=0.1)
    if a == 1.0:
        assert float((own < 0.25).double().mean()) == pytest.approx(0.25, abs=0.03)


def test_four_have_the_law_of_gradattack():
    """Dirichlet(3, 1, 1, 1) given that no coefficient is above the cap, against rejection by hand."""
    mixed = coefficients(FOUR, 3000)
    own = mixed.diagonal()
    assert float(mixed.max()) <= 0.65
    wanted = np.random.default_rng(7).dirichlet([3, 1, 1, 1], 40000)
    wanted = wanted[wanted.max(1) <= 0.65][:, 0]
    assert float(own.mean()) == pytest.approx(wanted.mean(), abs=0.01)
    assert float(own.std()) == pytest.approx(wanted.std(), rel=0.06)


@pytest.mark.parametrize("defense", [MixUp(), FOUR, HIDE.replace(center=0.0)], ids=["pair", "four", "instahide"])
def test_partners_are_distinct_and_coefficients_add_up(defense):
    k = 2 if defense == MixUp() else 4
    mixed = coefficients(defense, 200).abs()
    assert ((mixed > 0).sum(1) == k).all(), "a partner came twice, or is the example itself"
    torch.testing.assert_close(mixed.sum(1), torch.ones(200, dtype=torch.float64))
    assert (mixed.diagonal() > 0).all(), "each example is in its own encoding"
    assert 0.4 < float((mixed.tril(-1) > 0).sum() / (200 * (k - 1))) < 0.6, "partners from both sides"
    if k == 4:
        assert float(mixed.max()) <= 0.65


def test_the_two_own_examples_and_the_public_ones(batch, public):
    """Cross-dataset: two of the client's, which hold at least the share, and k - 2 public pictures, no two the same."""
    n = 400
    pool = torch.cat([torch.zeros(9, n, dtype=torch.float64), torch.eye(9, dtype=torch.float64)], dim=1)
    hide = HIDE.replace(k=6, center=0.0, public_images=pool)
    inputs = torch.cat([torch.eye(n), torch.zeros(n, 9)], dim=1).double()
    mixed, labels = hide.data(inputs, torch.arange(n) % 10, client())
    mixed = mixed.abs()
    assert ((mixed[:, :n] > 0).sum(1) == 2).all()
    assert ((mixed[:, n:] > 0).sum(1) == 4).all()
    own = mixed[:, :n].sum(1)
    assert 0.3 <= float(own.min()) < 0.35
    assert float(mixed.max()) <= 0.65
    torch.testing.assert_close(mixed.sum(1), torch.ones(n, dtype=torch.float64))
    torch.testing.assert_close(labels.sum(1), own, msg="labels of the client's own alone, with their coefficients")
    with pytest.raises(ValueError, match=r"^public_images: got pictures of shape \(1, 8, 8\), wanted \(64,\)"):
        HIDE.replace(public_images=public).data(batch[0].flatten(1), batch[1], client())


@pytest.mark.parametrize("defense", [MixUp(), FOUR, HIDE], ids=["pair", "four", "instahide"])
def test_labels_follow_their_pictures(batch, defense):
    """The weight of a class is that of its pictures; class probabilities mix like labels."""
    n = 12
    weights = coefficients(defense.replace(center=0.0) if defense is HIDE else defense, n).abs()
    hot = torch.nn.functional.one_hot(batch[1], 10).double()
    _, labels = defense.data(torch.eye(n, dtype=torch.float64), batch[1], client())
    torch.testing.assert_close(labels, weights @ hot)
    torch.testing.assert_close(labels.sum(1), torch.ones(n, dtype=torch.float64))
    assert torch.equal(labels, defense.data(torch.eye(n, dtype=torch.float64), hot, client())[1])


def key(defense, zeros, generator):
    """The key of a release: what is left of pictures of ones, flipped about 0."""
    return defense.replace(center=0.0).data(torch.ones_like(zeros), torch.zeros(len(zeros)).long(), generator)[0]


@pytest.mark.parametrize("entropy", ["system", "client"])
def test_a_key_is_a_fair_coin_per_pixel_and_fresh_at_each_release(entropy):
    hide, one = InstaHide(entropy=entropy), client()
    zeros = torch.zeros(50, 1, 20, 20, dtype=torch.float64)
    first, second = (key(hide, zeros, one).round(decimals=9) for _ in range(2))
    for flips in (first, second):
        assert set(flips.unique().tolist()) == {-1.0, 1.0}
        assert abs(float(flips.mean())) < 5 / 20000**0.5
        between = (flips[:1] * flips[1:]).flatten(1).mean(1)  # the encodings of one release have keys of their own
        assert float(between.abs().max()) < 5 / 400**0.5
    assert abs(float((first * second).mean())) < 5 / 20000**0.5


def test_system_entropy_is_no_seed_and_the_clients_is():
    zeros = torch.zeros(8, 1, 20, 20, dtype=torch.float64)
    assert not torch.equal(*(key(InstaHide(), zeros, client()) for _ in range(2)))
    assert torch.equal(*(key(HIDE, zeros, client()) for _ in range(2)))
    assert not torch.equal(*(key(HIDE, zeros, client(seed)) for seed in range(2)))
    first, second = (coefficients(InstaHide(center=0.0), 8).abs() for _ in range(2))
    assert ((first > 0) != (second > 0)).any(), "partners come of no seed"
    own = [row[row > 0].sort().values for row in (first[0], second[0])]
    assert not torch.allclose(*own), "nor do coefficients"
    assert InstaHide().entropy == "system", "the safe one is the default"
    drawing = client()
    before = drawing.generator.get_state()
    InstaHide().data(zeros, torch.zeros(8).long(), drawing)
    assert torch.equal(before, drawing.generator.get_state()), "nothing secret is drawn from a seeded generator"


def test_nothing_secret_is_in_a_repr_or_in_the_public_part(batch, public, tmp_path):
    hide = HIDE.replace(public_images=public)
    model = models.mlp(64, (8,)).double()
    seen = federated.observe(model, *batch, defense=InstaHide(public_images=public), declare=["defense"])
    assert repr(hide) == "InstaHide(k=4, cap=0.65, share=0.3, center=0.5, entropy='client')"
    assert repr(seen.known("defense")) == repr(hide)
    assert vars(seen.known("defense")).keys() == vars(hide).keys()
    seen.save(tmp_path / "seen.pt")
    again = federated.Observation.load(tmp_path / "seen.pt", models.mlp(64, (8,)))
    assert torch.equal(again.known("defense").public_images, public)
    drawn = [
        flat(again.simulate(*batch, create_graph=False, generator=torch.Generator().manual_seed(3))) for _ in range(2)
    ]
    assert torch.equal(*drawn), "an attacker's draws are its own generator's"


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("defense", [MixUp(), FOUR, HIDE], ids=["pair", "four", "instahide"])
def test_a_client_shares_the_gradient_of_its_encodings(batch, defense):
    """Soft labels reach the loss; an imagined client takes what it is given for encodings."""
    model = models.mlp(64, (8,)).double()
    seen = federated.observe(model, *batch, defense=defense, declare=["labels", "targets", "defense"], seed=5)
    mixed, labels = defense.data(*batch, client(5))
    assert torch.equal(seen.known("labels"), batch[1])
    assert torch.equal(seen.known("targets"), labels)
    by_hand = -(labels * model(mixed).log_softmax(1)).sum(1).mean()
    wanted = flat(torch.autograd.grad(by_hand, tuple(model.parameters())))
    torch.testing.assert_close(flat(seen.shared), wanted)
    torch.testing.assert_close(flat(seen.simulate(mixed, labels, create_graph=False)), wanted)
    drawing = torch.Generator().manual_seed(5)
    mixing = seen.simulate(*batch, create_graph=False, generator=drawing)
    torch.testing.assert_close(flat(mixing), wanted, msg="an attacker who guesses the seed mixes as the client did")
    unmixed = flat(federated.observe(model, *batch).shared)
    assert float((wanted - unmixed).norm() / unmixed.norm()) > 0.1


def test_inversion_reaches_the_encoding(batch):
    """One encoding a step, a fully connected victim: exact, and far from the picture (METHODS: 15 dB)."""
    model, one = models.mlp(64, (32,)).double(), LocalSteps(steps=1, lr=1.0, batch_size=1)
    for defense, psnr in ((FOUR, (8, 20)), (HIDE, (4, 14))):
        seen = federated.observe(model, *batch, defense=defense, local=one, seed=2)
        found = attacks.PPDL_AHE(seen).inputs
        encoding = defense.data(*batch, client(2))[0][:1]
        assert metrics.mse(found, encoding) < 1e-20
        assert psnr[0] < metrics.psnr(found, batch[0][:1]) < psnr[1]


def test_mixing_is_fresh_in_every_round_and_at_every_client(batch):
    clients = [(batch[0][:6], batch[1][:6])] * 2
    model, one = models.mlp(64, (8,)).double(), LocalSteps(steps=1, lr=1e-9, batch_size=1)
    for defense in (MixUp(), HIDE, InstaHide()):
        rounds = list(federated.fedavg(model, clients, one, num_rounds=2, defense=defense))
        found = [attacks.PPDL_AHE(r.observations[k]).inputs.flatten() for r in rounds for k in range(2)]
        assert min(float((a - b).norm()) for i, a in enumerate(found) for b in found[:i]) > 0.1


def test_inference_draws_anew_at_each_call_and_is_differentiable(batch):
    model = models.mlp(64, (8,)).double()
    x = batch[0][:3]
    first, again = (MixupInference(model, *batch, draws=2, seed=1) for _ in range(2))
    answers = [first(x), first(x)]
    assert not torch.equal(*answers)
    assert all(torch.equal(one, again(x)) for one in answers), "the seed repeats them, one by one"
    sample, label = batch[0][3:4], (model(x[:1]).argmax(1) + 1) % 10  # one of another class, so that nothing is drawn
    answer = MixupInference(model, sample, label, share=0.7)
    at = x[:1].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(model(0.7 * at + 0.3 * sample).log_softmax(1)[0, 2], at)
    torch.testing.assert_close(torch.autograd.grad(answer(at)[0, 2], at)[0], wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MixUp(concentrations=(1.0,)), r"^concentrations: got \(1.0,\), wanted two or more positive"),
        (lambda: MixUp(concentrations=(1.0, 0.0)), r"^concentrations: got \(1.0, 0.0\), wanted two or more positive"),
        (lambda: MixUp(cap=0.5), "^cap: got 0.5, wanted above 1/2 and at most 1"),
        (lambda: MixUp(cap=1.1), "^cap: got 1.1, wanted above 1/2 and at most 1"),
        (lambda: InstaHide(k=1), "^k: got 1, wanted at least 2"),
        (lambda: InstaHide(k=2, public_images=torch.zeros(9, 1, 8, 8)), "^k: got 2, wanted at least 3"),
        (lambda: InstaHide(k=4, cap=0.25), "^cap: got 0.25, wanted above 1/4 and at most 1"),
        (lambda: InstaHide(share=1.0), "^share: got 1.0, wanted 0 to below 1"),
        (lambda: InstaHide(k=6, public_images=torch.zeros(3, 1, 8, 8)), "^public_images: got 3, wanted at least k - 2"),
        (lambda: InstaHide(entropy="seed"), "^entropy: got 'seed', wanted 'system' or 'client'"),
        (lambda: coefficients(FOUR, 3), "^inputs: got 3 examples at the client, wanted at least the 4 that"),
        (lambda: coefficients(HIDE, 3), "^inputs: got 3 examples at the client, wanted at least the 4 that"),
        (lambda: coefficients(FOUR.replace(cap=0.2501), 4), "^cap: 10000 draws of coefficients did not fit"),
        (lambda: MixUp().data(torch.ones(3, 4).long(), torch.arange(3), client()), "^inputs: got torch.int64, wanted"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
