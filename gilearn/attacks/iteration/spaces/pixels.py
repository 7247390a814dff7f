"""Spaces of pictures: pixel by pixel, or coarser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gilearn.attacks.iteration.initialization import Initialization
from gilearn.attacks.iteration.spaces.base import Bounds, Factor, Space, check_bounds
from gilearn.federated import Observed


@dataclass(frozen=True, kw_only=True)
class Pixels(Space):
    """The inputs themselves, one by one: what nearly every row of the survey's Table 1 searches.

    Args:
        bounds: Least and largest value, to which the inputs are clipped; ``None``: no projection.

    Raises:
        ValueError: The lower end is not below the higher.

    Variables: ``inputs`` (batch, *input_shape). Chapter: anatomy. Source: zhu2019; geiping2020 for the bounds.
    """

    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        check_bounds(self.bounds)

    def build(self, seen: Observed) -> Factor:
        """Refuse inputs that are no numbers."""
        if getattr(seen, "tokens", False):
            raise ValueError(f"space: got {self}, and the model takes tokens, wanted Embeddings() or SoftTokens()")
        return self

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the inputs."""
        return {"inputs": initialization((seen.batch_size, *seen.input_shape), generator)}

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        """Return the inputs as they are."""
        return {"inputs": variables["inputs"]}

    def project(self, variables: dict[str, Tensor]) -> None:
        """Clip the inputs."""
        if self.bounds is not None:
            variables["inputs"].clamp_(*self.bounds)


@dataclass(frozen=True, kw_only=True)
class Coarse(Space):
    """Pictures of fewer pixels, enlarged: coarse-to-fine searches start here.

    Args:
        factor: How often a side is divided, from 1.
        bounds: Least and largest value of the coarse pixels; ``None``: no projection.
        mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``: how they are enlarged (``interpolate``, corners not
            aligned).

    Raises:
        ValueError: A number is out of range, or the mode is unknown. When built: the inputs are no pictures, or
            ``factor`` divides no side.

    Variables: ``coarse`` (batch, channels, height / factor, width / factor). Chapter: resolution.
    """

    factor: int = 2
    bounds: Bounds | None = None
    mode: str = "bilinear"

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor: got {self.factor}, wanted at least 1")
        if self.mode not in ("bilinear", "bicubic", "nearest"):
            raise ValueError(f"mode: got {self.mode!r}, wanted 'bilinear', 'bicubic' or 'nearest'")
        check_bounds(self.bounds)

    def build(self, seen: Observed) -> Factor:
        """Check that the pictures can be made that much smaller."""
        if len(seen.input_shape) != 3:
            raise ValueError(f"space: got inputs of shape {seen.input_shape}, wanted pictures for {self}")
        if any(side % self.factor for side in seen.input_shape[1:]):
            raise ValueError(f"factor: got {self.factor}, which does not divide the sides {seen.input_shape[1:]}")
        return self

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the coarse pixels."""
        channels, *sides = seen.input_shape
        return {"coarse": initialization((seen.batch_size, channels, *(s // self.factor for s in sides)), generator)}

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        """Return the enlarged pictures."""
        coarse = variables["coarse"]
        size = [side * self.factor for side in coarse.shape[2:]]
        corners = None if self.mode == "nearest" else False
        return {"inputs": F.interpolate(coarse, size=size, mode=self.mode, align_corners=corners)}

    def project(self, variables: dict[str, Tensor]) -> None:
        """Clip the coarse pixels."""
        if self.bounds is not None:
            variables["coarse"].clamp_(*self.bounds)
