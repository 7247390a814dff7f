"""Epsilon against pictures, labels and accuracy: clipped and noisy gradients of digits, and trainings with them.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_differential_privacy

Everywhere delta is 1e-5 (of NbAFL .01, as in its paper), and noise is calibrated by the analytic Gaussian mechanism.

``picture``: the PSNR in dB, at most 99, of one digit out of one gradient of the digits task's untrained network, which
is clipped to norm 1 (all of them are longer), at an ``epsilon`` of that one release. Case k has the k-th digit, a
network, a draw and a start of its own. ``divide`` is least squares, ``rank one`` total least squares, both cut off to
[0, 1]; ``cosine`` and ``l1`` are searches of 200 steps of Adam, at the best of three rates on four other cases (part
``tuning``), told label and clipping; ``MAP`` is also told the noise, and has a Gaussian prior of other digits; ``MAP,
16 rounds`` averages sixteen gradients of the same digit at the same weights, each with ``epsilon``.
``label``: whether the label is read off the same gradients, by products, by the bias, by the sign of the rank-one part
(``rank one``), or by the most probable picture for each of the ten labels (``posterior``).
``unit``: four digits in a batch, by ``MAP`` with 15 steps; the noise is for one ``example`` or the whole ``client``.
``utility``: test accuracy of five seeds, ``epsilon`` being that of the whole training, at the best rate and clipping
norm of two other seeds (one for NbAFL, LDP-Fed, faces and colour). ``example``: per-example noise, whose 30 batches
with an example are counted; ``client``: the update of every round is clipped and gets noise; ``client, aggregated``:
all clients' noise adds up to what one alone would need. ``many``: 60 clients of 20 digits, two steps of all a round.
What the file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gilearn import attacks, data, defenses, federated, metrics
from gilearn.attacks import GradientMatching, bayesian, distances, initialization, labels, optimizers, priors, spaces
from gilearn.attacks.releases import combined
from gilearn.defenses import utility
from gilearn.defenses.gradients.accounting import gaussian_std
from gilearn.federated import LocalSteps
from tools.recording import known, resume

NAME = "differential-privacy"
COMMAND = "python -m tools.record_differential_privacy"
DELTA, CASES, TUNING = 1e-5, range(24), range(24, 28)
EPSILONS = (1, 4, 16, 64, 256, 1024, 4096)
RATES, SEEDS, ROUNDS = (0.01, 0.03, 0.1), range(5), 16
DIGITS = utility.TASKS["digits"]
TASKS = {
    **utility.TASKS,
    "many": DIGITS.replace(clients=60, examples=20, local=LocalSteps(steps=2, lr=0.3)),
}
DISTANCES = {"cosine": distances.Cosine(), "l1": distances.Manhattan()}


def observed(k: int, epsilon: float, seed: int | None = None) -> federated.Observation:
    x, y = data.digits()
    private = defenses.DPSGD(noise_multiplier=gaussian_std(epsilon, delta=DELTA), clip=1.0)
    told = ["labels", "defense"]
    seed = k if seed is None else seed
    return federated.observe(DIGITS.build(k), x[k : k + 1], y[k : k + 1], defense=private, declare=told, seed=seed)


def rank_one(seen: federated.Observation, layer: int) -> tuple[Tensor, Tensor]:
    """The direction of a layer's deltas, and of its input with the 1 of the bias, of the nearest rank-one gradient."""
    weight, bias = seen.shared[2 * layer : 2 * layer + 2]
    left, _, right = torch.linalg.svd(torch.cat([weight, bias[:, None]], dim=1).double())
    return left[:, 0] * right[0, -1].sign(), right[0] * right[0, -1].sign()


def search(name: str, rate: float) -> GradientMatching:
    return GradientMatching(
        initialization=initialization.Gaussian(),
        labels=labels.Declared(),
        distance=DISTANCES[name],
        optimizer=optimizers.Adam(lr=rate, schedule=optimizers.StepDecay()),
        iterations=200,
        space=spaces.Pixels(bounds=(0.0, 1.0)),
    )


@functools.cache
def prior() -> priors.GaussianPrior:
    return priors.GaussianPrior.fit(data.digits()[0][900:])


def quality(found: Tensor, k: int) -> dict[str, Any]:
    return {"psnr": round(min(99.0, float(metrics.psnr(found.float(), data.digits()[0][k : k + 1]))), 1)}


def tuning(name: str, epsilon: float, rate: float, k: int) -> dict[str, Any]:
    return quality(search(name, rate)(observed(k, epsilon), seed=k).inputs, k)


def picture(attacker: str, epsilon: float, k: int) -> dict[str, Any]:
    x, y = data.digits()
    if attacker == "guess":
        return quality(x[900:][y[900:] == y[k]].mean(0, keepdim=True), k)
    seen = observed(k, epsilon)
    if attacker == "divide":
        return quality(attacks.PPDL_AHE(seen).inputs.clamp(0, 1), k)
    if attacker == "rank one":
        right = rank_one(seen, 0)[1]
        return quality((right[:-1] / right[-1]).clamp(0, 1).view(1, 1, 8, 8), k)
    if attacker == "MAP":
        return quality(bayesian.MAP(prior=prior())(seen, seed=k).inputs, k)
    if attacker == "MAP, 16 rounds":
        rounds = [observed(k, epsilon, 1000 * k + number) for number in range(ROUNDS)]
        mean = tuple(combined(torch.stack(same), how="mean") for same in zip(*(r.shared for r in rounds), strict=True))
        std = gaussian_std(epsilon, delta=DELTA) / ROUNDS**0.5
        attack = bayesian.MAP(likelihood=bayesian.Normal(std=std), prior=prior())
        return quality(attack(seen.replace(shared=mean), seed=k).inputs, k)
    scores: dict[float, list[float]] = {}
    for row in known(NAME, []):
        if (row["part"], row.get("attacker"), row.get("epsilon")) == ("tuning", attacker, epsilon):
            scores.setdefault(row["rate"], []).append(row["psnr"])
    best = max(scores, key=lambda rate: float(np.mean(scores[rate])))
    return quality(search(attacker, best)(seen, seed=k).inputs, k)


def label(rule: str, epsilon: float, number: int) -> dict[str, Any]:
    truth, hits = data.digits()[1], []
    for k in range(number):
        seen = observed(k, epsilon)
        if rule == "products":
            try:
                read = int(labels.IDLG()(seen))
            except ValueError:
                read = -1
        elif rule == "bias":
            read = int(seen.shared[-1].argmin())
        elif rule == "rank one":
            read = int(rank_one(seen, 1)[0].argmin())
        else:
            likely = [
                bayesian.MAP(prior=prior(), labels=labels.Fixed(torch.tensor([c])))(seen, seed=k).details["objective"]
                for c in range(10)
            ]
            read = int(np.argmin(likely))
        hits.append(int(read == int(truth[k])))
    return {"read": sum(hits), "of": number}


def unit(unit: str, epsilon: float, k: int) -> dict[str, Any]:
    x, y = data.digits()
    rows, std = slice(4 * k, 4 * k + 4), gaussian_std(epsilon, delta=DELTA)
    defense: Any = defenses.DPSGD(noise_multiplier=std, clip=1.0)
    if unit == "client":
        defense = (defenses.BatchClipping(norm=1.0), defenses.GaussianNoise(std=std))
    seen = federated.observe(DIGITS.build(k), x[rows], y[rows], defense=defense, declare=["labels", "defense"], seed=k)
    found = bayesian.MAP(prior=prior(), steps=15)(seen, seed=k).inputs
    return {"psnr": round(min(99.0, float(metrics.psnr(found.float(), x[rows]))), 1)}


def defense(name: str, epsilon: float | None, clip: float, task: utility.Training) -> Any:
    if epsilon is None:
        return None
    if name in ("NbAFL", "NbAFL, analytic"):
        return defenses.NbAFL(
            epsilon=epsilon, clip=clip, smallest=task.examples, clients=task.clients, rounds=task.rounds,
            exposures=task.rounds, calibration="analytic" if name.endswith("analytic") else "classical",
        )  # fmt: skip
    if name == "LDP-Fed":
        return defenses.LDPFed(alpha=epsilon / 32, clip=clip, uploads=task.rounds)
    std = gaussian_std(epsilon, delta=DELTA, steps=task.rounds)
    if name == "example":
        return defenses.DPSGD(noise_multiplier=std, clip=clip)
    shares = task.clients**0.5 if name == "client, aggregated" else 1.0
    return (defenses.BatchClipping(norm=clip), defenses.GaussianNoise(std=std * clip / shares))


CLIPS = {
    "example": (0.3, 1.0, 3.0),
    "client": (0.1, 0.3, 1.0),
    "client, aggregated": (0.1, 0.3, 1.0),
    "NbAFL": (5.0, 10.0, 20.0),
    "NbAFL, analytic": (5.0, 10.0, 20.0),
    "LDP-Fed": (0.01, 0.03, 0.1),
}


def accuracy(name: str, task_name: str, epsilon: float | None) -> dict[str, Any]:
    task = TASKS[task_name]
    few = name.startswith("NbAFL") or name == "LDP-Fed" or task_name in ("faces", "colour")
    seeds, rates = ((5,) if few else (5, 6)), (0.1, 0.3, 1.0)
    clips = CLIPS.get(name, (1.0,)) if epsilon is not None else (1.0,)
    best: tuple[float, float, float] = (-1.0, 0.0, 0.0)
    for clip, rate in itertools.product(clips, rates):
        at = task.replace(local=LocalSteps(steps=task.local.steps, lr=rate, batch_size=task.local.batch_size))
        found = utility.measure(at, defense=defense(name, epsilon, clip, at), seeds=seeds, validation=True)
        best = max(best, (float(found["accuracy"].fillna(0).mean()), clip, rate))
    _, clip, rate = best
    at = task.replace(local=LocalSteps(steps=task.local.steps, lr=rate, batch_size=task.local.batch_size))
    found = utility.measure(at, defense=defense(name, epsilon, clip, at), seeds=SEEDS)
    seconds = round(float(found["seconds"].median()), 2)
    return {"clip": clip, "rate": rate, "accuracy": found["accuracy"].round(4).tolist(), "seconds": seconds}


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    yield from pictures()
    for rule, number in (("products", 100), ("bias", 100), ("rank one", 100)):
        for epsilon in EPSILONS:
            key = {"part": "label", "rule": rule, "epsilon": epsilon}
            yield key, functools.partial(label, rule, epsilon, number)
    yield from trainings()
    for epsilon, name, k in itertools.product((16, 256, 1024, 4096), ("example", "client"), range(12)):
        yield {"part": "unit", "unit": name, "epsilon": epsilon, "case": k}, functools.partial(unit, name, epsilon, k)
    for epsilon in EPSILONS:
        key = {"part": "label", "rule": "posterior", "epsilon": epsilon}
        yield key, functools.partial(label, "posterior", epsilon, 24)


def pictures() -> Iterator[tuple[dict[str, Any], Any]]:
    for k in CASES:
        yield {"part": "picture", "attacker": "guess", "case": k}, functools.partial(picture, "guess", 1.0, k)
    for epsilon in EPSILONS:
        for name, rate, k in itertools.product(DISTANCES, RATES, TUNING):
            key = {"part": "tuning", "attacker": name, "epsilon": epsilon, "rate": rate, "case": k}
            yield key, functools.partial(tuning, name, epsilon, rate, k)
        for name, k in itertools.product(("divide", "rank one", "MAP", "MAP, 16 rounds", *DISTANCES), CASES):
            key = {"part": "picture", "attacker": name, "epsilon": epsilon, "case": k}
            yield key, functools.partial(picture, name, epsilon, k)


def trainings() -> Iterator[tuple[dict[str, Any], Any]]:
    tables: list[tuple[str, str, tuple[float | None, ...]]] = [
        ("none", "digits", (None,)),
        ("example", "digits", (2, 8, 32, 128, 512)),
        ("client", "digits", (8, 128, 2048, 32768)),
        ("NbAFL", "digits", (6, 20, 60, 100, 300)),
        ("NbAFL, analytic", "digits", (6, 20, 60, 100, 300)),
        ("LDP-Fed", "digits", (1e4, 1e5, 1e6, 1e7)),
        ("none", "many", (None,)),
        ("client", "many", (8, 128, 2048)),
        ("client, aggregated", "many", (8, 128, 2048)),
        ("none", "faces", (None,)),
        ("example", "faces", (8, 128)),
        ("none", "colour", (None,)),
        ("example", "colour", (8, 128)),
    ]
    for name, task, epsilons in tables:
        for epsilon in epsilons:
            key = {"part": "utility", "unit": name, "task": task, "epsilon": epsilon}
            yield key, functools.partial(accuracy, name, task, epsilon)


def main() -> None:
    resume(NAME, COMMAND, plan())


if __name__ == "__main__":
    main()
