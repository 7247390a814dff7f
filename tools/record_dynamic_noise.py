"""What Fed-CDP, Fed-SDP and a decay over rounds cost in accuracy, and what attackers at three places recover.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_dynamic_noise [utility] [points]

``utility``: four clients of 300 digits train for 20 rounds of three steps on 100 examples each, in a fixed order. All
arms but ``none`` spend the same epsilon at delta 1e-5 of one example that is replaced, for who sees what leaves the
client. ``constant`` is Fed-CDP; ``clip decay`` lets C fall linearly to a third; ``step decay`` keeps C and shortens the
steps in the same way, noise included; ``noise decay`` keeps C and lets the multiplier fall to a third; ``sdp`` is
Fed-SDP with one bound for the whole update. Clip (of a decay its mean) and rate are tuned on the validation examples of
another seed, and the three best on two more.

``points``: relative errors on 24 digits, each with a network of its own, one example and one step. ``none`` is what
somebody inside sees under nothing or Fed-SDP, ``cdp`` what anybody sees under Fed-CDP, and the server under Fed-SDP,
with C = 1 and multiplier 1 (the same numbers, as there is one example); ``late`` is Fed-CDP whose C has fallen to 0.5.
``search`` matches gradients in the l1 distance through the declared clipping, its rate tuned on six other cases;
``map`` is the most probable picture under a normal prior of other digits, from the better of two starts.

What the file already holds is kept.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import bayesian, distances, initialization, labels, optimizers, priors, spaces
from gilearn.defenses import Decay, FedCDP, FedSDP, utility
from gilearn.defenses.gradients import spending
from gilearn.federated import Client, Defense, Gradients, LocalSteps
from tools.recording import known, resume

COMMAND = "python -m tools.record_dynamic_noise"
NAME = "dynamic-noise"
TASK = utility.TASKS["digits"].replace(
    build=lambda seed: models.mlp(64, (16,), activation="relu", seed=seed),
    rounds=20,
    local=LocalSteps(steps=3, lr=1.0, batch_size=100),
)
DELTA, EPSILON = 1e-5, 8.0
RATES, CLIPS = (0.1, 0.3, 1.0, 3.0), (0.3, 1.0, 3.0)
ARMS = ("none", "constant", "clip decay", "step decay", "sdp", "noise decay")
SPENT = {"delta": DELTA, "rounds": TASK.rounds, "layers": 2}


@dataclass(frozen=True, kw_only=True)
class Slowing(Defense):
    """Multiply the steps of every round by a number of that round: a learning rate that decays."""

    factor: Decay

    def data(self, inputs: Any, targets: Any, client: Client) -> Any:
        client.memory["round"] = client.memory.get("round", 0) + 1
        return inputs, targets

    def step(self, gradients: Gradients, client: Client) -> Gradients:
        factor = self.factor.at(client.memory["round"])
        return tuple(None if g is None else factor * g for g in gradients)


def falling(mean: float) -> Decay:
    """Return a linear fall to a third, with this mean."""
    return Decay(start=1.5 * mean, end=0.5 * mean, rounds=TASK.rounds)


def arm(name: str, clip: float) -> Any:
    """Return the defense of an arm, with noise for the epsilon."""
    if name == "none":
        return None
    if name == "sdp":
        return spending.at_epsilon(FedSDP(clip=clip, noise_multiplier=1.0, scope="whole"), EPSILON, **SPENT)
    given = FedCDP(
        clip=falling(clip) if name == "clip decay" else clip,
        noise_multiplier=falling(1.0) if name == "noise decay" else 1.0,
    )
    found = spending.at_epsilon(given, EPSILON, batch_size=100, **SPENT)
    return (found, Slowing(factor=falling(1.0))) if name == "step decay" else found


def trained(name: str, clip: float | None, rate: float, seed: int, held: bool) -> dict[str, Any]:
    task = TASK.replace(local=LocalSteps(steps=3, lr=rate, batch_size=100))
    row = utility.measure(task, defense=arm(name, clip or 1.0), seeds=[seed], validation=held).iloc[0]
    return {"accuracy": round(float(row["accuracy"]), 5), "seconds": round(float(row["seconds"]), 2)}


def ranked(name: str, seeds: tuple[int, ...]) -> list[tuple[float | None, float]]:
    """Return clips and rates by their mean accuracy on the validation examples of these seeds, if all are there."""
    found: dict[tuple[float | None, float], list[float]] = {}
    for row in known(NAME, []):
        if row["part"] == "tuning" and row["arm"] == name and row["seed"] in seeds:
            found.setdefault((row.get("clip"), row["rate"]), []).append(row["accuracy"])
    complete = [pair for pair, accuracies in found.items() if len(accuracies) == len(seeds)]
    return sorted(complete, key=lambda pair: -sum(found[pair]))


def plan_utility() -> Iterator[tuple[dict[str, Any], Any]]:
    def tuning(name: str, clip: float | None, rate: float, seed: int) -> tuple[dict[str, Any], Any]:
        key = {"part": "tuning", "arm": name, "clip": clip, "rate": rate, "seed": seed}
        return key, functools.partial(trained, name, clip, rate, seed, True)

    for name in ARMS:
        for clip in (None,) if name == "none" else CLIPS:
            for rate in (0.3, 1.0, 3.0) if name in ("none", "sdp") else RATES:
                yield tuning(name, clip, rate, 20)
        for clip, rate in ranked(name, (20,))[:3]:
            for seed in (21, 22):
                yield tuning(name, clip, rate, seed)
        clip, rate = ranked(name, (20, 21, 22))[0]
        for seed in range(10):
            key = {"part": "test", "arm": name, "clip": clip, "rate": rate, "seed": seed}
            yield key, functools.partial(trained, name, clip, rate, seed, False)


PLAIN = FedCDP(clip=1.0, noise_multiplier=1.0)
VIEWS: dict[str, Defense | None] = {
    "none": None,
    "cdp": PLAIN,
    "late": PLAIN.replace(clip=0.5),
}
SEARCH = attacks.GradientMatching(
    initialization=initialization.Gaussian(),
    labels=labels.Declared(),
    distance=distances.Manhattan(),
    space=spaces.Pixels(bounds=(0.0, 1.0)),
    iterations=100,
)


@functools.cache
def pictures() -> Any:
    """Return digits, labels, and a prior of digits that no case has."""
    x, y = data.digits()
    return x, y, priors.GaussianPrior.fit(x[900:])


def looked(view: str, case: int, attack: str, rate: float | None) -> dict[str, Any]:
    x, y, prior = pictures()
    x, y, network = x[case : case + 1], y[case : case + 1], TASK.build(case)
    told = {"defense": VIEWS[view], "declare": ["labels", "defense"], "seed": case}
    seen = federated.observe_inside(network, x, y, point="example", **told)
    if attack == "search":
        adam = optimizers.Adam(lr=rate, schedule=optimizers.StepDecay())
        found = SEARCH.replace(optimizer=adam)(seen, seed=case).inputs
    else:
        divided = attacks.PPDL_AHE(seen).inputs.to(x).clamp(0, 1)
        starts = (initialization.FromImage(picture=prior.mean[None].to(x)), initialization.FromImage(picture=divided))
        tries = [bayesian.MAP(prior=prior, initialization=start, steps=15)(seen) for start in starts]
        found = min(tries, key=lambda result: float(result.details["objective"])).inputs
    return {"error": round(float(metrics.relative_error(found.to(x), x)), 5)}


def plan_points() -> Iterator[tuple[dict[str, Any], Any]]:
    rates = (0.03, 0.1, 0.3)
    for view in VIEWS:
        for rate in rates:
            for case in range(30, 36):
                key = {"part": "search rate", "view": view, "attack": "search", "rate": rate, "case": case}
                yield key, functools.partial(looked, view, case, "search", rate)
        rows = [row for row in known(NAME, []) if row["part"] == "search rate" and row["view"] == view]
        best_rate = min(rates, key=lambda rate: sum(row["error"] for row in rows if row["rate"] == rate))
        for case in range(24):
            key = {"part": "points", "view": view, "attack": "search", "rate": best_rate, "case": case}
            yield key, functools.partial(looked, view, case, "search", best_rate)
            if view != "none":
                key = {"part": "points", "view": view, "attack": "map", "rate": None, "case": case}
                yield key, functools.partial(looked, view, case, "map", None)


def main() -> None:
    plans = {"utility": plan_utility, "points": plan_points}
    for part in sys.argv[1:] or plans:
        resume(NAME, COMMAND, plans[part]())


if __name__ == "__main__":
    main()
