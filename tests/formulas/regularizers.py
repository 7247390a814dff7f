"""Regularizers on all restarts of a search, pixel by pixel and layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from formulas.rows import entries, rand, randn, rows
from gilearn import federated
from gilearn.attacks.iteration.regularizers import (
    L2,
    BatchNormStatistics,
    Candidates,
    GroupConsistency,
    LabelConsistency,
    MaskRate,
    Orthogonality,
    TotalVariation,
    registered_mean,
)

MODULES = ["gilearn.attacks.iteration.regularizers"]
NO_FORMULA = {"Candidates", "Regularizer", "Weighted"}
CLASSES = 4


@dataclass(frozen=True)
class Client:
    """A network with two batch normalizations, and the batch that was private."""

    model: nn.Sequential
    inputs: torch.Tensor
    labels: torch.Tensor
    masks: list[torch.Tensor] | None = None
    declared_mask: torch.Tensor | None = None


def compute(regularizer, client, visited, declare=("batch_norm",)):
    """Return the term of every restart at every iteration; the adapter to the package's regularizers."""
    seen = federated.observe(client.model, client.inputs, client.labels, declare=declare)
    if client.declared_mask is not None:
        seen = seen.replace(knowledge={**seen.knowledge, "masks": (client.declared_mask,)})
    term = regularizer.build(seen)
    masks = None if client.masks is None else [(mask,) for mask in client.masks]
    return [
        list(
            term(
                Candidates(
                    seen=seen, inputs=inputs, targets=targets, iteration=iteration, progress=progress, masks=masks
                )
            )
        )
        for iteration, progress, inputs, targets in visited
    ]


def each(term, client, visited, *, weight):
    """Return weight x term(client, inputs, targets) for every restart at every iteration."""
    values = []
    for _, _, inputs, targets in visited:
        masks = client.masks or [client.declared_mask] * len(inputs)
        own = [replace(client, masks=[mask]) for mask in masks]
        values.append([weight * term(*one) for one in zip(own, inputs, targets, strict=True)])
    return values


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def differences(pictures):
    """Yield for every pixel its difference to the right and below, None at the edge."""
    for picture in pictures.reshape(-1, *pictures.shape[-2:]).tolist():
        for i, line in enumerate(picture):
            for j, value in enumerate(line):
                right = line[j + 1] - value if j + 1 < len(line) else None
                below = picture[i + 1][j] - value if i + 1 < len(picture) else None
                yield right, below


def anisotropic(client, inputs, targets):
    both = list(differences(inputs))
    return mean(abs(r) for r, _ in both if r is not None) + mean(abs(b) for _, b in both if b is not None)


def isotropic(client, inputs, targets):
    return mean(math.sqrt(r * r + b * b) for r, b in differences(inputs) if r is not None and b is not None)


def excess(client, inputs, targets):
    return max(0.0, anisotropic(client, inputs, targets) - 2.2)


def norm(client, inputs, targets):
    return math.sqrt(sum(value * value for value in entries(inputs)))


def passed(model, inputs, mask=None):
    """Return the logits, and mean and biased variance of every batch normalization's input, layer by layer."""
    statistics, value = [], inputs
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            channels = [value[:, c].flatten().tolist() for c in range(value.shape[1])]
            means = [mean(channel) for channel in channels]
            variances = [mean((v - m) ** 2 for v in channel) for channel, m in zip(channels, means, strict=True)]
            statistics.append((means, variances))
            if not layer.training:
                means, variances = entries(layer.running_mean), entries(layer.running_var)
            shift, size = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (means, variances))
            factor, offset = (p.detach().view(-1, 1, 1) for p in (layer.weight, layer.bias))
            value = (value - shift) / (size + layer.eps).sqrt() * factor + offset
        elif isinstance(layer, nn.Conv2d):
            value = F.conv2d(value, layer.weight, layer.bias)
        elif isinstance(layer, nn.Linear):
            value = value.flatten(1) @ layer.weight.T + layer.bias
        elif isinstance(layer, nn.Embedding):
            pass  # the search has its vectors
        elif isinstance(layer, nn.Dropout):
            value = value if mask is None else value * mask
        elif isinstance(layer, nn.Sigmoid):
            value = 1 / (1 + (-value).exp())
    return value.detach(), statistics


def batch_norm(client, inputs, targets, *, declared):
    if declared:
        _, wanted = passed(client.model, client.inputs)
    else:
        layers = [layer for layer in client.model if isinstance(layer, nn.BatchNorm2d)]
        wanted = [(entries(layer.running_mean), entries(layer.running_var)) for layer in layers]
    _, there = passed(client.model, inputs, client.masks[0])
    pairs = [pair for one, other in zip(there, wanted, strict=True) for pair in zip(one, other, strict=True)]
    return sum(math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True))) for one, other in pairs)


def label(client, inputs, targets):
    value = 0.0
    for logits, target in zip(passed(client.model, inputs, client.masks[0])[0].tolist(), targets, strict=True):
        wanted = target.tolist() if target.ndim else [float(c == int(target)) for c in range(CLASSES)]
        rest = sum(math.exp(logit) for logit in logits)
        value += sum((math.exp(logit) / rest - share) ** 2 for logit, share in zip(logits, wanted, strict=True))
    return value


def orthogonality(client, inputs, targets):
    pictures = [entries(picture) for picture in inputs]
    lengths = [math.sqrt(sum(v * v for v in picture)) for picture in pictures]
    cosines = [
        sum(a * b for a, b in zip(pictures[i], pictures[j], strict=True)) / (lengths[i] * lengths[j])
        for i in range(len(pictures))
        for j in range(len(pictures))
        if i != j
    ]
    return mean(cosine * cosine for cosine in cosines) if cosines else 0.0


def rolled_onto(moving, target):
    """Shift a picture round by whole pixels to where its phase correlation with the target peaks."""
    spectra = [np.fft.fft2(picture.mean(dim=0).numpy()) for picture in (target, moving)]
    product = spectra[0] * spectra[1].conj()
    peak = np.abs(np.fft.ifft2(product / np.abs(product))).argmax()
    down, across = divmod(int(peak), moving.shape[-1])
    wanted = torch.empty_like(moving)
    height, width = moving.shape[-2:]
    for i in range(height):
        for j in range(width):
            wanted[:, (i + down) % height, (j + across) % width] = moving[:, i, j]
    return wanted


def registered(inputs, target):
    starts = [torch.stack([rolled_onto(*pair) for pair in zip(start, target, strict=True)]) for start in inputs]
    return sum(starts) / len(starts)


def group(client, visited, *, weight, register=False, after=0.25, every=20):
    values, consensus = [], None
    for iteration, progress, inputs, _ in visited:
        plain = sum(inputs) / len(inputs)
        if not register or progress < after:
            consensus = plain
        elif iteration % every == 0:
            consensus = registered(inputs, plain)
        values.append([weight * math.sqrt(sum(v * v for v in entries(x - consensus))) for x in inputs])
    return values


def batch_norm_net(mode, channels, side, generator):
    model = nn.Sequential(
        nn.utils.skip_init(nn.Conv2d, channels, 3, 3),
        nn.BatchNorm2d(3),
        nn.Sigmoid(),
        nn.utils.skip_init(nn.Conv2d, 3, 2, 2),
        nn.BatchNorm2d(2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.utils.skip_init(nn.Linear, 2 * (side - 3) ** 2, CLASSES),
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(randn(*parameter.shape, generator=generator))
        for layer in (model[1], model[4]):
            layer.running_mean.copy_(randn(*layer.running_mean.shape, generator=generator))
            layer.running_var.copy_(0.5 + rand(*layer.running_var.shape, generator=generator))
    return model.train(mode == "train")


def search(mode, restarts, batch, channels, side, generator, *, soft=False, at=((0, 0.0),)):
    """Return a client, and the restarts' inputs and targets at some (iteration, progress)."""
    model = batch_norm_net(mode, channels, side, generator)
    private = Client(model, rand(batch, channels, side, side, generator=generator), torch.arange(batch) % CLASSES)
    visited = []
    for iteration, progress in at:
        inputs = randn(restarts, batch, channels, side, side, generator=generator)
        if soft:
            targets = randn(restarts, batch, CLASSES, generator=generator).softmax(dim=-1)
        else:
            targets = torch.randint(CLASSES, (restarts, batch), generator=generator)
        visited.append((iteration, progress, inputs, targets))
    return private, visited


def dropped(restarts, batch, generator, *, searched, declared):
    """Return a search of a client that drops features: under masks that are searched, declared or not there at all."""
    private, visited = search("train", restarts, batch, 1, 5, generator)
    layers = list(private.model)
    model = nn.Sequential(*layers[:3], nn.Dropout(0.4), *layers[3:]).train()
    masks = (rand(restarts + 1, batch, 3, 3, 3, generator=generator) > 0.4) / 0.6
    return (
        replace(
            private,
            model=model,
            masks=list(masks[1:]) if searched else None,
            declared_mask=masks[0] if declared else None,
        ),
        visited,
    )


def rate(client, inputs, targets):
    """Return |share of zeros - p|, where a mask's entry has lost 1 - 0.6 x entry of its unit, with p = 0.4."""
    return abs(mean(1 - 0.6 * entry for entry in entries(client.masks[0])) - 0.4)


def sentences(restarts, batch, generator):
    """Return a search for the embeddings of a client with a model of tokens."""
    layers = [nn.utils.skip_init(nn.Embedding, 5, 2), nn.Flatten(), nn.utils.skip_init(nn.Linear, 6, CLASSES)]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(randn(*parameter.shape, generator=generator))
    private = Client(model, torch.randint(5, (batch, 3), generator=generator), torch.arange(batch) % CLASSES)
    targets = torch.randint(CLASSES, (restarts, batch), generator=generator)
    return private, [(0, 0.0, randn(restarts, batch, 3, 2, generator=generator), targets)]


def pictures(restarts, batch, channels, generator):
    return randn(restarts, batch, channels, 6, 9, generator=generator), randn(
        batch, channels, 6, 9, generator=generator
    )


CASES = [
    partial(search, "train", 1, 1, 1, 5),
    partial(search, "eval", 1, 3, 3, 6),
    partial(search, "train", 2, 2, 3, 5, soft=True),
    partial(search, "eval", 3, 2, 1, 6, at=((0, 0.0), (7, 0.5))),
]
DROPPED = [
    partial(dropped, 2, 3, searched=searched, declared=declared)
    for searched, declared in ((True, False), (True, True), (False, True), (False, False))
]
WALK = tuple((iteration, iteration / 12) for iteration in range(12))
GROUPS = [partial(search, "eval", 2, 1, 1, 5, at=WALK), partial(search, "eval", 3, 2, 3, 6, at=WALK)]
ROWS = [
    *rows(
        compute,
        CASES,
        [
            (TotalVariation(weight=1.3), partial(each, anisotropic, weight=1.3)),
            (TotalVariation(weight=1.3, above=2.2), partial(each, excess, weight=1.3)),
            (L2(weight=0.0), partial(each, norm, weight=0.0)),
            (TotalVariation(weight=0.3, isotropic=True), partial(each, isotropic, weight=0.3)),
            (L2(weight=0.7), partial(each, norm, weight=0.7)),
            (BatchNormStatistics(weight=2.0), partial(each, partial(batch_norm, declared=False), weight=2.0)),
            (
                BatchNormStatistics(weight=0.4, source="declared"),
                partial(each, partial(batch_norm, declared=True), weight=0.4),
            ),
            (LabelConsistency(weight=3.0), partial(each, label, weight=3.0)),
            (Orthogonality(weight=0.6), partial(each, orthogonality, weight=0.6)),
            (GroupConsistency(weight=0.5), partial(group, weight=0.5)),
        ],
    ),
    *rows(
        compute,
        DROPPED,
        [
            (BatchNormStatistics(weight=2.0), partial(each, partial(batch_norm, declared=False), weight=2.0)),
            (LabelConsistency(weight=3.0), partial(each, label, weight=3.0)),
        ],
    ),
    *rows(compute, DROPPED[:2], [(MaskRate(weight=0.9), partial(each, rate, weight=0.9))], rtol=1e-5),
    *rows(compute, [partial(sentences, 2, 3)], [(LabelConsistency(weight=3.0), partial(each, label, weight=3.0))]),
    *rows(
        compute,
        GROUPS,
        [
            (GroupConsistency(weight=1.5), partial(group, weight=1.5)),
            (
                GroupConsistency(weight=0.5, register=True, after=0.5, every=2),
                partial(group, weight=0.5, register=True, after=0.5, every=2),
            ),
            (
                GroupConsistency(weight=0.5, register=True, after=1.0, every=1),
                partial(group, weight=0.5, register=True, after=1.0, every=1),
            ),
            (
                GroupConsistency(weight=0.5, register=True, after=0.0, every=5),
                partial(group, weight=0.5, register=True, after=0.0, every=5),
            ),
        ],
    ),
    *rows(
        lambda function, *arguments: function(*arguments),
        [partial(pictures, 1, 1, 1), partial(pictures, 3, 2, 3)],
        [(registered_mean, registered)],
    ),
]


def refused(regularizer, layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.utils.skip_init(nn.Linear, 4, 2)).double()
    with torch.no_grad():
        model[2].weight.fill_(0.5)
        model[2].bias.fill_(0.5)
    private = Client(model, torch.arange(8.0).double().view(2, 1, 2, 2), torch.tensor([0, 1]))
    compute(regularizer, private, [(0, 0.0, private.inputs[None], private.labels[None])], declare=[])


REFUSALS = [
    (
        lambda: compute(MaskRate(weight=1.0), *DROPPED[2](torch.Generator().manual_seed(0))),
        "regularizers: got MaskRate, and no masks are searched, wanted space",
    ),
    (lambda: L2(weight=-1.0), "weight: got -1.0, wanted 0 or more"),
    (lambda: TotalVariation(weight=1.0, above=-0.5), "above: got -0.5, wanted 0 or more"),
    (lambda: BatchNormStatistics(weight=1.0, source="mine"), "source: got 'mine', wanted 'running' or 'declared'"),
    (lambda: BatchNormStatistics(weight=-1.0), "weight: got -1.0, wanted 0 or more"),
    (lambda: GroupConsistency(weight=1.0, after=1.5), "after, every: got 1.5, 20, wanted"),
    (lambda: GroupConsistency(weight=1.0, after=-0.5), "after, every: got -0.5, 20, wanted"),
    (lambda: GroupConsistency(weight=1.0, every=0), "after, every: got 0.25, 0, wanted"),
    (lambda: GroupConsistency(weight=-1.0), "weight: got -1.0, wanted 0 or more"),
    (lambda: refused(BatchNormStatistics(weight=1.0), nn.Sigmoid()), "^seen: the model has no batch normalization"),
    (
        lambda: refused(BatchNormStatistics(weight=1.0), nn.BatchNorm2d(1, track_running_stats=False)),
        "^seen: a batch normalization of the model keeps no running statistics",
    ),
    (
        lambda: refused(BatchNormStatistics(weight=1.0, source="declared"), nn.BatchNorm2d(1)),
        "^batch_norm: the observation does not declare it",
    ),
]
