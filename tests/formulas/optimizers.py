"""Optimizers and the schedules of their learning rate, step by step on a small problem."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from formulas.rows import randn, rows
from gilearn.attacks.iteration.optimizers import LBFGS, SGD, Adam, AdamW, StepDecay, WarmupCosine

MODULES = ["gilearn.attacks.iteration.optimizers"]
NO_FORMULA = {"Optimizer", "Schedule", "FirstOrder"}
STEPS = 12


def factors(schedule, iterations):
    return [schedule(k, iterations) for k in range(iterations)]


def step_decay(iterations, *, factor=0.1, at=(3 / 8, 5 / 8, 7 / 8)):
    wanted = []
    for k in range(iterations):
        value = 1.0
        for share in at:
            if k >= share * iterations:
                value = value * factor
        wanted.append(value)
    return wanted


def warmup_cosine(iterations, *, warmup):
    rise = [(k + 1) / warmup for k in range(min(warmup, iterations))]
    rest = iterations - warmup
    return rise + [math.cos(math.pi * k / (2 * rest)) ** 2 for k in range(rest)]


def walk(optimizer, starts, seed, iterations, *, by_name=False):
    """Return where the optimizer stands after every iteration on sum(1.5 x^2 + sin(2 x) / 2), which is convex."""
    variables = [start.clone().requires_grad_() for start in starts]
    moved_by = optimizer.build(variables, iterations=iterations, generator=torch.Generator().manual_seed(seed))

    def closure():
        for variable in variables:
            variable.grad = 3 * variable.detach() + (2 * variable.detach()).cos()
        return sum((1.5 * v.detach().square() + (2 * v.detach()).sin() / 2).sum() for v in variables)

    visited = []
    for _ in range(iterations):
        moved_by.step(closure=closure) if by_name else moved_by.step(closure)
        visited.append([variable.detach().clone() for variable in variables])
    return visited


def langevin(seed):
    """Return the generator that an optimizer's noise is drawn from: seeded by the search's."""
    own = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))
    return torch.Generator().manual_seed(own)


def slope(x):
    return 3 * x + np.cos(2 * x)


def first_order(starts, seed, iterations, *, rule, lr=0.1, signed=False, schedule=None, noise=0.0):
    """Walk by a rule that maps (derivative, state, number of the step, rate) to a step."""
    generator = langevin(seed)
    points, states = [start.numpy().copy() for start in starts], [{} for _ in starts]
    visited = []
    for k in range(iterations):
        rate = lr * (1.0 if schedule is None else schedule[k])
        for j, state in enumerate(states):
            derivative = np.sign(slope(points[j])) if signed else slope(points[j])
            points[j] = points[j] - rule(points[j], derivative, state, k + 1, rate)
        if noise:
            for j, point in enumerate(points):
                points[j] = point + rate * noise * randn(*point.shape, generator=generator).numpy()
        visited.append([torch.tensor(point) for point in points])
    return visited


def adam(x, g, state, k, rate, *, betas=(0.9, 0.999), decay=0.0):
    state["m"] = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    state["v"] = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g * g
    mean, square = state["m"] / (1 - betas[0] ** k), state["v"] / (1 - betas[1] ** k)
    return rate * (decay * x + mean / (np.sqrt(square) + 1e-8))


def sgd(x, g, state, k, rate, *, momentum=0.0):
    state["v"] = momentum * state.get("v", 0.0) + g
    return rate * state["v"]


def lbfgs(starts, seed, iterations, *, lr=1.0, inner=20, history=100):
    """Take whole quasi-Newton steps, with the two-loop recursion over the remembered pairs."""
    x = np.concatenate([start.numpy().ravel() for start in starts])
    pairs, visited, taken = [], [], 0
    for _ in range(iterations):
        for _ in range(inner):
            g = slope(x)
            q, shares = g.copy(), []
            for s, y in reversed(pairs):
                shares.append(s @ q / (s @ y))
                q = q - shares[-1] * y
            if pairs:
                s, y = pairs[-1]
                q = q * (s @ y) / (y @ y)
            for (s, y), share in zip(pairs, reversed(shares), strict=True):
                q = q + (share - y @ q / (s @ y)) * s
            move = -q * lr * (min(1.0, 1 / np.abs(g).sum()) if taken == 0 else 1.0)
            change = slope(x + move) - g
            x, taken = x + move, taken + 1
            if change @ move > 1e-10:
                pairs = [*pairs, (move, change)][-history:]
        sides = np.split(x, np.cumsum([start.numel() for start in starts])[:-1])
        visited.append([torch.tensor(side).view(start.shape) for side, start in zip(sides, starts, strict=True)])
    return visited


def torch_s(starts, seed, iterations, **options):
    """Take PyTorch's own optimizer with these options."""
    rest = {"tolerance_grad": 0.0, "tolerance_change": 0.0}

    class Own:
        @staticmethod
        def build(variables, **_):
            return torch.optim.LBFGS(variables, **options, **rest)

    return walk(Own, starts, seed, iterations)


def starts(shapes, iterations, generator):
    return (
        [randn(*shape, generator=generator) for shape in shapes],
        int(torch.randint(9, (), generator=generator)),
        iterations,
    )


CASES = [partial(starts, [(2, 3, 4, 4)], STEPS), partial(starts, [(3, 1, 2, 2), (3, 5)], STEPS)]
SHORT = [partial(starts, [(2, 3, 2, 2)], 3), partial(starts, [(1, 2, 2), (4,)], 2)]
BUDGETS = [lambda _, n=n: (n,) for n in (8, 11, 64, 100)]
LONGER = [lambda _, n=n: (n,) for n in (51, 53, 120)]
ROWS = [
    *rows(
        factors,
        BUDGETS,
        [
            (StepDecay(), step_decay),
            (StepDecay(factor=0.5, at=(0.25, 0.5)), partial(step_decay, factor=0.5, at=(0.25, 0.5))),
            (WarmupCosine(warmup=0), partial(warmup_cosine, warmup=0)),
            (WarmupCosine(warmup=5), partial(warmup_cosine, warmup=5)),
        ],
    ),
    *rows(factors, LONGER, [(WarmupCosine(), partial(warmup_cosine, warmup=50))]),
    *rows(
        walk,
        CASES,
        [
            (Adam(), partial(first_order, rule=adam)),
            (Adam(lr=0.03, betas=(0.5, 0.9)), partial(first_order, rule=partial(adam, betas=(0.5, 0.9)), lr=0.03)),
            (Adam(signed=True), partial(first_order, rule=adam, signed=True)),
            (
                Adam(lr=0.2, schedule=StepDecay(), noise=0.3),
                partial(first_order, rule=adam, lr=0.2, noise=0.3, schedule=step_decay(STEPS)),
            ),
            (AdamW(), partial(first_order, rule=partial(adam, decay=0.01))),
            (
                AdamW(lr=0.2, weight_decay=0.5, betas=(0.8, 0.9)),
                partial(first_order, rule=partial(adam, decay=0.5, betas=(0.8, 0.9)), lr=0.2),
            ),
            (SGD(lr=0.02), partial(first_order, rule=sgd, lr=0.02)),
            (SGD(lr=0.02, momentum=0.7), partial(first_order, rule=partial(sgd, momentum=0.7), lr=0.02)),
            (
                SGD(lr=0.05, signed=True, noise=0.1, schedule=WarmupCosine(warmup=4)),
                partial(
                    first_order, rule=sgd, lr=0.05, signed=True, noise=0.1, schedule=warmup_cosine(STEPS, warmup=4)
                ),
            ),
        ],
    ),
    *rows(
        walk,
        SHORT,
        [
            (
                LBFGS(lr=0.3, max_iter=5, history_size=2, line_search_fn=None),
                partial(lbfgs, lr=0.3, inner=5, history=2),
            ),
            (LBFGS(max_iter=4, line_search_fn=None), partial(lbfgs, inner=4)),
            (LBFGS(max_iter=1, history_size=1, patience=0, line_search_fn=None), partial(lbfgs, inner=1, history=1)),
            (LBFGS(), partial(torch_s, max_iter=20, history_size=100, line_search_fn="strong_wolfe")),
            (LBFGS(lr=0.2, max_iter=4), partial(torch_s, lr=0.2, max_iter=4, line_search_fn="strong_wolfe")),
        ],
        rtol=1e-9,
    ),
    *rows(
        partial(walk, by_name=True),
        CASES,
        [
            (Adam(signed=True, patience=0), partial(first_order, rule=adam, signed=True)),
            (SGD(lr=0.0), partial(first_order, rule=sgd, lr=0.0)),
        ],
    ),
]
REFUSALS = [
    (lambda: Adam(lr=-0.1), "lr: got -0.1, wanted 0 or more"),
    (lambda: SGD(noise=-1.0), "^noise: got -1.0, wanted 0 or more"),
    (lambda: SGD(patience=-1), "^patience: got -1, wanted 0 or more"),
    (lambda: LBFGS(lr=0.0), "^lr: got 0.0, wanted a positive number"),
    (lambda: LBFGS(max_iter=0), "^max_iter: got 0, wanted at least 1"),
    (lambda: LBFGS(history_size=0), "^history_size: got 0, wanted at least 1"),
    (lambda: LBFGS(patience=-1), "^patience: got -1, wanted at least 0"),
    (lambda: LBFGS(line_search_fn="armijo"), "^line_search_fn: got 'armijo', wanted 'strong_wolfe' or None"),
]
