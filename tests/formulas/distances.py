"""Distances between two gradients, entry by entry."""

from __future__ import annotations

import math
from functools import partial

import torch

from formulas.rows import entries, randn, rows
from gilearn.attacks.iteration.distances import (
    Cosine,
    Euclidean,
    GaussianKernel,
    LayerwiseCosine,
    Manhattan,
    Masked,
    SignAgreement,
)

MODULES = ["gilearn.attacks.iteration.distances"]
NO_FORMULA = {"Distance", "pairs", "total"}


def compute(distance, simulated, shared):
    return distance(simulated, shared)


def paired(simulated, shared):
    """Return the entries of the tensors that both gradients have, tensor by tensor."""
    both = zip(simulated, shared, strict=True)
    return [list(zip(entries(a), entries(b), strict=True)) for a, b in both if a is not None and b is not None]


def euclidean(simulated, shared):
    return float(sum((a - b) ** 2 for tensor in paired(simulated, shared) for a, b in tensor))


def norms(simulated, shared):
    return float(sum(math.sqrt(sum((a - b) ** 2 for a, b in tensor)) for tensor in paired(simulated, shared)))


def manhattan(simulated, shared):
    return float(sum(abs(a - b) for tensor in paired(simulated, shared) for a, b in tensor))


def one_less_cosine(numbers):
    inner = sum(a * b for a, b in numbers)
    lengths = math.sqrt(sum(a * a for a, _ in numbers)) * math.sqrt(sum(b * b for _, b in numbers))
    return 1 - inner / lengths if lengths else 1.0


def cosine(simulated, shared):
    return one_less_cosine([pair for tensor in paired(simulated, shared) for pair in tensor])


def layerwise_cosine(simulated, shared):
    terms = [one_less_cosine(tensor) for tensor in paired(simulated, shared)]
    return sum(terms) / len(terms)


def kernel(simulated, shared, *, width, reduction, floor=1e-12):
    value = 0.0
    for tensor in paired(simulated, shared):
        number = len(tensor)
        gap = sum((a - b) ** 2 for a, b in tensor)
        if reduction == "mean":
            gap = gap / number
        mean = sum(b for _, b in tensor) / number
        variance = max(sum((b - mean) ** 2 for _, b in tensor) / number, floor)
        value += 1 - math.exp(-gap / (width * variance))
    return value


def disagreement(simulated, shared, *, temperature):
    """Add up the tensors' mean losses of agreement times simulated entry, in units of the mean magnitude."""
    value = 0.0
    for tensor in paired(simulated, shared):
        unit = sum(abs(a) for a, _ in tensor) / len(tensor)
        for a, b in tensor:
            agreement = (a if b > 0 else -a if b < 0 else 0.0) / unit
            if temperature:
                value += temperature * math.log(1 + math.exp(-agreement / temperature)) / len(tensor)
            else:
                value += max(-agreement, 0.0) / len(tensor)
    return value


def over_the_kept(reference, simulated, shared):
    """Return a reference of the entries alone that the client did not prune."""
    where = [(a, b) for a, b in zip(simulated, shared, strict=True) if a is not None and b is not None]
    return reference([a[b != 0] for a, b in where], [b[b != 0] for _, b in where])


def gradients(shapes, generator, *, scale=1.0, apart=1.0, missing=((), ()), pruned=False):
    """Draw a simulated and a shared gradient, without the tensors that ``missing`` names for each."""
    shared = [scale * randn(*shape, generator=generator) for shape in shapes]
    simulated = [b + apart * scale * randn(*b.shape, generator=generator) for b in shared]
    if pruned:
        shared = [b * (b.abs() > 0.5 * scale) for b in shared]
    both = (
        [None if k in gone else t for k, t in enumerate(gradient)]
        for gradient, gone in zip((simulated, shared), missing, strict=True)
    )
    return tuple(both)


CASES = [
    partial(gradients, shapes, **options)
    for shapes, options in [
        ([(4, 3), (4,)], {}),
        ([(2, 3, 3, 3), (2,), (5, 8), (5,)], {"apart": 0.1}),
        ([(3, 1, 2, 2), (3,), (6, 3), (6,)], {"missing": ((1,), ()), "scale": 10.0}),
        ([(3, 2, 2, 2), (3,), (4, 12), (4,), (2, 4)], {"missing": ((0,), (0, 3)), "scale": 0.01}),
        ([(6, 5), (7,), (3, 2, 3, 3)], {"pruned": True}),
    ]
]
ONE_ENTRY = [partial(gradients, [(3, 2), (1,)], apart=0.3)]


def zeros(simulated, shared, generator):
    """Draw two gradients of which one, or both, are zero."""
    return tuple([factor * randn(3, generator=generator)] for factor in (simulated, shared))


ZEROS = [partial(zeros, *factors) for factors in ((0, 1), (1, 0), (0, 0))]
ROWS = [
    *rows(
        compute,
        CASES,
        [
            (Euclidean(), euclidean),
            (Euclidean(squared=False), norms),
            (Manhattan(), manhattan),
            (Cosine(), cosine),
            (LayerwiseCosine(), layerwise_cosine),
            (GaussianKernel(), partial(kernel, width=1.0, reduction="mean")),
            (GaussianKernel(width=3.0), partial(kernel, width=3.0, reduction="mean")),
            (GaussianKernel(width=40.0, reduction="sum"), partial(kernel, width=40.0, reduction="sum")),
            (SignAgreement(), partial(disagreement, temperature=0.3)),
            (SignAgreement(temperature=1.0), partial(disagreement, temperature=1.0)),
            (SignAgreement(temperature=0.0), partial(disagreement, temperature=0.0)),
            (Masked(), partial(over_the_kept, euclidean)),
            (Masked(distance=Manhattan()), partial(over_the_kept, manhattan)),
            (Masked(distance=Cosine()), partial(over_the_kept, cosine)),
        ],
    ),
    *rows(
        compute,
        ONE_ENTRY,
        [
            (GaussianKernel(width=2.0), partial(kernel, width=2.0, reduction="mean")),
            (GaussianKernel(width=2.0, floor=0.7), partial(kernel, width=2.0, reduction="mean", floor=0.7)),
        ],
    ),
    *rows(compute, ZEROS, [(Cosine(), cosine), (LayerwiseCosine(), layerwise_cosine)]),
]
REFUSALS = [
    (lambda: Euclidean()([torch.ones(2)], [torch.ones(2), None]), "zip"),
    (
        lambda: Manhattan()([None], [torch.ones(2)]),
        "^terms: got none, wanted at least one .have the two gradients no tensor",
    ),
    (lambda: Masked()([torch.ones(2)], [torch.ones(2), None]), "zip"),
    (lambda: SignAgreement(temperature=-0.1), "temperature: got -0.1, wanted 0 or more"),
    (lambda: GaussianKernel(width=0.0), "width: got 0.0, wanted a positive number"),
    (lambda: GaussianKernel(floor=-1.0), "floor: got -1.0, wanted a positive number"),
    (lambda: GaussianKernel(reduction="max"), "reduction: got 'max', wanted 'mean' or 'sum'"),
]
