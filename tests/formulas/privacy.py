"""Private gradients on drawn numbers, entry by entry, and their accounting by bisection, sums and integrals."""

from __future__ import annotations

import itertools
import math
from functools import partial

import torch
from scipy import integrate
from torch import nn

from formulas.defenses import EXAMPLES, each_clipped, length, per_example
from formulas.rows import entries, rand, randn, rows
from gilearn.defenses import DPSGD, LDPFed, NbAFL, PartialNoise
from gilearn.defenses.gradients.accounting import (
    classical_constant,
    classical_std,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_std,
    least_misses,
    sampled_epsilon,
    tradeoff,
)
from gilearn.defenses.gradients.grouping import divergence, grouped
from gilearn.defenses.gradients.local_privacy import Proximal
from gilearn.defenses.gradients.perturbation import vector_norm
from gilearn.defenses.gradients.privacy import chosen_parameters
from gilearn.federated import Client
from gilearn.federated.task import Objective

MODULES = [
    "gilearn.defenses.gradients.accounting",
    "gilearn.defenses.gradients.grouping",
    "gilearn.defenses.gradients.local_privacy",
    "gilearn.defenses.gradients.privacy",
]
NO_FORMULA: set[str] = set()


def normal(value):
    """Return the standard normal distribution's share below a value."""
    return math.erfc(-value / math.sqrt(2)) / 2


def delta_of(shift, epsilon):
    return normal(shift / 2 - epsilon / shift) - math.exp(epsilon) * normal(-shift / 2 - epsilon / shift)


def bisected(function, low, high):
    """Return where a falling function is zero."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return low


def called(function, options):
    return function(**options)


def numbers(**options):
    return lambda generator: (options,)


def deltas(options):
    return delta_of(math.sqrt(options.get("steps", 1)) / options["noise_multiplier"], options["epsilon"])


def epsilons(options):
    shift = math.sqrt(options.get("steps", 1)) / options["noise_multiplier"]
    return bisected(lambda epsilon: delta_of(shift, epsilon) - options["delta"], 0.0, 60.0)


def missed(alarms, shift):
    """Put the threshold where the alarms are, found by bisection, and count what lies below it."""
    places = [bisected(lambda place, a=a: normal(-place) - a, -10.0, 10.0) for a in entries(alarms)]
    return torch.tensor([normal(place - shift) for place in places], dtype=torch.float64)


def deviations(options):
    least = bisected(lambda std: delta_of(1 / std, options["epsilon"]) - options["delta"], 0.05, 100.0)
    return least * options.get("sensitivity", 1.0) * math.sqrt(options.get("steps", 1))


def classical(options):
    constant = math.sqrt(2 * (math.log(1.25) - math.log(options["delta"])))
    return constant * options.get("sensitivity", 1.0) / options.get("epsilon", 1.0)


def renyi(options):
    """Return the best epsilon over whole orders: the binomial sum of the subsampled Gaussian's divergence."""
    q, z, steps, delta = (options[name] for name in ("sample_rate", "noise_multiplier", "steps", "delta"))
    found = []
    for order in range(2, 200):
        terms = [
            math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
            + (order - k) * math.log1p(-q) + k * math.log(q) + (k * k - k) / (2 * z * z)
            for k in range(order + 1)
        ]  # fmt: skip
        top = max(terms)
        spent = steps * (top + math.log(sum(math.exp(t - top) for t in terms))) / (order - 1)
        extra = math.log(1 / delta) / (order - 1)
        if options.get("accountant") != "rdp-classic":
            extra += math.log(1 - 1 / order) - math.log(order) / (order - 1)
        found.append(spent + extra)
    return min(found)


def one_sampled_step(options):
    """Return the epsilon of one step by integrals over the densities with and without the example."""
    q, z, delta = (options[name] for name in ("sample_rate", "noise_multiplier", "delta"))

    def density(value, at):
        return math.exp(-(((value - at) / z) ** 2) / 2) / (z * math.sqrt(2 * math.pi))

    def both(value):
        without = density(value, 0.0)
        return (1 - q) * without + q * density(value, 1.0), without

    def beyond(epsilon):
        ways = (lambda with_, without: with_ - math.exp(epsilon) * without,
                lambda with_, without: without - math.exp(epsilon) * with_)  # fmt: skip
        return max(
            integrate.quad(lambda v, way=way: max(0.0, way(*both(v))), -10 * z, 1 + 10 * z, limit=400)[0]
            for way in ways
        )

    return bisected(lambda epsilon: beyond(epsilon) - delta, 0.0, 10.0)


def misses(options):
    """Return what the best test misses: of two normal distributions, the one that says yes above a threshold."""
    shift = math.sqrt(options.get("steps", 1)) / options["noise_multiplier"]
    threshold = bisected(lambda value: 1 - normal(value) - options["false_alarms"], -40.0, 40.0)
    return normal(threshold - shift)


def private(gradients, seed, *, clip, std):
    """Clip example by example; every mean gets one draw a tensor: its share stands in every row."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for g in each_clipped(gradients, seed, norm=clip):
        found.append(None if g is None else g + std / len(g) * randn(*g.shape[1:], generator=generator))
    return found


def with_names(defense, gradients, seed):
    client = Client(model=named(), num_classes=4, generator=torch.Generator().manual_seed(seed))
    return list(defense.examples(tuple(gradients), client))


def in_part(gradients, seed, *, shared):
    """Do it to the first and the third tensor alone, whose names are given."""
    part = private([gradients[0], None, gradients[2]], seed, clip=1.5, std=0.6 * 1.5)
    return [part[0], gradients[1] if shared else None, part[2]]


def named():
    """Return a model of three parameters: ``0.weight``, ``0.bias`` and ``1.weight``."""
    return nn.Sequential(nn.utils.skip_init(nn.Linear, 3, 2), nn.utils.skip_init(nn.Linear, 2, 4, bias=False))


def of_named(generator):
    shapes = [(2, 3), (2,), (4, 2)]
    return [randn(5, *shape, generator=generator) for shape in shapes], int(torch.randint(99, (), generator=generator))


def weights_and_update(generator):
    model = named().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(randn(*parameter.shape, generator=generator))
    return model, [randn(*p.shape, generator=generator) for p in model.parameters()], 7


def share(defense, model, update, seed):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    client = Client(model=model, num_classes=4, generator=generator)
    return list(defense.shared(tuple(update), client))


def condensed(model, update, seed, *, alpha, clip, levels, uploads, chosen):
    """Go through the levels until their probabilities add up to a draw."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(g.numel() for g, use in zip(update, chosen, strict=True) if use)
    step, own = 2 * clip / (levels - 1), alpha / count / uploads
    found = []
    for g, use in zip(update, chosen, strict=True):
        drawn = []
        uniform = entries(rand(*g.shape, generator=generator)) if use else []
        for value, chance in zip(entries(g), uniform, strict=False):
            place = round((min(max(value, -clip), clip) + clip) / step)
            weights = [math.exp(-own * abs(place - y) / 2) for y in range(levels)]
            sums = list(itertools.accumulate(w / sum(weights) for w in weights))
            drawn.append(-clip + step * next((y for y, s in enumerate(sums) if s > chance), levels - 1))
        found.append(torch.tensor(drawn, dtype=torch.float64).view(g.shape) if use else None)
    return found


def imagined(model, update, seed, *, alpha, clip, levels):
    """Return every entry's mean draw; between two levels along a line."""
    count = sum(g.numel() for g in update)
    means = []
    for place in range(levels):
        weights = [math.exp(-alpha / count * abs(place - y) / 2) for y in range(levels)]
        values = [-clip + 2 * clip * y / (levels - 1) for y in range(levels)]
        means.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    found = []
    for g in update:
        own = []
        for value in entries(g):
            place = (min(max(value, -clip), clip) + clip) / (2 * clip) * (levels - 1)
            below = min(int(place), levels - 2)
            own.append((below + 1 - place) * means[below] + (place - below) * means[below + 1])
        found.append(torch.tensor(own, dtype=torch.float64).view(g.shape))
    return found


def noised_weights(model, update, seed, *, clip, std):
    """Return the weights before less the noisy, clipped weights after."""
    generator = torch.Generator().manual_seed(seed)
    before = [p.detach() for p in model.parameters()]
    after = [w - u for w, u in zip(before, update, strict=True)]
    factor = min(1.0, clip / length(after))
    return [w - (factor * a + std * randn(*a.shape, generator=generator)) for w, a in zip(before, after, strict=True)]


def anchored(kind, model, update, seed):
    """Return the loss with the proximal term after the weights have moved."""
    objective = kind(Objective(model, "cross_entropy"), 0.7)
    with torch.no_grad():
        for parameter, change in zip(model.parameters(), update, strict=True):
            parameter.add_(change)
    x, y = randn(5, 3, generator=torch.Generator().manual_seed(seed)), torch.tensor([0, 1, 2, 3, 0])
    return objective(x, y) - Objective(model, "cross_entropy")(x, y)


def clients(number, classes):
    return lambda generator: (torch.randint(0, 9, (number, classes), generator=generator) + torch.eye(number, classes),)


def apart(rows_, everyone):
    """Return the divergence of two histograms, class by class."""
    p, q = ([n / sum(counts) for n in counts] for counts in (rows_, everyone))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def summed(histograms, own):
    return [sum(histograms[k][c] for k in own) for c in range(len(histograms[0]))]


def dealt(histograms, *, groups):
    counts = [entries(row) for row in histograms]
    everyone, left, members = summed(counts, range(len(counts))), list(range(len(counts))), [[] for _ in range(groups)]
    while left:
        for own in members[: len(left)]:
            best = min(left, key=lambda k, own=own: apart(summed(counts, [*own, k]), everyone))
            own.append(left.pop(left.index(best)))
    return [sorted(own) for own in members]


def mean_apart(histograms, *, members):
    counts = [entries(row) for row in histograms]
    everyone = summed(counts, range(len(counts)))
    return sum(apart(summed(counts, own), everyone) for own in members) / len(members)


PAIRS = ((0, 2), (1, 3, 4))
ROWS = [
    *rows(
        called,
        [numbers(noise_multiplier=1.3, epsilon=0.7), numbers(noise_multiplier=0.4, epsilon=3.0, steps=5)],
        [(gaussian_delta, deltas)],
    ),
    *rows(
        called,
        [numbers(noise_multiplier=1.3, delta=1e-5), numbers(noise_multiplier=4.0, delta=1e-3, steps=9)],
        [(gaussian_epsilon, epsilons)],
        rtol=1e-6,
    ),
    *rows(
        called,
        [
            numbers(epsilon=1.0, delta=1e-5),
            numbers(epsilon=20.0, delta=1e-2, sensitivity=0.3, steps=7),
            numbers(epsilon=0.1, delta=1e-3),
        ],
        [(gaussian_std, deviations)],
        rtol=1e-6,
    ),
    *rows(
        called,
        [numbers(epsilon=1.0, delta=1e-5), numbers(epsilon=0.2, delta=0.01, sensitivity=3.0)],
        [(classical_std, classical)],
    ),
    *rows(called, [numbers(delta=0.01), numbers(delta=1e-6)], [(classical_constant, classical)]),
    *rows(
        called,
        [
            numbers(noise_multiplier=2.0, delta=1e-5, sample_rate=0.01, steps=1000, accountant=accountant)
            for accountant in ("rdp", "rdp-classic")
        ],
        [(sampled_epsilon, renyi)],
        rtol=1e-6,
    ),
    *rows(
        called,
        [numbers(noise_multiplier=0.8, delta=1e-3, sample_rate=0.2, steps=1, accountant="prv")],
        [(sampled_epsilon, one_sampled_step)],
        rtol=2e-2,
    ),
    *rows(
        called,
        [numbers(noise_multiplier=0.8, false_alarms=0.1), numbers(noise_multiplier=5.0, false_alarms=0.3, steps=16)],
        [(least_misses, misses)],
        rtol=1e-6,
    ),
    *rows(
        lambda function, alarms, shift: function(alarms, shift),
        [lambda _: (torch.tensor([1e-9, 0.01, 0.5, 0.999], dtype=torch.float64), 1.25)],
        [(tradeoff, missed)],
        rtol=1e-6,
    ),
    *rows(
        per_example,
        EXAMPLES,
        [
            (DPSGD(noise_multiplier=0.5, clip=2.5), partial(private, clip=2.5, std=1.25)),
            (DPSGD(noise_multiplier=0.0, clip=2.5), partial(each_clipped, norm=2.5)),
        ],
    ),
    *rows(
        with_names,
        [of_named],
        [
            (
                PartialNoise(noise_multiplier=0.6, clip=1.5, parameters=("0.weight", "1.weight"), rest=rest),
                partial(in_part, shared=rest == "shared"),
            )
            for rest in ("withheld", "shared")
        ],
    ),
    *rows(
        share,
        [weights_and_update],
        [
            (
                LDPFed(alpha=40.0, clip=0.8),
                partial(condensed, alpha=40.0, clip=0.8, levels=33, uploads=1, chosen=(True,) * 3),
            ),
            (
                LDPFed(alpha=9.0, clip=2.0, levels=4, uploads=2, parameters=("0.bias", "1.weight")),
                partial(condensed, alpha=9.0, clip=2.0, levels=4, uploads=2, chosen=(False, True, True)),
            ),
            (
                NbAFL(epsilon=60.0, clip=2.0, smallest=50, clients=4, rounds=9, exposures=3),
                partial(noised_weights, clip=2.0, std=math.sqrt(2 * math.log(125)) * 3 * 2 * 2.0 / 50 / 60),
            ),
            (
                NbAFL(epsilon=60.0, clip=99.0, smallest=50, clients=4, rounds=9, exposures=3, delta=0.1),
                partial(noised_weights, clip=99.0, std=math.sqrt(2 * math.log(12.5)) * 3 * 2 * 99.0 / 50 / 60),
            ),
        ],
    ),
    *rows(
        lambda defense, model, update, seed: share(defense, model, update, None),
        [weights_and_update],
        [(LDPFed(alpha=400.0, clip=0.8, levels=5), partial(imagined, alpha=400.0, clip=0.8, levels=5))],
    ),
    *rows(
        anchored,
        [weights_and_update],
        [(Proximal, lambda model, update, seed: torch.tensor(0.35 * length(update) ** 2, dtype=torch.float64))],
    ),
    *rows(
        lambda function, *arguments: function(*arguments),
        [lambda generator: (named(), ("1.weight", "0.bias")), lambda generator: (named(), ())],
        [(chosen_parameters, lambda model, names: [not names or name in names for name in NAMES])],
    ),
    *rows(
        lambda function, model, update, seed: float(function((*update, None))),
        [weights_and_update],
        [(vector_norm, lambda model, update, seed: length(update))],
    ),
    *rows(
        lambda function, histograms: [list(own) for own in function(histograms, 3)],
        [clients(7, 5), clients(12, 10)],
        [(grouped, partial(dealt, groups=3))],
    ),
    *rows(
        lambda function, histograms: function(histograms, PAIRS),
        [clients(5, 6)],
        [(divergence, partial(mean_apart, members=PAIRS))],
    ),
]
NAMES = ("0.weight", "0.bias", "1.weight")
NBAFL = {"epsilon": 60.0, "clip": 2.0, "smallest": 50, "clients": 4, "rounds": 9, "exposures": 3}
COUNTS = torch.ones(3, 4)
SAMPLED = {"delta": 1e-5, "sample_rate": 0.1, "steps": 3}

REFUSALS = [
    (lambda: gaussian_delta(0.0, epsilon=1.0), "^noise_multiplier: got 0.0, wanted a positive number"),
    (lambda: gaussian_delta(1.0, epsilon=-1.0), "^epsilon: got -1.0, wanted 0 or more"),
    (lambda: gaussian_delta(1.0, epsilon=1.0, steps=0), "^steps: got 0, wanted at least 1"),
    (lambda: gaussian_epsilon(-1.0, delta=0.1), "^noise_multiplier: got -1.0, wanted a positive number"),
    (lambda: gaussian_epsilon(1.0, delta=0.0), "^delta: got 0.0, wanted above 0, below 1"),
    (lambda: gaussian_epsilon(1.0, delta=1.0), "^delta: got 1.0, wanted above 0, below 1"),
    (lambda: gaussian_epsilon(1.0, delta=0.1, steps=1.5), "^steps: got 1.5, wanted a whole number"),
    (lambda: gaussian_std(0.0, delta=0.1), "^epsilon: got 0.0, wanted a positive number"),
    (lambda: gaussian_std(float("inf"), delta=0.1), "^epsilon: got inf, wanted a positive number"),
    (lambda: gaussian_std(1.0, delta=float("nan")), "^delta: got nan, wanted above 0, below 1"),
    (lambda: gaussian_std(1.0, delta=0.1, sensitivity=0.0), "^sensitivity: got 0.0, wanted a positive number"),
    (lambda: gaussian_std(1.0, delta=0.1, steps=0), "^steps: got 0, wanted at least 1"),
    (lambda: classical_std(1.5, delta=0.1), r"^epsilon: got 1.5, wanted above 0, at most 1; gaussian_std\(...\) goes"),
    (lambda: classical_std(1.0, delta=2.0), "^delta: got 2.0, wanted above 0, below 1"),
    (lambda: classical_std(1.0, delta=0.1, sensitivity=-1.0), "^sensitivity: got -1.0, wanted a positive number"),
    (lambda: classical_constant(0.0), "^delta: got 0.0, wanted above 0, below 1"),
    (lambda: sampled_epsilon(0.0, **SAMPLED), "^noise_multiplier: got 0.0, wanted a positive number"),
    (lambda: sampled_epsilon(1.0, **SAMPLED | {"delta": 0.0}), "^delta: got 0.0, wanted above 0, below 1"),
    (lambda: sampled_epsilon(1.0, **SAMPLED | {"sample_rate": 0.0}), "^sample_rate: got 0.0, wanted above 0, below 1"),
    (lambda: sampled_epsilon(1.0, **SAMPLED | {"steps": 0}), "^steps: got 0, wanted at least 1"),
    (lambda: sampled_epsilon(1.0, **SAMPLED, accountant="gdp"), "^accountant: got 'gdp', wanted one of rdp, rdp-c"),
    (lambda: least_misses(0.0, false_alarms=0.1), "^noise_multiplier: got 0.0, wanted a positive number"),
    (lambda: least_misses(1.0, false_alarms=1.1), "^false_alarms: got 1.1, wanted 0 to 1"),
    (lambda: least_misses(1.0, false_alarms=0.1, steps=0), "^steps: got 0, wanted at least 1"),
    (lambda: DPSGD(noise_multiplier=-1.0, clip=1.0), "^noise_multiplier: got -1.0, wanted 0 or more"),
    (lambda: DPSGD(noise_multiplier="1", clip=1.0), "^noise_multiplier: got '1', wanted 0 or more"),
    (lambda: DPSGD(noise_multiplier=1.0, clip=0.0), "^clip: got 0.0, wanted a positive number"),
    (lambda: DPSGD(noise_multiplier=0.0, clip=1.0).epsilon(delta=0.1), "^noise_multiplier: got 0, wanted noise: clip"),
    (lambda: DPSGD(noise_multiplier=1.0, clip=1.0).epsilon(delta=0.1, sample_rate=2.0), "^sample_rate: got 2.0"),
    (lambda: DPSGD(noise_multiplier=1.0, clip=1.0).noise, r"^defense: got DPSGD\(.*\), whose noise enters every step"),
    (lambda: PartialNoise(noise_multiplier=1.0, clip=1.0, parameters=()), r"^parameters: got \(\), wanted a tuple"),
    (lambda: PartialNoise(noise_multiplier=1.0, clip=1.0, parameters="w"), "^parameters: got 'w', wanted a tuple"),
    (
        lambda: PartialNoise(noise_multiplier=1.0, clip=1.0, parameters=("w",), rest="noisy"),
        "^rest: got 'noisy', wanted one of withheld, shared",
    ),
    (
        lambda: PartialNoise(noise_multiplier=1.0, clip=1.0, parameters=("w",), rest="shared").epsilon(delta=0.1),
        "^rest: got 'shared', wanted 'withheld': what is shared beside w has no noise",
    ),
    (lambda: chosen_parameters(named(), ("2.bias",)), "^parameters: got '2.bias', wanted one of 0.weight, 0.bias"),
    (lambda: LDPFed(alpha=0.0, clip=1.0), "^alpha: got 0.0, wanted a positive number"),
    (lambda: LDPFed(alpha=1.0, clip=-1.0), "^clip: got -1.0, wanted a positive number"),
    (lambda: LDPFed(alpha=1.0, clip=1.0, levels=1), "^levels: got 1, wanted at least 2"),
    (lambda: LDPFed(alpha=1.0, clip=1.0, uploads=0), "^uploads: got 0, wanted at least 1"),
    (lambda: LDPFed(alpha=1.0, clip=1.0, parameters="w"), "^parameters: got 'w', wanted a tuple of names"),
    (lambda: LDPFed(alpha=1.0, clip=1.0).probabilities(-1.0), "^alpha: got -1.0, wanted a positive number"),
    (lambda: NbAFL(**NBAFL | {"epsilon": 0.0}), "^epsilon: got 0.0, wanted a positive number"),
    (lambda: NbAFL(**NBAFL, delta=1.0), "^delta: got 1.0, wanted above 0, below 1"),
    (lambda: NbAFL(**NBAFL | {"clip": 0.0}), "^clip: got 0.0, wanted a positive number"),
    (lambda: NbAFL(**NBAFL | {"smallest": 0}), "^smallest: got 0, wanted at least 1"),
    (lambda: NbAFL(**NBAFL | {"clients": 2.0}), "^clients: got 2.0, wanted a whole number"),
    (lambda: NbAFL(**NBAFL | {"exposures": 10}), "^exposures: got 10, wanted at most the number of rounds, 9"),
    (lambda: NbAFL(**NBAFL, proximal=-1.0), "^proximal: got -1.0, wanted 0 or more"),
    (lambda: NbAFL(**NBAFL, calibration="exact"), "^calibration: got 'exact', wanted one of classical, analytic"),
    (lambda: grouped(COUNTS, 4), "^groups: got 4, wanted a whole number from 1 to the number of clients, 3"),
    (lambda: grouped(COUNTS, True), "^groups: got True, wanted a whole number"),
    (lambda: grouped([[1, 2]], 1), r"^histograms: got list, wanted a tensor \(clients, classes\)"),
    (lambda: grouped(COUNTS[0], 1), r"^histograms: got \(4,\), wanted a tensor"),
    (lambda: grouped(COUNTS * 0, 1), "^histograms: got a row that is negative, not finite or empty"),
    (lambda: divergence(COUNTS, 1), "^members: got 1, wanted of every group the clients' positions"),
    (lambda: divergence(COUNTS, ((0.5,),)), r"^members: got the group \(0.5,\), wanted a tuple of whole numbers"),
    (lambda: divergence(COUNTS, (("0",),)), r"^members: got the group \('0',\), wanted a tuple of whole numbers"),
    (lambda: divergence(COUNTS, ()), "^members: got no group, wanted at least one"),
    (lambda: divergence(COUNTS, ((),)), r"^members: got the group \(\), wanted positions from 0 to 2"),
    (lambda: divergence(COUNTS, ((0, 3),)), r"^members: got the group \(0, 3\), wanted positions from 0 to 2"),
]
