"""The sizes of the survey's Table 1, on a CPU: a ResNet-18 at 224x224, and batches of 48 photographs.

    OMP_WAIT_POLICY=passive python -m tools.record_large [CASE]

All victims are untrained and normalize by their running statistics; labels are declared. About an hour on two cores.
Cases that the file already holds are kept; remove the file to measure all of them again. Reconstructions are
stored beside, as base64 of unsigned bytes in the stored shape: the 224-pixel ones at 64 pixels, every fifth of a batch.
"""

from __future__ import annotations

import base64
import functools
import sys

import torch
import torch.nn.functional as F

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import distances, optimizers, regularizers
from tools.recording import resume

COMMAND = "python -m tools.record_large"
PLAIN = optimizers.Adam(lr=0.05, schedule=optimizers.WarmupCosine(warmup=1))
SIGNED = PLAIN.replace(signed=True)
SMOOTH = regularizers.TotalVariation(weight=1e-5)
COSINE = {"distance": distances.Cosine(), "optimizer": SIGNED, "regularizers": (SMOOTH,)}
SHARP = {"distance": distances.Manhattan(), "optimizer": PLAIN, "regularizers": ()}


def resnet(size: int):
    return models.resnet18(size=size), data.photos(size, names=["astronaut"])


def wide():
    """535,562 parameters; the batch has 147,456 values."""
    return models.convnet(widths=(64, 128, 256), batch_norm=True)


def crops(count: int, model):
    """Crops of the ten photographs, every photograph's label about as often."""
    x, y = data.photos(32, crops=-(-count // 10), seed=3)
    return model, (x[:count], y[:count])


CASES = {
    "ResNet-18, 224 px, l1": (lambda: resnet(224), SHARP, 1500),
    "ResNet-18, 224 px, cosine": (lambda: resnet(224), COSINE, 1500),
    "wide ConvNet, batch 48, l1": (lambda: crops(48, wide()), SHARP, 1500),
    "wide ConvNet, batch 48, cosine": (lambda: crops(48, wide()), COSINE, 1500),
}


def run(name: str) -> dict:
    build, changes, iterations = CASES[name]
    model, (x, y) = build()
    seen = federated.observe(model.eval(), x, y, declare=["labels"])
    attack = attacks.InvGrad.replace(iterations=iterations, **changes)
    found = attack(seen)
    result = {
        "case": name,
        "iterations": iterations,
        "minutes": round(found.seconds / 60, 1),
        "residual": float(f"{found.residual:.3g}"),
        "psnr": [round(float(p), 1) for p in metrics.psnr(found.inputs, x, reduction="none")],
    }
    shown = found.inputs[metrics.match(found.inputs, x)][:: -(-len(x) // 10)]
    shown = F.interpolate(shown, size=64, mode="area") if shown.shape[-1] > 64 else shown
    result["shape"] = list(shown.shape)
    result["pictures"] = base64.b64encode((shown * 255).round().to(torch.uint8).numpy().tobytes()).decode()
    return result


def main() -> None:
    chosen = sys.argv[1:] or CASES
    resume("large", COMMAND, [({"case": name}, functools.partial(run, name)) for name in chosen], hidden=("pictures",))


if __name__ == "__main__":
    main()
