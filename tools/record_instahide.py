"""InstaHide: how well its encodings are decoded where nobody says who is in which, and what the defense costs.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_instahide

``decoding``: thirty digits of a client, other digits, keys and coefficients in each case, signs flipped about 0.5. The
attacker has the shuffled encodings, their mixed labels, and sixty digits of other people; ``single`` is what the
encoding gives that is nearest to each picture, a nearness that only we know, ``own`` the mean over those that the
picture heads, ``found`` what the clusters give, with the pixels' signs from the sixty digits, ``signed`` the same if
the best sign of every pixel were known; in decibels. ``utility``: test accuracy of five seeds on the three tasks of
``defenses.utility``, the rate chosen among a third of it, itself and three times it on a validation seed: pictures as
they are, encodings tested on plain pictures (digits alone), or on the mean answer to ten keys, or by a network that
takes the magnitude first. What the file already holds is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gilearn import data, metrics
from gilearn.attacks.instahide import labelled_coefficients, pixel_signs, solve
from gilearn.defenses import InstaHide, utility
from gilearn.federated import Client
from tools.recording import resume

COMMAND = "python -m tools.record_instahide"
KEYED, AT_ZERO = InstaHide(entropy="client"), InstaHide(center=0.0, entropy="client")


class Magnitude(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def under_ten_keys(model: nn.Module, x: Tensor) -> Tensor:
    generator, total = torch.Generator().manual_seed(0), torch.zeros(())
    for _ in range(10):
        key = torch.randint(2, x.shape, generator=generator) * 2 - 1
        total = total + model(0.5 + key * (x - 0.5)).softmax(1)
    return total


RULES: dict[str, tuple[InstaHide | None, Any, bool]] = {
    "none": (None, None, False),
    "key, plain test": (KEYED, None, False),
    "key, test under ten keys": (KEYED, under_ten_keys, False),
    "key about 0, magnitudes": (AT_ZERO, None, True),
}


def cost(task: str, rule: str) -> dict[str, Any]:
    defense, predict, magnitude = RULES[rule]
    training = utility.TASKS[task]
    if magnitude:
        build = training.build
        training = training.replace(build=lambda seed: nn.Sequential(Magnitude(), build(seed)))
    rates = [training.local.lr * factor for factor in (1 / 3, 1, 3)]
    training = utility.tuned(training, rates=rates, seeds=(5,), defense=defense, predict=predict)
    found = utility.measure(training, defense=defense, predict=predict)
    return {
        "rate": round(training.local.lr, 3),
        "accuracy": found["accuracy"].round(4).tolist(),
        "seconds": float(found["seconds"].mean().round(2)),
        "megabytes": float(found["megabytes"].mean()),
    }


def decoded(k: int, epochs: int, case: int) -> dict[str, Any]:
    x, y = data.digits()
    others, x, y = x[1500:1560].double(), x[30 * case : 30 * case + 30].double(), y[30 * case : 30 * case + 30]
    defense = InstaHide(k=k, entropy="client")
    client = Client(model=nn.Identity(), num_classes=10, generator=torch.Generator().manual_seed(case))
    encodings, labels = (
        torch.cat(part) for part in zip(*[defense.data(x, y, client) for _ in range(epochs)], strict=True)
    )
    magnitudes = (encodings - 0.5).abs()
    views = torch.cat([0.5 - magnitudes, 0.5 + magnitudes])
    own = (0.5 - magnitudes).view(epochs, 30, *x.shape[1:]) - x
    nearest = torch.stack([(views - one).square().flatten(1).mean(1).min() for one in x])
    order = torch.randperm(len(encodings), generator=torch.Generator().manual_seed(case))
    began = time.process_time()
    weights, start = labelled_coefficients(encodings[order], labels[order], 30, k=k, seed=case)
    try:
        found = solve(encodings[order], weights, start=start)
    except ValueError:  # a picture that no encoding was assigned to
        found = start
    shown = 0.5 + pixel_signs(found - 0.5, others - 0.5) * (found - 0.5)
    seconds = time.process_time() - began
    own_order = found[metrics.match(shown, x)] - 0.5
    best = 0.5 + (own_order * (x - 0.5)).sum(0).sign() * own_order
    left = torch.einsum("en,n...->e...", weights, shown - 0.5).abs() - magnitudes[order]
    result = metrics.psnr(shown.clamp(0, 1), x, reduction="none")
    return {
        "own": round(float(-10 * own.square().flatten(2).mean(2).log10().mean()), 2),
        "single": round(float(-10 * nearest.log10().mean()), 2),
        "found": round(float(result.mean()), 2),
        "least": round(float(result.min()), 2),
        "signed": round(float(metrics.psnr(best.clamp(0, 1), x)), 2),
        "residual": float(f"{left.norm() / magnitudes.norm():.1e}"),
        "seconds": round(seconds, 2),
    }


def plan() -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    for k, epochs, cases in ((4, 20, 12), (6, 20, 12), (4, 5, 12), (4, 10, 12)):
        for case in range(cases):
            key = {"k": k, "epochs": epochs, "case": case}
            yield {"kind": "decoding", **key}, lambda key=key: decoded(**key)
    for task in utility.TASKS:
        for rule in RULES if task == "digits" else [name for name in RULES if "plain" not in name]:
            yield {"kind": "utility", "task": task, "rule": rule}, lambda task=task, rule=rule: cost(task, rule)


if __name__ == "__main__":
    resume("instahide", COMMAND, plan())
