"""CAFE on pools of photographs: three sizes, and what each of its assumptions and terms is worth.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_vertical

Gray photographs of 16x16 pixels, whose quadrants have 8x8, four parties, two convolutions each, an untrained network
that stays as it is unless a row says otherwise. Pools of 40, 100 and 800 examples in batches of 8, 20 and 40, with a
tenth more rounds than examples. The ablation has ten pools of 12 (networks and crops differ), batches of 4 and 15
rounds; its learning rates are the best of three on two pools of their own, for the whole attack and for the one without
features. About ten minutes on one core that is idle. What the file already holds is kept.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gilearn import attacks, data, defenses, federated, metrics, models
from gilearn.attacks import GradientMatching, RankWarning, Vertical, labels, optimizers
from gilearn.federated import Several
from gilearn.hooks import recorded_inputs
from tools.recording import known, resume

COMMAND = "python -m tools.record_vertical"
POOLS = ((40, 8, 44, 500), (800, 40, 880, 2000), (100, 20, 110, 500))
CASES, TUNING, RATES = range(10), (10, 11), (0.03, 0.1, 0.3)


def gray(crops: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    x, y = data.photos(size, crops=crops, seed=seed)
    return x.mean(dim=1, keepdim=True), y


def several(net: torch.nn.Module, x: Tensor, y: Tensor, batch: int, rounds: int, **options: Any) -> Several:
    parts = federated.vertical_rounds(
        net, x, y, batch_size=batch, num_rounds=rounds, declare=["rows", "labels"], **options
    )
    return Several(parts=tuple(parts), size=len(x))


def attack(iterations: int, rate: float, **changes: Any) -> Vertical:
    """The preset with a falling rate, so that a tenth of its iterations do."""
    adam = optimizers.Adam(lr=rate, schedule=optimizers.WarmupCosine(warmup=10))
    return attacks.CAFE.replace(matching=search(iterations=iterations, optimizer=adam, **changes))


def search(**changes: Any) -> GradientMatching:
    return attacks.CAFE.matching.replace(**changes)


def features_error(net: torch.nn.Module, x: Tensor, inner: Any) -> float:
    """Largest mean squared error of a party's recovered features, over their mean square."""
    errors = []
    for one in inner:
        layer = net.get_submodule(one.layer)
        with torch.no_grad(), recorded_inputs(net, [layer]) as found:
            net(x)
        errors.append(float((one.features - found[0][1]).square().mean() / found[0][1].square().mean()))
    return max(errors)


def pool(examples: int, batch: int, rounds: int, iterations: int) -> dict[str, Any]:
    x, y = gray(examples // 10, 16, seed=0)
    net = models.loop_net((1, 16, 16), widths=(32, 64), hidden=(32, 16, 10))
    seen = several(net, x, y, batch, rounds)
    began = time.process_time()
    result = attack(iterations, 0.1)(seen)
    seconds = time.process_time() - began
    each = (result.inputs - x).square().flatten(1).mean(dim=1)  # known rows tell the examples apart
    decibels = -10 * each.log10().numpy()
    one = result.details["inner"][0]
    return {
        "mean": round(float(decibels.mean()), 2),
        "least": round(float(decibels.min()), 2),
        "above_30": int((decibels > 30).sum()),
        "labels": int((result.labels == y).sum()),
        "rank": one.rank,
        "condition": round(one.condition, 1),
        "features": features_error(net, x, result.details["inner"]),
        "undetermined": [int((~inner.determined).sum()) for inner in result.details["inner"]],
        "residual": result.residual,
        "seconds": round(seconds, 1),
    }


def nothing(simulated: Any, shared: Any) -> Tensor:
    """A distance that is blind: what is left are the other terms."""
    return simulated[0].sum() * 0.0


def small(variant: str, rate: float, case: int) -> dict[str, Any]:
    """Attack a pool of 12 with one thing changed."""
    x, y = gray(2, 12, seed=100 + case)
    x, y = x[:12], y[:12]
    net = models.loop_net((1, 12, 12), widths=(16, 32), hidden=(24, 12, 10), seed=case)
    options = {"seed": case}
    if variant.startswith("lr "):
        options["lr"] = float(variant[3:])
    if variant == "fake gradients":
        options["defense"] = defenses.FakeGradients()
    rounds = {"9 rounds": 9}.get(variant, 15)
    seen = several(net, x, y, 4, rounds, **options)
    run = attack(150, rate)
    if variant == "no features":
        run = run.replace(weight=0.0)
    elif variant == "no total variation":
        run = attack(150, rate, regularizers=())
    elif variant == "features alone":
        run = attack(150, rate, distance=nothing, regularizers=())
    elif variant == "other rows":  # the right numbers, in the wrong rounds
        order = torch.randperm(rounds, generator=torch.Generator().manual_seed(case)).tolist()
        seen = seen.replace(rows=tuple(seen.rows[k] for k in order))
    elif variant == "paper's weight":
        run = run.replace(weight=4.0)
    elif variant in ("9 rounds", "labels declared", "fake gradients"):
        run = attack(150, rate, labels=labels.Declared())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)
        result = run(seen, seed=case)
    return {"psnr": round(float(metrics.psnr(result.inputs, x)), 2), "labels": int((result.labels == y).sum())}


VARIANTS = (
    "whole", "paper's weight", "no features", "no total variation", "features alone", "labels declared", "9 rounds",
    "other rows", "lr 0.001", "lr 0.01", "lr 0.1", "fake gradients",
)  # fmt: skip


def best(variant: str) -> float:
    """The rate with the best mean on the tuning pools; variants without one of their own take the whole attack's."""
    own = variant if variant == "no features" else "whole"
    rows = [row for row in known("vertical", []) if row["part"] == "tuning" and row["variant"] == own]
    return max(RATES, key=lambda rate: float(np.mean([row["psnr"] for row in rows if row["rate"] == rate])))


def plan() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    def sized(number: int) -> tuple[dict[str, Any], Callable[[], dict[str, Any]]]:
        examples, batch, rounds, iterations = POOLS[number]
        key = {"part": "pool", "examples": examples, "batch": batch, "rounds": rounds, "iterations": iterations}
        return key, lambda: pool(*POOLS[number])

    yield sized(0)
    for variant in ("whole", "no features"):
        for rate in RATES:
            for case in TUNING:
                key = {"part": "tuning", "variant": variant, "rate": rate, "case": case}
                yield key, lambda v=variant, r=rate, c=case: small(v, r, c)
    yield sized(1)
    for case in CASES:
        for variant in VARIANTS:
            key = {"part": "ablation", "variant": variant, "rate": best(variant), "case": case}
            yield key, lambda v=variant, c=case: small(v, best(v), c)
    yield sized(2)


def main() -> None:
    resume("vertical", COMMAND, plan())


if __name__ == "__main__":
    main()
