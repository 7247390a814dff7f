"""Pixelization: the mean of every cell, with noise that makes a release differentially private, blurred or not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gilearn.federated import Client, Defense, Observation
from gilearn.federated.checks import check_number, check_tensor, check_whole


@dataclass(frozen=True, kw_only=True)
class DPPix(Defense):
    """Fan's differentially private pixelization: the mean of every cell, with Laplace noise.

    Pictures are m-neighbours if they differ in at most m pixels, in all of their channels. With values in [0, 1], m
    pixels move the means of one channel's cells by m / cell^2 together, and those of C channels by C m / cell^2.
    Laplace noise of that over epsilon makes a release epsilon-differentially private with regard to m-neighbours: of
    one picture, all channels together. To give each channel epsilon / C of the budget comes to the same scale.

    A client keeps its first release and computes with it in every round, so that epsilon is spent once.

    Args:
        cell: Side of a cell in pixels, from 1; it has to divide the sides of the pictures.
        m: In how many pixels neighbours differ, from 1.
        epsilon: Privacy budget of one release of one picture, positive; ``math.inf`` for cells without noise.
        fresh: Draw a new release in every round: r rounds then spend r epsilon.

    Raises:
        ValueError: A number is out of range. When it runs: the inputs are no pictures with values in [0, 1], or the
            cells do not fit.

    Chapter: pixelization. Source: fan2018; survey, section 3.1.
    """

    cell: int
    m: int
    epsilon: float
    fresh: bool = False

    def __post_init__(self) -> None:
        for name in ("cell", "m"):
            check_whole(name, getattr(self, name))
        check_number("epsilon", self.epsilon, lambda epsilon: epsilon > 0, "a positive number")

    def sensitivity(self, channels: int = 1) -> float:
        """Return by how much m pixels change the means of all cells, in absolute values added up, at most."""
        return channels * self.m / self.cell**2

    def scale(self, channels: int = 1) -> float:
        """Return the Laplace scale of every cell in every channel, in the pictures' units, where white is 1."""
        check_whole("channels", channels)
        return self.sensitivity(channels) / self.epsilon

    def release(self, pictures: Tensor, *, seed: int = 0) -> Tensor:
        """Return a release of pictures (n, channels, height, width), to publish it or to train on it."""
        check_tensor("pictures", pictures, "(n, channels, height, width)", ndim=4, exact=True)
        generator = torch.Generator().manual_seed(seed)
        return self._released(pictures, Client(model=nn.Identity(), num_classes=1, generator=generator))

    def data(self, inputs: Tensor, targets: Tensor, client: Client) -> tuple[Tensor, Tensor]:
        """Return a release in place of the pictures; an imagined client's has no noise, and is not clipped."""
        if client.generator is None or self.fresh:
            return self._released(inputs, client), targets
        before, released = client.memory.get("release", (None, None))
        if before is None or not torch.equal(before, inputs):
            before, released = inputs.detach().clone(), self._released(inputs, client)
            client.memory["release"] = (before, released)
        return released, targets

    def public(self, seen: Observation) -> Defense:
        """Return this defense: everybody can average cells, and an imagined client draws no noise."""
        return self

    def _released(self, pictures: Tensor, client: Client) -> Tensor:
        means = cells(pictures, self.cell)
        if client.generator is not None:
            if not (pictures.min() >= 0 and pictures.max() <= 1):
                ends = f"{float(pictures.min()):.3g} to {float(pictures.max()):.3g}"
                raise ValueError(f"pictures: got values from {ends}, wanted 0 to 1, which the noise is for")
            scale = self.scale(pictures.shape[1])
            means = (means + scale * client.draw(means, "laplace")).clamp(0, 1) if scale else means
        return F.interpolate(means, size=pictures.shape[2:], mode="nearest")


@dataclass(frozen=True, kw_only=True)
class DPBlur(DPPix):
    """A release of :class:`DPPix`, blurred: what is computed from a release alone spends nothing.

    Args:
        sigma: Standard deviation of the Gaussian that it is blurred with, in pixels, positive; it ends at three of
            them, and pictures are mirrored at their borders.

    Chapter: pixelization. Source: fan2019; survey, section 3.1.
    """

    sigma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sigma(self.sigma)

    def _released(self, pictures: Tensor, client: Client) -> Tensor:
        return blurred(super()._released(pictures, client), self.sigma)


def cells(pictures: Tensor, cell: int) -> Tensor:
    """Return the mean of every cell of pictures (n, channels, height, width), each side divided by ``cell``.

    Raises:
        ValueError: They are no pictures, or cells do not divide their sides.

    Chapter: pixelization. Source: fan2018.
    """
    _check_pictures(pictures)
    check_whole("cell", cell)
    if any(side % cell for side in pictures.shape[2:]):
        raise ValueError(f"cell: got {cell}, which does not divide the sides {tuple(pictures.shape[2:])}")
    return F.avg_pool2d(pictures, cell)


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """Return pictures (n, channels, height, width) under a Gaussian blur of ``sigma`` pixels; see :class:`DPBlur`.

    Raises:
        ValueError: They are no pictures, or ``sigma`` is not positive and finite.
    """
    _check_pictures(pictures)
    _check_sigma(sigma)
    for axis in (2, 3):
        radius = min(math.ceil(3 * sigma), pictures.shape[axis] - 1)
        kernel = torch.exp(-torch.arange(-radius, radius + 1, dtype=torch.float64).square() / (2 * sigma**2))
        weight = (kernel / kernel.sum()).to(pictures).view(1, 1, *((-1, 1) if axis == 2 else (1, -1)))
        padding = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = F.pad(pictures, padding, mode="reflect")
        pictures = F.conv2d(padded, weight.expand(pictures.shape[1], 1, -1, -1), groups=pictures.shape[1])
    return pictures


def _check_pictures(pictures: Tensor) -> None:
    """Raise a ``ValueError`` unless they are, by type and shape alone: a search differentiates through here."""
    if not isinstance(pictures, Tensor) or pictures.ndim != 4 or not pictures.is_floating_point():
        tensor = isinstance(pictures, Tensor)
        got = f"{pictures.dtype} of shape {tuple(pictures.shape)}" if tensor else f"a {type(pictures).__name__}"
        raise ValueError(f"pictures: got {got}, wanted floating point (n, channels, height, width)")


def _check_sigma(sigma: float) -> None:
    check_number("sigma", sigma, lambda sigma: 0 < sigma < math.inf, "a positive number")
