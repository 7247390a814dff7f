"""Which labels RLG finds behind image networks: LeNet, ConvNet and ResNet-18, 20 photographs of 32x32 pixels.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_labels_images

About five minutes of one processor. Case k takes weights of seed k, twenty random crops of the photographs, and labels
drawn from 100 classes with seed k. ``smallest`` and ``next`` are the 20th and the 21st singular value of the last
layer's gradient, over the largest. Cases that the file already holds are kept; remove the file to measure all again.
"""

from __future__ import annotations

from typing import Any

import torch

from gilearn import data, federated, models
from gilearn.attacks import labels
from tools.recording import known, record

COMMAND = "python -m tools.record_labels_images"
EXAMPLES, CLASSES, CASES = 20, 100, range(24)
BUILDERS = {
    "LeNet": lambda seed: models.lenet(3, CLASSES, seed=seed),
    "ConvNet": lambda seed: models.convnet(3, CLASSES, seed=seed),
    "ResNet-18": lambda seed: models.resnet18(CLASSES, seed=seed),
}


def case(name: str, seed: int, crops: torch.Tensor) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    chosen = torch.randperm(len(crops), generator=generator)[:EXAMPLES]
    seen = federated.observe(BUILDERS[name](seed), crops[chosen], y)
    values = torch.linalg.svdvals(labels.last_layer_gradient(seen))
    found, true = set(labels.RLG().present(seen).tolist()), set(y.tolist())
    return {
        "features": labels.last_layer_gradient(seen).shape[1],
        "missed": len(true - found),
        "invented": len(found - true),
        "smallest": float(values[EXAMPLES - 1] / values[0]),
        "next": float(values[EXAMPLES] / values[0]),
    }


def main() -> None:
    result = known("labels-images", {})
    crops, _ = data.photos(32, crops=12, seed=0)
    for name in BUILDERS:
        cases = result.setdefault(name, [])
        for seed in CASES[len(cases) :]:
            cases.append(case(name, seed, crops))
            record("labels-images", COMMAND, result)
            print(name, seed, cases[-1], flush=True)


if __name__ == "__main__":
    main()
