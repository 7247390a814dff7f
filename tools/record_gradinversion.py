"""GradInversion's terms, one after the other: four batches of 4 and of 8 photographs, three starts each.

    OMP_WAIT_POLICY=passive python -m tools.record_gradinversion

The victim is the untrained BatchNorm ConvNet of ``gilearn.models``, training (its batch normalizations use the batch's
own statistics), at 32x32; labels are declared. Every case has the same starts, iterations and optimizer; only the terms
beside the gradient's distance change. ``preset`` is ``attacks.GradInversion`` with its own weights and distance, at the
same number of starts and iterations. About an hour on two cores. Cases that the file already holds are kept; remove the
file to measure all of them again.
"""

from __future__ import annotations

import json

import torch

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import GradientMatching, distances, labels, optimizers, regularizers, spaces

COMMAND = "python -m tools.record_gradinversion"
STARTS, ITERATIONS, BATCHES = 3, 200, 4

SMOOTH = regularizers.TotalVariation(weight=1e-3)
DECLARED = regularizers.BatchNormStatistics(weight=1e-2, source="declared")
RUNNING = regularizers.BatchNormStatistics(weight=1e-2, source="running")
GROUP = regularizers.GroupConsistency(weight=1e-3)
TERMS = {
    "gradient only": (),
    "+ TV": (SMOOTH,),
    "+ TV, running statistics": (SMOOTH, RUNNING),
    "+ TV, declared statistics": (SMOOTH, DECLARED),
    "+ TV, declared statistics, group": (SMOOTH, DECLARED, GROUP),
    "+ TV, declared statistics, registered group": (SMOOTH, DECLARED, GROUP.replace(register=True)),
}


def attack(case: str) -> GradientMatching:
    adam = optimizers.Adam(lr=0.1, schedule=optimizers.WarmupCosine(warmup=20))
    if case == "preset":
        return attacks.GradInversion.replace(
            labels=labels.Declared(),
            optimizer=adam.replace(noise=0.2),
            iterations=ITERATIONS,
            space=spaces.Pixels(bounds=(0.0, 1.0)),
            restarts=STARTS,
            parallel=STARTS,
        )
    return GradientMatching(
        labels=labels.Declared(),
        distance=distances.Manhattan() if case == "l1, gradient only" else distances.Cosine(),
        regularizers=TERMS.get(case, ()),
        optimizer=adam,
        iterations=ITERATIONS,
        space=spaces.Pixels(bounds=(0.0, 1.0)),
        restarts=STARTS,
        parallel=STARTS,
    )


def batch(size: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct photographs, drawn by the batch's number."""
    x, y = data.photos(32)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(number))[:size].sort().values
    return x[rows], y[rows]


def run(case: str, size: int) -> list[float]:
    """PSNR of every batch, its pictures matched, in decibels."""
    values = []
    for number in range(BATCHES):
        x, y = batch(size, number)
        model = models.convnet(batch_norm=True).train()
        seen = federated.observe(model, x, y, declare=["labels", "batch_norm"])
        values.append(round(float(metrics.psnr(attack(case)(seen).inputs, x)), 2))
    return values


def main() -> None:
    from tools.recording import FOLDER, record

    path = FOLDER / "gradinversion.json"
    result = json.loads(path.read_text())["result"] if path.exists() else []
    for size in (4, 8):
        for case in (*TERMS, "l1, gradient only", "preset"):
            if any((done["case"], done["batch"]) == (case, size) for done in result):
                continue
            result.append({"case": case, "batch": size, "psnr": run(case, size)})
            print(result[-1], flush=True)
            record("gradinversion", COMMAND, result)


if __name__ == "__main__":
    main()
