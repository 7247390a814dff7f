"""Defenses that perturb what is shared (survey, section 3.3): noise, clipping, fakes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gilearn.federated import Client, Defense, Gradients, Observation
from gilearn.federated.checks import check_number, check_whole


@dataclass(frozen=True, kw_only=True)
class _Noise(Defense):
    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_number(name, value, lambda value: 0 <= value < math.inf, "0 or more")

    def public(self, seen: Observation) -> Defense:
        """Return this noise: its distribution is public, and an imagined client draws its mean, zero."""
        return self


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(_Noise):
    """Add independent normal noise to every entry of what is shared.

    Args:
        std: Its standard deviation, not negative, in the units of what is shared.

    Chapter: differential-privacy. Source: survey, section 3.3; zhu2019, section 5.1.
    """

    std: float

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """Return kind and standard deviation."""
        return (("normal", self.std),)

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the gradients with noise."""
        return tuple(None if g is None else g + self.std * client.draw(g) for g in gradients)


@dataclass(frozen=True, kw_only=True)
class LaplaceNoise(_Noise):
    """Add independent Laplace noise to every entry of what is shared.

    Args:
        scale: Its scale, not negative, in the units of what is shared; the standard deviation is sqrt(2) times it.

    Chapter: differential-privacy. Source: survey, section 3.3; zhu2019, section 5.1.
    """

    scale: float

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """Return kind and scale."""
        return (("laplace", self.scale),)

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the gradients with noise."""
        return tuple(None if g is None else g + self.scale * client.draw(g, "laplace") for g in gradients)


@dataclass(frozen=True, kw_only=True)
class _Clipping(Defense):
    norm: float

    def __post_init__(self) -> None:
        check_number("norm", self.norm, lambda value: 0 < value < math.inf, "a positive number")

    def public(self, seen: Observation) -> Defense:
        """Return this clipping: it draws nothing, and everybody can do it."""
        return self


@dataclass(frozen=True, kw_only=True)
class BatchClipping(_Clipping):
    """Shorten what is shared to a norm, all tensors taken as one long vector, if it is longer.

    Args:
        norm: The largest norm, positive.

    Chapter: differential-privacy. Source: survey, section 3.3; geyer2017.
    """

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the clipped gradients."""
        return clipped(gradients, self.norm)


@dataclass(frozen=True, kw_only=True)
class ExampleClipping(_Clipping):
    """Shorten every example's gradient to a norm before the batch's mean is taken: DP-SGD's clipping.

    Args:
        norm: The largest norm of one example's gradient, all tensors taken as one long vector, positive.

    Chapter: differential-privacy. Source: abadi2016, algorithm 1.
    """

    def examples(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the clipped per-example gradients, each (batch, ...)."""
        return clipped(gradients, self.norm, examples=True)


@dataclass(frozen=True, kw_only=True)
class FakeGradients(Defense):
    """Share normal draws in the place of every tensor's entries, in the order of these: CAFE's countermeasure.

    Of several draws, sorted, the one nearest to the sorted entries is taken, and its k-th value goes where the tensor's
    k-th was. What is left of a tensor is the order of its entries, and with ``std=None`` its root mean square.

    Args:
        std: Standard deviation of the draws, positive, in the units of what is shared; ``None``: every tensor's own
            root mean square.
        candidates: How many draws there are to choose from, from 1.

    Raises:
        ValueError: A number is out of range.

    Chapter: vertical. Source: jin2021, as the public implementation in SecretFlow describes it.
    """

    std: float | None = None
    candidates: int = 10

    def __post_init__(self) -> None:
        if self.std is not None:
            check_number("std", self.std, lambda value: 0 < value < math.inf, "a positive number, or None")
        check_whole("candidates", self.candidates)

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the fakes."""
        return tuple(None if g is None else self._fake(g, client) for g in gradients)

    def _fake(self, gradient: Tensor, client: Client) -> Tensor:
        entries, order = gradient.flatten().sort(stable=True)
        std = float(entries.square().mean().sqrt()) if self.std is None else self.std
        draws = [std * client.draw(entries).sort().values for _ in range(self.candidates)]
        nearest = min(draws, key=lambda draw: float((draw - entries).square().sum()))
        return torch.empty_like(entries).scatter_(0, order, nearest).view_as(gradient)


def clipped(gradients: Gradients, norm: float, *, examples: bool = False) -> Gradients:
    """Return gradients that are shortened to a norm where they are longer: divided by max(1, their norm / the bound).

    Args:
        gradients: One tensor per parameter; ``None`` is passed on.
        norm: The bound, positive.
        examples: The tensors have an axis of examples in front, and each example's are shortened on their own.

    Chapter: differential-privacy. Source: abadi2016, algorithm 1.
    """
    factor = norm / vector_norm(gradients, examples=examples).clamp_min(norm)
    return tuple(
        None if g is None else g * (factor.view(-1, *[1] * (g.ndim - 1)) if examples else factor) for g in gradients
    )


def vector_norm(tensors: Gradients, *, examples: bool = False) -> Tensor:
    """Return the norm of all entries of all tensors together, a scalar; of ``examples`` each one's, (batch,).

    Where it is zero its derivative is zero too, so that a search goes through.

    Raises:
        ValueError: There is no tensor.
    """
    given = [g for g in tensors if g is not None]
    if not given:
        raise ValueError("gradients: got no tensors, wanted at least one")
    if examples:
        each: Tensor = torch.linalg.vector_norm(torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in given]), dim=0)
        return each
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in given]))
    return norm
