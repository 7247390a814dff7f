"""MixUp: what it costs, how far its encodings can be taken apart, and what mixup inference does under attack.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_mixup

``utility``: test accuracy of five seeds on the three tasks of ``defenses.utility``, the learning rate tuned for each
rule on the validation examples of other seeds. ``unmixing``: a client's digits, a client a seed, from encodings of
several epochs, in decibels: the encoding of the first epoch, the best of all epochs for each picture, and what the
factorization finds, blind or told the mixed labels. ``inference``: accuracies of networks that four clients trained
together with and without mixing, on 298 digits that nobody trained on, under PGD-10 of three step sizes (the least
accuracy of the three), blind to the averaging or through it; ``mean`` mixes with the mean picture once. What the file
already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gilearn import data, federated, metrics
from gilearn.attacks import unmixing
from gilearn.defenses import MixUp, MixupInference, utility
from gilearn.federated import Client
from tools.recording import known, resume

COMMAND = "python -m tools.record_mixup"
RATES = (0.03, 0.1, 0.3, 1.0)
RULES = {
    "none": None,
    "two, uniform": MixUp(),
    "two, at most .65": MixUp(concentrations=(3.0, 1.0), cap=0.65),
    "four, at most .65": MixUp(concentrations=(3.0, 1.0, 1.0, 1.0), cap=0.65),
}
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)


def cost(task: str, rule: str) -> dict[str, Any]:
    defense = RULES[rule]
    chosen = utility.tuned(utility.TASKS[task], rates=RATES, defense=defense)
    found = utility.measure(chosen, defense=defense)
    return {
        "rate": chosen.local.lr,
        "accuracy": found["accuracy"].round(4).tolist(),
        "seconds": float(found["seconds"].mean().round(2)),
        "megabytes": float(found["megabytes"].mean()),
    }


def unmix(number: int, epochs: int, rule: str, told: str, seed: int) -> dict[str, Any]:
    x, y = data.digits()
    x, y = (v[number * seed : number * (seed + 1)] for v in (x.double(), y))
    client = Client(model=torch.nn.Identity(), num_classes=10, generator=torch.Generator().manual_seed(seed))
    made = [RULES[rule].data(x, y, client) for _ in range(epochs)]
    encodings, labels = (torch.cat([one[k] for one in made]) for k in range(2))
    began = time.process_time()
    order = torch.arange(len(encodings))
    if told == "shuffled":
        order = torch.randperm(len(encodings), generator=torch.Generator().manual_seed(seed))
    found = unmixing.factorize(
        encodings[order], number, labels=labels if told == "labels" else None, ordered=told != "shuffled"
    )
    seconds = time.process_time() - began

    def decibels(pictures: Tensor) -> Tensor:
        return metrics.psnr(pictures.clamp(0, 1), x, reduction="none")

    each = torch.stack([metrics.mse(part, x, reduction="none") for part in encodings.split(number)])
    result = decibels(found.pictures)
    return {
        "encoding": round(float(decibels(encodings[:number]).median()), 1),
        "best": round(float((-10 * each.amin(0).log10()).median()), 1),
        "median": round(float(result.median()), 1),
        "least": round(float(result.min()), 1),
        "residual": float(f"{found.residual:.1e}"),
        "seconds": round(seconds, 2),
    }


def pgd(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, eps: float, step: float, steps: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    found = (x + eps * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1)
    for _ in range(steps):
        found = found.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(found), y), found)
        found = torch.min(torch.max(found + step * slope.sign(), x - eps), x + eps).clamp(0, 1)
    return found.detach()


@functools.lru_cache(maxsize=2)
def trained(rule: str, seed: int) -> tuple[Any, ...]:
    task = utility.TASKS["digits"]
    row = next(r for r in known("mixup", []) if r["kind"] == "utility" and r["task"] == "digits" and r["rule"] == rule)
    local = federated.LocalSteps(steps=task.local.steps, lr=row["rate"], batch_size=task.local.batch_size)
    x, y = task.load(0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    held = task.clients * task.examples
    clients = list(zip(x[:held].chunk(task.clients), y[:held].chunk(task.clients), strict=True))
    rounds = federated.fedavg(task.build(seed), clients, local, num_rounds=task.rounds, defense=RULES[rule], seed=seed)
    *_, last = rounds
    half = held + (len(x) - held) // 2
    return last.after.eval(), (x[:held], y[:held]), (x[held:half], y[held:half]), (x[half:], y[half:])


def inference(rule: str, eps: float, seed: int) -> dict[str, Any]:
    model, pool, validation, test = trained(rule, seed)
    mean = pool[0].mean(0, keepdim=True)

    def accuracy(answer: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
        with torch.no_grad():
            return round(float((answer(x).argmax(1) == y).double().mean()), 4)

    def attacked(source: Callable[[Tensor], Tensor], answer: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
        steps = [eps / 10, eps / 4, eps / 2]
        return min(accuracy(answer, pgd(source, x, y, eps=eps, step=step), y) for step in steps)

    def defended(kind: str, share: float) -> Callable[[Tensor], Tensor]:
        if kind == "mean":
            return lambda x: model(share * x + (1 - share) * mean)
        return MixupInference(model, *pool, rule=kind, share=share, seed=seed)

    result: dict[str, Any] = {"clean": accuracy(model, *test), "blind": attacked(model, model, *test)}
    for kind in ("OL", "PL", "mean"):
        for share in SHARES:
            answer = defended(kind, share)
            name = f"{kind} {share}"
            result[f"{name} clean"] = accuracy(answer, *test)
            result[f"{name} blind"] = attacked(model, answer, *test)
            result[f"{name} validation"] = [accuracy(answer, *validation), attacked(model, answer, *validation)]
            if share in (0.5, 0.6) and kind != "mean":
                result[f"{name} adaptive"] = attacked(answer, answer, *test)
    return result


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for task in utility.TASKS:
        for rule in RULES:
            yield {"kind": "utility", "task": task, "rule": rule}, functools.partial(cost, task, rule)
    for seed in range(10):
        for rule in ("none", "two, uniform"):
            for eps in (0.05, 0.1):
                yield (
                    {"kind": "inference", "rule": rule, "eps": eps, "seed": seed},
                    functools.partial(inference, rule, eps, seed),
                )
    for number, epochs in ((10, 2), (10, 5), (10, 10), (20, 5), (20, 10)):
        for rule in list(RULES)[1:]:
            for told in ("blind", "labels", "shuffled"):
                for seed in range(10):
                    yield (
                        {
                            "kind": "unmixing",
                            "number": number,
                            "epochs": epochs,
                            "rule": rule,
                            "told": told,
                            "seed": seed,
                        },
                        functools.partial(unmix, number, epochs, rule, told, seed),
                    )


if __name__ == "__main__":
    resume("mixup", COMMAND, plan())
