"""Noise and pruning under the protocol: who recovers what, and what they cost.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_defenses

``privacy``: the PSNR in dB, at most 99, of one digit out of the gradient of the task's untrained network; case k has
the k-th digit, a network, a draw of the defense and a start of its own. ``divide`` is the closed form; ``survivors``
divides where the weight's and the bias's entry survived; ``search`` minimizes l1 with the label declared, and
``search, told`` with the defense declared as well; ``MAP`` weighs the declared noise against a Gaussian prior that was
fitted to other digits; ``guess`` has the label and no gradient. ``utility``: test accuracy of five seeds on the three
tasks, at the best of three rates on the validation examples of other seeds; with ``steps`` 1 a client shares every
gradient step, of all its examples, and there are as many steps. What the file already holds is kept; remove the file to
measure all of it again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from gilearn import attacks, data, defenses, federated, metrics
from gilearn.attacks import GradientMatching, bayesian, distances, initialization, labels, optimizers, priors, spaces
from gilearn.defenses import utility
from tools.recording import resume

COMMAND = "python -m tools.record_defenses"
CASES, RATES, SEEDS = range(24), (0.1, 0.3, 1.0), range(5)
DEFENSES: dict[str, federated.Defense | None] = {
    "none": None,
    "noise .001": defenses.GaussianNoise(std=0.001),
    "noise .01": defenses.GaussianNoise(std=0.01),
    "noise .03": defenses.GaussianNoise(std=0.03),
    "noise .1": defenses.GaussianNoise(std=0.1),
    "pruning .9": defenses.Pruning(share=0.9),
    "pruning .98": defenses.Pruning(share=0.98),
}
SEARCH = GradientMatching(
    initialization=initialization.Gaussian(),
    labels=labels.Declared(),
    distance=distances.Manhattan(),
    optimizer=optimizers.Adam(lr=0.1, schedule=optimizers.StepDecay()),
    iterations=200,
    space=spaces.Pixels(bounds=(0.0, 1.0)),
)


def survivors(seen: federated.Observation) -> Tensor:
    weights, biases = (tensor.double() for tensor in seen.shared[:2] if tensor is not None)
    use = (weights != 0) & (biases != 0).unsqueeze(1)
    above = (use * weights * biases.unsqueeze(1)).sum(0)
    return (above / (use * biases.square().unsqueeze(1)).sum(0).clamp_min(1e-300)).view(1, *seen.input_shape).float()


def privacy(defense: str, attacker: str, k: int) -> dict[str, Any]:
    x, y = data.digits()
    knows = ["labels", "defense"] if attacker in ("search, told", "MAP") else ["labels"]
    model = utility.TASKS["digits"].build(k)
    seen = federated.observe(model, x[k : k + 1], y[k : k + 1], defense=DEFENSES[defense], declare=knows, seed=k)
    if attacker == "divide":
        found = attacks.PPDL_AHE(seen).inputs
    elif attacker == "survivors":
        found = survivors(seen)
    elif attacker == "MAP":
        found = bayesian.MAP(prior=priors.GaussianPrior.fit(x[900:]))(seen, seed=k).inputs
    elif attacker == "guess":
        found = x[900:][y[900:] == y[k]].mean(0, keepdim=True)
    else:
        found = SEARCH(seen, seed=k).inputs
    return {"psnr": round(min(99.0, float(metrics.psnr(found.float(), x[k : k + 1]))), 1)}


def cost(defense: str, task: str, steps: int | None = None) -> dict[str, Any]:
    training = utility.TASKS[task]
    if steps is not None:
        training = training.spent(federated.LocalSteps(steps=steps, lr=1.0))
    training = utility.tuned(training, rates=RATES, defense=DEFENSES[defense])
    found = utility.measure(training, seeds=SEEDS, defense=DEFENSES[defense])
    return {
        "rate": training.local.lr,
        "accuracy": found["accuracy"].round(4).tolist(),
        "seconds": round(float(found["seconds"].median()), 2),
        "megabytes": round(float(found["megabytes"].mean()), 3),
    }


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for name in DEFENSES:
        ladder = ["divide", "search"]
        if name == "none":
            ladder += ["guess"]
        else:
            ladder += ["search, told", "survivors"] if name.startswith("pruning") else ["MAP"]
        for attacker in ladder:
            for k in CASES:
                key = {"part": "privacy", "defense": name, "attacker": attacker, "case": k}
                yield key, functools.partial(privacy, name, attacker, k)
    for task in utility.TASKS:
        for name in DEFENSES:
            yield {"part": "utility", "defense": name, "task": task}, functools.partial(cost, name, task)
    for name in ("none", "noise .01", "noise .03", "noise .1", "pruning .9", "pruning .98"):
        key = {"part": "utility", "defense": name, "task": "digits", "steps": 1}
        yield key, functools.partial(cost, name, "digits", 1)


def main() -> None:
    resume("defenses", COMMAND, plan())


if __name__ == "__main__":
    main()
