"""What each row of the survey's Table 2 costs, and beside it what the attacks of the grid are left with.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_table_2

``table-2-costs.json`` has a row for every defense and task of ``defenses.utility``: test accuracy of five seeds, median
seconds of processor time of a training, megabytes that a client uploads. All train alike: the task's budget, and the
learning rate that is best of three on the validation examples of one other seed. What differs:

Local iterations are the task as it is, ten or five steps a round; what they are compared with, ``none, every step
shared``, spends as many steps in rounds of one. Soteria on colour has ten rounds of thirty, as its scores take ten
seconds a round, and is compared with ``none, ten rounds``. The other rows are compared with ``none``. Depth and
batches: five times the batch in a fifth of the steps, so that a round sees as many examples. Rank analysis and Fewer
parameters train another network without a defense: two convolutions of stride 2 with tanh, the most channels of a power
of two at which the gradient's Jacobian misses part of the input, and the most at which there are fewer parameters than
input values (digits: three convolutions of one channel). Mixup inference trains as none does, at its rate; its clean
samples are the validation half, which no client and no test has. InstaHide predicts by the mean answer to ten keys. The
seconds of these two are those of training and prediction.

Paillier and BatchCrypt: the accuracy is that of the whole numbers that the server would add, without the cipher; that
they give the same mean to the last bit is checked first. To the training's seconds is added what one round under keys
of 2,048 bits takes all parties, times the rounds; likewise the megabytes. Other aggregations run as they are.

``table-2.json`` has a row of the table each. ``points``: accuracy lost against the row's baseline, in percentage
points, paired by seed. ``seconds`` and ``megabytes``: quotients to the baseline's. ``privacy``: of the attackers who do
not know the defense, among the attacks that ran in eight of ten cases, the one with the largest mean PSNR; how many
come ``through``, 3 dB or more above their guess without a gradient; and the best of those who are told. What is not yet
recorded is left out. What the first file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gilearn import metrics, models, ranks, survey
from gilearn.defenses import MixupInference, NbAFL, utility
from gilearn.defenses.aggregation import BatchCrypt, Paillier
from gilearn.defenses.utility import Training
from gilearn.federated import Gradients, LocalSteps, observe
from tools import record_homomorphic, table_2_defenses
from tools.record_instahide import under_ten_keys
from tools.record_network_size import SHAPES
from tools.recording import known, record, resume

COMMAND = "python -m tools.record_table_2"
COSTS, TABLE = "table-2-costs", "table-2"
RATES = (0.1, 0.3, 1.0)
SEEDS = range(5)
NONE, STEPWISE, SHORT = "none", "none, every step shared", "none, ten rounds"
ROWS = tuple(row.name for row in survey.TABLE_2)
BASELINES = {("Local iterations", task): STEPWISE for task in utility.TASKS} | {("Soteria", "colour"): SHORT}
CELLS = {"digits": 2, "faces": 4, "colour": 4}
DEFICIENT = {"digits": (2, 2), "faces": (4, 4), "colour": (8, 8)}
FEW = {"digits": (1, 1, 1), "faces": (3, 3), "colour": (3, 3)}
THROUGH = 3.0
"""An attack comes through a defense if it is so many dB above its guess."""
ENOUGH = 0.8
"""An attack counts where it ran in this share of its cases."""


def network(widths: Mapping[str, tuple[int, ...]], task: str, seed: int) -> nn.Module:
    channels, classes, side = SHAPES[task]
    strides = (2,) * len(widths[task])
    return models.convnet(
        channels, classes, size=side, widths=widths[task], strides=strides, activation="tanh", seed=seed
    )


def deficient(task: str, seed: int) -> nn.Module:
    """Return a network with more parameters than input values whose gradient still does not determine the input."""
    return network(DEFICIENT, task, seed)


def few(task: str, seed: int) -> nn.Module:
    """Return a network with fewer parameters than input values."""
    return network(FEW, task, seed)


BUILDS: dict[str, Callable[[str, int], nn.Module]] = {"Rank analysis": deficient, "Fewer parameters": few}


@functools.cache
def counts(row: str, task: str, seed: int = 0) -> dict[str, int]:
    """Return the parameters, the rank of the gradient's Jacobian at a random input, and the input values."""
    channels, _, side = SHAPES[task]
    networks = {row: BUILDS[row](task, seed)}
    found = ranks.compare_architectures(networks, (channels, side, side), seed=seed).iloc[0]
    return {"parameters": int(found["parameters"]), "rank": int(found["rank"]), "inputs": int(found["unknowns"])}


CIPHERED = ("PPDL-AHE encryption", "BatchCrypt")
"""Rows whose sums are there without the cipher, which takes too long for a whole training."""


def first_round(task: Training) -> dict[int, Gradients]:
    """Return what the clients of a task share in the first round."""
    x, y = task.load(0)
    rows = [slice(k * task.examples, (k + 1) * task.examples) for k in range(task.clients)]
    return {k: observe(task.build(0), x[row], y[row], local=task.local).shared for k, row in enumerate(rows)}


def check() -> None:
    """Make sure that the open sums are those under the cipher, and that the small networks are what they are for."""
    record_homomorphic.check()
    shared = {k: own[-1:] for k, own in first_round(utility.TASKS["digits"]).items()}
    for examples in (dict.fromkeys(shared, 300), {0: 300, 1: 100, 2: 200, 3: 50}):
        for row, real in zip(CIPHERED, (Paillier(key_bits=512), BatchCrypt(key_bits=512, bits=8)), strict=True):
            opened = table_2_defenses.opened(row)
            assert opened is not None
            means = (how.aggregate(shared, examples, number=1).mean for how in (real, opened))
            assert all(torch.equal(a, b) for a, b in zip(*means, strict=True))
    for task in utility.TASKS:
        for seed in range(3):
            rank = counts("Rank analysis", task, seed)
            assert rank["rank"] < rank["inputs"] <= rank["parameters"]
            assert counts("Fewer parameters", task, seed)["parameters"] < rank["inputs"]


Predict = Callable[[nn.Module, Tensor], Tensor]


def timed(predict: Predict, seconds: list[float]) -> Predict:
    """Return the same prediction, which appends its processor time to a list."""

    def predicted(model: nn.Module, x: Tensor) -> Tensor:
        began = time.process_time()
        scores = predict(model, x)
        seconds.append(time.process_time() - began)
        return scores

    return predicted


def mixing(task: Training, seed: int) -> Predict:
    """Return mixup inference with the validation half of a seed's deal."""
    inputs, labels = task.load(0)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    held = task.clients * task.examples
    rows = order[held : held + (len(inputs) - held) // 2]
    return lambda model, x: MixupInference(model, inputs[rows], labels[rows], seed=seed)(x)


def training(row: str, task: str) -> Training:
    """Return the training of a row, whose learning rate is yet to be chosen."""
    usual = utility.TASKS[task]
    local = usual.local
    if row == SHORT or BASELINES.get((row, task)) == SHORT:
        return usual.replace(rounds=10)
    if row == STEPWISE:
        return usual.spent(LocalSteps(steps=1, lr=local.lr))
    if row == "Depth and batches":
        assert local.batch_size is not None
        return usual.replace(local=LocalSteps(steps=local.steps // 5, lr=local.lr, batch_size=5 * local.batch_size))
    if row in BUILDS:
        return usual.replace(build=functools.partial(BUILDS[row], task))
    return usual


def protection(row: str, task: str) -> dict[str, Any]:
    """Return what :func:`gilearn.defenses.utility.measure` takes beside the training."""
    usual = utility.TASKS[task]
    if row in table_2_defenses.AGGREGATED:
        return {"aggregation": table_2_defenses.opened(row)}
    found = table_2_defenses.defense(row, CELLS[task])
    if isinstance(found, functools.partial):
        found = found(usual.build(0))
    if isinstance(found, NbAFL):
        found = found.replace(smallest=usual.examples, clients=usual.clients, rounds=usual.rounds)
    predict = {"predict": under_ten_keys} if row == "InstaHide" else {}
    return {"defense": found, **predict}


def ciphered(row: str, task: str) -> tuple[float, float]:
    """Return seconds of all parties, and megabytes of a client, of all rounds under the cipher: one round's, times."""
    usual = utility.TASKS[task]
    shared = first_round(usual)
    how = table_2_defenses.aggregation(row)
    assert how is not None
    cost = how.aggregate(shared, dict.fromkeys(shared, usual.examples), number=1).cost
    return usual.rounds * sum(cost.seconds.values()), usual.rounds * cost.up[0] / 1e6


def measured(row: str, task: str, seeds: Iterable[int] = SEEDS) -> dict[str, Any]:
    """Return what a row costs on a task."""
    options = protection(row, task)
    chosen = utility.tuned(training(row, task), rates=RATES, seeds=(5,), **options)
    parts = []
    for seed in seeds:
        predict = mixing(chosen, seed) if row == "Mixup inference" else options.get("predict")
        spent: list[float] = []
        given = options | ({"predict": timed(predict, spent)} if predict else {})
        part = utility.measure(chosen, seeds=(seed,), **given).iloc[0].to_dict()
        parts.append(part | {"seconds": part["seconds"] + sum(spent)})
    accuracy = [None if part["accuracy"] != part["accuracy"] else round(part["accuracy"], 4) for part in parts]
    seconds = float(np.median([part["seconds"] for part in parts]))
    megabytes = float(np.mean([part["megabytes"] for part in parts]))
    if row in CIPHERED:
        more, megabytes = ciphered(row, task)
        seconds += more
    result = {"rate": chosen.local.lr, "accuracy": accuracy}
    result |= {"seconds": round(seconds, 4), "megabytes": round(megabytes, 4)}
    result |= {"baseline": BASELINES[row, task]} if (row, task) in BASELINES else {}
    return result | (counts(row, task) if row in BUILDS else {})


def plan() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """The baselines first, then every row on one task after the other, Soteria, which takes longest, at the end."""
    for rows in ((NONE, STEPWISE), [row for row in ROWS if row != "Soteria"], ["Soteria"]):
        for task in utility.TASKS:
            for row in (SHORT, *rows) if BASELINES.get((rows[0], task)) == SHORT else rows:
                yield {"row": row, "task": task}, functools.partial(measured, row, task)


def rounded(values: Iterable[float], digits: int = 2) -> dict[str, float]:
    """Return the mean of values with its interval, as the table keeps it."""
    found = metrics.interval(values)
    return {name: round(float(getattr(found, name)), digits) for name in ("estimate", "low", "high")}


def costs(row: str, measurements: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a row loses and takes against its baseline, on every task on which both are recorded."""
    found: dict[str, Any] = {"points": {}, "seconds": {}, "megabytes": {}}
    by = {(one["row"], one["task"]): one for one in measurements}
    for task in utility.TASKS:
        own, base = by.get((row, task)), by.get((BASELINES.get((row, task), NONE), task))
        if own is None or base is None:
            continue
        pairs = zip(own["accuracy"], base["accuracy"], strict=True)
        lost = [100 * (without - behind) for behind, without in pairs if None not in (behind, without)]
        found["points"] |= {task: rounded(lost)} if len(lost) > 1 else {}
        for name in ("seconds", "megabytes"):
            found[name][task] = round(own[name] / base[name], 4)
    return found


def done(cell: Mapping[str, Any]) -> list[float]:
    """Return the PSNR of the cases in which an attack ran."""
    pairs = zip(cell["psnr"], cell["status"], strict=True)
    return [value for value, status in pairs if status == "done" and value is not None]


def strongest(cells: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the attack with the largest mean PSNR among those of these cells, if there is one."""
    if not cells:
        return None
    best = max(cells, key=lambda cell: float(np.mean(done(cell))))
    found = rounded(done(best))
    return {"attack": best["attack"], "psnr": found["estimate"], "low": found["low"], "high": found["high"]}


def privacy(row: str, pictures: str, grid: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what attackers are left with behind a row, ``None`` if nothing is recorded."""
    every = [cell for cell in grid.get("cells", []) if cell["pictures"] == pictures]
    ran = [cell for cell in every if len(done(cell)) >= max(2, ENOUGH * len(cell["status"]))]
    alone, told = ([cell for cell in ran if (cell["row"], cell["part"]) == (row, part)] for part in ("alone", "told"))
    if not any(cell["row"] == row for cell in every):
        return None
    guesses = {
        one["attack"]: float(np.mean([value for value in one["psnr"] if value is not None]))
        for one in grid.get("guess", [])
        if one["pictures"] == pictures and any(value is not None for value in one["psnr"])
    }
    found = strongest(alone) or {}
    for cell in ran:
        if (cell["row"], cell["part"], cell["attack"]) == (NONE, "alone", found.get("attack")):
            found["attack_without"] = round(float(np.mean(done(cell))), 2)
    above = [float(np.mean(done(cell))) - guesses.get(cell["attack"], np.inf) for cell in alone]
    through = sum(bool(gain >= THROUGH) for gain in above)
    return found | {"through": through, "ran": len(alone), "told": strongest(told)}


def table() -> None:
    """Write the table from what is recorded of it."""
    measurements, grid = known(COSTS, []), known("grid", {})
    rows = []
    for row in ROWS:
        left = {pictures: privacy(row, pictures, grid) for pictures in ("digits", "pictures")}
        kept = {pictures: one for pictures, one in left.items() if one is not None}
        strength = table_2_defenses.STRENGTHS[row]
        rows.append({"row": row, "strength": strength, **costs(row, measurements), "privacy": kept})
    record(TABLE, COMMAND, rows)


def main() -> None:
    check()
    resume(COSTS, COMMAND, plan())
    table()


if __name__ == "__main__":
    main()
