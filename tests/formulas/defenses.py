"""Defenses on drawn gradients, entry by entry, and the loss of a polarized client."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch
from torch import nn

from formulas.rows import Row, entries, rand, randn, rows
from gilearn.defenses import (
    BatchClipping,
    Dropout,
    ExampleClipping,
    FakeGradients,
    GaussianNoise,
    LaplaceNoise,
    Polarization,
    Reshuffling,
)
from gilearn.defenses.gradients import perturbation
from gilearn.defenses.model import codes
from gilearn.federated import Client
from gilearn.federated.explicit import Explicit
from gilearn.federated.task import Objective

MODULES = [
    "gilearn.defenses.gradients.perturbation",
    "gilearn.defenses.model",
]
NO_FORMULA = {"Polarized"}
CLASSES = 4


def client(seed=0, model=None):
    return Client(model=model or nn.Identity(), num_classes=CLASSES, generator=torch.Generator().manual_seed(seed))


def shared(defense, gradients, seed):
    return list(defense.shared(tuple(gradients), client(seed)))


def per_example(defense, gradients, seed):
    return list(defense.examples(tuple(gradients), client(seed)))


def publicly(defense, gradients, seed):
    """Share other gradients as an attacker imagines it, who saw these being shared and knows the public part."""
    public = defense.public(SimpleNamespace(shared=defense.shared(tuple(gradients), client(seed))))
    return list(public.shared(tuple(others(gradients)), replace(client(seed), generator=None)))


def others(gradients):
    return [None if g is None else g + 0.7 for g in gradients]


def mapped(change, gradient):
    """Return a tensor of the same shape whose entries are changed one by one."""
    return torch.tensor([change(value) for value in entries(gradient)], dtype=torch.float64).view(gradient.shape)


def noisy(gradients, seed, *, draw):
    generator = torch.Generator().manual_seed(seed)
    return [None if g is None else g + mapped(draw[1], draw[0](*g.shape, generator=generator)) for g in gradients]


def laplace(scale):
    """Return the inverse of the Laplace distribution's cumulative function."""
    return lambda share: scale * (math.log(2 * share) if share < 0.5 else -math.log(2 * (1 - share)))


def length(tensors):
    return math.sqrt(sum(value * value for tensor in tensors if tensor is not None for value in entries(tensor)))


def clipped(gradients, seed, *, norm):
    factor = min(1.0, norm / length(gradients))
    return [None if g is None else g * factor for g in gradients]


def each_clipped(gradients, seed, *, norm):
    number = next(len(g) for g in gradients if g is not None)
    own = [clipped([None if g is None else g[k] for g in gradients], seed, norm=norm) for k in range(number)]
    return [None if g is None else torch.stack([one[j] for one in own]) for j, g in enumerate(gradients)]


def each_length(gradients, seed):
    number = next(len(g) for g in gradients if g is not None)
    each = [length([None if g is None else g[k] for g in gradients]) for k in range(number)]
    return torch.tensor(each, dtype=torch.float64)


def faked(gradients, seed, *, std, candidates):
    """Put the sorted draw that is nearest to the sorted entries where these are, tensor by tensor."""
    generator = torch.Generator().manual_seed(seed)
    fakes = []
    for gradient in gradients:
        if gradient is None:
            fakes.append(None)
            continue
        values = entries(gradient)
        scale = math.sqrt(sum(v * v for v in values) / len(values)) if std is None else std
        draws = [sorted(scale * v for v in entries(randn(len(values), generator=generator))) for _ in range(candidates)]
        ranks = {k: place for place, k in enumerate(sorted(range(len(values)), key=values.__getitem__))}
        gaps = [sum((a - b) ** 2 for a, b in zip(d, sorted(values), strict=True)) for d in draws]
        nearest = draws[gaps.index(min(gaps))]
        fake = [nearest[ranks[k]] for k in range(len(values))]
        fakes.append(torch.tensor(fake, dtype=torch.float64).view(gradient.shape))
    return fakes


def reshuffled(defense, x, y, seed):
    inputs, targets = defense.data(x, y, client(seed))
    return [inputs, targets]


def by_the_draws(x, y, seed, *, epochs):
    """Return the examples, epoch by epoch, in the order of one draw each."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(epochs):
        draws = entries(rand(len(x), generator=generator))
        rows += sorted(range(len(x)), key=draws.__getitem__)
    return [torch.stack([x[row] for row in rows]), torch.stack([y[row] for row in rows])]


def some_data(number, generator):
    x, y = randn(number, 2, 3, generator=generator), torch.randint(CLASSES, (number,), generator=generator)
    return x, y, int(torch.randint(99, (), generator=generator))


def draw(shapes, generator, *, missing=()):
    gradients = [None if k in missing else randn(*shape, generator=generator) for k, shape in enumerate(shapes)]
    return gradients, int(torch.randint(99, (), generator=generator))


def signs(defense, classes):
    """Return the code of a value of the defense: fair coins of a generator of its own."""
    generator = torch.Generator().manual_seed(defense.seed + 1)
    flips = torch.randint(0, 2, (classes, defense.codes), generator=generator).tolist()
    return [[1 if flip else -1 for flip in line] for line in flips]


def polarized(defense, model, x, y):
    """Return the loss of a batch; the adapter to the package's."""
    return defense.objective(Objective(model, "cross_entropy"), client(model=model))(x, y)


def polarized_loss(defense, head, model, x, y):
    """Return share x cross-entropy + (1 - share) x mean hinge max(margin - code x head, 0)."""
    cross_entropy, hinges = [], []
    wanted = signs(defense, CLASSES)
    for example, label in zip(x, y.tolist(), strict=True):
        features = example[None]
        for k, layer in enumerate(model):
            if k == defense.split:
                answers = features.flatten() @ head.weight.T + head.bias
                hinges += [(defense.margin - b * h).clamp(min=0) for h, b in zip(answers, wanted[label], strict=True)]
            features = layer(features)
        cross_entropy.append(features[0].exp().sum().log() - features[0, label])
    share = defense.share
    return share * sum(cross_entropy) / len(cross_entropy) + (1 - share) * sum(hinges) / len(hinges)


def dropping(defense, model, x, y):
    """Return a client's loss with its layer, and that of a copy of its model with the layer in it."""
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    with Explicit(generator=generators[0]):
        own = defense.objective(Objective(model, "cross_entropy"), client(model=model))(x, y)
    with Explicit(generator=generators[1]):
        inserted = Objective(defense.insert(model), "cross_entropy")(x, y)
    return [own, inserted]


def dropped_loss(model, x, y, *, p):
    """Return the cross-entropy with features that are zero where a draw is below p, and over 1 - p elsewhere."""
    features = model[:-1](x)
    shares = entries(rand(*features.shape, generator=torch.Generator().manual_seed(5)))
    kept = torch.tensor([0.0 if share < p else 1 / (1 - p) for share in shares], dtype=torch.float64)
    logits = (features * kept.view_as(features)) @ model[-1].weight.T + model[-1].bias
    loss = (logits.exp().sum(1).log() - logits[torch.arange(len(y)), y]).mean()
    return [loss, loss]


def in_single(defense, model, x, y):
    """Return the loss of a client whose network is in single precision; the head stays what it is."""
    loss = polarized(defense, model.float(), x.float(), y)
    assert loss.dtype == torch.float32
    assert defense.head.weight.dtype == torch.float64
    return loss


def trained(defense, model, x, y, **options):
    before = [parameter.clone() for parameter in model.parameters()]
    public, private = defense.train(model, x, y, **options)
    assert all(map(torch.equal, before, model.parameters())), "the public model was trained, not a copy"
    return [*public.parameters(), *private.head.parameters()]


def trained_by_hand(defense, model, x, y, *, steps=300, batch_size=64, lr=0.01):
    generator = torch.Generator().manual_seed(defense.seed)
    public = copy.deepcopy(model)
    inputs = public[: defense.split](x[:1]).numel()
    head = nn.utils.skip_init(nn.Linear, inputs, defense.codes)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in (head.weight, head.bias):
            drawn = torch.rand(parameter.shape, generator=generator)
            parameter.copy_(2 * bound * drawn - bound)
    parameters = [*public.parameters(), *head.double().parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for _ in range(steps):
        picks = torch.randint(len(x), (batch_size,), generator=generator)
        optimizer.zero_grad()
        polarized_loss(defense, head, public, x[picks], y[picks]).backward()
        optimizer.step()
    return parameters


def batch(number, generator):
    """Return a public network, whose first two layers make features, and a batch."""
    layers = [nn.utils.skip_init(nn.Conv2d, 2, 3, 2), nn.Sigmoid(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.utils.skip_init(nn.Linear, 12, CLASSES)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(randn(*parameter.shape, generator=generator))
    x = rand(number, 2, 3, 3, generator=generator)
    return model, x, torch.randint(CLASSES, (number,), generator=generator)


def head(numbers, inputs):
    """Return a private head with drawn weights."""
    made = nn.utils.skip_init(nn.Linear, inputs, numbers).double()
    with torch.no_grad():
        for k, parameter in enumerate(made.parameters()):
            parameter.copy_(randn(*parameter.shape, generator=torch.Generator().manual_seed(k)))
    return made


GRADIENTS = [
    partial(draw, [(3, 2), (3,)]),
    partial(draw, [(2, 3, 2, 2), (2,), (4, 5), (4,)], missing=(1,)),
    partial(draw, [(1, 7), (3, 3), (5,)], missing=(0,)),
]
EXAMPLES = [partial(draw, [(5, 3, 2), (5, 3)]), partial(draw, [(3, 2, 2, 2, 2), (3, 2), (3, 4)], missing=(1,))]
BATCHES = [partial(batch, 1), partial(batch, 5)]
PRIVATE = [head(6, 12), head(16, 12)]
SETTINGS = [
    Polarization(split=2, codes=6, head=PRIVATE[0]),
    Polarization(split=2, codes=6, share=0.2, margin=2.5, seed=3, head=PRIVATE[0]),
    Polarization(split=3, share=1.0, head=PRIVATE[1]),
    Polarization(split=1, share=0.0, head=PRIVATE[1]),
]
UNTRAINED = Polarization(split=2, codes=5, share=0.3, seed=2)
SHORT = {"steps": 3, "batch_size": 4, "lr": 0.05}
ROWS = [
    *rows(
        shared,
        GRADIENTS,
        [
            (GaussianNoise(std=0.3), partial(noisy, draw=(randn, lambda value: 0.3 * value))),
            (GaussianNoise(std=0.0), partial(noisy, draw=(randn, lambda value: 0.0))),
            (LaplaceNoise(scale=0.7), partial(noisy, draw=(rand, laplace(0.7)))),
            (BatchClipping(norm=0.5), partial(clipped, norm=0.5)),
            (BatchClipping(norm=100.0), partial(clipped, norm=100.0)),
            (FakeGradients(), partial(faked, std=None, candidates=10)),
            (FakeGradients(std=0.3, candidates=1), partial(faked, std=0.3, candidates=1)),
        ],
    ),
    *rows(
        per_example, EXAMPLES, [(ExampleClipping(norm=norm), partial(each_clipped, norm=norm)) for norm in (2.5, 99.0)]
    ),
    *rows(
        lambda function, gradients, seed: list(function(tuple(gradients), 0.9)),
        GRADIENTS,
        [(perturbation.clipped, partial(clipped, norm=0.9))],
    ),
    *rows(
        lambda function, gradients, seed: function(tuple(gradients), examples=True),
        EXAMPLES,
        [(perturbation.vector_norm, each_length)],
    ),
    *rows(
        publicly,
        GRADIENTS,
        [
            (GaussianNoise(std=0.3), lambda gradients, seed: others(gradients)),
            (LaplaceNoise(scale=0.7), lambda gradients, seed: others(gradients)),
            (BatchClipping(norm=0.5), lambda gradients, seed: clipped(others(gradients), seed, norm=0.5)),
        ],
    ),
    *rows(
        reshuffled,
        [partial(some_data, 5), partial(some_data, 1)],
        [(Reshuffling(epochs=epochs), partial(by_the_draws, epochs=epochs)) for epochs in (1, 3)],
    ),
    *rows(polarized, BATCHES, [(value, partial(polarized_loss, value, value.head)) for value in SETTINGS]),
    *rows(dropping, BATCHES, [(Dropout(p=p), partial(dropped_loss, p=p)) for p in (0.0, 0.3, 0.5, 0.9)]),
    *rows(in_single, BATCHES, [(SETTINGS[1], partial(polarized_loss, SETTINGS[1], PRIVATE[0]))], rtol=1e-5),
    *(
        Row(UNTRAINED, partial(trained, **options), partial(trained_by_hand, UNTRAINED, **options), BATCHES[1:], 1e-4)
        for options in (SHORT, {"steps": 1}, {"steps": 0})
    ),
    *rows(
        lambda function, *arguments: function(*arguments).tolist(),
        [lambda _: (SETTINGS[1], 3), lambda _: (SETTINGS[2], 5)],
        [(codes, signs)],
    ),
]


def drawn(number=2):
    return batch(number, torch.Generator().manual_seed(0))


REFUSALS = [
    (lambda: GaussianNoise(std=-0.1), "^std: got -0.1, wanted 0 or more"),
    (lambda: LaplaceNoise(scale=-0.1), "^scale: got -0.1, wanted 0 or more"),
    (lambda: BatchClipping(norm=0.0), "^norm: got 0.0, wanted a positive number"),
    (lambda: ExampleClipping(norm=-1.0), "^norm: got -1.0, wanted a positive number"),
    (lambda: GaussianNoise(std="0.1"), "^std: got '0.1', wanted 0 or more"),
    (lambda: GaussianNoise(std=math.inf), "^std: got inf, wanted 0 or more"),
    (lambda: LaplaceNoise(scale=True), "^scale: got True, wanted 0 or more"),
    (lambda: BatchClipping(norm=None), "^norm: got None, wanted a positive number"),
    (lambda: ExampleClipping(norm=math.inf), "^norm: got inf, wanted a positive number"),
    (lambda: ExampleClipping(norm=torch.tensor(True)), r"^norm: got tensor\(True\), wanted a positive number"),
    (lambda: FakeGradients(std=math.nan), "^std: got nan, wanted a positive number, or None"),
    (lambda: FakeGradients(candidates=2.5), "^candidates: got 2.5, wanted a whole number, at least 1"),
    (lambda: perturbation.vector_norm((None,)), "^gradients: got no tensors, wanted at least one"),
    (lambda: Dropout(p=1.0), "^p: got 1.0, wanted 0 to below 1"),
    (lambda: Dropout(p=-0.1), "^p: got -0.1, wanted 0 to below 1"),
    (lambda: Dropout(p=0.5).insert(nn.Flatten()), "^model: got a Flatten without an nn.Linear, wanted one"),
    (lambda: Reshuffling(epochs=0), "^epochs: got 0, wanted at least 1"),
    (lambda: Polarization(split=0), "^split: got 0, wanted at least 1"),
    (lambda: Polarization(split=1, codes=0), "^codes: got 0, wanted at least 1"),
    (lambda: Polarization(split=1, share=1.5), "^share: got 1.5, wanted 0 to 1"),
    (lambda: Polarization(split=1, share=-0.5), "^share: got -0.5, wanted 0 to 1"),
    (lambda: Polarization(split=1, margin=0.0), "^margin: got 0.0, wanted a positive number"),
    (lambda: Polarization(split=4).train(*drawn()), "^split: got 4 for a model of 4 layers, wanted fewer"),
    (lambda: polarized(UNTRAINED, *drawn()), "^defense: the polarization has no private head yet, train"),
    (lambda: polarized(SETTINGS[0], nn.Identity(), None, None), "^model: got a Identity, wanted an nn.Sequential to"),
]
