"""Likelihoods and priors, entry by entry, and the ball's mean."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from formulas.distances import CASES, cosine, euclidean, manhattan
from formulas.rows import Row, entries, randn, rows
from gilearn import federated, models
from gilearn.attacks.iteration.bayesian import Directional, Laplace, Likelihood, Normal
from gilearn.attacks.iteration.priors import GaussianPrior, LearnedPrior
from gilearn.attacks.iteration.regularizers import Candidates

MODULES = ["gilearn.attacks.iteration.bayesian", "gilearn.attacks.iteration.priors"]
NO_FORMULA = {"BayesOptimal", "DeclaredNoise", "Likelihood", "MAP"}


def compute(likelihood, simulated, shared):
    assert isinstance(likelihood, Likelihood)
    return likelihood(simulated, shared)


def normal(simulated, shared):
    return euclidean(simulated, shared) / (2 * 0.3**2)


def laplace(simulated, shared):
    return manhattan(simulated, shared) / 0.3


def directional(simulated, shared):
    return 7.0 * cosine(simulated, shared)


MEAN = torch.arange(4, dtype=torch.float64).view(1, 2, 2) / 4
HALF = torch.tensor([[2.0, 0, 0, 0], [0.5, 1, 0, 0], [0, 0.3, 1, 0], [0.1, 0, 0.2, 0.5]], dtype=torch.float64)
NET = nn.Sequential(*models.mlp(4, (), 4, bias=False), nn.Unflatten(1, (1, 2, 2))).double()
with torch.no_grad():
    NET[1].weight.copy_(torch.arange(16, dtype=torch.float64).view(4, 4) / 10)


def term_of(prior, pictures):
    """The term of a prior on (restarts, batch, 1, 2, 2); the adapter to the package."""
    seen = federated.observe(
        models.mlp(4, (), 2).double(),
        torch.zeros(2, 1, 2, 2, dtype=torch.float64),
        torch.tensor([0, 1]),
    )
    return list(prior.build(seen)(Candidates(seen=seen, inputs=pictures, targets=torch.zeros(3, 2).long())))


def gaussian(pictures):
    """By whitening: the squared norm of the inverse root times the difference."""
    values = []
    for restart in pictures:
        value = 0.0
        for picture in restart:
            apart = [a - b for a, b in zip(entries(picture), entries(MEAN), strict=True)]
            white = []  # forward substitution with the lower triangle
            for i, row in enumerate(HALF.tolist()):
                white.append((apart[i] - sum(row[j] * white[j] for j in range(i))) / row[i])
            value += sum(w * w for w in white)
        values.append(1.5 * value / 2)
    return values


def learned(pictures):
    values = []
    for restart in pictures:
        value = 0.0
        for picture in restart:
            x = entries(picture)
            out = [sum((4 * i + j) / 10 * x[j] for j in range(4)) for i in range(4)]
            value += sum((a - b) ** 2 for a, b in zip(x, out, strict=True))
        values.append(2.0 * value / (2 * 0.2**2))
    return values


def drawn(generator):
    return (randn(3, 2, 1, 2, 2, generator=generator),)


def fitted(prior, pictures):
    found = GaussianPrior.fit(pictures, independent=prior.weight == 2, floor=0.1)
    return [found.mean, found.covariance]


def moments(pictures, *, independent):
    data = [entries(picture) for picture in pictures]
    n, pixels = len(data), len(data[0])
    mean = [sum(row[i] for row in data) / n for i in range(pixels)]
    covariance = [
        [sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in data) / n for j in range(pixels)] for i in range(pixels)
    ]
    if independent:
        level = sum(covariance[i][i] for i in range(pixels)) / pixels
        covariance = [[level * (i == j) for j in range(pixels)] for i in range(pixels)]
    for i in range(pixels):
        covariance[i][i] += 0.01
    return [torch.tensor(mean).double().view(1, 2, 2), torch.tensor(covariance, dtype=torch.float64)]


def some(generator):
    return (randn(5, 1, 2, 2, generator=generator),)


GAUSSIAN = GaussianPrior(mean=MEAN, covariance=HALF @ HALF.T)
ROWS = [
    *rows(
        compute,
        CASES,
        [
            (Normal(std=0.3), normal),
            (Laplace(scale=0.3), laplace),
            (Directional(concentration=7.0), directional),
        ],
    ),
    *rows(
        term_of,
        [drawn],
        [(GAUSSIAN.replace(weight=1.5), gaussian), (LearnedPrior(network=NET, std=0.2, weight=2.0), learned)],
    ),
    Row(GAUSSIAN, fitted, partial(moments, independent=False), [some], rtol=1e-6),
    Row(GAUSSIAN.replace(weight=2.0), fitted, partial(moments, independent=True), [some], rtol=1e-6),
]
REFUSALS = [
    (lambda: Normal(std=0.0), "^std: got 0.0, wanted a positive number"),
    (lambda: Normal(std=math.nan), "^std: got nan, wanted a positive number"),
    (lambda: Laplace(scale=-1.0), "^scale: got -1.0, wanted a positive number"),
    (lambda: Directional(concentration=0.0), "^concentration: got 0.0, wanted a positive number"),
    (lambda: LearnedPrior(network=NET, std=0.0), "^std: got 0.0, wanted a positive number"),
    (lambda: LearnedPrior(network=NET, std=1.0, weight=-1.0), "^weight: got -1.0, wanted 0 or more"),
    (lambda: GaussianPrior(mean=MEAN, covariance=torch.eye(3)), r"^covariance: got shape \(3, 3\), wanted \(4, 4\)"),
    (
        lambda: GaussianPrior(mean=MEAN, covariance=torch.zeros(4, 4)),
        "^covariance's least eigenvalue: got 0.0, wanted a positive number",
    ),
    (lambda: GaussianPrior.fit(torch.ones(3, 1, 2, 2), floor=0.0), "^floor: got 0.0, wanted a positive number"),
]
