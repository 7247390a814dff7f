"""What an evaluation assumes: the batch's normalization statistics and its labels, known or not, in both modes.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_honest_evaluation

A grid of the arena. A case is a batch of photographs of 16x16 pixels, a network of three convolutions and a Gaussian
start, with seeds of their own. The statistics of the normalizations: ``exact``, those of the private batch, declared;
``proxy``, the network's running averages; ``none``, no term for them. The labels: ``known``, ``extracted`` by their
rows' minima, or ``optimized`` with the inputs. The client computes in inference or in training mode, on normalizations
that normalize: ``calibrated`` ones have passed 160 windows of the photographs once, a ``trained`` network has learned
them. No other prior. Rate and weight are the best of three on two other cases, by distance, network and mode, at a
batch of two with known labels.

The whole cross is run on the plain network; those with a shortcut, with pre-activation too, and trained have exact
statistics and none, the cosine, and a batch of one with known labels. Controls, on the plain network with the cosine:
``alone``, the statistics without the gradient; ``prior``, total variation beside; ``repeats``, the ten photographs in
two classes: labels repeat, which row minima cannot say and LLG's sums can; in training mode ``longer``, four times the
iterations without statistics, and ``edge``, larger weights of the exact ones. Three quarters of an hour on one core;
all cores are used. What has run is kept in ``_build/honest-evaluation``: a stopped run goes on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gilearn import arena, attacks, data
from gilearn.attacks import GradientMatching, distances, labels, optimizers
from gilearn.attacks.iteration.regularizers import BatchNormStatistics, TotalVariation
from tools.record_batch_norm import calibrate, train, windows
from tools.recording import record

NAME = "honest-evaluation"
FOLDER = Path(__file__).resolve().parents[1] / "_build" / NAME
CASES, TUNING = range(10), (10, 11)
BATCHES = (1, 2, 4)
MODES = ("inference", "training")
DISTANCES = {"cosine": distances.Cosine(), "l1": distances.Manhattan()}
LABELS = {"known": labels.Declared(), "extracted": labels.RowMinimum(strict=False), "optimized": labels.Joint()}
RATES = (0.03, 0.1, 0.3)
WEIGHTS = {"cosine": (1e-3, 1e-2, 1e-1), "l1": (10.0, 100.0, 1000.0)}
SOURCES = {"exact": "declared", "proxy": "running"}
ITERATIONS = 100
PRIORS = (1e-3, 1e-2, 1e-1)
EDGES = (1.0, 10.0)
COLUMNS = ("part", "victim", "mode", "distance", "statistics", "tried", "rate", "weight", "control", "batch")


class Block(nn.Module):
    """Two convolutions, each with its batch normalization: behind it, or, with pre-activation, before it."""

    def __init__(self, before: int, after: int, stride: int, kind: str) -> None:
        super().__init__()
        first, second = nn.Conv2d(before, after, 3, stride, 1), nn.Conv2d(after, after, 3, 1, 1)
        self.kind = kind
        if kind == "pre-activation":
            self.body = nn.Sequential(
                nn.BatchNorm2d(before), nn.ReLU(), first, nn.BatchNorm2d(after), nn.ReLU(), second
            )
        else:
            self.body = nn.Sequential(first, nn.BatchNorm2d(after), nn.ReLU(), second, nn.BatchNorm2d(after))
        self.shortcut = None if kind == "plain" else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        if self.shortcut is not None:
            found = found + self.shortcut(x)
        return found if self.kind == "pre-activation" else F.relu(found)


def network(kind: str, seed: int) -> nn.Sequential:
    """Three convolutions and a fully connected layer, as they are drawn: shallow and wide."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        stem, block = nn.Conv2d(3, 32, 3, 1, 1), Block(32, 64, 2, kind)
        head = nn.Flatten(), nn.Linear(64 * 8 * 8, 10)
        if kind == "pre-activation":
            return nn.Sequential(stem, block, nn.BatchNorm2d(64), nn.ReLU(), *head)
        return nn.Sequential(stem, nn.BatchNorm2d(32), nn.ReLU(), block, *head)


@functools.cache
def victim(kind: str, state: str, seed: int) -> nn.Module:
    """A network whose normalizations normalize: the windows, and not the private pictures, have passed it."""
    net = network(kind, seed).train()
    x, y = windows(0)
    if state == "trained":
        train(net, x, y, seed=seed)
    else:
        calibrate(net, x)
    return net


VICTIMS = {
    "plain": functools.partial(victim, "plain", "calibrated"),
    "shortcuts": functools.partial(victim, "skip", "calibrated"),
    "pre-activation": functools.partial(victim, "pre-activation", "calibrated"),
    "plain, trained": functools.partial(victim, "plain", "trained"),
}


def pictures(fold: int) -> tuple[Tensor, Tensor]:
    """The private pictures of a case: other crops of the photographs than the windows' ones."""
    return data.photos(16, fold=fold + 1)


def attack(distance: str, statistics: str, label: str, rate: float, weight: float) -> GradientMatching:
    terms = () if statistics == "none" else (BatchNormStatistics(weight=weight, source=SOURCES[statistics]),)
    return attacks.InvGrad.replace(
        distance=DISTANCES[distance],
        labels=LABELS[label],
        regularizers=terms,
        optimizer=optimizers.Adam(lr=rate, schedule=optimizers.WarmupCosine(warmup=1)),
        iterations=ITERATIONS,
    )


def run(
    victim: str, mode: str, tried: dict[str, GradientMatching], pictures: Any = pictures, **axes: Any
) -> pd.DataFrame:
    grid = arena.Grid(
        attacks=tried,
        victims={victim: VICTIMS[victim]},
        data={"photos": pictures},
        knowledge={"all": ("labels", "batch_norm")},  # an attack that asks for none of it gets none of it
        clients={mode: {"mode": mode}},
        **axes,
    )
    return arena.run(grid, folder=FOLDER, workers=-1, progress=True)


def tuned(victim: str, mode: str, distance: str) -> tuple[float, dict[str, float], pd.DataFrame]:
    """Return the best rate, the best weight of either kind of statistics, and what was tried."""

    def best(tried: dict[str, GradientMatching]) -> tuple[str, pd.DataFrame]:
        found = run(victim, mode, tried, seeds=TUNING, batches=(2,))
        return str(found.groupby("attack").psnr.mean().idxmax()), found

    name, table = best({str(rate): attack(distance, "none", "known", rate, 0.0) for rate in RATES})
    rate, weights, tables = float(name), {"none": 0.0}, [table.assign(statistics="none")]
    for statistics in SOURCES:
        tried = {str(w): attack(distance, statistics, "known", rate, w) for w in WEIGHTS[distance]}
        name, table = best(tried)
        weights[statistics] = float(name)
        tables.append(table.assign(statistics=statistics))
    return rate, weights, pd.concat(tables).assign(distance=distance)


class Nothing:
    """A distance that compares nothing: what the other terms say alone."""

    def __call__(self, simulated: Sequence[Tensor | None], shared: Sequence[Tensor | None]) -> Tensor:
        return sum(0.0 * g.sum() for g in simulated if g is not None)


def halves(fold: int) -> tuple[Tensor, Tensor]:
    """The private pictures in two classes: a batch of three or more has repeats."""
    x, y = pictures(fold)
    return x, y % 2


def raced(
    tried: dict[str, GradientMatching], mode: str, batches: tuple[int, ...], **columns: Any
) -> list[pd.DataFrame]:
    """Run the tuning cases at a batch of two, and ten others with the best of what was tried there."""
    rows = [run("plain", mode, tried, seeds=TUNING, batches=(2,)).assign(part="tuning", **columns)]
    best = str(rows[0].groupby("attack").psnr.mean().idxmax())
    rows.append(run("plain", mode, {best: tried[best]}, seeds=CASES, batches=batches).assign(part="control", **columns))
    return rows


def controls() -> Iterator[pd.DataFrame]:
    best = {mode: tuned("plain", mode, "cosine")[:2] for mode in MODES}

    def of(mode: str, statistics: str) -> GradientMatching:
        rate, weights = best[mode]
        return attack("cosine", statistics, "known", rate, weights[statistics])

    for mode in MODES:
        alone = {str(r): attack("cosine", "exact", "known", r, 1.0).replace(distance=Nothing()) for r in RATES}
        yield from raced(alone, mode, BATCHES, control="alone", statistics="exact", distance="none")
    for mode in MODES:
        for statistics in ("exact", "none"):
            base = of(mode, statistics)
            smooth = {str(w): base.replace(regularizers=(*base.regularizers, TotalVariation(weight=w))) for w in PRIORS}
            yield from raced(smooth, mode, (1,), control="prior", statistics=statistics, distance="cosine")
    rules = {"sums": labels.LLG(), **LABELS}
    repeats = {name: of("inference", "none").replace(labels=rule) for name, rule in rules.items()}
    found = run("plain", "inference", repeats, pictures=halves, seeds=CASES, batches=(4,))
    yield found.assign(part="control", control="repeats", statistics="none", distance="cosine")
    longer = {"known": of("training", "none").replace(iterations=4 * ITERATIONS)}
    found = run("plain", "training", longer, seeds=CASES, batches=(1,))
    yield found.assign(part="control", control="longer", statistics="none", distance="cosine")
    rate, weights = best["training"]
    edge = {str(w): attack("cosine", "exact", "known", rate, w) for w in (weights["exact"], *EDGES)}
    yield from raced(edge, "training", (1,), control="edge", statistics="exact", distance="cosine")


def keep(tables: list[pd.DataFrame]) -> None:
    """Record a row for each batch size of whatever was run, with what its seeds gave, in their order."""
    rows = pd.concat(tables).rename(columns={"attack": "tried", "client": "mode", "labels": "found"})
    rows = rows.round({"psnr": 1, "ssim": 3, "found": 2})
    columns = [column for column in COLUMNS if column in rows]
    result = []
    for key, group in rows.groupby(columns, dropna=False, sort=False):
        row = {name: value for name, value in zip(columns, key, strict=True) if pd.notna(value)}
        row |= {name: group.sort_values("seed")[name].tolist() for name in ("psnr", "ssim", "found")}
        result.append(row | {"failed": int((group.status != "done").sum())})
    record(NAME, "python -m tools.record_honest_evaluation", result)


def main() -> None:
    tables = []
    for name in VICTIMS:
        whole = name == "plain"
        for mode in MODES:
            for distance in DISTANCES if whole else ("cosine",):
                rate, weights, tried = tuned(name, mode, distance)
                tables.append(tried.assign(part="tuning"))
                for statistics in ("exact", "proxy", "none") if whole else ("exact", "none"):
                    rules = LABELS if whole else ("known",)
                    rivals = {label: attack(distance, statistics, label, rate, weights[statistics]) for label in rules}
                    found = run(name, mode, rivals, seeds=CASES, batches=BATCHES if whole else (1,))
                    columns = {"distance": distance, "statistics": statistics, "rate": rate}
                    tables.append(found.assign(part="race", weight=weights[statistics], **columns))
                keep(tables)
    for table in controls():
        tables.append(table)
        keep(tables)


if __name__ == "__main__":
    from tools.record_honest_evaluation import main as run_main  # the workers find what is in a module, not in a script

    run_main()
