"""What the engine costs: one evaluation against the same forward and double backward pass written by hand, in one run.

    python -m tests.benchmarks.engine

The two alternate, evaluation by evaluation, so that a busy machine slows both; what counts is the ratio of the medians.
"""

from __future__ import annotations

import statistics
import time

import torch
import torch.nn.functional as F

from gilearn import attacks, data, federated, models
from gilearn.attacks.iteration.matching import _Search
from gilearn.attacks.iteration.spaces import Product

ROUNDS = 300


def main() -> None:
    x, y = data.photos(32)
    print(
        "engine: one evaluation / the same by hand (median of", ROUNDS, "pairs; bar 1.12 for LeNet, batch 1, else 1.08)"
    )
    for name, model in (
        ("LeNet, batch 1", models.lenet()),
        ("LeNet, batch 8", models.lenet()),
        ("ConvNet, batch 1", models.convnet()),
        ("ConvNet, batch 8", models.convnet()),
        ("ConvNet with batch norm, batch 8", models.convnet(batch_norm=True)),
    ):
        n = int(name.rsplit(" ", 1)[1])
        seen = federated.observe(model, x[:n], y[:n])
        print(f"  {name:34s} {ratio(seen):.3f}")


def ratio(seen: federated.Observation) -> float:
    space = Product(spaces=(attacks.DLG.space.build(seen), attacks.DLG.labels.build(seen)))
    search = _Search(attacks.DLG, seen, space, torch.Generator().manual_seed(0), 1, float("inf"), keep=False)
    model, shared, parameters = seen.network, seen.shared, list(seen.network.parameters())
    inputs, logits = (search.variables[name][0].detach().clone().requires_grad_() for name in ("inputs", "logits"))

    def by_hand() -> None:
        loss = F.cross_entropy(model(inputs), logits.softmax(1))
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        distance = sum(((a - b) ** 2).sum() for a, b in zip(gradients, shared, strict=True))
        inputs.grad, logits.grad = torch.autograd.grad(distance, (inputs, logits))

    times: dict[str, list[float]] = {"engine": [], "by hand": []}
    for k in range(ROUNDS + 20):
        for name, evaluate in (("engine", search.evaluate), ("by hand", by_hand)):
            began = time.perf_counter()
            evaluate()
            if k >= 20:
                times[name].append(time.perf_counter() - began)
    return statistics.median(times["engine"]) / statistics.median(times["by hand"])


if __name__ == "__main__":
    main()
