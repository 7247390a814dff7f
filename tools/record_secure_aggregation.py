"""What secure aggregation costs: accuracy beside plain averaging, and seconds and bytes by clients and entries.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_secure_aggregation

A row of kind ``accuracy`` has five seeds of a training of ``utility.TASKS``, at the learning rate that does best of
four on the validation examples of two other seeds, tuned for the aggregation that is measured; ``nudged`` is averaging
in the clear from initial weights that are moved by normal noise with a standard deviation of 1e-7, as a measure of what
rounding does to a training. A row of kind ``cost`` has one round on drawn updates, the fastest of three: processor
seconds of one client on average and of the server, and bytes that one client sent and received; ``plain`` is the
server's time for the mean in the clear. With ``gone`` clients between shares and masked input the server has their
masks to take off. A row of kind ``privacy`` has ten federations of so many clients, with one digit each, whose mean
gradient is attacked: by a search that is told the labels (PSNR in dB, mean over the digits, 99 at most), and by
division, where quotients of several neurons agree (how many digits come out above 30 dB). What the file already holds
is kept; remove it to measure all of it again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gilearn import data, metrics
from gilearn.attacks import GradientMatching, distances, initialization, labels, optimizers, spaces
from gilearn.attacks.recursion.gradient_division import quotients
from gilearn.defenses import utility
from gilearn.defenses.aggregation import SecureAggregation
from gilearn.federated import Aggregate, InTheClear, LocalSteps, fedavg
from tools.recording import known, resume

NAME = "secure-aggregation"
COMMAND = "python -m tools.record_secure_aggregation"
CLIENTS = (4, 8, 16, 32, 64)
ENTRIES = (2**10, 2**14, 2**18)


def accuracy(task: str, aggregation: str) -> dict[str, Any]:
    how = SecureAggregation() if aggregation == "secure" else "mean"
    tuned = utility.tuned(utility.TASKS[task], aggregation=how)
    found = utility.measure(tuned, aggregation=how)
    return {
        "rate": tuned.local.lr,
        "accuracy": [round(one, 4) for one in found["accuracy"]],
        "seconds": round(float(found["seconds"].median()), 2),
        "megabytes": round(float(found["megabytes"][0]), 4),
    }


def nudged() -> dict[str, Any]:
    task = utility.TASKS["colour"]

    def build(seed: int) -> nn.Module:
        model = task.build(seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1e-7 * torch.randn(parameter.shape, generator=generator)
        return model

    rate = next(row["rate"] for row in known(NAME, []) if row.get("task") == "colour" and row["aggregation"] == "mean")
    local = LocalSteps(steps=task.local.steps, lr=rate, batch_size=task.local.batch_size)
    found = utility.measure(task.replace(build=build, local=local))
    return {"rate": rate, "accuracy": [round(one, 4) for one in found["accuracy"]]}


def cost(clients: int, entries: int, gone: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shared = {k: (0.01 * torch.randn(entries, generator=generator),) for k in range(clients)}
    counts = dict.fromkeys(shared, 8)
    how = SecureAggregation(dropouts={"masked input": tuple(range(gone))})
    ran = [how.aggregate(shared, counts, number=number).cost for number in range(3)]
    plain = [InTheClear().aggregate(shared, counts, number=number).cost for number in range(3)]
    last = clients - 1
    return {
        "client": round(min(one.seconds["clients"] for one in ran) / clients, 5),
        "server": round(min(one.seconds["server"] for one in ran), 5),
        "plain": round(min(one.seconds["server"] for one in plain), 5),
        "up": ran[0].up[last],
        "down": ran[0].down[last],
    }


def aggregate(case: int, clients: int, aggregation: str) -> tuple[Aggregate, Tensor]:
    digits, numbers = data.digits()
    rows = range(16 * case, 16 * case + clients)
    how = SecureAggregation() if aggregation == "secure" else "mean"
    (only,) = fedavg(
        utility.TASKS["digits"].build(case), [(digits[k : k + 1], numbers[k : k + 1]) for k in rows],
        LocalSteps(steps=1, lr=1.0), num_rounds=1, aggregation=how, declare=["labels"],
    )  # fmt: skip
    return only.aggregate(), digits[list(rows)]


def agreed(seen: Aggregate, near: float = 0.02) -> Tensor:
    """Pictures that two neurons or more return, up to a root mean square difference."""
    _, found = quotients(*seen.shared[:2])
    apart = torch.cdist(found, found) / found.shape[1] ** 0.5 + torch.eye(len(found))
    kept: list[Tensor] = []
    for picture in found[apart.amin(1) < near]:
        if all(float((picture - other).square().mean().sqrt()) > near for other in kept):
            kept.append(picture)
    return torch.stack(kept).view(-1, *seen.input_shape) if kept else torch.zeros(1, *seen.input_shape)


SEARCH = GradientMatching(
    initialization=initialization.Gaussian(), labels=labels.Declared(), distance=distances.Manhattan(), iterations=200,
    optimizer=optimizers.Adam(lr=0.1, schedule=optimizers.StepDecay()), space=spaces.Pixels(bounds=(0.0, 1.0)),
)  # fmt: skip


def privacy(clients: int, aggregation: str) -> dict[str, Any]:
    searched, divided = [], 0
    for case in range(10):
        seen, x = aggregate(case, clients, aggregation)
        result = SEARCH(seen, seed=case).inputs
        each = torch.as_tensor(metrics.psnr(result[metrics.match(result, x)], x, reduction="none"))
        searched.append(round(float(each.clamp(max=99).mean()), 1))
        pictures = agreed(seen).clamp(0, 1).float()
        divided += sum(max(metrics.psnr(one[None], own[None]) for one in pictures) > 30 for own in x)
    return {"search": searched, "divided": divided}


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for entries, clients in itertools.product(ENTRIES, CLIENTS):
        if entries * clients <= 2**23:
            for gone in (0, clients - (2 * clients // 3 + 1)):
                key = {"kind": "cost", "clients": clients, "entries": entries, "gone": gone}
                yield key, functools.partial(cost, clients, entries, gone)
    for clients in (1, 2, 4, 8, 16):
        yield (
            {"kind": "privacy", "clients": clients, "aggregation": "secure"},
            functools.partial(privacy, clients, "secure"),
        )
    for task in utility.TASKS:
        for aggregation in ("mean", "secure"):
            key = {"kind": "accuracy", "task": task, "aggregation": aggregation}
            yield key, functools.partial(accuracy, task, aggregation)
    yield {"kind": "accuracy", "task": "colour", "aggregation": "nudged"}, nudged
    yield {"kind": "privacy", "clients": 4, "aggregation": "mean"}, functools.partial(privacy, 4, "mean")


if __name__ == "__main__":
    resume(NAME, COMMAND, plan())
