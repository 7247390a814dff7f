"""Local iterations as a defense: who recovers digits from an update, under which knowledge, and what training costs.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_local_steps

``sweep``: one digit and a LeNet of its own for each of 24 cases, all steps on that digit; one L-BFGS of 6 x 20
evaluations from one start, the label declared. ``order``: mini-batches of two, two epochs, each in an order of its own;
a small perceptron. ``utility``: federated training at an equal budget of gradient steps. Ten minutes on one core. What
the file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import labels
from gilearn.defenses import utility
from gilearn.federated import LocalSteps, Visits
from tools.recording import known, resume

COMMAND = "python -m tools.record_local_steps"
CASES = range(24)
SEARCH = attacks.iDLG.replace(labels=labels.Declared(), iterations=6, restarts=1)
BUDGETS = {"digits": (50, 10), "faces": (30, 5), "colour": (50, 10)}

Plan = Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]


def swept(view: str, steps: int, lr: float, case: int) -> dict[str, Any]:
    digits, numbers = (values[case : case + 1] for values in data.digits(case + 1))
    net = models.lenet(1, 10, size=8, strides=(1, 1, 1), seed=case).double()
    local = LocalSteps(steps=steps, lr=lr)
    seen = federated.observe(net, digits, numbers, local=local, declare=["labels"])
    share = {"one gradient": 0.0, "midpoint": (steps - 1) / (2 * steps)}
    found = SEARCH(seen if view == "unrolled" else attacks.surrogate(seen, share=share[view]), seed=case)
    return {"mse": metrics.mse(found.inputs, digits), "residual": found.residual}


def ordered(view: str, lr: float, size: int, case: int) -> dict[str, Any]:
    digits, numbers = data.digits(size * (case + 1))
    digits, numbers = digits[size * case :].double(), numbers[size * case :]
    generator = torch.Generator().manual_seed(100 + case)
    rows = tuple(torch.cat([torch.randperm(size, generator=generator) for _ in range(2)]).tolist())
    net = models.mlp(64, (32,), activation="sigmoid", seed=case).double()
    local = LocalSteps(steps=size, lr=lr, batch_size=2)
    knows = ["labels", "defense"] if view == "order known" else ["labels"]
    seen = federated.observe(net, digits, numbers, local=local, defense=Visits(rows=rows), declare=knows)
    search = SEARCH.replace(iterations=10, explained=1e-5)
    share = {"one gradient": 0.0, "midpoint": (size - 1) / (2 * size)}
    if view in share:
        seen = attacks.surrogate(seen, share=share[view])
    found = (attacks.UnknownOrder(search=search) if view == "order searched" else search)(seen, seed=case)
    return {"mse": metrics.mse(found.inputs, digits), "residual": found.residual, "searches": len(found.restarts)}


def trained(task: str, steps: int, seed: int) -> dict[str, Any]:
    training = utility.TASKS[task]
    training = training.spent(LocalSteps(steps=steps, lr=1.0, batch_size=training.local.batch_size))
    rate = known_rate(task, steps) or utility.tuned(training, rates=(0.1, 0.3, 1.0), seeds=(5,)).local.lr
    local = LocalSteps(steps=steps, lr=rate, batch_size=training.local.batch_size)
    found = utility.measure(training.replace(local=local), seeds=(seed,))
    return {"lr": rate, "rounds": training.rounds, **found.drop(columns="seed").iloc[0].to_dict()}


def known_rate(task: str, steps: int) -> float | None:
    """Return the rate that another seed of this setting was trained with: it is tuned once."""
    rows = known("local-steps", [])
    rates = [row["lr"] for row in rows if row.get("task") == task and row["steps"] == steps]
    return rates[0] if rates else None


def sweep(views: tuple[str, ...], settings: list[tuple[int, float]], cases: range) -> Plan:
    for steps, lr in settings:
        for view in views:
            for case in cases:
                key = {"part": "sweep", "view": view, "steps": steps, "lr": lr, "case": case}
                yield key, partial(swept, view, steps, lr, case)


def order(views: tuple[str, ...], lr: float, size: int, cases: range) -> Plan:
    for view in views:
        for case in cases:
            yield (
                {"part": "order", "view": view, "lr": lr, "size": size, "case": case},
                partial(ordered, view, lr, size, case),
            )


def utilities() -> Plan:
    for task, numbers in BUDGETS.items():
        for steps in numbers:
            for seed in range(5):
                key = {"part": "utility", "task": task, "steps": steps, "seed": seed}
                yield key, partial(trained, task, steps, seed)


def plan() -> Plan:
    yield from sweep(("one gradient",), [(k, 1e-3) for k in (1, 2, 5, 10)] + [(10, 1e-2)], CASES)
    yield from order(("one gradient", "midpoint", "order known", "same order"), 0.1, 4, CASES)
    yield from sweep(("unrolled",), [(5, 1e-2), (10, 1e-2)], range(10))
    yield from sweep(("one gradient",), [(2, 5e-3), (20, 5e-4)], CASES)
    yield from utilities()
    yield from order(("order searched",), 0.1, 4, CASES)


if __name__ == "__main__":
    resume("local-steps", COMMAND, plan())
