"""What adversaries prove of DP-SGD's epsilon, of right and of broken implementations, and how often a bound is wrong.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_auditing

Everywhere delta is 1e-5 unless a row has another, ``epsilon`` is what theory guarantees, and logistic regression on
digits is audited. Case k has twenty digits and a start of its own, which was fitted to public digits, and as a canary a
digit of a hundred others, of middling gradient norm. A bound comes from ``trainings`` without the canary and as many
with it, at a threshold that was chosen on as many others of each; ``dp`` is the bound by the inequality, ``gdp`` that
by the Gaussian mechanism, both at 95 per cent.

``audit``: the bounds of four adversaries. ``API`` inserts the digit and sees the last model's loss on it, ``poison``
the same with a wrong label, ``models`` sees the model after each of the ``steps``, ``gradient`` inserts a gradient of
its own. ``implementation``: their bounds in all 24 cases, where what a step releases is ``name``, right or broken.
``shortfall``: the gradient canary's in 24 repeats of case 0, where the noise is ``share`` of what is claimed.
``coverage``: in how many of 200 repeats the bound on a right implementation is above theory: if valid, if the best of
sixty thresholds is taken on the very runs that are counted (``same runs``), and by plain rates without limits on them.
What the file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from gilearn import data, models
from gilearn.defenses import auditing
from gilearn.defenses.auditing import ExampleCanary, GradientCanary, NoisyTraining
from tools.recording import resume

DELTA = 1e-5
EXAMPLES = 20
LAYERS = (640, 10)


def multiplier(epsilon: float, steps: int = 1, delta: float = DELTA) -> float:
    """Return the noise multiplier with this guarantee."""
    return math.sqrt(steps) / brentq(lambda mu: auditing.gaussian_epsilon(mu, delta) - epsilon, 1e-3, 20)


def public_start(seed: int, x: Tensor, y: Tensor) -> nn.Module:
    """Return logistic regression, fitted to public digits."""
    model = models.mlp(64, (), seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@functools.cache
def case(k: int) -> tuple[NoisyTraining, dict[str, Any]]:
    """Return twenty digits of their own, a start of its own, and four adversaries with a typical one of 100 others."""
    x, y = data.digits()
    rows = slice(EXAMPLES * k, EXAMPLES * (k + 1))
    training = NoisyTraining(model=public_start(k, x[900:], y[900:]), inputs=x[rows], labels=y[rows], noise=1.0, lr=0.5)
    lengths = training.gradients(training.start[None], x[600:700], y[600:700])[0].norm(dim=1)
    typical = 600 + int(lengths.argsort()[38 + k])
    z, label = x[typical], int(y[typical])
    wrong = (label + 1) % 10
    return training, {
        "API": ExampleCanary(input=z, label=label),
        "poison": ExampleCanary(input=z, label=wrong),
        "models": ExampleCanary(input=z, label=wrong, sees="models"),
        "gradient": GradientCanary(),
    }


def bounds(
    training: NoisyTraining, adversary: Any, trainings: int, seed: int, delta: float = DELTA
) -> dict[str, float]:
    """Return the lower bounds in both forms; thresholds come from as many other trainings."""
    holdout, runs = (training.play(adversary, trainings, seed=2 * seed + k) for k in range(2))
    found = {form: auditing.audit(holdout, runs, delta=delta, form=form).epsilon for form in auditing.FORMS}
    return {form: round(value, 4) for form, value in found.items()}


def audited(k: int, epsilon: float, steps: int, trainings: int) -> dict[str, Any]:
    """Return every adversary's bounds in one case."""
    training, adversaries = case(k)
    training = training.replace(noise=multiplier(epsilon, steps), steps=steps)
    return {name: bounds(training, one, trainings, seed=k) for name, one in adversaries.items()}


def twice_divided(gradients: Tensor, draw: Tensor, norm: float, noise: float) -> Tensor:
    """Divide the noise by the batch once too often."""
    return auditing.noisy_sum(gradients, draw / gradients.shape[1], norm, noise)


def clipped_together(gradients: Tensor, draw: Tensor, norm: float, noise: float) -> Tensor:
    """Clip the batch's mean, not every example."""
    mean = gradients.mean(1)
    factor = norm / torch.linalg.vector_norm(mean, dim=1, keepdim=True).clamp_min(norm)
    return gradients.shape[1] * mean * factor + noise * norm * draw


def by_layers(gradients: Tensor, draw: Tensor, norm: float, noise: float) -> Tensor:
    """Clip every layer to the norm, not all together."""
    parts = [auditing.noisy_sum(part, 0 * part[:, 0], norm, noise) for part in gradients.split(LAYERS, dim=2)]
    return torch.cat(parts, 1) + noise * norm * draw


def normalized(gradients: Tensor, draw: Tensor, norm: float, noise: float) -> Tensor:
    """Stretch short gradients to the norm, too."""
    lengths = torch.linalg.vector_norm(gradients, dim=2, keepdim=True).clamp_min(1e-12)
    return auditing.noisy_sum(gradients * norm / lengths, draw, norm, noise)


RELEASES = {
    "correct": auditing.noisy_sum,
    "noise divided twice": twice_divided,
    "batch clipped": clipped_together,
    "layers clipped": by_layers,
    "normalized": normalized,
}


def weak(share: float) -> Any:
    """Return a release whose noise is that share of what is claimed."""
    return lambda gradients, draw, norm, noise: auditing.noisy_sum(gradients, share * draw, norm, noise)


def caught(name: str, epsilon: float, trainings: int, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the adversaries' bounds on an implementation, in 24 cases."""
    found: dict[str, Any] = {}
    for k in range(24):
        training, adversaries = case(k)
        training = training.replace(noise=multiplier(epsilon), release=RELEASES[name])
        for who, adversary in adversaries.items():
            if only and who not in only:
                continue
            one = bounds(training, adversary, trainings, seed=100 + k)
            for form, value in one.items():
                found.setdefault(who, {}).setdefault(form, []).append(value)
    return found


def shortfall(share: float, epsilon: float, trainings: int) -> dict[str, Any]:
    """Return the gradient canary's bounds where the noise is too small, in 24 repeats."""
    training = case(0)[0].replace(noise=multiplier(epsilon), release=weak(share))
    found = [bounds(training, GradientCanary(), trainings, seed=200 + k) for k in range(24)]
    return {form: [one[form] for one in found] for form in auditing.FORMS}


def covered(epsilon: float, trainings: int, delta: float, repeats: int = 200) -> dict[str, int]:
    """Return how often an audit ends above theory: a valid one, one without a holdout, one without limits."""
    training = case(0)[0].replace(noise=multiplier(epsilon, delta=delta))
    above = dict.fromkeys(("valid", "same runs", "no limits", "valid, gdp", "same runs, gdp"), 0)
    for k in range(repeats):
        holdout, runs = (training.play(GradientCanary(), trainings, seed=10_000 + 2 * k + j) for j in range(2))
        for form, mark in (("dp", ""), ("gdp", ", gdp")):
            valid = auditing.audit(holdout, runs, delta=delta, form=form)
            above["valid" + mark] += valid.epsilon > epsilon
            above["same runs" + mark] += luckiest(runs, delta, form) > epsilon
        rates = np.array([valid_rate(runs, t) for t in torch.cat(runs).tolist()[:: max(1, trainings // 20)]])
        with np.errstate(divide="ignore", invalid="ignore"):
            plain = np.log((1 - delta - rates) / rates[:, ::-1])
        above["no limits"] += bool(np.nanmax(np.where(np.isnan(plain), -np.inf, plain)) > epsilon)
    return above


def luckiest(runs: tuple[Tensor, Tensor], delta: float, form: str) -> float:
    """Return the best bound of sixty thresholds on the runs that are counted."""
    places = torch.cat(runs).quantile(torch.linspace(0.01, 0.99, 60, dtype=torch.float64))
    counts = [(int((runs[0] > t).sum()), int((runs[1] <= t).sum())) for t in places]
    return max(auditing.lower_bound(*one, len(runs[0]), delta=delta, form=form) for one in counts)


def valid_rate(runs: tuple[Tensor, Tensor], threshold: float) -> tuple[float, float]:
    """Return both error rates at a threshold."""
    return float((runs[0] > threshold).double().mean()), float((runs[1] <= threshold).double().mean())


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield what to measure, the quick parts first."""
    for name in RELEASES:
        yield (
            {"part": "implementation", "name": name, "epsilon": 2, "trainings": 1000},
            functools.partial(caught, name, 2, 1000),
        )
    for trainings in (1000, 8000):
        for share in (1.0, 0.9, 0.8, 0.7, 0.5):
            key = {"part": "shortfall", "share": share, "epsilon": 2, "trainings": trainings}
            yield key, functools.partial(shortfall, share, 2, trainings)
    for k in range(24):
        for epsilon in (1, 2, 4):
            key = {"part": "audit", "steps": 1, "case": k, "epsilon": epsilon, "trainings": 2000}
            yield key, functools.partial(audited, k, epsilon, 1, 2000)
    yield (
        {"part": "implementation", "name": "layers clipped", "epsilon": 2, "trainings": 4000},
        functools.partial(caught, "layers clipped", 2, 4000, ("models",)),
    )
    for delta in (1e-5, 1e-2):
        key = {"part": "coverage", "epsilon": 2, "trainings": 500, "delta": delta}
        yield key, functools.partial(covered, 2, 500, delta)
    for epsilon in (4, 1):
        for k in range(10):
            key = {"part": "audit", "steps": 10, "case": k, "epsilon": epsilon, "trainings": 1000}
            yield key, functools.partial(audited, k, epsilon, 10, 1000)


def main() -> None:
    """Measure and record."""
    resume("auditing", "python -m tools.record_auditing", plan())


if __name__ == "__main__":
    main()
