"""Where a recursion starts: the explanations of the last layer's gradient, by bisection."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from scipy.special import lambertw
from torch import nn

from formulas.rows import rand, randn, rows
from gilearn.attacks.recursion.chain import Link
from gilearn.attacks.recursion.heads import heads, margins

MODULES = ["gilearn.attacks.recursion.heads"]
NO_FORMULA = {"HeadSolution"}
LEAST = 1 + float(lambertw(math.exp(-1)).real)
"""Where -mu / (1 + exp(mu)) is least: there 1 + exp(mu) = mu exp(mu)."""


def compute(function, weight, gradient, bias, *, loss="cross_entropy", batch_size=1, label=None):
    module = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None).double()
    with torch.no_grad():
        module.weight.copy_(weight)
    link = Link(
        name="head", module=module, input_shape=(weight.shape[1],), weight_gradient=gradient, bias_gradient=bias
    )
    found = function(link, loss=loss, batch_size=batch_size, label=label)
    return listed([(h.features, h.delta, h.label, h.branch, h.residual) for h in found])


def listed(found):
    """Sort solutions by label and length of the features; the order in which they are found says nothing."""
    return sorted(found, key=lambda one: (-1 if one[2] is None else one[2], round(float(one[0].norm()), 6), one[3]))


def root(function, low, high):
    """Bisect until the two ends are neighbours."""
    for _ in range(200):
        middle = (low + high) / 2
        if (function(low) < 0) == (function(middle) < 0):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def signed_logits(product):
    def gap(mu):
        return -mu / (1 + math.exp(mu)) - product

    if product >= 0:
        return [root(gap, -product - 10, 0.0)]
    if gap(LEAST) >= 0:
        return [LEAST]
    return [root(gap, 0.0, LEAST), root(gap, LEAST, 700.0)]


def with_bias(weight, gradient, bias, *, loss="cross_entropy", batch_size=1, label=None):
    """Return the least-squares features behind gradient = delta features', delta being the bias gradient."""
    features = torch.tensor(np.linalg.lstsq(bias[:, None].numpy(), gradient.numpy(), rcond=None)[0][0])
    numbers = bias.tolist()
    found = int(numbers[0] < 0) if loss == "logistic" else numbers.index(min(numbers))
    return [(features, bias, found if batch_size == 1 else None, "bias", 0.0)]


def logistic(weight, gradient, bias, *, loss, batch_size=1, label=None):
    found = []
    for mu in signed_logits(sum((weight * gradient).flatten().tolist())):
        for y in (0, 1):
            delta = (-1 if y else 1) / (1 + math.exp(mu))
            features = torch.tensor([value / delta for value in gradient[0].tolist()], dtype=torch.float64)
            branch = f"margin {mu:.4g}, label {y}"
            found.append(
                (features, torch.tensor([delta], dtype=torch.float64), None if batch_size > 1 else y, branch, 0.0)
            )
    return listed([one for one in found if label is None or one[2] == label])


def softmax(logits):
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def cross_entropy(weight, gradient, bias, *, batch_size=1, label=None):
    """Return every norm of the features at which softmax less one-hot is the derivative that the gradient asks for."""
    weight, gradient = weight.numpy(), gradient.numpy()
    columns, sizes, rows_ = np.linalg.svd(gradient)
    found = []
    for sign in (1, -1):
        u, v = sign * columns[:, 0], sign * rows_[0]
        y = int(u.argmin())
        if u[y] >= 0:
            continue

        def gap(log_norm, u=u, v=v, y=y):
            norm = math.exp(log_norm)
            return float(softmax(norm * (weight @ v))[y] - 1 - sizes[0] * u[y] / norm)

        grid = np.linspace(math.log(-sizes[0] * u[y]), math.log(-sizes[0] * u[y]) + 20, 4001)
        values = [gap(point) for point in grid]
        for low, high, before, after in zip(grid, grid[1:], values, values[1:], strict=False):
            if (before < 0) != (after < 0) and abs(after - before) < 1:
                norm = math.exp(root(gap, low, high))
                delta = sizes[0] * u / norm
                gaps = softmax(norm * (weight @ v)) - np.eye(len(u))[y] - delta
                misfit = math.sqrt((gaps**2).sum() / (delta**2).sum())
                branch = f"norm {norm:.4g}, label {y}"
                found.append((torch.tensor(norm * v), torch.tensor(delta), y, branch, misfit))
    bound = max(1e-6, 10 * min(one[-1] for one in found))
    found = [one for one in found if one[-1] <= bound and label in (None, one[2])]
    if batch_size > 1:
        found = [(features, delta, None, branch, 0.0) for features, delta, _, branch, _ in found]
    return listed(found)


def last_layer(classes, inputs, generator, *, bias=False, noise=0.0, number=1, spread=1.0):
    """Draw a last layer and the gradient of softmax cross-entropy in it, for some examples."""
    weight = spread * randn(classes, inputs, generator=generator)
    features = rand(number, inputs, generator=generator) - 0.3
    labels = torch.randint(classes, (number,), generator=generator)
    deltas = ((features @ weight.T).softmax(dim=1) - nn.functional.one_hot(labels, classes)) / number
    gradient = deltas.T @ features
    gradient = gradient + noise * randn(*gradient.shape, generator=generator)
    return weight, gradient, deltas.sum(dim=0) if bias else None


def one_logit(inputs, sure, generator, *, bias=False, label=1):
    """Draw a last layer with one logit, and the logistic loss's gradient in it; ``sure`` is the signed logit."""
    weight = randn(1, inputs, generator=generator)
    features = rand(inputs, generator=generator)
    weight = weight * sure * (2 * label - 1) / float(weight[0] @ features)
    delta = -(2 * label - 1) / (1 + math.exp(sure))
    return weight, delta * features[None], torch.tensor([delta], dtype=torch.float64) if bias else None


def one_signed(sign, generator):
    """Draw a gradient whose rows all point the same way, which no softmax has: one sign explains nothing."""
    weight = randn(3, 4, generator=generator)
    return weight, sign * rand(3, 1, generator=generator) * rand(1, 4, generator=generator), None


def disturbed(generator):
    """Draw a gradient whose product with the weights is below what any logit gives."""
    weight, _, _ = one_logit(4, 1.0, generator)
    return weight, -0.4 * weight / float(weight.square().sum()), None


BINARY = {"loss": "logistic"}
SURE = [partial(one_logit, 5, sure, label=label) for sure, label in ((-2.0, 0), (-30.0, 1), (0.4, 1), (3.0, 0))]
SOFT = [
    partial(last_layer, 2, 3),
    partial(last_layer, 3, 4),
    partial(last_layer, 3, 4, spread=3.0),
    partial(last_layer, 5, 7),
    partial(last_layer, 4, 1),
    partial(last_layer, 5, 6, noise=1e-3),
    partial(last_layer, 10, 4, spread=0.3),
    partial(one_signed, 1),
    partial(one_signed, -1),
]
MANY = [partial(last_layer, 4, 6, number=3)]
WITH_BIAS = [partial(last_layer, 3, 4, bias=True), partial(last_layer, 6, 2, bias=True, noise=0.01)]
ROWS = [
    *rows(
        lambda function, product: function(product),
        [lambda _, p=p: (p,) for p in (0.0, 0.3, 50.0, -0.05, -0.2, -0.2784, -0.3, -1e-9, -5.0)],
        [(margins, signed_logits)],
    ),
    *rows(compute, WITH_BIAS, [(heads, with_bias)]),
    *rows(
        partial(compute, batch_size=3),
        [partial(last_layer, 4, 6, number=3, bias=True)],
        [(heads, partial(with_bias, batch_size=3))],
    ),
    *rows(
        partial(compute, **BINARY),
        [partial(one_logit, 4, 1.0, bias=True), partial(one_logit, 4, 1.0, bias=True, label=0)],
        [(heads, partial(with_bias, **BINARY))],
    ),
    *rows(partial(compute, **BINARY), [*SURE, disturbed], [(heads, partial(logistic, **BINARY))]),
    *rows(partial(compute, label=1, **BINARY), SURE, [(heads, partial(logistic, label=1, **BINARY))]),
    *rows(partial(compute, batch_size=2, **BINARY), SURE, [(heads, partial(logistic, batch_size=2, **BINARY))]),
    *rows(compute, SOFT, [(heads, cross_entropy)], rtol=1e-7),
    *rows(partial(compute, batch_size=3), MANY, [(heads, partial(cross_entropy, batch_size=3))], rtol=1e-7),
]
ONES = torch.ones(2, 1, dtype=torch.float64)
SIGNS = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
REFUSALS = [
    (lambda: compute(heads, ONES, None, None), "^seen: the weight gradient of the last layer 'head' is withheld"),
    (lambda: compute(heads, ONES, 0 * ONES, None), "^seen: the gradient of the last layer 'head' is zero"),
    (lambda: compute(heads, ONES, ONES, 0 * ONES[:, 0]), "^seen: the bias gradient of the last layer 'head' is zero"),
    (lambda: compute(heads, ONES, SIGNS, None, label=7), "^labels: got 7, which no solution"),
    (lambda: compute(heads, -5 * SIGNS, SIGNS, None), "^seen: no scale of the features explains"),
]
