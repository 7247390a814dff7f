"""What compiling and batching save: iterations per second against the eager engine, one start at a time, in one run.

    python -m tests.benchmarks.batching

Compiled: Adam on the same variables, rounds of iterations alternating with the eager engine's; the seconds of
compilation are printed beside. Batched: eight restarts in parallel against eight one after the other.
"""

from __future__ import annotations

import statistics
import time

import torch

from gilearn import data, federated, models
from gilearn.attacks import GradientMatching, labels
from gilearn.attacks.iteration.distances import Cosine
from gilearn.attacks.iteration.matching import _Search
from gilearn.attacks.iteration.optimizers import Adam
from gilearn.attacks.iteration.spaces import Product

ADAM = GradientMatching(labels=labels.Declared(), distance=Cosine(), optimizer=Adam(lr=0.1), iterations=100)


def main() -> None:
    x, y = data.photos(32)
    torch.set_float32_matmul_precision("highest")
    print("compiled / eager, iterations per second (bar 1.9)")
    convnet = models.convnet(widths=(64,) * 8, strides=(1, 1, 2, 1, 2, 1, 2, 1), batch_norm=True)
    for name, model, n, count in (
        ("BatchNorm ConvNet, 3 layers, batch 8", models.convnet(batch_norm=True), 8, 20),
        ("BatchNorm ConvNet, 8 layers, batch 1", convnet, 1, 20),
        ("ResNet-18, batch 8", models.resnet18(), 8, 3),
    ):
        seen = federated.observe(model, x[:n], y[:n], declare=["labels"])
        ratio, seconds, gap = compiled(seen, count)
        print(f"  {name:40s} {ratio:.2f}   compiled in {seconds:.0f} s, objectives differ by {gap:.1e}", flush=True)
    print("eight restarts one after the other / in parallel, seconds (bar 1.8)")
    for name, model in (("LeNet, batch 1", models.lenet()), ("ConvNet, batch 1", models.convnet())):
        print(f"  {name:40s} {parallel(federated.observe(model, x[:1], y[:1], declare=['labels'])):.2f}", flush=True)


def compiled(seen: federated.Observation, count: int, rounds: int = 5) -> tuple[float, float, float]:
    """Speed ratio, seconds of compilation, largest relative difference of the objectives on the way."""
    space = Product(spaces=(ADAM.space.build(seen), labels.Declared().build(seen)))
    began = time.perf_counter()
    runs = {}
    for how in (False, True):
        attack = ADAM.replace(compiled=how)
        began = time.perf_counter()
        search = _Search(attack, seen, space, torch.Generator().manual_seed(0), 1, float("inf"), keep=False)
        variables = list(search.variables.values())
        runs[how] = search, ADAM.optimizer.build(variables, iterations=100, generator=search.generator)
        seconds = time.perf_counter() - began
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for how, (search, optimizer) in runs.items():
            began = time.perf_counter()
            for _ in range(count):
                optimizer.step(search.evaluate)
            times[how].append(time.perf_counter() - began)
    histories = [search.history[0][:20] for search, _ in runs.values()]
    gap = max(abs(a - b) / abs(a) for a, b in zip(*histories, strict=True))
    return statistics.median(times[False]) / statistics.median(times[True]), seconds, gap


def parallel(seen: federated.Observation, rounds: int = 3) -> float:
    """Speed ratio of eight restarts."""
    ratios = []
    for _ in range(rounds):
        one, all_ = (ADAM.replace(iterations=30, restarts=8, parallel=number)(seen).seconds for number in (1, 8))
        ratios.append(one / all_)
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
