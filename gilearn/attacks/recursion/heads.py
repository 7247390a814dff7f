"""Where the recursion starts: the last layer's input, and the loss's gradient in its output, from its weight gradient.

The weight gradient of a fully connected layer is delta h' for one example. With a bias, delta is its gradient. Without,
delta is known up to a number, and the loss ties that number to the logits: a scalar equation, with several solutions at
times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from gilearn.attacks.recursion.chain import Link
from gilearn.linear import divide

TURNING_POINT = 1.278464542761074
"""Where -mu / (1 + exp(mu)) is least, at -0.2785: below it the scalar equation has one solution, above it two."""


@dataclass(frozen=True, kw_only=True)
class HeadSolution:
    """One way to explain the last layer's gradient.

    Args:
        features: The layer's input, float64, (inputs,).
        delta: Gradient of the loss in its output, (outputs,).
        label: The label that goes with it; ``None`` for a batch.
        branch: Which solution of the scalar equation, for a reader.
        residual: How badly the loss and the gradient disagree, from 0.
    """

    features: Tensor = field(repr=False)
    delta: Tensor = field(repr=False)
    label: int | None
    branch: str
    residual: float = 0.0


def heads(link: Link, *, loss: str, batch_size: int, label: int | None = None) -> list[HeadSolution]:
    """Return every start that explains the last layer's gradient.

    Args:
        link: The last layer, fully connected.
        loss: A key of :data:`gilearn.federated.LOSSES`.
        batch_size: Of the observation. For more than one example the result is the mixture that it is.
        label: The label, where it was declared.

    Raises:
        ValueError: The gradient was withheld, or it is zero.

    Chapter: r-gap. Source: zhu2021.
    """
    gradient = link.weight_gradient
    if gradient is None:
        raise ValueError(f"seen: the weight gradient of the last layer {link.name!r} is withheld")
    if not (gradient != 0).any():
        raise ValueError(f"seen: the gradient of the last layer {link.name!r} is zero; the example has left no trace")
    assert isinstance(link.module, nn.Linear)
    if link.bias_gradient is not None:
        delta = link.bias_gradient
        if not (delta != 0).any():
            raise ValueError(f"seen: the bias gradient of the last layer {link.name!r} is zero, its weight's is not")
        found = int(delta[0] < 0) if loss == "logistic" else int(delta.argmin())
        features = divide(gradient, delta)
        return [HeadSolution(features=features, delta=delta, label=found if batch_size == 1 else None, branch="bias")]
    weight = link.module.weight.detach()
    starts = _logistic(gradient, weight) if loss == "logistic" else _softmax(gradient, weight)
    known = [start for start in starts if label is None or start.label == label]
    if not known:
        raise ValueError(f"labels: got {label}, which no solution of the last layer's equation explains")
    if batch_size > 1:
        known = [HeadSolution(features=h.features, delta=h.delta, label=None, branch=h.branch) for h in known]
    return known


def margins(product: float) -> list[float]:
    """Solve -mu / (1 + exp(mu)) = product for mu, the signed logit of the logistic loss.

    Args:
        product: Inner product of the last layer's weights and their gradient.

    Returns:
        One solution if ``product`` >= 0 (a misclassified example), two between the minimum of about -0.2785 and 0;
        below the minimum, which only a disturbed gradient can be, the minimum's place.

    Chapter: r-gap. Source: zhu2021, section 3.
    """

    def gap(mu: float) -> float:
        return -mu * torch.sigmoid(torch.tensor(-mu, dtype=torch.float64)).item() - product

    if product >= 0:
        return [float(brentq(gap, -product - 2, 0.0, xtol=1e-15, rtol=1e-15))]
    if gap(TURNING_POINT) >= 0:
        return [TURNING_POINT]
    far = TURNING_POINT
    while gap(far) < 0:
        far *= 2
    return [
        float(brentq(gap, low, high, xtol=1e-15, rtol=1e-15))
        for low, high in ((0.0, TURNING_POINT), (TURNING_POINT, far))
    ]


def _logistic(gradient: Tensor, weight: Tensor) -> list[HeadSolution]:
    found = []
    for mu in margins(float((gradient * weight).sum())):
        for label in (1, 0):
            sign = 2 * label - 1
            delta = -sign * torch.sigmoid(torch.tensor([-mu], dtype=torch.float64, device=weight.device))
            branch = f"margin {mu:.4g}, label {label}"
            found.append(HeadSolution(features=divide(gradient, delta), delta=delta, label=label, branch=branch))
    return found


def _softmax(gradient: Tensor, weight: Tensor) -> list[HeadSolution]:
    """Split the gradient into delta and features, up to a scale; the scale makes delta the softmax less one-hot."""
    left, size, right = torch.linalg.svd(gradient, full_matrices=False)
    found = []
    for sign in (1, -1):
        u, v = sign * left[:, 0], sign * right[0]
        label = int(u.argmin())
        logits = weight @ v
        reach = float(-size[0] * u[label])  # the features' norm times (1 - p)
        if reach <= 0:
            continue

        def gap(log_norm: float, logits: Tensor = logits, label: int = label, reach: float = reach) -> float:
            scaled = math.exp(log_norm) * logits
            rest = torch.cat([scaled[:label], scaled[label + 1 :]]).logsumexp(0) - scaled[label]
            return float(torch.nn.functional.logsigmoid(rest)) - (math.log(reach) - log_norm)

        grid = torch.linspace(math.log(reach) - 1e-9, math.log(reach) + 20, 2001, dtype=torch.float64).tolist()
        values = [gap(point) for point in grid]
        for low, high, before, after in zip(grid, grid[1:], values, values[1:], strict=False):
            if before * after <= 0 and before != after:
                norm = math.exp(brentq(gap, low, high, xtol=1e-15, rtol=1e-15))
                target = torch.zeros_like(logits)
                target[label] = 1
                delta = size[0] * u / norm
                misfit = float(((norm * logits).softmax(0) - target - delta).norm() / delta.norm())
                branch = f"norm {norm:.4g}, label {label}"
                found.append(HeadSolution(features=norm * v, delta=delta, label=label, branch=branch, residual=misfit))
    if not found:
        raise ValueError("seen: no scale of the features explains the last layer's gradient under cross-entropy")
    best = min(head.residual for head in found)
    return [head for head in found if head.residual <= max(1e-6, 10 * best)]
