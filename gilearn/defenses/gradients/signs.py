"""A defense that compresses what is shared to signs: signSGD, and EF-signSGD (survey, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gilearn.defenses.gradients.feedback import Compression, width
from gilearn.federated import Client, Defense, Gradients, Observation
from gilearn.federated.checks import check_number


@dataclass(frozen=True, kw_only=True)
class Signs(Compression):
    """Share one bit an entry: every tensor is its signs times one magnitude.

    ``Signs(feedback=True)`` is EF-signSGD, ``Signs(magnitude=0.01)`` signSGD. One bit has no third value: the sign of
    zero is 1 here, where ``torch.sign`` would tell a server which entries are zero.

    An imagined client shares the signs of its gradient, with the derivative of the gradient itself (straight-through):
    that of the signs is zero, and no search could follow it.

    Args:
        magnitude: Positive; ``None`` for a tensor's own mean magnitude.
        feedback: Add what the signs leave out to the next round's gradient.

    Raises:
        ValueError: The magnitude is not positive.

    Chapter: compression. Source: karimireddy2019, algorithm 1; bernstein2018 for signSGD.
    """

    magnitude: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.magnitude is not None:
            check_number("magnitude", self.magnitude, lambda value: 0 < value < math.inf, "a positive number, or None")

    def compressed(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the signs, times their magnitudes."""
        signed = [None if g is None else self._signed(g) for g in gradients]
        if client.generator is not None:
            return tuple(signed)
        pairs = zip(gradients, signed, strict=True)
        return tuple(None if g is None or s is None else g + (s - g).detach() for g, s in pairs)

    def bits(self, shared: Gradients) -> int:
        """Return a bit an entry, and one magnitude per tensor, unless it is fixed."""
        given = [g for g in shared if g is not None]
        return sum(g.numel() + (width(g) if self.magnitude is None else 0) for g in given)

    def public(self, seen: Observation) -> Defense:
        """Return the signs without a memory: they draw nothing, and everybody can take them."""
        return self.replace(feedback=False)

    def _signed(self, gradient: Tensor) -> Tensor:
        size = gradient.detach().abs().mean() if self.magnitude is None else gradient.new_tensor(self.magnitude)
        return torch.where(gradient.detach() < 0, -size, size)
