"""MixUp: what it costs, how far its encodings can be taken apart, and what mixup inference does under attack.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_mixup

``utility``: test accuracy of five seeds on the three tasks of ``defenses.utility``, the learning rate tuned for each
rule on the validation examples of another seed. ``same rate``: on colour, at the rate that was chosen without mixing.
``inference``: accuracies of networks trained on 1,200 digits with and
without mixing, on 298 other digits, under PGD-10 of three step sizes (the least accuracy of the three), blind to the
averaging or through it; ``mean`` mixes with the mean picture once. ``unmixing``: a
client's digits, a client a seed, from encodings of several epochs, in decibels: the encoding of the first epoch, the
best of all epochs for each picture, and what the factorization finds: blind, told the mixed labels, blind to the order
too, or with the pixels squeezed into [0.2, 0.8] before they are mixed. What the file already holds is kept; remove the
file to measure all of it again.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from gilearn import data, metrics, models
from gilearn.attacks import unmixing
from gilearn.defenses import MixUp, MixupInference, utility
from gilearn.federated import Client
from tools.recording import resume

COMMAND = "python -m tools.record_mixup"
RATES = {"digits": (0.3, 1.0, 3.0), "faces": (0.03, 0.1, 0.3), "colour": (0.1, 0.3, 1.0)}
RULES = {
    "none": None,
    "two": MixUp(),
    "four, capped": MixUp(concentrations=(3.0, 1.0, 1.0, 1.0), cap=0.65),
}
SEEDS = range(10)
SHARES = (0.4, 0.5, 0.6, 0.7)
EPS = 0.1
CASES = [
    *((10, 5, told) for told in ("blind", "shuffled", "squeezed")),
    *((10, 2, told) for told in ("blind", "labels")),
    (20, 5, "blind"),
]


def cost(task: str, rule: str) -> dict[str, Any]:
    defense = RULES[rule]
    chosen = utility.tuned(utility.TASKS[task], rates=RATES[task], seeds=(5,), defense=defense)
    found = utility.measure(chosen, defense=defense)
    return {
        "rate": chosen.local.lr,
        "accuracy": found["accuracy"].round(4).tolist(),
        "seconds": float(found["seconds"].mean().round(2)),
        "megabytes": float(found["megabytes"].mean()),
    }


def at_the_same_rate(task: str, rule: str) -> dict[str, Any]:
    """Measure at the rate of the task itself, which is the one that was chosen without a defense on colour."""
    return {"accuracy": utility.measure(utility.TASKS[task], defense=RULES[rule])["accuracy"].round(4).tolist()}


def unmix(number: int, epochs: int, rule: str, told: str, seed: int) -> dict[str, Any]:
    x, y = data.digits()
    x, y = (v[number * seed : number * (seed + 1)] for v in (x.double(), y))
    x = 0.2 + 0.6 * x if told == "squeezed" else x
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


def dealt(seed: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """The digits of a seed: 1,200 to train on, which are the pool too, 299 for validation, 298 for the test."""
    x, y = data.digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return tuple((x[rows], y[rows]) for rows in order.split([1200, 299, 298]))


@functools.lru_cache(maxsize=1)
def trained(rule: str) -> list[nn.Module]:
    """Ten networks with two hidden layers, a seed each, trained side by side by 800 steps of Adam."""
    defense = RULES[rule]
    nets = [models.mlp(64, (64, 64), activation="relu", seed=seed) for seed in SEEDS]
    base = copy.deepcopy(nets[0])
    parameters = {name: p.detach().requires_grad_() for name, p in stack_module_state(nets)[0].items()}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=0.01)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]

    def loss(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(base, own, (x,)), y)

    for _ in range(42):
        epoch = []
        for seed, generator in zip(SEEDS, generators, strict=True):
            x, y = dealt(seed)[0]
            client = Client(model=base, num_classes=10, generator=generator)
            x, y = (x, F.one_hot(y, 10).float()) if defense is None else defense.data(x, y, client)
            order = torch.randperm(len(x), generator=generator)
            epoch.append((x[order], y[order]))
        pictures, labels = (torch.stack([one[k] for one in epoch]) for k in range(2))
        for x, y in zip(pictures.split(64, dim=1), labels.split(64, dim=1), strict=True):
            optimizer.zero_grad()
            vmap(loss)(parameters, x, y).sum().backward()
            optimizer.step()
    for k, net in enumerate(nets):
        net.load_state_dict({name: p.detach()[k] for name, p in parameters.items()})
    return [net.eval() for net in nets]


def inference(rule: str, seed: int) -> dict[str, Any]:
    model, (pool, validation, test) = trained(rule)[seed], dealt(seed)
    mean = pool[0].mean(0, keepdim=True)

    def accuracy(answer: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
        with torch.no_grad():
            return round(float((answer(x).argmax(1) == y).double().mean()), 4)

    def attacks_on(source: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        return [pgd(source, x, y, eps=EPS, step=EPS * part) for part in (0.1, 0.25, 0.5)]

    def defended(kind: str, share: float) -> Callable[[Tensor], Tensor]:
        if kind == "mean":
            return lambda x: model(share * x + (1 - share) * mean)
        return MixupInference(model, *pool, rule=kind, share=share, seed=seed)

    blind, chosen = (attacks_on(model, *part) for part in (test, validation))
    result: dict[str, Any] = {"clean": accuracy(model, *test), "blind": min(accuracy(model, x, test[1]) for x in blind)}
    for kind in ("OL", "PL", "mean"):
        for share in SHARES if kind == "OL" else (0.5,):
            answer = defended(kind, share)
            result[f"{kind} {share}"] = {
                "clean": accuracy(answer, *test),
                "blind": min(accuracy(answer, x, test[1]) for x in blind),
                "validation": [accuracy(answer, *validation), min(accuracy(answer, x, validation[1]) for x in chosen)],
            }
    for kind, share in (("OL", 0.5), ("OL", 0.6), ("PL", 0.5)):
        answer = defended(kind, share)
        result[f"{kind} {share}"]["adaptive"] = min(accuracy(answer, x, test[1]) for x in attacks_on(answer, *test))
    return result


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for rule in RULES:
        yield {"kind": "utility", "task": "digits", "rule": rule}, functools.partial(cost, "digits", rule)
    for rule in ("two", "none"):
        for seed in SEEDS:
            yield {"kind": "inference", "rule": rule, "seed": seed}, functools.partial(inference, rule, seed)
    for number, epochs, told in CASES:
        for rule in list(RULES)[1:]:
            for seed in SEEDS:
                row = {"number": number, "epochs": epochs, "rule": rule, "told": told, "seed": seed}
                yield {"kind": "unmixing", **row}, functools.partial(unmix, *row.values())
    for task in ("faces", "colour"):
        for rule in RULES:
            yield {"kind": "utility", "task": task, "rule": rule}, functools.partial(cost, task, rule)
    for rule in list(RULES)[1:]:
        key = {"kind": "same rate", "task": "colour", "rule": rule, "rate": 0.1}
        yield key, functools.partial(at_the_same_rate, "colour", rule)


if __name__ == "__main__":
    resume("mixup", COMMAND, plan())
