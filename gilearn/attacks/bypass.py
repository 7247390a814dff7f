"""Leave out of the objective what a declared defense has changed: an attack on the gradient's other tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gilearn.attacks.base import Attack, Reconstruction
from gilearn.federated import Client, Gradients, Observation

_LARGE = 1e6
"""Longer than any bound that a defense would clip a gradient to."""


@dataclass(frozen=True, kw_only=True)
class Bypass(Attack):
    """Another attack, on those tensors only that a declared defense leaves as they are.

    A defense that protects one layer says nothing about the others. Balunovic et al. (2022) take the layer that Soteria
    prunes out of their objective; here every tensor is that the public part of the declared defense changes. It counts
    as withheld, and the wrapped attack, its residual and its verdict are about the rest.

    Args:
        attack: The attack.

    Raises:
        ValueError: ``attack`` is none. When it runs: no defense is declared, or it changes all that was shared.

    Chapter: soteria. Source: balunovic2022.
    """

    attack: Attack

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise ValueError(f"attack: got {self.attack!r}, wanted an attack, such as attacks.InvGrad")

    def reconstruct(
        self, seen: Any, *, seed: int, snapshots: int, progress: bool, time_limit: float | None
    ) -> Reconstruction:
        """Run the wrapped attack on what the defense leaves alone."""
        left = untouched(seen)
        return self.attack(left, seed=seed, snapshots=snapshots, progress=progress, time_limit=time_limit)


def untouched(seen: Observation) -> Observation:
    """Return an observation in which the tensors that its declared defense changes are withheld.

    A tensor counts as changed if the defense's public part, at a single example's gradient or later, does not return
    large random entries as they are. Noise alone does not count: an imagined client draws its mean, zero.

    Args:
        seen: An observation that declares its defense.

    Raises:
        ValueError: No defense is declared, or nothing that was shared is left.

    Chapter: soteria.
    """
    if not isinstance(seen, Observation):
        raise ValueError(f"seen: got a {type(seen).__name__}, wanted an Observation")
    defense = seen.known("defense")
    client = Client(model=seen.network, num_classes=seen.num_classes)
    generator = torch.Generator().manual_seed(0)
    probe: Gradients = tuple(
        None if g is None else _LARGE * torch.randn(g.shape, generator=generator, dtype=torch.float64).to(g)
        for g in seen.shared
    )
    single = defense.examples(tuple(None if g is None else g[None] for g in probe), client)
    mean = tuple(None if g is None else g.mean(dim=0) for g in single)
    passed = defense.shared(defense.step(mean, client), client)
    kept = [a is not None and b is not None and torch.equal(a, b) for a, b in zip(probe, passed, strict=True)]
    if not any(kept):
        raise ValueError("seen: its defense changes every tensor that was shared, wanted one that leaves some alone")
    return seen.replace(shared=tuple(g if keep else None for g, keep in zip(seen.shared, kept, strict=True)))
