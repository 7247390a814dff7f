"""DLG against a sigmoid LeNet: ours beside PyTorch's default L-BFGS, seed by seed, in one run.

    python -m tests.benchmarks.deep_leakage [--seeds 10] [--record]

Two 32x32 photographs and two 25x25 faces. Reached is a mean squared error below 1e-3; the time to get there is the
evaluation at which it was reached times the run's own seconds per evaluation, so that what came after does not count.
A run that never gets there counts as infinite.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks.iteration.optimizers import LBFGS
from tools.recording import record

BAR = 1e-3
OURS = attacks.DLG.replace(iterations=100, restarts=1)
ATTACKS = {"ours": OURS, "default": OURS.replace(optimizer=LBFGS(line_search_fn=None), dtype=None)}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seeds", type=int, default=10)
    arguments.add_argument("--record", action="store_true")
    options = arguments.parse_args()
    photos, classes = data.photos(32, names=["astronaut", "retina"])
    faces, person = (t[[46, 91]] for t in data.faces(92))
    cases = {
        "astronaut": (models.lenet(), photos[:1], classes[:1]),
        "retina": (models.lenet(), photos[1:], classes[1:]),
        "face 46": (models.lenet(1, size=25), faces[:1], person[:1]),
        "face 91": (models.lenet(1, size=25), faces[1:], person[1:]),
    }
    result: dict[str, Any] = {}
    print(f"DLG: runs that reach an error below {BAR:g}; median evaluations and seconds to get there")
    for case, (model, x, y) in cases.items():
        seen = federated.observe(model, x, y)
        result[case] = {name: [] for name in ATTACKS}
        for seed in range(options.seeds):
            for name, attack in ATTACKS.items():  # in turn, so that a busy machine slows both
                result[case][name].append(one_run(attack, seen, x, y, seed))
        report(case, result[case])
    if options.record:
        print(record("deep-leakage-seeds", "python -m tests.benchmarks.deep_leakage --record", result))


def one_run(attack: Any, seen: federated.Observation, x: Any, y: Any, seed: int) -> dict[str, Any]:
    result = attack(seen, seed=seed, snapshots=1000)
    there = next((k for k, inputs in result.snapshots if metrics.mse(inputs, x) < BAR), None)
    return {
        "seed": seed,
        "mse": float(f"{metrics.mse(result.inputs, x):.3g}"),
        "label": int(result.labels[0]) == int(y[0]),
        "residual": float(f"{result.residual:.3g}"),
        "stopped": result.restarts[0]["stopped"],
        "evaluations": there,
        "seconds": None if there is None else round(result.seconds * there / len(result.history), 3),
    }


def report(case: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    medians = {}
    for name, rows in runs.items():
        reached = [row for row in rows if row["mse"] < BAR]
        seconds = [row["seconds"] if row in reached else float("inf") for row in rows]
        evaluations = [row["evaluations"] if row in reached else float("inf") for row in rows]
        medians[name] = statistics.median(seconds)
        print(f"  {case:10s} {name:8s} {len(reached)}/{len(rows)}  evaluations {statistics.median(evaluations):7.1f}  "
              f"seconds {medians[name]:6.2f}", flush=True)  # fmt: skip
    print(f"  {case:10s} ratio of seconds, ours / default: {medians['ours'] / medians['default']:.2f}", flush=True)


if __name__ == "__main__":
    main()
