"""What compiling and batching save: iterations per second against the eager engine, one start at a time, in one run.

    python -m tests.benchmarks.batching

Compiled: Adam on the same variables, rounds of iterations alternating with the eager engine's; the seconds of
compilation are printed beside. Batched: eight starts together against eight starts one after the other.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import torch

from gilearn import data, federated, models
from gilearn.attacks import labels
from gilearn.attacks.iteration import Adam, Cosine, GradientMatching
from gilearn.attacks.iteration.matching import _Starts

ADAM = GradientMatching(labels=labels.Declared(), distance=Cosine(), optimizer=Adam(lr=0.1), iterations=100)


def main() -> None:
    x, y = data.photos(32)
    torch.set_float32_matmul_precision("highest")
    print("compiled / eager, iterations per second (bar 1.5)")
    convnet = models.convnet(widths=(64,) * 8, strides=(1, 1, 2, 1, 2, 1, 2, 1), batch_norm=True)
    for name, model, n, count in (
        ("BatchNorm ConvNet, 3 layers, batch 8", models.convnet(batch_norm=True), 8, 20),
        ("BatchNorm ConvNet, 8 layers, batch 1", convnet, 1, 20),
        ("ResNet-18, batch 8", models.resnet18(), 8, 3),
    ):
        seen = federated.observe(model, x[:n], y[:n], declare=["labels"])
        ratio, seconds, gap = compiled(seen, count)
        print(f"  {name:40s} {ratio:.2f}   compiled in {seconds:.0f} s, objectives differ by {gap:.1e}", flush=True)
    print("eight starts one after the other / together, seconds (bar 1.5)")
    for name, model in (("LeNet, batch 1", models.lenet()), ("ConvNet, batch 1", models.convnet())):
        print(f"  {name:40s} {together(federated.observe(model, x[:1], y[:1], declare=['labels'])):.2f}", flush=True)


def compiled(seen: federated.Observation, count: int, rounds: int = 5) -> tuple[float, float, float]:
    """Speed ratio, seconds of compilation, largest relative difference of the objectives on the way."""
    known = labels.Declared()(seen)
    began = time.perf_counter()
    runs = {}
    for how in (False, True):
        attack = dataclasses.replace(ADAM, compiled=how)
        began = time.perf_counter()
        starts = _Starts(attack, seen, known, torch.Generator().manual_seed(0), 1, float("inf"), keep=False)
        runs[how] = starts, ADAM.optimizer.build(starts.variables, iterations=100, generator=starts.generator)
        seconds = time.perf_counter() - began
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for how, (starts, mover) in runs.items():
            began = time.perf_counter()
            for _ in range(count):
                mover.step(starts.evaluate)
            times[how].append(time.perf_counter() - began)
    histories = [[row[0] for row in starts.history[:20]] for starts, _ in runs.values()]
    gap = max(abs(a - b) / abs(a) for a, b in zip(*histories, strict=True))
    return statistics.median(times[False]) / statistics.median(times[True]), seconds, gap


def together(seen: federated.Observation, rounds: int = 3) -> float:
    """Speed ratio of eight starts."""
    ratios = []
    for _ in range(rounds):
        one, all_ = (
            dataclasses.replace(ADAM, iterations=30, starts=8, together=lanes)(seen).seconds for lanes in (1, 8)
        )
        ratios.append(one / all_)
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
