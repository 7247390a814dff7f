"""Where the search starts (survey, section 2.1.1): draws of the dummy inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gilearn.content import Content
from gilearn.values import Value


@runtime_checkable
class Initialization(Protocol):
    """Anything that draws a float64 tensor of a shape from a generator."""

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return a tensor of that shape, drawn from the generator alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Gaussian(Value):
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
class Uniform(Value):
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


@dataclass(frozen=True, kw_only=True)
class Constant(Value):
    """The same value everywhere, or one per channel: gray, black, white, red, green, blue.

    Args:
        value: The value, or a tuple of one per channel.

    Raises:
        ValueError: When called: the shape has other channels.

    Chapter: initialization. Source: wang2020 for gray, wei2020cpl for the colours.
    """

    value: float | tuple[float, ...] = 0.5

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return a float64 tensor of that shape."""
        if not isinstance(self.value, tuple):
            return torch.full(shape, self.value, dtype=torch.float64)
        if len(shape) < 2 or shape[1] != len(self.value):
            raise ValueError(f"value: got {len(self.value)} values, wanted one per channel of {shape}")
        values = torch.tensor(self.value, dtype=torch.float64)
        return values.view(1, -1, *[1] * (len(shape) - 2)).expand(shape).clone()


@dataclass(frozen=True, kw_only=True)
class Tiled(Value):
    """A uniform random tile, repeated to fill the picture: CPL's geometric initialization.

    Args:
        parts: Tiles along each side, from 1: 2, 4 and 8 in the released code.

    Raises:
        ValueError: ``parts`` is below 1. When called: the shape is not one of pictures.

    Chapter: initialization. Source: wei2020cpl.
    """

    parts: int = 2

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise ValueError(f"parts: got {self.parts}, wanted at least 1")

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw a float64 tensor of that shape, (batch, channels, height, width)."""
        if len(shape) != 4:
            raise ValueError(f"shape: got {shape}, wanted that of pictures (batch, channels, height, width)")
        height, width = (-(-side // self.parts) for side in shape[2:])
        tile = torch.rand(*shape[:2], height, width, generator=generator, dtype=torch.float64)
        return tile.repeat(1, 1, self.parts, self.parts)[..., : shape[2], : shape[3]]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FromImage(Content):
    """Another picture: the attacker's guess at what the client might have.

    Args:
        picture: One picture (channels, height, width), or one per example (batch, channels, height, width).

    Raises:
        ValueError: When called: the shapes do not fit.

    Chapter: initialization. Source: wei2020cpl.
    """

    picture: Tensor

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return a float64 tensor of that shape."""
        if tuple(self.picture.shape) not in (shape, shape[1:]):
            raise ValueError(f"picture: got shape {tuple(self.picture.shape)}, wanted {shape[1:]} or {shape}")
        return self.picture.double().expand(shape).clone()
