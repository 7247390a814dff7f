"""Epsilon against pictures, labels and accuracy: clipped and noisy gradients of digits, and trainings with them.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_differential_privacy

Everywhere delta is 1e-5 (of NbAFL .01, as in its paper), and noise is calibrated by the analytic Gaussian mechanism.

``picture``: the PSNR in dB, at most 99, of one digit out of one gradient of the digits task's untrained network, which
is clipped to norm 1 (all of them are longer), at an ``epsilon`` of that one release. Case k has the k-th digit, a
network, a draw and a start of its own. ``divide`` is least squares, ``rank one`` total least squares, both cut off to
[0, 1]; ``cosine`` and ``l1`` are searches of 100 steps of Adam, told label and clipping, at the best of three
rates on three other cases (part ``tuning``); ``MAP`` is also told the noise, and has a Gaussian prior of other digits;
``MAP, by label`` has one of the digits of that label;
``MAP, 16 rounds`` averages sixteen gradients of the same digit at the same weights, each with ``epsilon``:
twelve cases, and at 1 all of them.
``label``: how many labels are read off such gradients: by products, by the bias, by the sign of the rank-one part
(``rank one``), or by the likelihood under twenty other digits of each class (``posterior``).
``unit``: two digits in a batch, by ``MAP`` with 8 steps; the noise is for one ``example`` or the whole ``client``.
``utility``: test accuracy of five seeds, ``epsilon`` being that of the whole training, at the rate and then the
clipping norm that are the best of three each on another seed's validation examples. ``example``: per-example noise,
whose 30 batches with an example are counted; ``client``: the update of every round is clipped and gets noise;
``client, aggregated``: all clients' noise adds up to what one alone would need. ``many``: 20 clients of 30 digits, one
step of all a round.
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
DELTA, CASES, TUNING = 1e-5, range(24), range(24, 27)
EPSILONS = (1, 16, 64, 256, 1024, 4096)
SEARCHED = 1024
RATES, SEEDS, ROUNDS = (0.01, 0.03, 0.1), range(5), 16
DIGITS = utility.TASKS["digits"]
TASKS = {
    **utility.TASKS,
    "many": DIGITS.replace(clients=20, examples=30, local=LocalSteps(steps=1, lr=0.3)),
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
        iterations=100,
        space=spaces.Pixels(bounds=(0.0, 1.0)),
    )


@functools.cache
def prior(kind: int | None = None) -> priors.GaussianPrior:
    x, y = data.digits()
    return priors.GaussianPrior.fit(x[900:] if kind is None else x[900:][y[900:] == kind])


def quality(found: Tensor, k: int) -> dict[str, Any]:
    return {"psnr": round(min(99.0, float(metrics.psnr(found.float(), data.digits()[0][k : k + 1]))), 1)}


def tuning(name: str, epsilon: float, rate: float, k: int) -> dict[str, Any]:
    return quality(search(name, rate)(observed(k, epsilon), seed=k).inputs, k)


def picture(attacker: str, epsilon: float | None, k: int) -> dict[str, Any]:
    x, y = data.digits()
    if attacker == "guess":
        return quality(x[900:][y[900:] == y[k]].mean(0, keepdim=True), k)
    assert epsilon is not None
    seen = observed(k, epsilon)
    if attacker == "divide":
        return quality(attacks.PPDL_AHE(seen).inputs.clamp(0, 1), k)
    if attacker == "rank one":
        right = rank_one(seen, 0)[1]
        return quality((right[:-1] / right[-1]).clamp(0, 1).view(1, 1, 8, 8), k)
    if attacker == "MAP":
        return quality(bayesian.MAP(prior=prior())(seen, seed=k).inputs, k)
    if attacker == "MAP, by label":
        return quality(bayesian.MAP(prior=prior(int(y[k])))(seen, seed=k).inputs, k)
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


def label(epsilon: float, number: int) -> dict[str, Any]:
    truth = data.digits()[1]
    hits = dict.fromkeys(("products", "bias", "rank one", "posterior"), 0)
    for k in range(number):
        seen = observed(k, epsilon)
        try:
            products = int(labels.IDLG()(seen))
        except ValueError:
            products = -1
        read = {
            "products": products,
            "bias": int(seen.shared[-1].argmin()),
            "rank one": int(rank_one(seen, 1)[0].argmin()),
            "posterior": most_likely(seen, gaussian_std(epsilon, delta=DELTA), k),
        }
        for rule, found in read.items():
            hits[rule] += int(found == int(truth[k]))
    return {"read": hits, "of": number}


def most_likely(seen: federated.Observation, std: float, k: int) -> int:
    """The class whose public digits make the gradient most likely, on average over twenty of them."""
    flat = torch.cat([g.flatten() for g in seen.shared])
    apart = (suspects(k) - flat).double().square().sum(1).view(10, 20)
    return int(torch.logsumexp(-apart / (2 * std**2), dim=1).argmax())


@functools.cache
def suspects(k: int) -> Tensor:
    """Clipped gradients of twenty public digits of each class, one flat row each."""
    x, y = data.digits()
    rows = torch.cat([((y == c) & (torch.arange(len(y)) >= 900)).nonzero().flatten()[:20] for c in range(10)])
    seen = observed(k, 1.0)
    each = (seen.simulate(x[row][None], y[row][None], create_graph=False) for row in rows)
    return torch.stack([torch.cat([g.flatten() for g in one]) for one in each])


def unit(unit: str, epsilon: float, k: int) -> dict[str, Any]:
    x, y = data.digits()
    rows, std = slice(2 * k, 2 * k + 2), gaussian_std(epsilon, delta=DELTA)
    defense: Any = defenses.DPSGD(noise_multiplier=std, clip=1.0)
    if unit == "client":
        defense = (defenses.BatchClipping(norm=1.0), defenses.GaussianNoise(std=std))
    seen = federated.observe(DIGITS.build(k), x[rows], y[rows], defense=defense, declare=["labels", "defense"], seed=k)
    found = bayesian.MAP(prior=prior(), steps=8)(seen, seed=k).inputs
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

    def scores(rate: float, clip: float, **options: Any) -> Any:
        at = task.replace(local=LocalSteps(steps=task.local.steps, lr=rate, batch_size=task.local.batch_size))
        return utility.measure(at, defense=defense(name, epsilon, clip, at), **options)

    def validated(rate: float, clip: float) -> float:
        return float(scores(rate, clip, seeds=(5,), validation=True)["accuracy"].fillna(0).mean())

    clips = CLIPS.get(name, (1.0,)) if epsilon is not None else (1.0,)
    middle = clips[len(clips) // 2]
    at_middle = {rate: validated(rate, middle) for rate in (0.1, 0.3, 1.0)}
    rate = max(at_middle, key=lambda rate: at_middle[rate])
    found = {clip: at_middle[rate] if clip == middle else validated(rate, clip) for clip in clips}
    clip = max(found, key=lambda clip: found[clip])
    frame = scores(rate, clip, seeds=SEEDS)
    seconds = round(float(frame["seconds"].median()), 2)
    return {"clip": clip, "rate": rate, "accuracy": frame["accuracy"].round(4).tolist(), "seconds": seconds}


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    yield from pictures(("guess",), (None,))
    yield from pictures(("divide", "rank one", "MAP"), EPSILONS)
    for epsilon in EPSILONS:
        yield {"part": "label", "epsilon": epsilon}, functools.partial(label, epsilon, 48)
    yield from pictures(("MAP, by label",), EPSILONS[1:])
    yield from trainings("none", "digits", (None,))
    yield from trainings("example", "digits", (8, 32, 128))
    yield from trainings("client", "digits", (128, 32768))
    yield from trainings("NbAFL", "digits", (6, 20, 100))
    yield from pictures(("MAP, 16 rounds",), (1,))
    yield from pictures(("MAP, 16 rounds",), (16, 64, 256), range(12))
    for epsilon, name, k in itertools.product((256, 4096), ("example", "client"), range(10)):
        yield {"part": "unit", "unit": name, "epsilon": epsilon, "case": k}, functools.partial(unit, name, epsilon, k)
    for name, rate, k in itertools.product(DISTANCES, RATES, TUNING):
        key = {"part": "tuning", "attacker": name, "epsilon": SEARCHED, "rate": rate, "case": k}
        yield key, functools.partial(tuning, name, SEARCHED, rate, k)
    yield from pictures(tuple(DISTANCES), (SEARCHED,))
    yield from trainings("LDP-Fed", "digits", (1e5, 1e7))
    yield from trainings("none", "many", (None,))
    yield from trainings("client", "many", (128,))
    yield from trainings("client, aggregated", "many", (128,))


def pictures(
    attackers: tuple[str, ...], epsilons: tuple[float | None, ...], cases: range = CASES
) -> Iterator[tuple[dict[str, Any], Any]]:
    for epsilon, name, k in itertools.product(epsilons, attackers, cases):
        key = {"part": "picture", "attacker": name, "epsilon": epsilon, "case": k}
        yield key, functools.partial(picture, name, epsilon, k)


def trainings(name: str, task: str, epsilons: tuple[float | None, ...]) -> Iterator[tuple[dict[str, Any], Any]]:
    for epsilon in epsilons:
        key = {"part": "utility", "unit": name, "task": task, "epsilon": epsilon}
        yield key, functools.partial(accuracy, name, task, epsilon)


def main() -> None:
    resume(NAME, COMMAND, plan())


if __name__ == "__main__":
    main()
