"""Compressors on drawn gradients, entry by entry, over one round and over two."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from formulas.defenses import GRADIENTS, client, draw, mapped, others, publicly, shared
from formulas.rows import entries, rand, randn, rows
from gilearn.defenses import Mask, PowerSGD, Projection, Pruning, Quantization, Signs, per_entry
from gilearn.defenses.gradients.feedback import width

MODULES = [
    "gilearn.defenses.gradients.compression",
    "gilearn.defenses.gradients.feedback",
    "gilearn.defenses.gradients.low_rank",
    "gilearn.defenses.gradients.signs",
]
NO_FORMULA = {"Compression", "check_fits", "check_own"}


def twice(defense, gradients, seed):
    """Share gradients, and then others with the same memory; return both."""
    own = client(seed)
    return [*defense.shared(tuple(gradients), own), *defense.shared(tuple(others(gradients)), own)]


def repaid(once, gradients, seed, **options):
    """Return the compressed gradients, and the compressed sum of others and what was left out."""
    first = once(gradients, seed, **options)
    pairs = zip(others(gradients), gradients, first, strict=True)
    whole = [None if b is None else b + g - c for b, g, c in pairs]
    return [*first, *once(whole, seed, **options)]


def pruned(gradients, seed, *, share, together):
    """Set the round(share x n) entries of least magnitude to zero, of each tensor or of all together."""
    places = [(j, k) for j, g in enumerate(gradients) if g is not None for k in range(g.numel())]
    groups = [places] if together else [[p for p in places if p[0] == j] for j in range(len(gradients))]
    flat = [None if g is None else entries(g) for g in gradients]
    for group in groups:
        for j, k in sorted(group, key=lambda p: abs(flat[p[0]][p[1]]))[: round(share * len(group))]:
            flat[j][k] = 0.0
    return [
        None if g is None else torch.tensor(f, dtype=torch.float64).view(g.shape)
        for f, g in zip(flat, gradients, strict=True)
    ]


def what_is_left(gradients, seed):
    """Multiply the first tensor by its mask; the second has no mask, the third no gradient."""
    return [gradients[0] * MASK, gradients[1], None]


def left_of_others(gradients, seed, **options):
    """Multiply other gradients by the mask of what was not pruned."""
    kept = pruned(gradients, seed, **options)
    return [None if g is None else g * (mask != 0) for g, mask in zip(others(gradients), kept, strict=True)]


def signed(gradients, seed, *, magnitude):
    """Give every entry a magnitude, by default the tensor's mean one, and its sign; that of zero is 1."""
    found = []
    for gradient in gradients:
        if gradient is None:
            found.append(None)
            continue
        size = sum(map(abs, entries(gradient))) / gradient.numel() if magnitude is None else magnitude
        found.append(mapped(lambda value, size=size: -size if value < 0 else size, gradient))
    return found


def to_levels(gradients, seed, *, levels):
    """Go up from the level below with the probability of the remainder."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for gradient in gradients:
        if gradient is None:
            found.append(None)
            continue
        unit = max(map(abs, entries(gradient))) / levels
        draws = entries(rand(*gradient.shape, generator=generator))
        numbers = [value / unit for value in entries(gradient)]
        rounded = [math.floor(v) + (u < v - math.floor(v)) for v, u in zip(numbers, draws, strict=True)]
        found.append(torch.tensor([unit * level for level in rounded], dtype=torch.float64).view(gradient.shape))
    return found


def power_rounds(gradients, seed, *, rank, feedback, rounds=2):
    """Return two rounds of P Q', where P is what Gram and Schmidt make of (M + E) Q and Q becomes (M + E)'P."""
    generator, right, left_out, sent = torch.Generator().manual_seed(seed), {}, {}, []
    for given in [gradients, others(gradients)][:rounds]:
        for k, gradient in enumerate(given):
            if gradient is None or gradient.ndim < 2:
                sent.append(gradient)
                continue
            matrix = gradient.reshape(len(gradient), -1).numpy() + left_out.get(k, 0.0)
            if k not in right:
                columns = min(rank, *matrix.shape)
                right[k] = randn(matrix.shape[1], columns, generator=generator).numpy()
            basis = []
            for column in (matrix @ right[k]).T:
                for other in basis:
                    column = column - other * (other @ column)
                basis.append(column / math.sqrt(column @ column))
            left = np.stack(basis, axis=1)
            right[k] = matrix.T @ left
            if feedback:
                left_out[k] = matrix - left @ right[k].T
            sent.append(torch.from_numpy(left @ right[k].T).view(gradient.shape))
    return sent


def in_the_span(gradients, seed):
    """Project the matrices on the first round's columns; vectors pass."""
    first = power_rounds(gradients, seed, rank=1, feedback=False, rounds=1)
    found = []
    for gradient, sent in zip(others(gradients), first, strict=True):
        if gradient is None or gradient.ndim < 2:
            found.append(gradient)
            continue
        column = max(sent.reshape(len(sent), -1).T, key=lambda one: float(one @ one))
        unit = column / math.sqrt(float(column @ column))
        flat = gradient.reshape(len(gradient), -1)
        found.append((unit[:, None] * (unit @ flat)[None]).view(gradient.shape))
    return found


def projected(gradients, seed):
    """Keep what lies along the basis, (3, 4)/5 of the first tensor's rows."""
    first = gradients[0]
    along = 0.6 * first[0] + 0.8 * first[1]
    return [torch.stack([0.6 * along, 0.8 * along]), gradients[1], None]


MASKED = [partial(draw, [(2, 3), (4,), (2,)], missing=(2,))]
MASK = torch.tensor([[True, False, True], [False, False, True]])
BASIS = torch.tensor([[0.6], [0.8]], dtype=torch.float64)
ROWS = [
    *rows(
        shared,
        GRADIENTS,
        [
            (Pruning(share=0.0), partial(pruned, share=0.0, together=False)),
            (Pruning(share=0.6), partial(pruned, share=0.6, together=False)),
            (Pruning(share=0.35, scope="global"), partial(pruned, share=0.35, together=True)),
            (Signs(), partial(signed, magnitude=None)),
            (Signs(magnitude=0.2), partial(signed, magnitude=0.2)),
            (Quantization(levels=1), partial(to_levels, levels=1)),
            (Quantization(levels=5), partial(to_levels, levels=5)),
        ],
    ),
    *rows(
        twice,
        GRADIENTS,
        [
            (Pruning(share=0.6, feedback=True), partial(repaid, partial(pruned, share=0.6, together=False))),
            (
                Pruning(share=0.35, scope="global", feedback=True),
                partial(repaid, partial(pruned, share=0.35, together=True)),
            ),
            (Signs(feedback=True), partial(repaid, partial(signed, magnitude=None))),
            (Signs(magnitude=0.2, feedback=True), partial(repaid, partial(signed, magnitude=0.2))),
            (
                Signs(),
                lambda gradients, seed: [
                    *signed(gradients, seed, magnitude=None),
                    *signed(others(gradients), seed, magnitude=None),
                ],
            ),
            (PowerSGD(rank=1), partial(power_rounds, rank=1, feedback=True)),
            (PowerSGD(rank=2), partial(power_rounds, rank=2, feedback=True)),
            (PowerSGD(rank=1, feedback=False), partial(power_rounds, rank=1, feedback=False)),
        ],
        rtol=1e-7,
    ),
    *rows(shared, MASKED, [(Mask(masks=(MASK, None, MASK)), what_is_left)]),
    *rows(shared, MASKED, [(Projection(bases=(BASIS, None, BASIS)), projected)]),
    *rows(publicly, MASKED, [(Mask(masks=(MASK, None, MASK)), lambda *one: what_is_left(others(one[0]), one[1]))]),
    *rows(
        publicly,
        GRADIENTS,
        [
            (Pruning(share=0.6), partial(left_of_others, share=0.6, together=False)),
            (Quantization(levels=3), lambda gradients, seed: others(gradients)),
            (Signs(feedback=True), lambda gradients, seed: signed(others(gradients), seed, magnitude=None)),
            (PowerSGD(rank=1), in_the_span),
        ],
        rtol=1e-7,
    ),
    *rows(
        lambda function, *one: function(*one),
        [lambda _: (Signs(), (torch.zeros(2, 4), None))],
        [(per_entry, lambda defense, sent: (8 + 32) / 8)],
    ),
    *rows(
        lambda function, one: function(one),
        [lambda _: (torch.zeros(2),), lambda _: (torch.zeros(2).double(),)],
        [(width, lambda tensor: 64 if tensor.dtype == torch.float64 else 32)],
    ),
]
REFUSALS = [
    (lambda: Pruning(share=1.0), "^share: got 1.0, wanted 0 to below 1"),
    (lambda: Pruning(share=-0.1), "^share: got -0.1, wanted 0 to below 1"),
    (lambda: Pruning(share=0.5, scope="all"), "^scope: got 'all', wanted 'tensor' or 'global'"),
    (lambda: shared(Mask(masks=(MASK,)), [None, None], 0), "^masks: got 1, wanted one for each of 2 gradients"),
    (lambda: shared(Projection(bases=(MASK,)), [None, None], 0), "^bases: got 1, wanted one for each of 2 gradients"),
    (lambda: shared(Mask(masks=(MASK[0],)), [MASK], 0), r"^masks: got one of shape \(3,\), wanted one that fits"),
    (lambda: shared(Mask(masks=(MASK[:1],)), [MASK], 0), r"^masks: got one of shape \(1, 3\), wanted .* \(2, 3\)$"),
    (lambda: shared(Projection(bases=(BASIS.T,)), [MASK], 0), r"^bases: got one of shape \(1, 2\), wanted one that"),
    (lambda: Mask(masks=MASK), r"(?s)^masks: got tensor.*wanted a tuple of tensors of truth values, or None"),
    (lambda: Mask(masks=(True,)), r"^masks: got \(True,\), wanted a tuple of tensors"),
    (lambda: Mask(masks=(MASK,)).bits(()), "^masks: got 1, wanted one for each of 0 gradients"),
    (lambda: Projection(bases=[None]), r"^bases: got \[None\], wanted a tuple of matrices, or None"),
    (lambda: Projection(bases=(BASIS[0],)), r"^bases: got one of shape \(1,\), wanted matrices \(rows, rank\)"),
    (lambda: Pruning(share="half"), "^share: got 'half', wanted 0 to below 1"),
    (lambda: Pruning(share=True), "^share: got True, wanted 0 to below 1"),
    (lambda: Pruning(share=0.5, scope=["tensor"]), r"^scope: got \['tensor'\], wanted 'tensor' or 'global'"),
    (lambda: per_entry(None, ()), "^defense: got a NoneType, wanted a gilearn.federated.Defense"),
    (lambda: per_entry(Signs(), torch.ones(2)), "^shared: got tensor.*wanted tensors, one per parameter, or None"),
    (lambda: PowerSGD(rank=0), "^rank: got 0, wanted at least 1"),
    (lambda: Quantization(levels=0), "^levels: got 0, wanted at least 1"),
    (lambda: Signs(magnitude=-1.0), "^magnitude: got -1.0, wanted a positive number, or None"),
    (lambda: Signs(feedback="yes"), "^feedback: got 'yes', wanted True or False"),
    (lambda: per_entry(Signs(), ()), "^shared: got no tensors, wanted at least one"),
]
