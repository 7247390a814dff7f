"""What dropout in front of the classifier does to four attackers, and where reading its mask stops.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_dropout

Case k has the digits from k x batch on, a network and a start of its own. ``encoder`` is a LeNet of two convolutions
with 96 sigmoid features, ``lenet`` one of three with 768; ``relu`` has a layer of 64 ReLU features behind the two
convolutions, ``two`` a second dropout behind the first of them. ``naive`` simulates a client without dropout, ``told``
is handed the masks, ``read`` reads them off the classifier's gradient, ``joint`` searches them with the pixels (with a
setting: under a penalty of that weight on their rate), and ``partly`` searches those that cannot be read. ``box`` is a
naive attacker with InvGrad's ingredients, the setting is its learning rate. ``p`` 0 is a client without dropout. What
the file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from gilearn import attacks, data, defenses, federated, metrics, models
from gilearn.attacks import labels, masks, optimizers, regularizers, spaces
from tools.recording import resume

COMMAND = "python -m tools.record_dropout"
SEARCH = attacks.iDLG.replace(
    labels=labels.Declared(), iterations=60, restarts=1, optimizer=optimizers.LBFGS(patience=5)
)
BOX = attacks.InvGrad.replace(iterations=200)


def network(kind: str, p: float, seed: int) -> nn.Module:
    strides, width = ((1, 1, 1), 12) if kind == "lenet" else ((1, 2), 6)
    encoder = models.lenet(1, size=8, strides=strides, width=width, seed=seed)
    if kind == "two":
        return nn.Sequential(*encoder[:2], nn.Dropout(p), *encoder[2:-1], nn.Dropout(p), encoder[-1]).double()
    if kind == "relu":
        behind = models.mlp(96, (64,), activation="relu", seed=seed)
        for parameter in behind.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=torch.Generator().manual_seed(seed))
        encoder = nn.Sequential(*encoder[:-1], *behind[1:])
    return (defenses.Dropout(p=p).insert(encoder) if p else encoder).double()


def measure(kind: str, p: float, batch: int, k: int, attacker: str, setting: float | None) -> dict[str, Any]:
    rows = slice(k * batch, (k + 1) * batch)
    x, y = (tensor[rows] for tensor in data.digits())
    x = x.double()
    told = federated.observe(network(kind, p, k), x, y, declare=["labels", "masks"], seed=k)
    blind = told.replace(knowledge={"labels": y})
    seen, attack, more = blind, SEARCH, {}
    if attacker == "told":
        seen = told
    elif attacker == "read":
        found = masks.read(blind)
        more = {"wrong": int((found[-1] != told.known("masks")[-1]).sum())}
        seen = blind.replace(knowledge={"labels": y, "masks": found})
    elif attacker == "joint":
        attack = SEARCH.replace(space=spaces.Pixels() & spaces.Masks())
        if setting:
            attack = attack.replace(regularizers=(regularizers.MaskRate(weight=setting),))
    elif attacker == "partly":
        attack = SEARCH.replace(space=spaces.Pixels() & spaces.Masks(known=masks.read(blind)))
    elif attacker == "box":
        attack = BOX.replace(optimizer=optimizers.Adam(lr=setting, schedule=optimizers.StepDecay()))
    if kind in ("relu", "two") or batch > 1:
        attack = attack.replace(iterations=30)
    result = attack(seen, seed=k)
    return more | {
        "mse": float(f"{metrics.mse(result.inputs, x):.2e}"),
        "residual": float(f"{result.residual:.1e}"),
        "seconds": round(result.seconds, 1),
    }


def rows() -> Iterator[tuple[str, float, int, int, str, float | None]]:
    for p in (0.5, 0.1, 0.9, 0.0):
        for k in range(24):
            for attacker in ("naive", "read", "joint") if p else ("naive",):
                yield "encoder", p, 1, k, attacker, None
    for p in (0.1, 0.5):
        for k in range(4):
            for attacker in ("naive", "read"):
                yield "lenet", p, 1, k, attacker, None
    for k in range(12):
        for attacker in ("told", "read", "joint"):
            yield "relu", 0.5, 1, k, attacker, None
    for k in range(10):
        yield "encoder", 0.5, 1, k, "box", 0.1
        yield "encoder", 0.0, 1, k, "box", 0.1
    for k in range(10):
        for attacker in ("told", "joint"):
            yield "encoder", 0.5, 2, k, attacker, None
    for lr in (0.03, 0.3):
        for k in range(10):
            yield "encoder", 0.5, 1, k, "box", lr
    for k in range(10):
        for attacker in ("partly", "joint"):
            yield "two", 0.5, 1, k, attacker, None
    for k in range(6):
        yield "two", 0.5, 1, k, "joint", 0.01


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for row in rows():
        yield (
            dict(zip(("kind", "p", "batch", "case", "attacker", "setting"), row, strict=True)),
            functools.partial(measure, *row),
        )


def main() -> None:
    resume("dropout", COMMAND, plan())


if __name__ == "__main__":
    main()
