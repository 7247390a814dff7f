"""Un-mixing: what a mixed gradient gives away once the encodings are there, and what it does not."""

from __future__ import annotations

import pytest
import torch

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import unmixing
from gilearn.defenses import MixUp
from gilearn.federated import Client, LocalSteps

PAIR = MixUp()
FOUR = MixUp(concentrations=(3.0, 1.0, 1.0, 1.0), cap=0.65)
ONE = LocalSteps(steps=1, lr=1.0, batch_size=1)


@pytest.fixture(scope="module")
def clients(digits):
    return digits[0][:10].double(), digits[1][:10]


def encoded(defense, batch, epochs, seed=0):
    client = Client(model=None, num_classes=10, generator=torch.Generator().manual_seed(seed))
    made = [defense.data(*batch, client) for _ in range(epochs)]
    return torch.cat([x for x, _ in made]), torch.cat([y for _, y in made])


def test_from_a_gradient_to_the_private_picture(clients):
    """A partner that the attacker has too: encoding, mixed label, partner and picture come out one after the other."""
    x, y = clients
    seen = federated.observe(models.mlp(64, (32,)).double(), x[:2], y[:2], defense=PAIR, local=ONE, seed=3)
    encoding = attacks.PPDL_AHE(seen).inputs
    labels = unmixing.mixed_labels(seen, encoding)
    assert float(labels.sum()) == pytest.approx(1)
    known = data.digits(200)[0].double()
    number, share = unmixing.partner(encoding, known)
    assert number in (0, 1), "the other of the two, whichever of them is known"
    assert share == pytest.approx(float(labels[y[number]]), abs=1e-9)
    rest = unmixing.unmix(encoding - share * known[[number]], torch.tensor([[1 - share]], dtype=torch.float64))
    assert metrics.mse(rest, x[[1 - number]]) < 1e-20
    assert 5 < metrics.psnr(encoding, x[[1 - number]]) < 40


def test_labels_of_ten_classes_are_the_coefficients(clients):
    """Where all classes differ nothing has to be guessed: one epoch is a solved linear system."""
    for defense in (PAIR, FOUR):
        encodings, labels = encoded(defense, clients, 1)
        assert metrics.mse(unmixing.unmix(encodings, labels), clients[0]) < 1e-20


@pytest.mark.parametrize("defense", [PAIR, FOUR], ids=["pair", "four"])
def test_several_epochs_need_no_coefficients(clients, defense):
    """Blind: neither labels nor partners nor coefficients; the residual tells that the pictures explain all."""
    encodings, _ = encoded(defense, clients, 5)
    found = unmixing.factorize(encodings, 10)
    assert found.residual < 1e-6
    assert float((found.pictures - clients[0]).square().mean()) < 1e-8, "in the client's order"
    torch.testing.assert_close(found.coefficients.sum(1), torch.ones(50, dtype=torch.float64), atol=1e-4, rtol=0)
    first = metrics.psnr(encodings[:10], clients[0])
    assert metrics.psnr(found.pictures, clients[0]) > first + 30


def test_the_order_of_the_encodings_is_not_needed(clients):
    encodings, _ = encoded(PAIR, clients, 5)
    shuffled = encodings[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    found = unmixing.factorize(shuffled, 10, ordered=False)
    assert metrics.mse(found.pictures, clients[0]) < 1e-4


def test_labels_help_where_pixels_leave_it_open(clients):
    """Four examples an encoding and two epochs: the picture needs the labels' equations."""
    encodings, labels = encoded(FOUR, clients, 2)
    blind, told = (unmixing.factorize(encodings, 10, labels=given) for given in (None, labels))
    assert metrics.psnr(told.pictures, clients[0]) > 60
    assert metrics.psnr(blind.pictures, clients[0]) < metrics.psnr(told.pictures, clients[0]) - 20


def test_the_residual_is_what_one_picture_leaves():
    """Of one picture the best factorization is known: the largest singular value, with labels weighed."""
    generator = torch.Generator().manual_seed(0)
    encodings = torch.rand(6, 1, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.rand(6, 3, generator=generator, dtype=torch.float64)
    flat = encodings.flatten(1)
    for given, weight in ((None, 3.0), (labels, 3.0), (labels, 0.5)):
        matrix = torch.cat([flat, 1 - flat, *([] if given is None else [weight * given])], dim=1)
        values = torch.linalg.svdvals(matrix)
        found = unmixing.factorize(encodings, 1, labels=given, weight=weight)
        assert found.residual == pytest.approx(float(values[1:].norm() / values.norm()), rel=1e-4)
    short, long = (unmixing.factorize(encodings, 3, iterations=n).residual for n in (1, 3000))
    assert long < 0.9 * short


def test_factorization_refuses():
    ones = torch.ones(6, 1, 2, 2)
    for call, message in (
        (lambda: unmixing.factorize(ones, 4), "^number: got 4 for 6 encodings, wanted a divisor of their number"),
        (lambda: unmixing.factorize(ones, 7, ordered=False), "^number: got 7 for 6 encodings, wanted 1 to 6"),
        (lambda: unmixing.factorize(2 * ones, 2), r"^encodings: got values from 2 to 2, wanted \[0, 1\]"),
        (lambda: unmixing.factorize(ones, 2, labels=torch.ones(5, 3)), "^labels: got 5 for 6 encodings, wanted one"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
