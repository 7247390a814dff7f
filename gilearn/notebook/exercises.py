"""The self-check of the book's exercises."""

from __future__ import annotations

from typing import Any

import torch


def check(answer: Any, target: Any, *, within: float = 1e-3) -> None:
    """Compare an answer with its target and say so: numbers, tensors, truth values or text.

    Args:
        answer: The reader's result.
        target: The right one.
        within: Largest absolute difference that passes, for numbers and tensors.

    Raises:
        ValueError: The answer differs from the target; the message says by how much, and does not tell the target.

    Chapter: setup.
    """
    if isinstance(target, (bool, str)):
        right, reason = answer == target, f"{answer!r} is not it"
    else:
        a, b = (torch.as_tensor(value).detach().cpu().double() for value in (answer, target))
        if a.shape != b.shape:
            raise ValueError(f"not yet: your answer has shape {tuple(a.shape)}, wanted {tuple(b.shape)}")
        off = float((a - b).abs().max())
        right, reason = off <= within, f"your answer is off by {off:.3g}, wanted at most {within:g}"
    if not right:
        raise ValueError(f"not yet: {reason}")
    print("✓ right")
