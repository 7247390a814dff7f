"""Inverting gradients through batch normalization, one change of the attack at a time.

    OMP_WAIT_POLICY=passive python -m tools.record_batch_norm

The victim is an untrained ConvNet of eight convolutions, 64 channels wide, each followed by a batch normalization that
uses its running statistics; one photograph of 32x32, its label declared, 600 iterations. Every variant on two
photographs, the ones that matter on five. Half an hour on two cores. Cases that the file already holds are kept; remove
the file to measure all of them again.
"""

from __future__ import annotations

import json

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import GradientMatching, distances, initialization, optimizers, regularizers

COMMAND = "python -m tools.record_batch_norm"
FEW, ALL = [0, 4], [0, 2, 4, 6, 8]


def adam(lr: float = 0.05, *, signed: bool = True, schedule: object = None) -> optimizers.Adam:
    return optimizers.Adam(lr=lr, signed=signed, schedule=schedule or optimizers.WarmupCosine(warmup=1))


def smooth(weight: float) -> tuple[regularizers.TotalVariation]:
    return (regularizers.TotalVariation(weight=weight),)


def attack(**changes: object) -> GradientMatching:
    """InvGrad as tuned for this network, with changes."""
    base = attacks.InvGrad.replace(optimizer=adam(), regularizers=smooth(1e-5), iterations=600)
    return base.replace(**changes)


VARIANTS = {
    "base": attack(),
    "not signed": attack(optimizer=adam(signed=False)),
    "step decay": attack(optimizer=adam(schedule=optimizers.StepDecay())),
    "step decay, lr 0.1": attack(optimizer=adam(0.1, schedule=optimizers.StepDecay())),
    "lr 0.1": attack(optimizer=adam(0.1)),
    "lr 0.02": attack(optimizer=adam(0.02)),
    "no TV": attack(regularizers=()),
    "TV 1e-4": attack(regularizers=smooth(1e-4)),
    "TV 1e-3": attack(regularizers=smooth(1e-3)),
    "layerwise cosine": attack(distance=distances.LayerwiseCosine()),
    "norms": attack(distance=distances.Euclidean(squared=False), regularizers=()),
    "l1, signed": attack(distance=distances.Manhattan(), regularizers=()),
    "l1": attack(distance=distances.Manhattan(), regularizers=(), optimizer=adam(signed=False)),
}
# Not other attacks but another end, or another victim: one that normalizes by the statistics of its batch.
BASED_ON = {"L-BFGS at the end": "base", "own statistics": "base", "l1, own statistics": "l1"}


def run(name: str, chosen: list[int], *, training: bool = False) -> list[float]:
    """PSNR of every chosen photograph, in decibels."""
    x, y = data.photos(32)
    model = models.convnet(widths=(64,) * 8, strides=(1, 1, 2, 1, 2, 1, 2, 1), batch_norm=True).train(training)
    values = []
    for k in chosen:
        seen = federated.observe(model, x[k : k + 1], y[k : k + 1], declare=["labels"])
        found = VARIANTS[BASED_ON.get(name, name)](seen).inputs
        if name == "L-BFGS at the end":
            last = attack(
                initialization=initialization.FromImage(picture=found[0]), optimizer=optimizers.LBFGS(), iterations=20
            )
            found = last(seen).inputs
        values.append(round(float(metrics.psnr(found, x[k : k + 1])), 2))
    return values


def main() -> None:
    from tools.recording import FOLDER, record

    path = FOLDER / "batch-norm.json"
    result = json.loads(path.read_text())["result"] if path.exists() else []
    for name in (*VARIANTS, "L-BFGS at the end", "own statistics", "l1, own statistics"):
        if any(done["case"] == name for done in result):
            continue
        chosen = ALL if name in ("base", "l1", "l1, own statistics") else FEW
        psnr = run(name, chosen, training=name.endswith("own statistics"))
        result.append({"case": name, "photographs": chosen, "psnr": psnr})
        print(result[-1], flush=True)
        record("batch-norm", COMMAND, result)


if __name__ == "__main__":
    main()
