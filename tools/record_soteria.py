"""What Soteria does to attackers who know it and who do not, what its score is worth, and what it costs.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_soteria

``attack``: case k has digit k, a network (one convolution with sigmoids, 64 ReLU features, ten classes) and starts of
its own; five starts at most, of which the one with the least gradient distance is kept. ``rule`` says what became of
the classifier's weight gradient: ``none``; columns pruned by one of Soteria's scores, by the largest magnitude of the
feature, at random, or by the least of the paper's scores (``least``), always as many; or ``noise`` of the size of what
the paper's score prunes. ``size`` is the norm of the change over that of the tensor. ``naive`` matches all that was
shared, ``told`` applies the mask that can be read off, ``bypass`` leaves the tensor out; ``box`` and ``box bypass`` are
InvGrad's search, with its learning rate as ``lr``. ``mse`` is of the reconstruction clipped to [0, 1], ``raw`` without.

``utility``: accuracy over five seeds, at the rate that did best of three on the validation examples of another seed;
colour has ten rounds. What the file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gilearn import attacks, data, defenses, federated, metrics, models
from gilearn.attacks import labels, optimizers
from gilearn.defenses import Mask, Soteria, utility
from gilearn.defenses.gradients.soteria import derivatives
from tools.recording import resume

COMMAND = "python -m tools.record_soteria"
SEARCH = attacks.iDLG.replace(labels=labels.Declared(), iterations=30, restarts=5)
BOX = attacks.InvGrad.replace(iterations=200)
SCORES = ("paper", "code", "pseudo-inverse")
RULES = (*SCORES, "magnitude", "random", "least", "noise")


def victim(seed: int) -> nn.Sequential:
    encoder = models.lenet(1, size=8, strides=(2,), spread=None, seed=seed)
    head = models.mlp(192, (64,), activation="relu", seed=seed + 500)
    return nn.Sequential(*encoder[:-1], *head[1:]).double()


def changed(rule: str, share: float, model: nn.Module, x: Tensor, gradient: Tensor, seed: int) -> Tensor:
    """Return the classifier's weight gradient as the client shares it."""
    generator = torch.Generator().manual_seed(seed)
    _, features, jacobian = derivatives(model, x)
    if rule in ("noise", *SCORES):
        score = "paper" if rule == "noise" else rule
        pruned = Soteria(share=share, score=score).pruned(features, jacobian)
        if rule == "noise":
            drawn = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
            return gradient + drawn * (gradient[:, pruned].norm() / drawn.norm())
    else:
        active = features[0] > 0
        order = {
            "magnitude": -features[0],
            "random": torch.rand(active.shape, generator=generator, dtype=torch.float64),
            "least": features[0] / jacobian[0].norm(dim=1),
        }[rule]
        chosen = order.masked_fill(~active, torch.inf).argsort()[: round(share * int(active.sum()))]
        pruned = torch.zeros_like(active).index_fill(0, chosen, True)
    return gradient * ~pruned


def attacked(rule: str, share: float | None, case: int, attacker: str, lr: float | None) -> dict[str, Any]:
    x, y = (tensor[case : case + 1] for tensor in data.digits())
    x, model = x.double(), victim(case)
    plain = federated.observe(model, x, y, declare=["labels"])
    weight = plain.shared[-2]
    assert weight is not None
    given = weight if share is None else changed(rule, share, model, x, weight, case)
    seen = plain.replace(shared=(*plain.shared[:-2], given, plain.shared[-1]))
    mask = (given != 0).any(0).expand_as(given)
    told = Mask(masks=(*[None] * (len(plain.shared) - 2), mask, None))
    attack: attacks.Attack = SEARCH
    if lr is not None:
        attack = BOX.replace(optimizer=optimizers.Adam(lr=lr, schedule=optimizers.StepDecay()))
    if attacker == "told":
        seen = seen.replace(knowledge={**seen.knowledge, "defense": told})
    if attacker.endswith("bypass"):
        attack = attacks.Bypass(attack=attack)
        seen = seen.replace(knowledge={**seen.knowledge, "defense": told})
    result = attack(seen, seed=case)
    return {
        "mse": float(f"{metrics.mse(result.inputs.clamp(0, 1), x):.2e}"),
        "raw": float(f"{metrics.mse(result.inputs, x):.2e}"),
        "residual": float(f"{result.residual:.1e}"),
        "starts": len(result.restarts),
        "size": round(float((given - weight).norm() / weight.norm()), 4),
        "seconds": round(result.seconds, 1),
    }


def training(task: str) -> utility.Training:
    return utility.TASKS[task].replace(rounds=10) if task == "colour" else utility.TASKS[task]


def cost(task: str, share: float | None) -> dict[str, Any]:
    what = {"defense": None if share is None else defenses.Soteria(share=share)}
    tuned = utility.tuned(training(task), rates=(0.1, 0.3, 1.0), seeds=(5,), **what)
    found = utility.measure(tuned, seeds=range(5), **what)
    return {
        "lr": tuned.local.lr,
        "accuracy": [round(value, 4) for value in found["accuracy"]],
        "seconds": round(float(found["seconds"].median()), 2),
        "megabytes": round(float(found["megabytes"].mean()), 3),
    }


def attack_rows() -> Iterator[tuple[str, float | None, int, str, float | None]]:
    for k in range(24):
        yield "none", None, k, "naive", None
        for attacker in ("naive", "told", "bypass"):
            yield "paper", 0.5, k, attacker, None
    for k in range(24):
        for rule in RULES[1:]:
            yield rule, 0.5, k, "naive", None
    for k in range(10):
        for lr in (0.03, 0.1, 0.3):
            yield "none", None, k, "box", lr
            yield "paper", 0.5, k, "box", lr
            yield "paper", 0.5, k, "box bypass", lr
    for share in (0.02, 0.1, 0.25, 0.75, 0.9):
        for k in range(24):
            for rule, attacker in (("paper", "naive"), ("paper", "told"), ("random", "naive")):
                yield rule, share, k, attacker, None


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for row in attack_rows():
        key = dict(zip(("rule", "share", "case", "attacker", "lr"), row, strict=True))
        yield {"part": "attack"} | key, functools.partial(attacked, *row)
    for task, shares in (("digits", (None, 0.1, 0.5, 0.9)), ("faces", (None, 0.5, 0.9)), ("colour", (None, 0.5))):
        for share in shares:
            yield {"part": "utility", "task": task, "share": share}, functools.partial(cost, task, share)


def main() -> None:
    resume("soteria", COMMAND, plan())


if __name__ == "__main__":
    main()
