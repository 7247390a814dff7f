"""Where the search starts (survey, section 2.1.1): draws of the dummy inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Initialization(Protocol):
    """Anything that draws a float64 tensor of a shape from a generator."""

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw."""
        ...


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Independent normal values: most rows of the survey's Table 1.

    Args:
        mean: Their mean.
        std: Their standard deviation, not negative.

    Chapter: deep-leakage. Source: zhu2019.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.std < 0:
            raise ValueError(f"std: got {self.std}, wanted 0 or more")

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw a float64 tensor of that shape."""
        return self.mean + self.std * torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Independent values, uniform between two ends.

    Args:
        low: Lower end.
        high: Upper end, not below ``low``.

    Chapter: deep-leakage. Source: jin2021.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ValueError(f"high: got {self.high}, wanted at least low, {self.low}")

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw a float64 tensor of that shape."""
        return self.low + (self.high - self.low) * torch.rand(shape, generator=generator, dtype=torch.float64)
