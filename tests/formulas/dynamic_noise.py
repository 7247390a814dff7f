"""Fed-CDP, Fed-SDP, their decay and what they spend, from their formulas, entry by entry."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import torch
from torch import nn

from formulas.rows import entries, randn, rows
from gilearn.attacks.recursion.gradient_division import repeated_input
from gilearn.defenses.gradients.dynamic import Decay, FedCDP, FedSDP, KnownCDP, clipped_layers, layers
from gilearn.defenses.gradients.spending import at_epsilon, epsilon, history, instance_rate
from gilearn.federated import Client, LocalSteps

MODULES = ["gilearn.defenses.gradients.dynamic", "gilearn.defenses.gradients.spending"]
NO_FORMULA: set[str] = set()


class Network(nn.Module):
    """Two layers in a box and one outside: five parameters of three layers."""

    def __init__(self):
        super().__init__()
        self.box = nn.Sequential(nn.utils.skip_init(nn.Linear, 2, 3), nn.utils.skip_init(nn.Linear, 3, 2))
        self.out = nn.utils.skip_init(nn.Linear, 2, 1, bias=False)


MODEL = Network().double()
GROUPS = ("box.0", "box.0", "box.1", "box.1", "out")


def client(seed, number=1):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return Client(model=MODEL, num_classes=2, generator=generator, memory={"round": number})


def draw(generator, *, batch=(), missing=()):
    shapes = [tuple(p.shape) for p in MODEL.parameters()]
    gradients = [None if k in missing else randn(*batch, *s, generator=generator) for k, s in enumerate(shapes)]
    return gradients, int(torch.randint(99, (), generator=generator))


def shortened(gradients, clip, groups=GROUPS):
    """Divide every layer by max(1, norm / C), its entries taken together."""
    found = [None] * len(gradients)
    for group in dict.fromkeys(groups):
        mine = [k for k, name in enumerate(groups) if name == group and gradients[k] is not None]
        norm = math.sqrt(sum(value**2 for k in mine for value in entries(gradients[k])))
        for k in mine:
            found[k] = gradients[k] / max(1.0, norm / clip)
    return found


def each_shortened(gradients, clip, groups=GROUPS):
    number = next(len(g) for g in gradients if g is not None)
    own = [shortened([None if g is None else g[k] for g in gradients], clip, groups) for k in range(number)]
    return [None if g is None else torch.stack([one[j] for one in own]) for j, g in enumerate(gradients)]


def noisy(gradients, seed, std):
    generator = torch.Generator().manual_seed(seed)
    return [None if g is None else g + std * randn(*g.shape, generator=generator) for g in gradients]


def examples(defense, gradients, seed, number=1):
    return list(defense.examples(tuple(gradients), client(seed, number)))


def shared(defense, gradients, seed):
    return list(defense.shared(tuple(gradients), client(seed)))


def clipped_and_noisy(gradients, seed, *, clip, multiplier, groups=GROUPS, each=True):
    short = each_shortened(gradients, clip, groups) if each else shortened(gradients, clip, groups)
    return noisy(short, seed, multiplier * clip)


def told(defense, local, size):
    """Return the known part's numbers, and what an imagined client makes of its examples."""
    known = defense.public(SimpleNamespace(local=local, batch_size=size))
    given, _ = draw(torch.Generator().manual_seed(size), batch=(3,))
    return [known.std, *known.examples(tuple(given), client(None))]


def known_by_hand(local, size, *, clip, multiplier):
    steps, lr = (1, 1.0) if local is None else (local.steps, local.lr)
    batch = size if local is None or local.batch_size is None else local.batch_size
    given, _ = draw(torch.Generator().manual_seed(size), batch=(3,))
    return [lr * multiplier * clip / math.sqrt(batch) if steps == 1 else 0.0, *each_shortened(given, clip)]


def values(decay, numbers):
    return [decay.at(number) for number in numbers]


def linear(numbers, *, start, end, rounds):
    return [start + (end - start) * min(1.0, (k - 1) / (rounds - 1)) for k in numbers]


def exponential(numbers, *, start, end, rounds):
    return [start * (end / start) ** min(1.0, (k - 1) / (rounds - 1)) for k in numbers]


def cosine(numbers, *, start, end, rounds):
    waves = [math.cos(math.pi * min(1.0, (k - 1) / (rounds - 1))) for k in numbers]
    return [end + (start - end) * (1 + wave) / 2 for wave in waves]


def spent(function, options):
    return [value for row in function(DECAYING, rounds=3, **options) for value in row]


def spent_by_hand(options):
    """Return multiplier x sqrt(B) / (moved x sqrt(layers) x changed) for each of the rounds, 3, 2 and 1."""
    moved = 1 if options.get("neighbours") == "remove" else 2
    size, changed = options.get("batch_size", 1), options.get("changed", 1)
    return [
        value
        for sigma in (3.0, 2.0, 1.0)
        for value in (
            sigma / ((moved * math.sqrt(options["layers"]) * changed / size) * math.sqrt(size)),
            options.get("rate", 1.0),
            options.get("steps", 1),
        )
    ]


def whole(sigma, steps, delta):
    """Return the epsilon of normal mechanisms without sampling: the least over the orders of a dense grid."""
    orders = [1 + k / 1000 for k in range(20, 62000)]
    total = steps / (2 * sigma**2)
    return min(a * total + math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1) for a in orders)


def scaled(function, wanted):
    return float(
        function(FedCDP(clip=1.0, noise_multiplier=1.0), wanted, delta=1e-5, rounds=30, layers=2).noise_multiplier
    )


def scaled_by_hand(wanted):
    low, high = 1e-2, 1e2
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if whole(middle / math.sqrt(8), 30, 1e-5) > wanted else (low, middle)
    return low


def looks(generator, *, number):
    weight = randn(number, 5, 3, generator=generator)
    return weight, randn(number, 5, generator=generator)


def most_likely(weights, biases):
    """Return the leading eigenvector of the rows' products with themselves, its last entry at one."""
    rows = torch.cat([weights.reshape(-1, weights.shape[-1]), biases.reshape(-1, 1)], dim=1)
    vector = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -1]
    return vector[:-1] / vector[-1]


EXAMPLES = [partial(draw, batch=(4,)), partial(draw, batch=(2,), missing=(1, 4))]
WHOLE = [draw, partial(draw, missing=(0,))]
ENDS = {"start": 6.0, "end": 2.0, "rounds": 5}
DECAYING = FedCDP(clip=1.0, noise_multiplier=Decay(start=3.0, end=1.0, rounds=3))
OPTIONS = [
    {"layers": 2},
    {"layers": 3, "batch_size": 5, "steps": 4, "changed": 2},
    {"layers": 1, "batch_size": 8, "steps": 10, "rate": 0.2, "neighbours": "remove"},
]
ROWS = [
    *rows(
        examples,
        EXAMPLES,
        [
            (FedCDP(clip=clip, noise_multiplier=s), partial(clipped_and_noisy, clip=clip, multiplier=s))
            for clip, s in ((1.5, 0.0), (1.5, 0.7), (50.0, 0.1))
        ]
        + [
            (
                KnownCDP(clip=1.5, noise_multiplier=0.7, std=0.2),
                partial(clipped_and_noisy, clip=1.5, multiplier=0.7),
            )
        ],
    ),
    *rows(
        partial(examples, number=3),
        EXAMPLES,
        [
            (
                FedCDP(clip=Decay(**ENDS), noise_multiplier=Decay(start=1.0, end=0.5, rounds=3)),
                partial(clipped_and_noisy, clip=4.0, multiplier=0.5),
            )
        ],
    ),
    *rows(
        shared,
        WHOLE,
        [
            (FedSDP(clip=1.2, noise_multiplier=0.5), partial(clipped_and_noisy, clip=1.2, multiplier=0.5, each=False)),
            (
                FedSDP(clip=1.2, noise_multiplier=0.5, scope="whole"),
                partial(clipped_and_noisy, clip=1.2, multiplier=0.5, groups=("",) * 5, each=False),
            ),
        ],
    ),
    *rows(
        told,
        [
            lambda _: (None, 9),
            lambda _: (LocalSteps(steps=1, lr=0.1, batch_size=4), 9),
            lambda _: (LocalSteps(steps=1, lr=0.1), 9),
            lambda _: (LocalSteps(steps=2, lr=0.1), 9),
        ],
        [(FedCDP(clip=0.5, noise_multiplier=2.0), partial(known_by_hand, clip=0.5, multiplier=2.0))],
    ),
    *rows(
        values,
        [lambda _: ([1, 2, 3, 4, 5, 6, 20],)],
        [
            (Decay(**ENDS), partial(linear, **ENDS)),
            (Decay(**ENDS, shape="exponential"), partial(exponential, **ENDS)),
            (Decay(**ENDS, shape="cosine"), partial(cosine, **ENDS)),
        ],
    ),
    *rows(lambda function, model: list(function(model)), [lambda _: (MODEL,)], [(layers, lambda model: list(GROUPS))]),
    *rows(
        lambda function, gradients, seed: list(function(tuple(gradients), GROUPS, 1.5, examples=True)),
        EXAMPLES,
        [(clipped_layers, lambda gradients, seed: each_shortened(gradients, 1.5))],
    ),
    *rows(spent, [partial(lambda _, given: (given,), given=given) for given in OPTIONS], [(history, spent_by_hand)]),
    *rows(
        lambda function, sigma, steps, delta: function([(sigma, 1.0, steps)], delta=delta),
        [lambda _: (2.0, 30, 1e-5), lambda _: (5.0, 10, 1e-6), lambda _: (20.0, 100, 1e-3)],
        [(epsilon, whole)],
        rtol=2e-3,
    ),
    *rows(scaled, [lambda _: (8.0,), lambda _: (1.5,)], [(at_epsilon, scaled_by_hand)], rtol=2e-3),
    *rows(
        lambda function, b, k, n: function(batch_size=b, participants=k, examples=n),
        [lambda _: (5, 100, 50000), lambda _: (3, 2, 6)],
        [(instance_rate, lambda b, k, n: b * k / n)],
    ),
    *rows(
        lambda function, *given: function(*given),
        [partial(looks, number=1), partial(looks, number=4)],
        [(repeated_input, most_likely)],
    ),
]
REFUSALS = [
    (lambda: FedCDP(clip=0.0, noise_multiplier=1.0), "^clip: got 0.0, wanted a positive number"),
    (lambda: FedCDP(clip=1.0, noise_multiplier=-0.1), "^noise_multiplier: got -0.1, wanted 0 or more"),
    (lambda: FedSDP(clip=-1.0, noise_multiplier=1.0), "^clip: got -1.0, wanted a positive number"),
    (lambda: KnownCDP(clip=1.0, noise_multiplier=1.0, std=-1.0), "^std: got -1.0, wanted 0 or more"),
    (lambda: Decay(start=1.0, end=0.0, rounds=2), "^end: got 0.0, wanted a positive number"),
    (lambda: clipped_layers((None,), GROUPS, 1.0), "^gradients: got 1 tensors, wanted 5, one per parameter"),
    (lambda: clipped_layers((None,) * 5, GROUPS, 0.0), "^clip: got 0.0, wanted a positive number"),
    (lambda: epsilon([(1.0, 1.0)], delta=0.1), r"^spent: got \(1.0, 1.0\), wanted rows of multiplier, rate and steps"),
    (lambda: epsilon(5, delta=0.1), "^spent: got 5, wanted rows of multiplier, rate and steps"),
    (lambda: epsilon([(math.inf, 1.0, 1)], delta=0.1), "^spent: got inf, wanted multipliers of 0 or more"),
    (lambda: at_epsilon(None, 1.0, delta=0.1, rounds=1, layers=1), "^defense: got None, wanted a FedCDP or a FedSDP"),
    (lambda: history(DECAYING, rounds=3, layers=0), "^layers: got 0, wanted at least 1"),
    (lambda: epsilon([], delta=1.0), "^delta: got 1.0, wanted above 0, below 1"),
]
