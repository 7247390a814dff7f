"""Soteria's scores and columns, from the derivatives of a layer that are known in closed form."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import nn

from formulas.rows import entries, randn, rows
from gilearn.defenses import Soteria
from gilearn.defenses.gradients.soteria import derivatives, representation
from gilearn.federated import Client

MODULES = ["gilearn.defenses.gradients.soteria"]
NO_FORMULA: set[str] = set()
ACTIVATIONS = {
    nn.ReLU: (lambda value: max(value, 0.0), lambda value: float(value > 0)),
    nn.Tanh: (math.tanh, lambda value: 1 - math.tanh(value) ** 2),
}
CLASSES = 3


def network(inputs, features, activation, generator):
    layers = [nn.utils.skip_init(nn.Linear, *sizes) for sizes in ((inputs, features), (features, CLASSES))]
    model = nn.Sequential(nn.Flatten(), layers[0], activation(), layers[1]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(randn(*parameter.shape, generator=generator))
    return model


def case(batch, activation, generator, *, features=8):
    model = network(4, features, activation, generator)
    x = randn(batch, 1, 2, 2, generator=generator)
    return model, x, [randn(*parameter.shape, generator=generator) for parameter in model.parameters()]


def by_hand(model, x):
    """Return features and their derivatives in the inputs: f(Wx + b) and f'(Wx + b) W, nested lists."""
    value, slope = ACTIVATIONS[type(model[2])]
    features, slopes = [], []
    for example in x:
        lines = list(zip(model[1].weight.tolist(), model[1].bias.tolist(), strict=True))
        sums = [sum(w * v for w, v in zip(line, entries(example), strict=True)) + bias for line, bias in lines]
        features.append([value(total) for total in sums])
        slopes.append([[slope(total) * w for w in line] for total, (line, _) in zip(sums, lines, strict=True)])
    return features, slopes


def scored(score, features, slopes):
    """Return the scores of the features, added over the examples, and whether a feature is active in one of them."""
    number = len(features[0])
    total, active = [0.0] * number, [False] * number
    for r, jacobian in zip(features, slopes, strict=True):
        inverse = np.linalg.pinv(np.array(jacobian))
        for j in range(number):
            norm = math.sqrt(sum(v * v for v in jacobian[j]))
            active[j] = active[j] or r[j] != 0 or norm != 0
            if score == "code":
                total[j] += norm / (r[j] + 0.1)
            elif score == "pseudo-inverse":
                total[j] += abs(r[j]) * math.sqrt(sum(v * v for v in inverse[:, j]))
            elif norm:
                total[j] += abs(r[j]) / norm
    return total, active


def columns(defense, model, x):
    """Return which columns go."""
    scores, active = scored(defense.score, *by_hand(model, x))
    sign = 1 if defense.score == "code" else -1
    first = [abs(s) if sign == 1 else -s for s in scores]
    if defense.among == "all":
        threshold = np.percentile([sign * s for s in scores], 100 * defense.share)
        return {j for j, s in enumerate(first) if s < threshold}
    candidates = [j for j, is_active in enumerate(active) if is_active]
    return set(sorted(candidates, key=first.__getitem__)[: round(defense.share * len(candidates))])


def shared(defense, model, x, gradients):
    return list(defense.shared(tuple(gradients), Client(model=model, num_classes=CLASSES, inputs=x)))


def without_columns(model, x, gradients, *, defense):
    left = gradients[2].clone()
    for j in columns(defense, model, x):
        left[:, j] = 0
    return [*gradients[:2], left, gradients[3]]


def found(function, model, x, gradients):
    return [value.tolist() for value in function(model, x)[1:]]


CASES = [partial(case, 1, nn.ReLU), partial(case, 5, nn.ReLU), partial(case, 3, nn.Tanh)]
SETTINGS = [
    Soteria(share=share, score=score, among=among)
    for score in ("paper", "code", "pseudo-inverse")
    for share, among in ((0.0, "active"), (0.5, "active"), (0.9, "active"), (0.4, "all"))
]
ROWS = [
    *rows(shared, CASES, [(defense, partial(without_columns, defense=defense)) for defense in SETTINGS]),
    *rows(found, CASES, [(derivatives, lambda model, x, gradients: list(by_hand(model, x)))]),
    *rows(found, CASES, [(representation, lambda model, x, gradients: [by_hand(model, x)[0]])]),
]


def some():
    return case(2, nn.ReLU, torch.Generator().manual_seed(0))


def looking(model, layer=None, inputs=None):
    return derivatives(model, some()[1] if inputs is None else inputs, layer)


class Lookup(nn.Module):
    """A classifier of constants."""

    def __init__(self):
        super().__init__()
        self.layer = nn.utils.skip_init(nn.Linear, 2, CLASSES).double()

    def forward(self, x):
        return self.layer(torch.ones(len(x), 2, dtype=torch.float64))


REFUSALS = [
    (lambda: Soteria(share=1.0), "^share: got 1.0, wanted 0 to below 1"),
    (lambda: Soteria(share=-0.1), "^share: got -0.1, wanted 0 to below 1"),
    (lambda: Soteria(share="half"), "^share: got 'half', wanted 0 to below 1"),
    (lambda: Soteria(score="norm"), "^score: got 'norm', wanted one of paper, code, pseudo-inverse"),
    (lambda: Soteria(among="dead"), "^among: got 'dead', wanted one of active, all"),
    (lambda: Soteria(layer=3), "^layer: got 3, wanted the name of an nn.Linear, or None for the last"),
    (lambda: looking(some()[0], "9"), "^layer: got '9', wanted one of the model's nn.Linear: 1, 3"),
    (lambda: looking(nn.Flatten(), "1"), "^layer: got '1', wanted one of the model's nn.Linear: none"),
    (lambda: looking(nn.Flatten()), "^model: got a Flatten that uses no nn.Linear, wanted one to prune features of"),
    (lambda: looking(nn.Sequential(nn.utils.skip_init(nn.Linear, 2, 3).double())),
     r"^layer: got one whose input has shape \(2, 1, 2, 2\), wanted \(2, features\)"),
    (lambda: looking(Lookup()), "^layer: got one whose input does not depend on the inputs, wanted a representation"),
    (lambda: looking(some()[0], inputs=torch.zeros(2, 4, dtype=torch.int64)), "^inputs: got torch.int64, wanted float"),
    (lambda: Soteria().shared((), Client(model=some()[0], num_classes=CLASSES)), "^client: got one without inputs"),
]  # fmt: skip
