"""InvGrad on batches of one to eight photographs: labels distinct or all the same, the cosine or l1.

    OMP_WAIT_POLICY=passive python -m tools.record_batches

The victim is an untrained ReLU ConvNet at 24x24; labels are declared; three batches of each kind. Minutes on two cores.
"""

from __future__ import annotations

import torch

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import distances

COMMAND = "python -m tools.record_batches"
SHARP = {"distance": distances.Manhattan(), "regularizers": ()}
RUNS = {
    "cosine, distinct": ("distinct", {}),
    "cosine, one class": ("same", {}),
    "l1, distinct": ("distinct", SHARP),
}


def photographs(crops, kind: str, size: int, seed: int):
    """One picture of each of ``size`` classes, or ``size`` crops of one photograph."""
    if kind == "distinct":
        y = torch.randperm(10, generator=torch.Generator().manual_seed(seed))[:size]
        return crops[y, seed], y
    return crops[seed, :size], torch.full((size,), seed)


def main() -> None:
    from tools.recording import record

    crops = data.photos(24, crops=8, seed=5)[0].view(10, 8, 3, 24, 24)
    model = models.convnet(size=24)
    result = []
    for name, (kind, changes) in RUNS.items():
        for size in (1, 2, 4, 8):
            for seed in range(3):
                x, y = photographs(crops, kind, size, seed)
                seen = federated.observe(model, x, y, declare=["labels"])
                found = attacks.InvGrad.replace(iterations=200, **changes)(seen)
                psnr = round(float(metrics.psnr(found.inputs, x)), 1)
                result.append({"run": name, "size": size, "seed": seed, "psnr": psnr})
                print(result[-1], flush=True)
    record("batches", COMMAND, result)


if __name__ == "__main__":
    main()
