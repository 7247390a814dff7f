"""What every attack is, and what every attack returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gilearn.federated import Observation


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The result of an attack, with its own check: how well it explains what was shared.

    Args:
        inputs: The recovered inputs (batch, *input_shape), not clipped.
        labels: The labels used or recovered (batch,), int64; ``None`` where the attack has none.
        residual: Norm of the mismatch between what the reconstruction explains and what was shared, over the norm of
            what was shared: of all tensors for gradient matching, of the solved systems for a recursion. The attacker
            can compute it; a small one does not mean a small error.
        history: The attack's objective at every evaluation of its best start, shape (evaluations,); empty for closed
            forms.
        snapshots: Pairs (evaluation, inputs) on the way, the best so far each time.
        starts: One mapping per start: its final distance, its number of evaluations, and why it stopped.
        seconds: Wall-clock time of the whole attack.
        seed: The seed that the attack was called with; ``None`` for closed forms.
        attack: The complete ``repr`` of the attack.
        details: What this kind of attack adds, by name (ranks, conditions, ...).

    Chapter: deep-leakage.
    """

    inputs: Tensor = field(repr=False)
    labels: Tensor | None
    residual: float
    seconds: float
    attack: str
    seed: int | None = None
    history: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    snapshots: tuple[tuple[int, Tensor], ...] = field(default=(), repr=False)
    starts: tuple[Mapping[str, Any], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Attack(Protocol):
    """Anything that turns an observation into a reconstruction. It gets the observation and nothing else."""

    def __call__(self, seen: Observation) -> Reconstruction:
        """Run the attack."""
        ...


def residual(seen: Observation, inputs: Tensor, targets: Tensor) -> float:
    """Return the norm of the gradient mismatch over the norm of what was shared; over 1 where only zeros were shared.

    Args:
        seen: The observation.
        inputs: Reconstructed inputs (batch, *input_shape).
        targets: Their labels (batch,), or class probabilities (batch, num_classes).
    """
    simulated = seen.simulate(inputs.to(seen.device, seen.dtype), targets, create_graph=False)
    pairs = [(a, b) for a, b in zip(simulated, seen.shared, strict=True) if a is not None and b is not None]
    mismatch = sum(float((a - b).double().square().sum()) for a, b in pairs)
    shared = sum(float(b.double().square().sum()) for _, b in pairs)
    return float((mismatch / shared) ** 0.5 if shared > 0 else mismatch**0.5)
