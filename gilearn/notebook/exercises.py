"""The self-check of the book's exercises: answers against targets that a reader does not see."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TARGETS = Path(__file__).with_name("exercises.toml")
"""The targets by the exercises' labels; the file's head says what an entry holds."""


def check(exercise: str, answer: Any) -> None:
    """Compare an answer with the exercise's target, and say how it went; ``...`` is no answer yet.

    Args:
        exercise: The exercise's label, ``"ex:..."``.
        answer: What the exercise asks for: a number, a list of numbers, a word, or pictures (n, channels, height,
            width).

    Raises:
        ValueError: There is no such exercise; or the answer is of another kind or shape, or wrong: the message says by
            how much, and does not tell the target.

    Chapter: setup.
    """
    entries = targets()
    if exercise not in entries:
        raise ValueError(f"exercise: got {exercise!r}, wanted the label of one, such as {next(iter(entries))!r}")
    if answer is ...:
        print("not answered yet")
        return
    entry = entries[exercise]
    for trap in entry.get("confused", ()):
        if _complaint(trap, answer) is None:
            raise ValueError(f"not yet: {trap['hint']}")
    complaint = _complaint(entry, answer)
    if complaint is not None:
        raise ValueError(f"not yet: {complaint}")
    print("✓ right")


@functools.cache
def targets() -> Mapping[str, Mapping[str, Any]]:
    """Return what :data:`TARGETS` holds."""
    return tomllib.loads(TARGETS.read_text(encoding="utf8"))


def _complaint(entry: Mapping[str, Any], answer: Any) -> str | None:
    """Return what is wrong with an answer; ``None`` if nothing is."""
    if "picture" in entry:
        return _of_pictures(entry, answer)
    target = entry["target"]
    if isinstance(target, str):
        right = isinstance(answer, str) and answer.strip().casefold() == target.casefold()
        return None if right else f"{answer!r} is not it"
    wanted = torch.as_tensor(target).double()
    given = None if _holds_truth(answer) else _as_numbers(answer)
    if given is None:
        return f"got {answer!r}, wanted a number" + (" for each" if wanted.ndim else "")
    if given.shape != wanted.shape:
        shapes = " and ".join(str(tuple(value.shape)) if value.ndim else "a number" for value in (given, wanted))
        return "your answer has another shape than the target: " + shapes
    within = entry["within"] if "within" in entry else 0.02 * float(wanted.abs().min())
    off = float((given - wanted).abs().max())
    return None if off <= within else f"your answer is off by {off:.3g}, wanted at most {within:.3g}"


def _holds_truth(answer: Any) -> bool:
    """Say whether an answer is a truth value, or holds one."""
    if isinstance(answer, (list, tuple)):
        return any(map(_holds_truth, answer))
    return isinstance(answer, bool) or getattr(answer, "dtype", None) in (torch.bool, bool)


def _as_numbers(answer: Any) -> Tensor | None:
    """Return an answer in float64 on the CPU; ``None`` if it is no number, list or tensor."""
    try:
        return torch.as_tensor(answer).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        return None


def _of_pictures(entry: Mapping[str, Any], answer: Any) -> str | None:
    from gilearn import data, metrics

    loaded, _ = getattr(data, entry["picture"])(**entry.get("options", {}))
    wanted = loaded[entry.get("rows", slice(None))]
    if not isinstance(answer, Tensor) or answer.shape != wanted.shape:
        got = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        return f"got {got}, wanted pictures, a tensor of shape {tuple(wanted.shape)}"
    decibels = float(metrics.psnr(answer, wanted))
    return None if decibels >= entry["psnr"] else f"your pictures have {decibels:.1f} dB, wanted {entry['psnr']} dB"
