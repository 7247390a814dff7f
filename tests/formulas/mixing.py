"""Mixing, pixel by pixel: what a client trains on in place of its examples."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from formulas.rows import rand, randn, rows
from gilearn.defenses.data import InstaHide, MixUp, MixupInference
from gilearn.federated import Client

MODULES = ["gilearn.defenses.data.mixing"]
NO_FORMULA: set[str] = set()
CLASSES = 4


def generator(seed):
    return torch.Generator().manual_seed(seed)


def encoded(defense, x, y, seed):
    client = Client(model=nn.Identity(), num_classes=CLASSES, generator=generator(seed))
    return list(defense.data(x, y, client))


def imagined(defense, x, y, seed):
    return list(defense.public(None).data(x, y, Client(model=nn.Identity(), num_classes=CLASSES)))


def numpy(seed):
    return np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator(seed))))


def weighted(pictures, weights):
    return sum(float(weight) * picture for picture, weight in zip(pictures, weights, strict=True))


def hot(y):
    return torch.stack([torch.arange(CLASSES) == int(label) for label in y]).double() if y.ndim == 1 else y


def redrawn(draw, fits, number):
    """Draw all rows; then draw those again, together, that do not fit."""
    kept = list(draw(number))
    while bad := [k for k, row in enumerate(kept) if not fits(row)]:
        for k, row in zip(bad, draw(len(bad)), strict=True):
            kept[k] = row
    return kept


def partners(n, k, random):
    return [[i, *((i + 1 + j) % n for j in random.choice(n - 1, k - 1, replace=False))] for i in range(n)]


def mixed_up(x, y, seed, *, concentrations, cap):
    random = numpy(seed)
    chosen = partners(len(x), len(concentrations), random)
    weights = redrawn(lambda m: random.dirichlet(concentrations, m), lambda row: max(row) <= cap, len(x))
    pairs = list(zip(chosen, weights, strict=True))
    return [torch.stack([weighted(v[own], w) for own, w in pairs]) for v in (x, hot(y))]


def hidden(x, y, seed, *, k, cap, share, center, pool):
    random = numpy(seed)
    own = k if pool is None else 2
    chosen = partners(len(x), own, random)
    helpers = [[] if pool is None else random.choice(len(pool), k - 2, replace=False) for _ in x]

    def draw(m):
        return [[abs(v) / sum(map(abs, row)) for v in row] for row in random.standard_normal((m, k))]

    weights = redrawn(draw, lambda row: max(row) <= cap and sum(row[:own]) >= share, len(x))
    mixes = [weighted([*x[c], *(pool[j] for j in h)], w) for c, h, w in zip(chosen, helpers, weights, strict=True)]
    labels = [weighted(hot(y)[c], w[:own]) for c, w in zip(chosen, weights, strict=True)]
    bits = "".join(f"{byte:08b}" for byte in random.bytes((x.numel() + 7) // 8))
    key = torch.tensor([1.0 if bit == "1" else -1.0 for bit in bits[: x.numel()]], dtype=torch.float64)
    return [center + key.view(x.shape) * (torch.stack(mixes) - center), torch.stack(labels)]


def fresh(inference, x):
    """Answer as a value whose draws begin."""
    settings = {name: getattr(inference, name) for name in ("rule", "share", "draws")}
    return MixupInference(inference.model, inference.samples, inference.labels, seed=3, **settings)(x)


def inferred(x, *, rule, share, draws):
    """Draw samples by the class that is predicted, mix, and average the probabilities."""
    predicted = JUDGE(x).argmax(dim=1).tolist()
    counts = [LABELS.tolist().count(c) for c in range(CLASSES)]
    chances = [[((label == own) == (rule == "PL")) / counts[label] for label in LABELS.tolist()] for own in predicted]
    drawn = torch.multinomial(torch.tensor(chances).double(), draws, replacement=True, generator=generator(3)).tolist()
    for own, row in zip(predicted, drawn, strict=True):
        assert all((int(LABELS[j]) == own) == (rule == "PL") for j in row)
    mean = [
        sum(JUDGE((share * one + (1 - share) * SAMPLES[j])[None])[0].softmax(0) for j in row) / draws
        for one, row in zip(x, drawn, strict=True)
    ]
    return torch.stack(mean).log()


def unchanged(x, y, seed):
    return [x, y]


def draw(shape, generator, *, soft=False):
    y = rand(shape[0], CLASSES, generator=generator) if soft else torch.randint(CLASSES, shape[:1], generator=generator)
    return rand(*shape, generator=generator), y, int(torch.randint(99, (), generator=generator))


def linear(inputs, generator):
    """Return a classifier with drawn weights."""
    layer = nn.utils.skip_init(nn.Linear, inputs, CLASSES).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(3 * randn(*parameter.shape, generator=generator))
    return nn.Sequential(nn.Flatten(), layer)


JUDGE = linear(9, generator(2))
SAMPLES, LABELS = rand(11, 1, 3, 3, generator=generator(3)), torch.tensor([0, 1, 2, 3, 0, 0, 0, 1, 1, 2, 3])
PL = {"rule": "PL", "share": 0.5, "draws": 30}
OL = {"rule": "OL", "share": 0.7, "draws": 5}


POOL = rand(5, 1, 3, 3, generator=generator(1))
BATCHES = [partial(draw, (6, 1, 3, 3)), partial(draw, (4, 1, 3, 3), soft=True)]
PLAIN = {"k": 4, "cap": 0.65, "share": 0.3, "center": 0.5, "pool": None}
HIDE = InstaHide(entropy="client")
ROWS = [
    *rows(
        encoded,
        BATCHES,
        [
            (MixUp(), partial(mixed_up, concentrations=(1.0, 1.0), cap=1.0)),
            (
                MixUp(concentrations=(3.0, 1.0, 1.0, 1.0), cap=0.65),
                partial(mixed_up, concentrations=(3.0, 1.0, 1.0, 1.0), cap=0.65),
            ),
            (HIDE, partial(hidden, **PLAIN)),
            (HIDE.replace(k=2, cap=0.9, center=0.0), partial(hidden, **PLAIN | {"k": 2, "cap": 0.9, "center": 0.0})),
            (
                HIDE.replace(k=5, share=0.6, public_images=POOL),
                partial(hidden, **PLAIN | {"k": 5, "share": 0.6, "pool": POOL}),
            ),
        ],
    ),
    *rows(
        fresh,
        [lambda g: (rand(5, 1, 3, 3, generator=g),)],
        [(MixupInference(JUDGE, SAMPLES, LABELS, **options), partial(inferred, **options)) for options in (PL, OL)],
    ),
    *rows(imagined, BATCHES, [(MixUp(), unchanged), (InstaHide(), unchanged)]),
]
ONE = torch.zeros(1, 1, 3, 3, dtype=torch.float64)


def inference(samples=SAMPLES, labels=LABELS, **options):
    return MixupInference(JUDGE, samples, labels, **options)


REFUSALS = [
    (lambda: inference(rule="all"), "^rule: got 'all', wanted 'PL' or 'OL'"),
    (lambda: inference(share=0.0), "^share: got 0.0, wanted above 0 and up to 1"),
    (lambda: inference(draws=0), "^draws: got 0, wanted at least 1"),
    (lambda: inference(labels=LABELS[:3]), "^labels: got 3 for 11 samples, wanted one each"),
    (
        lambda: inference(SAMPLES[:1], JUDGE(ONE).argmax(1))(ONE),
        "^samples: got none for a predicted class by the rule OL, wanted every class",
    ),
]
