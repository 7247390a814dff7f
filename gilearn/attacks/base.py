"""What every attack is, and what every attack returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gilearn.federated import Observation
from gilearn.values import Value


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


class Attack(Value):
    """Anything that turns an observation into a reconstruction. It gets the observation, and options that hold no data.

    A subclass is a frozen dataclass that implements :meth:`reconstruct`; calling it checks the arguments first.
    """

    def __call__(
        self,
        seen: Observation,
        *,
        seed: int = 0,
        snapshots: int = 0,
        progress: bool = False,
        time_limit: float | None = None,
    ) -> Reconstruction:
        """Run the attack.

        Args:
            seen: The observation.
            seed: Seeds every draw; the same seed on the same machine gives the same result bit for bit.
            snapshots: How many pictures to keep of the way there; a closed form has none.
            progress: Show a progress bar, where there are steps to show.
            time_limit: Seconds after which a search returns the best so far; ``None`` for no limit.

        Raises:
            ValueError: An argument is not what it should be, or the attack does not apply to what was observed.
        """
        return self.reconstruct(seen, seed=seed, snapshots=snapshots, progress=progress, time_limit=time_limit)

    def reconstruct(
        self, seen: Observation, *, seed: int, snapshots: int, progress: bool, time_limit: float | None
    ) -> Reconstruction:
        """Run the attack on checked arguments; those of :meth:`__call__`."""
        raise NotImplementedError


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
