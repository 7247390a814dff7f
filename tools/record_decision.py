"""The defenses of data and model on digits: what attackers have without and with knowing them, and what they cost.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_decision

A row is a defense. ``alone`` and ``told``: PSNR of every case, 0 to 99 dB, of the attacker who does not know the
defense and of the strongest that we know. ``with`` and ``without``: test accuracy of five seeds, in per cent, in pairs.
Rows of :data:`READ` are read from the records of their chapters; a test compares. For the others, the settings are
those whose accuracy ``record_pixels`` and ``record_instahide`` measure. Pixelization and blur: ``alone`` is a single
release of a digit, ``told`` the median of the thirty releases that a training of thirty rounds makes, undone by a map
that was fitted to public digits treated alike. InstaHide with signs flipped about 0: thirty digits of a client and ten
epochs of encodings; ``alone`` is what an encoding shows of the picture that heads it, ``told`` what linear programs
find without labels, coefficients or key. What the file already holds is kept; remove the file to measure all of it
again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from gilearn import data, metrics
from gilearn.attacks import releases
from gilearn.attacks.instahide import solve, sparse_coefficients
from gilearn.defenses import InstaHide, utility
from gilearn.federated import Client
from tools.record_pixels import defense
from tools.recording import resume

COMMAND = "python -m tools.record_decision"
ROUNDS = utility.TASKS["digits"].rounds

ON = {"task": "digits"}
UNMIXED = {"kind": "unmixing", "number": 10, "epochs": 5, "told": "blind"}
MASKED = {"kind": "encoder", "batch": 1}
STUDY = {"part": "privacy"}
EVERY = {"part": "utility", **ON, "steps": 1}  # a client shares every step, as the attacked one does
MIX = {"kind": "utility", **ON}
SIZE = {"part": "utility", **ON}

# A defense: where both attackers' numbers are (file, column, key), and where the accuracies are (file, with, without).
READ: dict[str, tuple[Any, Any, Any]] = {
    **{
        f"MixUp, {rule}": (
            ("mixup", "encoding", {**UNMIXED, "rule": rule}),
            ("mixup", "median", {**UNMIXED, "rule": rule}),
            ("mixup", {**MIX, "rule": rule}, {**MIX, "rule": "none"}),
        )
        for rule in ("two", "four, capped")
    },
    "InstaHide about .5": (
        ("instahide", "own", {"kind": "decoding", "k": 4, "epochs": 20}),
        ("instahide", "found", {"kind": "decoding", "k": 4, "epochs": 20}),
        ("instahide", {**MIX, "rule": "key, test under ten keys"}, {**MIX, "rule": "none"}),
    ),
    "ten local steps": (
        ("local-steps", "mse", {"part": "sweep", "steps": 10, "lr": 0.01, "view": "one gradient"}),
        ("local-steps", "mse", {"part": "sweep", "steps": 10, "lr": 0.01, "view": "unrolled"}),
        ("defenses", {**EVERY, "defense": "none", "steps": None}, {**EVERY, "defense": "none"}),
    ),
    "dropout .5": (
        ("dropout", "mse", {**MASKED, "p": 0.5, "attacker": "naive"}),
        ("dropout", "mse", {**MASKED, "p": 0.5, "attacker": "read"}),
        ("pixels", {**ON, "defense": "dropout"}, {**ON, "defense": "none"}),
    ),
    **{
        f"rank {rank} of 64": (
            ("network-size", "mse", {"part": "size", "channels": width}),
            ("network-size", "with prior", {"part": "size", "channels": width}),
            ("network-size", {**SIZE, "width": width}, {**SIZE, "width": 4}),
        )
        for rank, width in ((22, 1), (46, 2))
    },
    **{
        name: (
            ("defenses", "psnr", {**STUDY, "defense": name, "attacker": "search"}),
            ("defenses", "psnr", {**STUDY, "defense": name, "attacker": best}),
            ("defenses", {**EVERY, "defense": name}, {**EVERY, "defense": "none"}),
        )
        for name, best in (
            ("noise .03", "MAP"),
            ("noise .1", "MAP"),
            ("pruning .9", "search, told"),
            ("pruning .98", "survivors"),
        )
    },
}


def column(file: str, name: str, key: dict[str, Any]) -> list[float]:
    rows = data.recorded(file)["result"]
    found = [row[name] for row in rows if all(row.get(part) == value for part, value in key.items())]
    if not found:
        raise ValueError(f"{file}: no row with {key}")
    if name in ("mse", "with prior"):
        found = [-10 * math.log10(value) for value in found]
    return [round(min(99.0, max(0.0, value)), 2) for value in found]


def accuracies(file: str, key: dict[str, Any]) -> list[float]:
    rows = data.recorded(file)["result"]
    found = [row["accuracy"] for row in rows if all(row.get(part) == value for part, value in key.items())]
    flat = found[0] if isinstance(found[0], list) else found
    return [round(100 * value, 2) for value in flat]


def read(name: str) -> dict[str, Any]:
    alone, told, (file, with_it, without) = READ[name]
    return {
        "alone": column(*alone),
        "told": column(*told),
        "with": accuracies(file, with_it),
        "without": accuracies(file, without),
    }


def pixelized(name: str) -> dict[str, Any]:
    digits, _ = data.digits()
    kind, private, public = defense(name, "digits"), digits[:24], digits[900:]
    own = torch.stack([kind.release(private, seed=k) for k in range(ROUNDS)])
    others = torch.stack([kind.release(public, seed=500_000 + k) for k in range(ROUNDS)])
    found = releases.restored(releases.combined(own), public=public, public_releases=releases.combined(others))
    return {
        "alone": metrics.psnr(own[0], private, reduction="none").round(decimals=2).tolist(),
        "told": metrics.psnr(found, private, reduction="none").round(decimals=2).tolist(),
        "with": accuracies("pixels", {**ON, "defense": name}),
        "without": accuracies("pixels", {**ON, "defense": "none"}),
    }


def unkeyed(case: int) -> tuple[float, float]:
    x, y = (part[30 * case : 30 * case + 30] for part in data.digits())
    x, kind = x.double(), InstaHide(center=0.0, entropy="client")
    client = Client(model=nn.Identity(), num_classes=10, generator=torch.Generator().manual_seed(case))
    made = torch.cat([kind.data(x, y, client)[0] for _ in range(10)])
    own = metrics.psnr(made[:30].abs().clamp(0, 1), x)
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(case))
    found = solve(made[order], sparse_coefficients(made[order], 30, seed=case), center=0.0)
    return round(own, 2), round(min(99.0, metrics.psnr(found, x)), 2)


def without_key() -> dict[str, Any]:
    alone, told = zip(*[unkeyed(case) for case in range(12)], strict=True)
    return {
        "alone": list(alone),
        "told": list(told),
        "with": accuracies("instahide", {**MIX, "rule": "key about 0, magnitudes"}),
        "without": accuracies("instahide", {**MIX, "rule": "none"}),
    }


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for name in READ:
        yield {"defense": name}, functools.partial(read, name)
    for name in ("cells", "DP-Pix", "DP-Blur"):
        yield {"defense": name}, functools.partial(pixelized, name)
    yield {"defense": "InstaHide about 0"}, without_key


if __name__ == "__main__":
    resume("decision", COMMAND, plan())
