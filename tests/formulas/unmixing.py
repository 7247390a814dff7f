"""Un-mixing, pixel by pixel: labels, partners and pictures out of encodings."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from formulas.rows import entries, rand, randn, rows
from gilearn import federated
from gilearn.attacks.unmixing import mixed_labels, partner, unmix

MODULES = ["gilearn.attacks.unmixing"]
NO_FORMULA = {"Factors", "factorize"}  # a search: tests/test_unmixing.py has it


def called(function, *arguments, **options):
    return function(*arguments, **options)


def victim(generator):
    """Return a network, an encoding, and the class probabilities that it was trained with."""
    model = nn.Sequential(
        nn.Flatten(), nn.utils.skip_init(nn.Linear, 6, 5), nn.Tanh(), nn.utils.skip_init(nn.Linear, 5, 3)
    )
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.copy_(randn(*parameter.shape, generator=generator))
    y = rand(1, 3, generator=generator)
    return model, rand(1, 1, 2, 3, generator=generator), y / y.sum()


def read_labels(function, model, x, y):
    local = federated.LocalSteps(steps=1, lr=0.25)
    return [function(federated.observe(model, x, y, local=own), x) for own in (None, local)]


def of_two(generator, *, known):
    """Return an encoding, candidates, and the share of the second of them."""
    own, others = rand(1, 1, 2, 5, generator=generator), rand(4, 1, 2, 5, generator=generator)
    own[0, 0, 0, 0], own[0, 0, 1, 1] = 0, 1
    return 0.6 * own + 0.4 * others[1:2], others, 0.4 if known else None


def found(function, encoding, others, share):
    return list(function(encoding, others, share=share))


def most(encoding, others, share):
    """Take from the encoding as much of every candidate as leaves a picture; or the given share of it."""
    e = entries(encoding)
    if share is not None:
        rests = [[(a - share * b) / (1 - share) for a, b in zip(e, entries(p), strict=True)] for p in others]
        outside = [sum(max(0, -v) ** 2 + max(0, v - 1) ** 2 for v in rest) for rest in rests]
        return [outside.index(min(outside)), share]
    shares = [min(min(a / b, (1 - a) / (1 - b)) for a, b in zip(e, entries(p), strict=True)) for p in others]
    return [shares.index(max(shares)), max(shares)]


def releases(generator, *, number):
    return randn(number, 1, 2, 2, generator=generator), randn(number, 3, generator=generator)


def normal_equations(encodings, coefficients):
    gram = coefficients.T @ coefficients
    return torch.linalg.solve(gram, coefficients.T @ encodings.flatten(1)).view(-1, 1, 2, 2)


ROWS = [
    *rows(read_labels, [victim], [(mixed_labels, lambda model, x, y: [y[0], y[0]])]),
    *rows(found, [partial(of_two, known=known) for known in (False, True)], [(partner, most)]),
    *rows(called, [partial(releases, number=number) for number in (3, 8)], [(unmix, normal_equations)], rtol=1e-7),
]
PICTURES = torch.full((4, 1, 2, 2), 0.5)


def seen(*, outputs=3, bias=True, **options):
    layer = nn.utils.skip_init(nn.Linear, 4, outputs, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(0.1)
    return federated.observe(nn.Sequential(nn.Flatten(), layer), PICTURES[:1], torch.tensor([1]), **options)


REFUSALS = [
    (lambda: mixed_labels(seen(bias=False), PICTURES[:1]), "^seen: the last layer has no bias, or its gradient"),
    (lambda: mixed_labels(seen(loss="logistic", outputs=1), PICTURES[:1]), "^seen: got the loss 'logistic'; mixed"),
    (
        lambda: partner(PICTURES[:1], PICTURES[:, :, 0]),
        r"^candidates: got pictures of shape \(1, 2\), wanted \(1, 2, 2",
    ),
    (lambda: partner(PICTURES[:1], PICTURES, share=1.0), "^share: got 1.0, wanted a number between 0 and 1"),
    (lambda: partner(PICTURES[:1], PICTURES, share=math.nan), "^share: got nan, wanted a number between 0 and 1"),
    (lambda: unmix(PICTURES, torch.eye(3)), "^coefficients: got 3 rows for 4 encodings, wanted one each"),
    (lambda: unmix(PICTURES, torch.ones(4, 2)), "^coefficients: got rank 1, wanted as many as there are pictures, 2"),
]
