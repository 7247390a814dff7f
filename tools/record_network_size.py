"""The network as a defense: what its size leaves of a digit, who sees the rest all the same, and what training costs.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_network_size

``size``: networks with fewer parameters than a digit has pixels, and with more; twelve cases, each with weights of its
own; L-BFGS from gray, and the Gaussian prior of other digits. ``depth``: Adam on perceptrons, the rate tuned on another
case, beside the closed form. ``batch``: L-BFGS, labels declared. ``utility``: federated training at one budget.
``batches``: the same with mini-batches of other sizes, for thirty rounds in which each client goes once through its
data, and for as many steps as the usual size takes; the rate tuned on two other seeds. Fifteen minutes on a core. What
the file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from gilearn import attacks, data, federated, generators, metrics, models, ranks
from gilearn.attacks import GradientMatching, bayesian, distances, initialization, labels, optimizers, priors
from gilearn.defenses import utility
from gilearn.federated import LocalSteps
from tools.recording import known, resume

COMMAND = "python -m tools.record_network_size"
SEARCH = attacks.iDLG.replace(labels=labels.Declared(), restarts=1)
GRAY = SEARCH.replace(iterations=30, initialization=initialization.Constant(value=0.5))
RATES = (0.03, 0.1, 0.3)
WIDTHS = {"digits": (1, 2, 4), "faces": (1, 16), "colour": (1, 16)}
BATCHES = {"digits": (6, 30, 100, 300), "faces": (2, 6, 30), "colour": (2, 10, 50, 100)}
SHAPES = {"digits": (1, 10, 8), "faces": (1, 2, 16), "colour": (3, 10, 16)}

Plan = Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]


def of_size(width: int, seed: int) -> nn.Module:
    """Two convolutions of stride 2 and four classes: 40, 94, 256 or 796 parameters for 1, 2, 4 or 8 channels."""
    return models.convnet(1, 4, size=8, widths=(width, width), strides=(2, 2), activation="sigmoid", seed=seed).double()


def sized(width: int, case: int) -> dict[str, Any]:
    digits, numbers = generators.held_out("digits")
    digits, numbers = digits[numbers < 4].double()[case : case + 1], numbers[numbers < 4][case : case + 1]
    net = of_size(width, case)
    values = ranks.gradient_spectrum(net, digits, numbers)
    seen = federated.observe(net, digits, numbers, declare=["labels"])
    found = GRAY(seen, seed=case)
    others = generators.training("digits")[0].double()
    size = sum(float(g.square().sum()) for g in seen.shared) / sum(g.numel() for g in seen.shared)
    solved = bayesian.MAP(
        likelihood=bayesian.Normal(std=1e-4 * size**0.5),
        prior=priors.GaussianPrior.fit(others),
        labels=labels.Declared(),
        steps=30,
    )(seen, seed=case)
    return {
        "rank": int((values > 1e-7 * values[0]).sum()),
        "mse": metrics.mse(found.inputs, digits),
        "residual": found.residual,
        "with prior": metrics.mse(solved.inputs, digits),
        "prior residual": solved.residual,
        "mean digit": metrics.mse(others.mean(dim=0, keepdim=True), digits),
    }


def deep(depth: int, lr: float, case: int) -> dict[str, Any]:
    digits, numbers = (values[case : case + 1] for values in data.digits(case + 1))
    net = models.mlp(64, (32,) * depth, activation="sigmoid", seed=case).double()
    seen = federated.observe(net, digits.double(), numbers, declare=["labels"])
    attack = GradientMatching(
        labels=labels.Declared(), distance=distances.Cosine(), optimizer=optimizers.Adam(lr=lr), iterations=300
    )
    found, closed = attack(seen, seed=case), attacks.PPDL_AHE(seen)
    return {"mse": metrics.mse(found.inputs, digits), "closed": metrics.mse(closed.inputs, digits)}


def batched(size: int, case: int) -> dict[str, Any]:
    digits, numbers = (values[size * case :] for values in data.digits(size * (case + 1)))
    net = models.lenet(1, 10, size=8, strides=(1, 1, 1), width=6, seed=case).double()
    seen = federated.observe(net, digits.double(), numbers, declare=["labels"])
    found = SEARCH.replace(iterations=15)(seen, seed=case)
    return {"mse": metrics.mse(found.inputs, digits), "residual": found.residual}


def trained(task: str, width: int, seed: int) -> dict[str, Any]:
    channels, classes, side = SHAPES[task]

    def build(seed: int) -> nn.Module:
        return models.convnet(
            channels, classes, size=side, widths=(width, width), strides=(2, 2), activation="tanh", seed=seed
        )

    training = utility.TASKS[task].replace(build=build)
    rows = [row for row in known("network-size", []) if (row.get("task"), row.get("width")) == (task, width)]
    rate = rows[0]["lr"] if rows else utility.tuned(training, rates=(0.1, 0.3, 1.0), seeds=(5,)).local.lr
    local = LocalSteps(steps=training.local.steps, lr=rate, batch_size=training.local.batch_size)
    found = utility.measure(training.replace(local=local), seeds=(seed,))
    counted = ranks.compare_architectures({"": build(0)}, (channels, side, side)).iloc[0].to_dict()
    return {"lr": rate, **found.drop(columns="seed").iloc[0].to_dict(), **counted}


def in_batches(task: str, size: int, equal: str) -> dict[str, Any]:
    """Return what a mini-batch of this size costs at an equal number of examples, or of gradient steps."""
    usual = utility.TASKS[task]
    steps = usual.examples // size
    rounds = usual.rounds if equal == "examples" else usual.steps // steps
    local = LocalSteps(steps=steps, lr=usual.local.lr, batch_size=size)
    training = usual.replace(rounds=rounds, local=local)
    training = utility.tuned(training, rates=(0.03, 0.1, 0.3, 1.0, 3.0), seeds=(5, 6))
    found = utility.measure(training)
    return {
        "lr": training.local.lr,
        "steps": steps,
        "rounds": rounds,
        "accuracy": found["accuracy"].round(4).tolist(),
        "seconds": round(float(found["seconds"].mean()), 2),
        "megabytes": float(found["megabytes"].mean()),
    }


def depths() -> Plan:
    for depth in (1, 3, 6):
        tuning = {}
        for lr in RATES:
            key = {"part": "depth", "depth": depth, "lr": lr, "case": 10}
            yield key, partial(deep, depth, lr, 10)
            tuning[lr] = next(
                row["mse"]
                for row in known("network-size", [])
                if all(row.get(name) == value for name, value in key.items())
            )
        best = min(tuning, key=tuning.__getitem__)
        for case in range(10):
            yield {"part": "depth", "depth": depth, "lr": best, "case": case}, partial(deep, depth, best, case)


def plan() -> Plan:
    for width in (1, 2, 4, 8):
        for case in range(12):
            yield {"part": "size", "channels": width, "case": case}, partial(sized, width, case)
    yield from depths()
    for size in (2, 4, 8):
        for case in range(10):
            yield {"part": "batch", "size": size, "case": case}, partial(batched, size, case)
    for task, widths in WIDTHS.items():
        for width in widths:
            for seed in range(5):
                key = {"part": "utility", "task": task, "width": width, "seed": seed}
                yield key, partial(trained, task, width, seed)
    for task, sizes in BATCHES.items():
        for equal in ("examples", "steps"):
            for size in sizes if equal == "examples" else sizes[-1:]:
                yield (
                    {"part": "batches", "task": task, "size": size, "equal": equal},
                    partial(in_batches, task, size, equal),
                )


if __name__ == "__main__":
    resume("network-size", COMMAND, plan())
