"""Label rules on the gradient of a small network's last layer, class by class."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import nn

from formulas.label_clients import (
    ANYTHING,
    DISTINCT,
    DROPPED,
    FEW,
    INPUTS,
    REPEATS,
    SEQUENCES,
    SINGLE,
    Shared,
    anything,
    client,
    lowered,
    observed,
    one_row,
    one_small,
    without,
)
from formulas.rows import entries, rand, randn, rows
from gilearn.attacks import labels
from gilearn.attacks.labels.batch import ILRG, LLG, LLGPlus, LLGStar, RowMinimum, counts_system, labels_of, rounded

MODULES = [f"gilearn.attacks.labels.{name}" for name in ("batch", "bag_of_words", "single")]
NO_FORMULA = set()


def compute(rule, shared):
    return rule(observed(shared))


def calibrated(rule, shared):
    """Return a rule's impact and offsets."""
    seen = observed(shared)
    return list(rule.calibration(seen, torch.tensor([sum(row) for row in shared.weight], dtype=torch.float64)))


def ints(numbers):
    return torch.tensor(sorted(numbers), dtype=torch.int64)


def truth(shared):
    """Return the private labels: what an exact rule has to find."""
    return ints(torch.tensor(shared.truth).flatten().tolist())


def row_minimum(shared):
    least = [min(row) for row in shared.weight]
    return ints(sorted(range(shared.classes), key=least.__getitem__)[: shared.number])


def dealt(shared, impact, offsets):
    """Deal out labels as Wainakh et al. do: every negative sum once, most negative first, then always the lowest."""
    sums = [sum(row) for row in shared.weight]
    found = sorted((c for c, value in enumerate(sums) if value < 0), key=sums.__getitem__)[: shared.number]
    left = [value - offset - impact * (c in found) for c, (value, offset) in enumerate(zip(sums, offsets, strict=True))]
    while len(found) < shared.number:
        lowest = min(range(shared.classes), key=left.__getitem__)
        found.append(lowest)
        left[lowest] -= impact
    return ints(found)


def llg(shared):
    negative = [value for value in map(sum, shared.weight) if value < 0]
    return dealt(shared, sum(negative) / shared.number * (1 + 1 / shared.classes), [0.0] * shared.classes)


def passed(layers, value, generator):
    """Pass a batch through, with dropout masks of the generator's."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            value = passed(layer, value, generator)
        elif isinstance(layer, nn.Dropout):
            value = value * (rand(*value.shape, generator=generator) >= layer.p) / (1 - layer.p)
        else:
            value = layer(value)
    return value


def measured(shared, *, rounds, seed, batches):
    """Measure impact and offsets with the gradients of batches of one class each."""
    generator = torch.Generator().manual_seed(seed)
    own, others = [], {c: [] for c in range(shared.classes)}
    for _ in range(rounds):
        for label, batch in batches(shared, generator):
            logits = passed(shared.model, batch, generator).flatten(0, -2)
            loss = F.cross_entropy(logits, torch.full((len(logits),), label))
            (gradient,) = torch.autograd.grad(loss, [shared.model[-1].weight])
            for c, row in enumerate(gradient.tolist()):
                (own if c == label else others[c]).append(sum(row))
    impact = sum(own) / len(own) / shared.number * (1 + 1 / shared.classes)
    offsets = [sum(values) / len(values) if values else 0.0 for values in others.values()]
    return [impact, torch.tensor(offsets, dtype=torch.float64)]


def white_box(shared, **options):
    impact, offsets = measured(shared, **options)
    return dealt(shared, impact, offsets.tolist())


def random_batches(shared, generator):
    for label in range(shared.classes):
        yield label, rand(shared.batch_size, *shared.input_shape, generator=generator)


def own_batches(shared, generator):
    for label in sorted(set(LABELS.tolist())):
        mine = [k for k, other in enumerate(LABELS.tolist()) if other == label]
        picks = torch.randint(len(mine), (shared.number,), generator=generator).tolist()
        yield label, torch.stack([EXAMPLES[mine[pick]] for pick in picks])


def system(shared):
    """Return iLRG's Eq. (11): sum over c of n_c p_i(c) - n_i = B x bias gradient i, and the counts add up to B."""
    layer = shared.model[-1]
    matrix = []
    for row, slope in zip(shared.weight, shared.bias, strict=True):
        embedding = torch.tensor([value / (slope or 1.0) for value in row], dtype=torch.float64)
        logits = entries(layer.weight @ embedding + layer.bias)
        shares = [math.exp(logit - max(logits)) for logit in logits]
        matrix.append([share / sum(shares) for share in shares])
    lines = [[matrix[c][i] - (c == i) for c in range(shared.classes)] for i in range(shared.classes)]
    right = [shared.number * slope for slope in shared.bias]
    everything = torch.tensor([*lines, [1.0] * shared.classes], dtype=torch.float64)
    return [everything, torch.tensor([*right, float(shared.number)], dtype=torch.float64)]


def whole(counts, total):
    """Scale to the total, round down, and hand out what is left by the largest remainders."""
    scale = total / sum(counts) if sum(counts) > 0 else 1.0
    counts = [count * scale for count in counts]
    floors = [math.floor(count) for count in counts]
    largest = sorted(range(len(counts)), key=lambda c: floors[c] - counts[c])[: total - sum(floors)]
    return [floor + (c in largest) for c, floor in enumerate(floors)]


def from_counts(counts):
    return torch.tensor([c for c, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)


def ilrg(shared):
    matrix, right = (tensor.numpy() for tensor in system(shared))
    counts = np.linalg.lstsq(matrix, right, rcond=None)[0]
    return from_counts(whole([max(0.0, count) for count in counts.tolist()], shared.number))


def present(shared):
    """Return the classes whose row is in the cone of no other rows (Farkas' lemma, by non-negative least squares)."""
    matrix = np.array(shared.weight)
    found = []
    for c in range(shared.classes):
        _, distance = nnls(np.delete(matrix, c, axis=0).T, matrix[c])
        if distance > 1e-9:
            found.append(c)
    return found


def bag(shared):
    """Give every present class one example; deal out the others by least squares in a box, one class at a time."""
    classes, (matrix, right) = present(shared), (tensor.numpy() for tensor in system(shared))
    spare = shared.number - len(classes)
    matrix = matrix[:, classes]
    more = np.zeros(len(classes))
    for _ in range(2000):
        for c, column in enumerate(matrix.T):
            gap = right - matrix.sum(axis=1) - matrix @ more + column * more[c]
            more[c] = min(max(column @ gap / (column @ column), 0.0), spare)
    counts = zip(classes, whole(more.tolist(), spare), strict=True)
    return ints(c for c, count in counts for _ in range(1 + count))


EXAMPLES = torch.rand(9, INPUTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 3, 1, 0, 3, 3, 0, 1])
"""What the attacker of LLG+ has: nothing of class 2."""


ZERO = [partial(anything, 4, 5, 3, zero=2)]
LIKE = [partial(client, nn.Tanh(), 15, 7, [6, 1, 3], scale=scale) for scale in (1e-9, 1e9)]
RANDOM = {"batches": random_batches}
ROWS = [
    *rows(compute, SINGLE + DISTINCT, [(labels.Declared(), lambda shared: torch.tensor(shared.truth))]),
    *rows(compute, SINGLE, [(labels.IDLG(), truth)]),
    *rows(compute, DISTINCT, [(RowMinimum(), truth)]),
    *rows(compute, [*ANYTHING[::2], *DISTINCT], [(RowMinimum(strict=False), row_minimum)]),
    *rows(compute, [*ANYTHING, partial(lowered, 3, 6, 4), *REPEATS, *SEQUENCES], [(LLG(), llg)]),
    *(
        row
        for adapter, reference in ((compute, white_box), (calibrated, measured))
        for row in [
            *rows(adapter, REPEATS + ANYTHING, [(LLGStar(), partial(reference, rounds=10, seed=0, **RANDOM))]),
            *rows(
                adapter,
                [*REPEATS, *SEQUENCES, *DROPPED],
                [
                    (LLGStar(rounds=2, seed=4), partial(reference, rounds=2, seed=4, **RANDOM)),
                    (LLGStar(rounds=1), partial(reference, rounds=1, seed=0, **RANDOM)),
                ],
                rtol=1e-6,
            ),
            *rows(
                adapter,
                REPEATS[:2],
                [
                    (
                        LLGPlus(examples=EXAMPLES, labels=LABELS, rounds=2, seed=3),
                        partial(reference, rounds=2, seed=3, batches=own_batches),
                    )
                ],
            ),
        ]
    ),
    *rows(compute, REPEATS + FEW + ANYTHING + SEQUENCES + ZERO, [(ILRG(), ilrg), (counts_system, system)]),
    *rows(compute, [*LIKE, SEQUENCES[1], one_small], [(labels.RLG(), truth)]),
    *rows(compute, FEW, [(labels.RLG(), bag), (labels.RLG(tolerance=1e-9), bag)]),
    *rows(
        lambda function, counts, total: function(torch.tensor(counts, dtype=torch.float64), total).tolist(),
        [
            lambda generator: (rand(5, generator=generator).tolist(), 7),
            lambda generator: ((9 * rand(4, generator=generator)).tolist(), 3),
            lambda _: ([2.0, 0.0, 1.0], 3),
            lambda _: ([0.1, 0.27, 0.06], 4),
            lambda _: ([0.0, 0.0, 0.0], 0),
        ],
        [(rounded, whole)],
    ),
    *rows(
        lambda function, counts: function(torch.tensor(counts)),
        [lambda _: ([2, 0, 3, 1],), lambda _: ([0, 1],)],
        [(labels_of, from_counts)],
    ),
]


def refused(rule, case, **changes):
    (shared,) = case(torch.Generator().manual_seed(0))
    compute(rule, replace(shared, **changes))


def tokens(generator):
    """Share the gradient of a model of tokens."""
    model = nn.Sequential(nn.utils.skip_init(nn.Embedding, 5, 2), nn.Flatten(), nn.utils.skip_init(nn.Linear, 6, 3))
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.copy_(randn(*parameter.shape, generator=generator))
    gradients = [randn(*parameter.shape, generator=generator) for parameter in model.parameters()]
    return (Shared(model, gradients, 2, input_shape=(3,), tokens=True),)


MANY = partial(client, nn.Tanh(), 20, 7, [0, 1, 2, 3, 4, 5, 6])
ONE, TWO, LOGIT = SINGLE[0], partial(client, nn.Tanh(), 4, 2, 1, bias=False), SINGLE[5]
WITHHELD = "^seen: the weight gradient of the last layer is withheld, and"
REFUSALS = [
    (lambda: refused(labels.IDLG(), FEW[0]), "^seen: got a batch of 4; iDLG's rule is for one example"),
    (lambda: refused(labels.IDLG(), without(ONE, 2)), f"{WITHHELD} iDLG's rule reads it"),
    (lambda: refused(labels.IDLG(), without(one_row, 3, value=0.5)), "^seen: 0 classes fit iDLG's rule, wanted one"),
    (lambda: refused(labels.IDLG(), TWO), "^seen: 2 classes fit iDLG's rule, wanted one"),
    (
        lambda: refused(labels.IDLG(), without(LOGIT, 3)),
        "^seen: the bias gradient of the last layer is withheld, absent",
    ),
    (
        lambda: refused(labels.IDLG(), without(LOGIT, 3, value=0.0)),
        "^seen: the bias gradient of the last layer is withh",
    ),
    (lambda: refused(RowMinimum(), without(ONE, 2)), f"{WITHHELD} this rule reads it"),
    (lambda: refused(RowMinimum(), without(ONE, 2, value=0.0)), "^seen: the weight gradient of the last layer is zero"),
    (lambda: refused(RowMinimum(), LOGIT), "^seen: got the loss 'logistic'; this rule is for cross_entropy"),
    (lambda: refused(RowMinimum(), ANYTHING[1]), "^seen: got 9 examples of 4 classes; this rule finds no repeats"),
    (
        lambda: refused(RowMinimum(), REPEATS[1]),
        r"^seen: 2 classes have negative .* of 4 \(repeated labels\?\); this rule",
    ),
    (
        lambda: refused(RowMinimum(), FEW[2]),
        r"batch of 3 \(features of both signs\?\); this rule needs distinct labels",
    ),
    (lambda: LLGStar(rounds=0), "^rounds: got 0, wanted at least 1"),
    (lambda: LLGPlus(examples=EXAMPLES, labels=LABELS, rounds=0), "^rounds: got 0, wanted at least 1"),
    (lambda: LLGPlus(examples=EXAMPLES, labels=LABELS[1:]), "^examples: got 9 with 8 labels, wanted one each"),
    (lambda: LLGPlus(examples=EXAMPLES[:0], labels=LABELS[:0]), "^examples: got 0 with 0 labels, wanted one each"),
    (
        lambda: refused(LLG(), without(ANYTHING[0], 2, value=1.0)),
        "^seen: no class has a negative sum; this rule needs fe",
    ),
    (
        lambda: refused(ILRG(), without(ANYTHING[0], 3)),
        "^seen: the bias gradient of the last layer is withheld, absent",
    ),
    (
        lambda: refused(ILRG(), without(ANYTHING[0], 3, value=0.0)),
        "^seen: the bias gradient of the last layer is withh",
    ),
    (lambda: refused(labels.RLG(), ANYTHING[0]), r"^seen: the gradient has rank 4; this rule needs less than 4"),
    (lambda: refused(labels.RLG(), MANY), r"^seen: the gradient has rank 6; this rule needs less than 6"),
    (
        lambda: refused(LLGStar(), tokens),
        "^seen: got a model of tokens, and this rule draws pictures; LLGPlus takes examples",
    ),
    (
        lambda: refused(labels.RLG(), FEW[0], batch_size=1, truth=None),
        "^seen: 3 classes fit a batch of 1: the rank was misjudged",
    ),
    (lambda: labels.RLG(tolerance=0.0), "^tolerance: got 0.0, wanted between 0 and 1"),
    (lambda: labels.RLG(tolerance=1.0), "^tolerance: got 1.0, wanted between 0 and 1"),
]
