"""Small networks that end in a fully connected layer, and what their clients share: the cases of the label rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from formulas.rows import rand, randn
from gilearn import federated

INPUTS = 6
HIDDEN = 6


@dataclass(frozen=True)
class Shared:
    """A network that ends in a fully connected layer, and the gradient that a client shares."""

    model: nn.Sequential
    gradients: list[torch.Tensor | None]
    batch_size: int
    loss: str = "cross_entropy"
    local: federated.LocalSteps | None = None
    truth: Any = None
    input_shape: tuple[int, ...] = (INPUTS,)
    tokens: bool = False

    @property
    def knowledge(self):
        """What is declared: the labels, if they are known; the masks that a network in train mode has to declare."""
        labels = {} if self.truth is None else {"labels": torch.tensor(self.truth)}
        dropped = any(isinstance(module, nn.Dropout) for module in self.model.modules())
        return labels | ({"masks": (torch.ones(self.batch_size, HIDDEN),)} if dropped else {})

    @property
    def number(self):
        """How many logit vectors the gradient is a mean over."""
        return self.batch_size * math.prod(self.input_shape[:-1])

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
        input_shape=shared.input_shape,
        batch_size=shared.batch_size,
        num_classes=max(2, shared.classes),
        loss=shared.loss,
        local=shared.local,
        tokens=shared.tokens,
        knowledge=shared.knowledge,
    )


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


def client(activation, hidden, classes, drawn, generator, *, loss="cross_entropy", scale=1.0, **options):
    """Share the gradient of a batch with the drawn labels: a number of them, or these, or these of sequences."""
    model = network(activation, hidden, classes, generator, **options)
    if isinstance(drawn, int):
        drawn = torch.randint(max(2, classes), (drawn,), generator=generator).tolist()
    y = torch.tensor(drawn)
    x = rand(*y.shape, INPUTS, generator=generator)
    if loss == "logistic":
        value = F.binary_cross_entropy_with_logits(model(x).flatten(), y.double())
    else:
        value = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
    gradients = [scale * gradient.detach() for gradient in torch.autograd.grad(value, list(model.parameters()))]
    return (Shared(model, gradients, len(y), loss, truth=drawn, input_shape=tuple(x.shape[1:])),)


def anything(hidden, classes, batch_size, generator, *, local=None, activation=None, zero=None):
    """Share numbers that no batch has as its gradient; one class's bias gradient can be zero."""
    model = network(activation or nn.ReLU(), hidden, classes, generator, spread=0.3)
    gradients = [randn(*parameter.shape, generator=generator) for parameter in model.parameters()]
    if zero is not None:
        gradients[-1][zero] = 0.0
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


def two_rows(generator):
    """Share a gradient of two classes that point apart; the bias tells them apart, and is negative elsewhere too."""
    (shared,) = one_row(generator)
    weight, bias = shared.gradients[2:]
    weight[3], bias[0], bias[3] = -0.3 * weight[1], -0.001, 0.1
    return (shared,)


def against_the_bias(generator):
    """Share rows of which one alone points against all others, and a bias that says otherwise."""
    (shared,) = one_row(generator)
    weight, bias = shared.gradients[2:]
    weight[2] = weight[3] = -0.5 * weight[1]
    bias[1] = 0.2
    return (shared,)


def one_small(generator):
    """Share the mean of two gradients of very different size, with noise that is nearer to the smaller one."""
    (large,), (small,) = (client(nn.Tanh(), 12, 6, [label], generator) for label in (1, 4))
    gradients = [
        a + 1e-4 * b + 1e-9 * randn(*a.shape, generator=generator)
        for a, b in zip(large.gradients, small.gradients, strict=True)
    ]
    return (replace(large, gradients=gradients, batch_size=2, truth=[1, 4]),)


STEPS = federated.LocalSteps(steps=3, lr=0.2)
ANYTHING = [partial(anything, 4, 5, 3), partial(anything, 7, 4, 9), partial(anything, 3, 6, 4, local=STEPS)]
SINGLE = [
    *(partial(client, activation, 8, 5, 1) for activation in (nn.Tanh(), nn.ReLU(), nn.Sigmoid())),
    partial(client, nn.Tanh(), 4, 2, 1),
    partial(client, nn.Sigmoid(), 4, 3, 1, bias=False),
    partial(client, nn.Tanh(), 4, 1, [1], loss="logistic"),
    partial(client, nn.Tanh(), 4, 1, [0], loss="logistic"),
    one_row,
    two_rows,
    against_the_bias,
]
DISTINCT = [
    partial(client, nn.Sigmoid(), 20, 8, [5, 2], spread=0.5),
    partial(client, nn.ReLU(), 30, 10, [7, 0, 4], spread=0.4),
]
SEQUENCES = [
    partial(client, nn.Sigmoid(), 12, 5, [[3, 1, 3], [4, 3, 0]], spread=0.5),
    partial(client, nn.ReLU(), 14, 10, [[7, 0], [2, 7]], spread=0.4),
]
DROPPED = [partial(anything, HIDDEN, 4, 3, activation=nn.Sequential(nn.Sigmoid(), nn.Dropout(0.3)))]
REPEATS = [
    partial(client, nn.Sigmoid(), 12, 4, 7, spread=0.5),
    partial(client, nn.ReLU(), 12, 4, [3, 3, 3, 0], spread=0.5),
    partial(client, nn.ReLU(), 5, 3, 12, spread=0.5),
]
FEW = [
    partial(client, nn.Tanh(), 20, 9, [0, 4, 4, 8]),
    partial(client, nn.ReLU(), 20, 12, [2, 2, 2, 7, 11]),
    partial(client, nn.Tanh(), 15, 7, [6, 1, 3]),
    partial(client, nn.Tanh(), 20, 9, [1, 1, 1, 1, 5, 5, 8], spread=0.3),
    partial(client, nn.Tanh(), 20, 10, [0, 3, 3, 3, 3, 3, 9], spread=0.4),
]


def without(case, *gone, value=None):
    """Share no gradient of these parameters, or this one."""

    def drawn(generator):
        (shared,) = case(generator)
        gradients = list(shared.gradients)
        for k in gone:
            gradients[k] = None if value is None else torch.full_like(gradients[k], value)
        return (replace(shared, gradients=gradients),)

    return drawn
