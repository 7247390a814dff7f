"""Label rules on the gradient of a small network's last layer, class by class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import nn

from formulas.rows import entries, rand, randn, rows
from gilearn import federated
from gilearn.attacks import labels
from gilearn.attacks.labels.batch import ILRG, LLG, LLGPlus, LLGStar, RowMinimum, counts_system, labels_of, rounded

MODULES = [f"gilearn.attacks.labels.{name}" for name in ("batch", "bag_of_words", "single")]
NO_FORMULA = set()


@dataclass(frozen=True)
class Shared:
    """A network that ends in a fully connected layer, and the gradient that a client shares."""

    model: nn.Sequential
    gradients: list[torch.Tensor | None]
    batch_size: int
    loss: str = "cross_entropy"
    local: federated.LocalSteps | None = None
    truth: Any = None

    @property
    def classes(self):
        return self.model[-1].out_features

    @property
    def weight(self):
        """The last layer's weight gradient, a list of rows."""
        return (self.gradients[1 if self.model[-1].bias is None else -2] / self.steps).tolist()

    @property
    def bias(self):
        return (self.gradients[-1] / self.steps).tolist()

    @property
    def steps(self):
        return 1 if self.local is None else self.local.steps * self.local.lr


def observed(shared):
    return federated.Observation.from_gradients(
        shared.model,
        shared.gradients,
        input_shape=(INPUTS,),
        batch_size=shared.batch_size,
        num_classes=max(2, shared.classes),
        loss=shared.loss,
        local=shared.local,
        knowledge={} if shared.truth is None else {"labels": torch.tensor(shared.truth)},
    )


def compute(rule, shared):
    return rule(observed(shared))


def ints(numbers):
    return torch.tensor(sorted(numbers), dtype=torch.int64)


def truth(shared):
    """Return the private labels: what an exact rule has to find."""
    return ints(shared.truth)


def row_minimum(shared):
    least = [min(row) for row in shared.weight]
    return ints(sorted(range(shared.classes), key=least.__getitem__)[: shared.batch_size])


def dealt(shared, impact, offsets):
    """Deal out labels as METHODS has it: every negative sum once, the most negative first, then always the lowest."""
    sums = [sum(row) for row in shared.weight]
    found = sorted((c for c, value in enumerate(sums) if value < 0), key=sums.__getitem__)[: shared.batch_size]
    left = [value - offset - impact * (c in found) for c, (value, offset) in enumerate(zip(sums, offsets, strict=True))]
    while len(found) < shared.batch_size:
        lowest = min(range(shared.classes), key=left.__getitem__)
        found.append(lowest)
        left[lowest] -= impact
    return ints(found)


def llg(shared):
    negative = [value for value in map(sum, shared.weight) if value < 0]
    return dealt(shared, sum(negative) / shared.batch_size * (1 + 1 / shared.classes), [0.0] * shared.classes)


def white_box(shared, *, rounds, seed, batches):
    """Measure impact and offsets with the gradients of batches of one class each."""
    generator = torch.Generator().manual_seed(seed)
    own, others = [], {c: [] for c in range(shared.classes)}
    for _ in range(rounds):
        for label, batch in batches(shared, generator):
            targets = torch.full((len(batch),), label)
            loss = F.cross_entropy(shared.model(batch), targets)
            (gradient,) = torch.autograd.grad(loss, [shared.model[-1].weight])
            for c, row in enumerate(gradient.tolist()):
                (own if c == label else others[c]).append(sum(row))
    impact = sum(own) / len(own) / shared.batch_size * (1 + 1 / shared.classes)
    return dealt(shared, impact, [sum(values) / len(values) if values else 0.0 for values in others.values()])


def random_batches(shared, generator):
    for label in range(shared.classes):
        yield label, rand(shared.batch_size, INPUTS, generator=generator)


def own_batches(shared, generator):
    for label in sorted(set(LABELS.tolist())):
        mine = [k for k, other in enumerate(LABELS.tolist()) if other == label]
        picks = torch.randint(len(mine), (shared.batch_size,), generator=generator).tolist()
        yield label, torch.stack([EXAMPLES[mine[pick]] for pick in picks])


def system(shared):
    """Return iLRG's Eq. (11): sum over c of n_c p_i(c) - n_i = B x bias gradient i, and the counts add up to B."""
    layer = shared.model[-1]
    matrix = []
    for row, slope in zip(shared.weight, shared.bias, strict=True):
        embedding = torch.tensor([value / (slope or 1.0) for value in row], dtype=torch.float64)
        logits = entries(layer.weight @ embedding + layer.bias)
        rest = sum(math.exp(logit) for logit in logits)
        matrix.append([math.exp(logit) / rest for logit in logits])
    lines = [[matrix[c][i] - (c == i) for c in range(shared.classes)] for i in range(shared.classes)]
    right = [shared.batch_size * slope for slope in shared.bias]
    everything = torch.tensor([*lines, [1.0] * shared.classes], dtype=torch.float64)
    return [everything, torch.tensor([*right, float(shared.batch_size)], dtype=torch.float64)]


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
    return from_counts(whole([max(0.0, count) for count in counts.tolist()], shared.batch_size))


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
    spare = shared.batch_size - len(classes)
    matrix = matrix[:, classes]
    more = np.zeros(len(classes))
    for _ in range(2000):
        for c, column in enumerate(matrix.T):
            gap = right - matrix.sum(axis=1) - matrix @ more + column * more[c]
            more[c] = min(max(column @ gap / (column @ column), 0.0), spare)
    counts = zip(classes, whole(more.tolist(), spare), strict=True)
    return ints(c for c, count in counts for _ in range(1 + count))


INPUTS = 6
EXAMPLES = torch.rand(9, INPUTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 3, 1, 0, 3, 3, 0, 1])
"""What the attacker of LLG+ has: nothing of class 2."""


def network(activation, hidden, classes, generator, *, bias=True, spread=1.0):
    layers = [
        nn.utils.skip_init(nn.Linear, INPUTS, hidden, bias=bias),
        activation,
        nn.utils.skip_init(nn.Linear, hidden, classes, bias=bias),
    ]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(spread * randn(*parameter.shape, generator=generator))
    return model


def client(activation, hidden, classes, drawn, generator, *, loss="cross_entropy", **options):
    """Share the gradient of a batch with the drawn labels, a number of them, or these."""
    model = network(activation, hidden, classes, generator, **options)
    if isinstance(drawn, int):
        drawn = torch.randint(max(2, classes), (drawn,), generator=generator).tolist()
    y, x = torch.tensor(drawn), rand(len(drawn), INPUTS, generator=generator)
    if loss == "logistic":
        value = F.binary_cross_entropy_with_logits(model(x).flatten(), y.double())
    else:
        value = F.cross_entropy(model(x), y)
    gradients = [gradient.detach() for gradient in torch.autograd.grad(value, list(model.parameters()))]
    return (Shared(model, gradients, len(drawn), loss, truth=drawn),)


def anything(hidden, classes, batch_size, generator, *, local=None):
    """Share numbers that no batch has as its gradient."""
    model = network(nn.ReLU(), hidden, classes, generator, spread=0.3)
    gradients = [randn(*parameter.shape, generator=generator) for parameter in model.parameters()]
    return (Shared(model, gradients, batch_size, local=local),)


def lowered(hidden, classes, batch_size, generator):
    """Share numbers that are mostly negative: more classes seem to be there than examples."""
    (shared,) = anything(hidden, classes, batch_size, generator)
    return (replace(shared, gradients=[gradient - 1.5 for gradient in shared.gradients]),)


def one_row(generator):
    """Share a gradient of one class alone: rounding has left nothing of the others."""
    model = network(nn.ReLU(), 3, 4, generator)
    gradients = [torch.zeros_like(parameter) for parameter in model.parameters()]
    gradients[2][1], gradients[3][1] = -rand(3, generator=generator), -0.5
    return (Shared(model, gradients, 1, truth=[1]),)


STEPS = federated.LocalSteps(steps=3, lr=0.2)
ANYTHING = [partial(anything, 4, 5, 3), partial(anything, 7, 4, 9), partial(anything, 3, 6, 4, local=STEPS)]
SINGLE = [
    *(partial(client, activation, 8, 5, 1) for activation in (nn.Tanh(), nn.ReLU(), nn.Sigmoid())),
    partial(client, nn.Tanh(), 4, 2, 1),
    partial(client, nn.Sigmoid(), 4, 3, 1, bias=False),
    partial(client, nn.Tanh(), 4, 1, [1], loss="logistic"),
    partial(client, nn.Tanh(), 4, 1, [0], loss="logistic"),
    one_row,
]
DISTINCT = [
    partial(client, nn.Sigmoid(), 20, 8, [5, 2], spread=0.5),
    partial(client, nn.ReLU(), 30, 10, [7, 0, 4], spread=0.4),
]
REPEATS = [
    partial(client, nn.Sigmoid(), 12, 4, 7, spread=0.5),
    partial(client, nn.ReLU(), 12, 4, [3, 3, 3, 0], spread=0.5),
    partial(client, nn.ReLU(), 5, 3, 12, spread=0.5),
]
FEW = [
    partial(client, nn.Tanh(), 20, 9, [0, 4, 4, 8]),
    partial(client, nn.ReLU(), 20, 12, [2, 2, 2, 7, 11]),
    partial(client, nn.Tanh(), 15, 7, [6, 1, 3]),
]
ROWS = [
    *rows(compute, SINGLE + DISTINCT, [(labels.Declared(), lambda shared: torch.tensor(shared.truth))]),
    *rows(compute, SINGLE, [(labels.IDLG(), truth)]),
    *rows(compute, DISTINCT, [(RowMinimum(), truth)]),
    *rows(compute, [*ANYTHING[::2], *DISTINCT], [(RowMinimum(strict=False), row_minimum)]),
    *rows(compute, [*ANYTHING, partial(lowered, 3, 6, 4), *REPEATS], [(LLG(), llg)]),
    *rows(
        compute,
        REPEATS + ANYTHING,
        [
            (LLGStar(), partial(white_box, rounds=10, seed=0, batches=random_batches)),
            (LLGStar(rounds=1, seed=4), partial(white_box, rounds=1, seed=4, batches=random_batches)),
        ],
    ),
    *rows(
        compute,
        REPEATS[:2],
        [
            (
                LLGPlus(examples=EXAMPLES, labels=LABELS, rounds=2, seed=3),
                partial(white_box, rounds=2, seed=3, batches=own_batches),
            )
        ],
    ),
    *rows(compute, REPEATS + FEW + ANYTHING, [(ILRG(), ilrg), (counts_system, system)]),
    *rows(compute, FEW, [(labels.RLG(), bag), (labels.RLG(tolerance=1e-9), bag)]),
    *rows(
        lambda function, counts, total: function(torch.tensor(counts, dtype=torch.float64), total).tolist(),
        [
            lambda generator: (rand(5, generator=generator).tolist(), 7),
            lambda generator: ((9 * rand(4, generator=generator)).tolist(), 3),
            lambda _: ([2.0, 0.0, 1.0], 3),
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


def without(case, *gone, value=None):
    """Share no gradient of these parameters, or this one."""

    def drawn(generator):
        (shared,) = case(generator)
        gradients = list(shared.gradients)
        for k in gone:
            gradients[k] = None if value is None else torch.full_like(gradients[k], value)
        return (replace(shared, gradients=gradients),)

    return drawn


ONE, TWO, LOGIT = SINGLE[0], partial(client, nn.Tanh(), 4, 2, 1, bias=False), SINGLE[5]
WITHHELD = "^seen: the weight gradient of the last layer is withheld, and"
REFUSALS = [
    (lambda: refused(labels.IDLG(), FEW[0]), "^seen: got a batch of 4; iDLG's rule is for one example"),
    (lambda: refused(labels.IDLG(), without(ONE, 2)), f"{WITHHELD} iDLG's rule reads it"),
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
    (
        lambda: refused(labels.RLG(), FEW[0], batch_size=1, truth=None),
        "^seen: 3 classes fit a batch of 1: the rank was misjudged",
    ),
    (lambda: labels.RLG(tolerance=0.0), "^tolerance: got 0.0, wanted between 0 and 1"),
    (lambda: labels.RLG(tolerance=1.0), "^tolerance: got 1.0, wanted between 0 and 1"),
]
