"""The labels' part of a search: given, found by a rule, or the softmax of free logits."""

from __future__ import annotations

import math
from functools import partial

import torch

from formulas.label_clients import FEW, REPEATS, SEQUENCES, SINGLE, observed
from formulas.rows import randn, rows
from gilearn.attacks import labels
from gilearn.attacks.iteration.initialization import Gaussian
from gilearn.attacks.labels.base import as_factor

MODULES = ["gilearn.attacks.labels.base"]
NO_FORMULA = {"LabelFactor", "LabelRule"}


def factor(joint, shared, seed):
    """Return the variables that the labels' factor begins with, and the targets that it decodes them to."""
    built = joint.build(observed(shared))
    variables = built.begin(observed(shared), None, torch.Generator().manual_seed(seed))
    built.project(variables)
    return [list(variables.values()), built.decode(variables)["targets"]]


def single(joint, shared, seed):
    """Return the same for a network in single precision."""
    seen = observed(shared).to(dtype=torch.float32)
    variables = joint.build(seen).begin(seen, None, torch.Generator().manual_seed(seed))
    assert variables["logits"].dtype == torch.float32
    return [list(variables.values()), joint.decode(variables)["targets"]]


def probabilities(function, shared, seed):
    """Return the targets of a plain function that finds probabilities, for a network in single precision."""
    shares = shares_of(shared, seed)
    seen = observed(shared).to(dtype=torch.float32)
    targets = function(lambda one: shares if one is seen else None, seen).decode({})["targets"]
    assert targets.dtype == torch.float32
    return targets


def shares_of(shared, seed):
    shares = randn(shared.batch_size, shared.classes, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1)
    shares[0] = torch.nn.functional.one_hot(torch.tensor(0), shared.classes)
    return shares


def integers(kind, shared, seed):
    """Return what labels of another integer type become."""
    found = factor(kind(torch.tensor(shared.truth, dtype=torch.int32)), shared, seed)
    assert found[1].dtype == torch.int64
    return found


def made_factor(function, shared, seed):
    return factor(function(labels.Declared(), observed(shared)), shared, seed)


def logits(shared, seed, *, by=0.0, times=1.0):
    """Return drawn logits, and their softmax."""
    shape = (shared.batch_size, *shared.input_shape[:-1], shared.classes)
    drawn = by + times * randn(*shape, generator=torch.Generator().manual_seed(seed))
    shares = [[math.exp(value) / sum(map(math.exp, row)) for value in row] for row in drawn.flatten(0, -2).tolist()]
    return [[drawn], torch.tensor(shares, dtype=torch.float64).view(shape)]


def fixed(shared, seed):
    return [[], torch.tensor(shared.truth)]


def with_seed(case, generator):
    return *case(generator), int(torch.randint(99, (), generator=generator))


ROWS = [
    *rows(
        factor,
        [partial(with_seed, case) for case in REPEATS + SEQUENCES],
        [
            (labels.Joint(), logits),
            (labels.Joint(initialization=Gaussian(mean=0.5, std=2.0)), partial(logits, by=0.5, times=2.0)),
            (labels.Declared(), fixed),
        ],
    ),
    *rows(
        integers,
        [partial(with_seed, REPEATS[0])],
        [(labels.Fixed, fixed)],
    ),
    *rows(single, [partial(with_seed, case) for case in REPEATS], [(labels.Joint(), logits)], rtol=1e-6),
    *rows(probabilities, [partial(with_seed, REPEATS[0])], [(as_factor, shares_of)], rtol=1e-6),
    *rows(made_factor, [partial(with_seed, REPEATS[0])], [(as_factor, fixed)]),
]


def refused(given, case=FEW[0]):
    (shared,) = case(torch.Generator().manual_seed(0))
    as_factor(given, observed(shared))


WHOLE = torch.tensor([0, 1, 2, 3])
INFINITE = torch.full((4, 9), torch.inf)
LOGIT = SINGLE[5]
REFUSALS = [
    (lambda: refused(labels.IDLG), r"^labels: got the class IDLG, wanted a value: IDLG\(\)"),
    (lambda: refused(3), r"^labels: got 3, wanted a rule, Joint\(\), Fixed\(labels\) or a function"),
    (lambda: refused(labels.Fixed([0, 1, 2, 3])), "^labels: got a list, wanted a tensor"),
    (lambda: refused(labels.Fixed(WHOLE[1:])), r"^labels: got \[1, 2, 3\], wanted 4 labels from 0 to 8"),
    (lambda: refused(labels.Fixed(WHOLE[0])), r"^labels: got tensor\(0\), wanted integer labels"),
    (lambda: refused(labels.Fixed(WHOLE > 1)), r"^labels: got tensor\(\[False, .*\]\), wanted integer labels"),
    (lambda: refused(labels.Fixed(WHOLE + 6)), r"^labels: got \[6, 7, 8, 9\], wanted 4 labels from 0 to 8"),
    (lambda: refused(labels.Fixed(WHOLE - 1)), r"^labels: got \[-1, 0, 1, 2\], wanted 4 labels from 0 to 8"),
    (
        lambda: refused(labels.Fixed(WHOLE.double())),
        r"^labels: got class probabilities of shape \(4,\), wanted \(4, 9\)",
    ),
    (lambda: refused(labels.Fixed(torch.ones(4, 8))), r"^labels: got class probabilities of shape \(4, 8\), wanted"),
    (lambda: refused(labels.Fixed(torch.ones(3, 9))), r"^labels: got class probabilities of shape \(3, 9\), wanted"),
    (lambda: refused(labels.Fixed(-torch.ones(4, 9))), "^labels: got probabilities that are negative, NaN or infinite"),
    (lambda: refused(labels.Fixed(INFINITE)), "^labels: got probabilities that are negative, NaN or infinite"),
    (
        lambda: refused(labels.Joint(), LOGIT),
        r"^labels: Joint\(\) needs the loss cross_entropy, the observation has logi",
    ),
]
