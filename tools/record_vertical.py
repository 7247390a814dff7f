"""CAFE on pools of photographs: three sizes, and what each of its assumptions and terms is worth.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_vertical

Gray photographs of 16x16 pixels, whose quadrants have 8x8, four parties, two convolutions each, an untrained network
that stays as it is. Pools of 40, 100 and 800 examples in batches of 8, 20 and 40, with a tenth more rounds than
examples; seven minutes on one core that is idle. The ablation (``vertical-ablation``, two minutes) has ten pools of
twelve digits of 8x8 pixels (networks and digits differ), one convolution, batches of 4 and 20 rounds; its learning
rates are the best of three on two pools of their own, for the whole attack, for the one without features, and for
gradients alone: no features and no total variation, compared by squares or by absolute values. What the files already
hold is kept.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import GradientMatching, RankWarning, Vertical, distances, labels, optimizers
from gilearn.federated import Several
from gilearn.hooks import recorded_inputs
from tools.recording import known, resume

COMMAND = "python -m tools.record_vertical"
POOLS = ((40, 8, 44, 500), (800, 40, 880, 2000), (100, 20, 110, 500))
CASES, TUNING, RATES, ITERATIONS = range(10), (10, 11), (0.03, 0.1, 0.3), 120


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


ALONE = {"squared alone": distances.Euclidean(squared=True), "l1 alone": distances.Manhattan()}


def small(variant: str, rate: float, case: int) -> dict[str, Any]:
    """Attack a pool of twelve digits with one thing changed."""
    x, y = data.digits(1797)
    x, y = x[12 * case : 12 * case + 12], y[12 * case : 12 * case + 12]
    net = models.loop_net((1, 8, 8), widths=(24,), hidden=(16, 8), seed=case)
    rounds = 9 if variant == "9 rounds" else 20
    seen, run = several(net, x, y, 4, rounds, seed=case), attack(ITERATIONS, rate)
    if variant == "no features":
        run = run.replace(weight=0.0)
    elif variant in ALONE:  # the labels are those of step I
        run = attack(ITERATIONS, rate, distance=ALONE[variant], regularizers=()).replace(weight=0.0)
    elif variant == "no total variation":
        run = attack(ITERATIONS, rate, regularizers=())
    elif variant == "features alone":
        run = attack(ITERATIONS, rate, distance=nothing, regularizers=())
    elif variant == "other rows":  # the right batches, in the wrong rounds
        order = torch.randperm(rounds, generator=torch.Generator().manual_seed(case)).tolist()
        seen = seen.replace(rows=tuple(seen.rows[k] for k in order))
    elif variant == "9 rounds":
        run = attack(ITERATIONS, rate, labels=labels.Fixed(y))  # some are in no round
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)
        result = run(seen, seed=case)
    return {"psnr": round(float(metrics.psnr(result.inputs, x)), 2), "labels": int((result.labels == y).sum())}


VARIANTS = ("whole", "no features", "no total variation", "features alone", "9 rounds", "other rows", *ALONE)
TUNED = ("whole", "no features", *ALONE)


def best(variant: str) -> float:
    """The rate with the best mean on the tuning pools; variants without one of their own take the whole attack's."""
    own = variant if variant in TUNED else "whole"
    rows = [row for row in known("vertical-ablation", []) if row["part"] == "tuning" and row["variant"] == own]
    return max(RATES, key=lambda rate: float(np.mean([row["psnr"] for row in rows if row["rate"] == rate])))


def sizes() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    for setting in POOLS:
        examples, batch, rounds, iterations = setting
        key = {"part": "pool", "examples": examples, "batch": batch, "rounds": rounds, "iterations": iterations}
        yield key, lambda setting=setting: pool(*setting)


def ablation() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    for variant in TUNED:
        for rate in RATES:
            for case in TUNING:
                key = {"part": "tuning", "variant": variant, "rate": rate, "case": case}
                yield key, lambda v=variant, r=rate, c=case: small(v, r, c)
    for variant in VARIANTS:
        for case in CASES:
            key = {"part": "ablation", "variant": variant, "rate": best(variant), "case": case}
            yield key, lambda v=variant, c=case: small(v, best(v), c)


def main() -> None:
    resume("vertical-ablation", COMMAND, ablation())
    resume("vertical", COMMAND, sizes())


if __name__ == "__main__":
    main()
