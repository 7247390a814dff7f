"""What else the attacker knows about pictures and labels (survey, section 2.1.3): terms beside the gradient's distance.

A regularizer looks at a :class:`Guess` and returns a scalar, already times its weight. What it needs of the client it
asks of the observation, which answers only if the threat model declares it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gilearn.federated import Observation
from gilearn.federated.batch_norm import batch_norms, recorded_statistics


@dataclass(kw_only=True)
class Guess:
    """What the attacker holds at one step of the search.

    Args:
        seen: The observation.
        inputs: Dummy inputs (batch, *input_shape).
        targets: Labels (batch,), or class probabilities (batch, num_classes).
        consensus: What the starts that run together agree on, in the shape of ``inputs``; ``None`` for a single start.
    """

    seen: Observation
    inputs: Tensor
    targets: Tensor
    consensus: Tensor | None = None
    _passed: tuple[Tensor, list[tuple[Tensor, Tensor]]] | None = field(default=None, repr=False)

    @property
    def logits(self) -> Tensor:
        """The model's output (batch, num_classes)."""
        return self._forward()[0]

    @property
    def statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and biased variance of every batch normalization's input, in order of use."""
        return self._forward()[1]

    def _forward(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        if self._passed is None:
            with recorded_statistics(self.seen.model) as statistics:
                logits = self.seen.model(self.inputs)
            self._passed = logits, statistics
        return self._passed


@runtime_checkable
class Regularizer(Protocol):
    """Anything that maps a guess to a scalar tensor, differentiable in its inputs."""

    def __call__(self, guess: Guess) -> Tensor:
        """Measure."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Weighted:
    weight: float

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight: got {self.weight}, wanted 0 or more")


@dataclass(frozen=True, kw_only=True)
class TotalVariation(_Weighted):
    """How much neighbouring pixels differ: zero on a constant picture, large on noise.

    Args:
        weight: Factor of the term, not negative.
        isotropic: The mean norm of the differences to the right and below, instead of the sum of their mean magnitudes.

    Chapter: regularizers. Source: geiping2020 (anisotropic).
    """

    isotropic: bool = False

    def __call__(self, guess: Guess) -> Tensor:
        """Return weight x total variation, a scalar; any number of channels."""
        x = guess.inputs
        across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
        if not self.isotropic:
            return self.weight * (across.abs().mean() + down.abs().mean())
        both = torch.stack([across[..., :-1, :], down[..., :-1]])
        size: Tensor = torch.linalg.vector_norm(both, dim=0)
        return self.weight * size.mean()


@dataclass(frozen=True, kw_only=True)
class L2(_Weighted):
    """The norm of the inputs, GradInversion's weakest prior.

    Chapter: regularizers. Source: yin2021.
    """

    def __call__(self, guess: Guess) -> Tensor:
        """Return weight x norm, a scalar."""
        size: Tensor = torch.linalg.vector_norm(guess.inputs)
        return self.weight * size


@dataclass(frozen=True, kw_only=True)
class BatchNormStatistics(_Weighted):
    """How far the guess is from the means and variances of every batch normalization's input: the fidelity term.

    Args:
        weight: Factor of the term, not negative.
        source: ``"running"``, the averages that every model carries, or ``"declared"``, those of the private batch,
            which the threat model must declare as ``batch_norm``.

    Raises:
        ValueError: The source is unknown. When called: the model has no batch normalization, keeps no averages, or the
            observation declares no statistics.

    Chapter: regularizers. Source: yin2021; huang2021 for the difference between the two sources.
    """

    source: str = "running"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source not in ("running", "declared"):
            raise ValueError(f"source: got {self.source!r}, wanted 'running' or 'declared'")

    def __call__(self, guess: Guess) -> Tensor:
        """Return weight x the sum over the layers of the norms of both differences, a scalar."""
        terms = [
            torch.linalg.vector_norm(mean - wanted_mean) + torch.linalg.vector_norm(variance - wanted_variance)
            for (mean, variance), (wanted_mean, wanted_variance) in zip(
                guess.statistics, self.wanted(guess.seen), strict=True
            )
        ]
        return self.weight * torch.stack(terms).sum()

    def wanted(self, seen: Observation) -> list[tuple[Tensor, Tensor]]:
        """Return the statistics that the guess should have."""
        layers = batch_norms(seen.model)
        if not layers:
            raise ValueError("seen: the model has no batch normalization whose statistics could be compared")
        if self.source == "declared":
            return list(seen.known("batch_norm"))
        if any(layer.running_mean is None for layer in layers):
            raise ValueError("seen: a batch normalization of the model keeps no running statistics")
        return [(layer.running_mean, layer.running_var) for layer in layers]  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class GroupConsistency(_Weighted):
    """How far a start is from what all starts that run together agree on.

    Args:
        weight: Factor of the term, not negative.
        register: Shift every start's picture onto the mean picture before the mean is taken again.
        after: Share of the iterations before the first registration; until then the plain mean is the consensus.
        every: Iterations between two registrations, from 1.

    Raises:
        ValueError: A number is out of range.

    Chapter: regularizers. Source: yin2021. The paper registers by RANSAC-flow from iteration 5,000 of 20,000, then
    every 100; ours by whole pixels, with phase correlation. Component:
    ``skimage.registration.phase_cross_correlation``.
    """

    register: bool = False
    after: float = 0.25
    every: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.after <= 1 or self.every < 1:
            raise ValueError(f"after, every: got {self.after}, {self.every}, wanted 0 to 1, and at least 1")

    def __call__(self, guess: Guess) -> Tensor:
        """Return weight x norm of the difference to the consensus, a scalar; zero for a single start."""
        if guess.consensus is None:
            return guess.inputs.sum() * 0.0
        gap: Tensor = torch.linalg.vector_norm(guess.inputs - guess.consensus)
        return self.weight * gap

    def consensus(self, inputs: Tensor, progress: float, iteration: int, before: Tensor | None) -> Tensor:
        """Return what the starts agree on.

        Args:
            inputs: Of all starts (starts, batch, *input_shape).
            progress: Share of the iterations that are done.
            iteration: Their number.
            before: The consensus of the iteration before, if there was one.
        """
        mean = inputs.detach().mean(dim=0)
        if not self.register or progress < self.after:
            return mean
        if iteration % self.every and before is not None:
            return before
        return registered_mean(inputs.detach(), mean)


@dataclass(frozen=True, kw_only=True)
class LabelConsistency(_Weighted):
    """How far the model's prediction for the guess is from its label: CPL's.

    The label is the extracted or optimized one. The released code compares with the model's output for the private
    input, which no server has.

    Chapter: regularizers. Source: wei2020cpl.
    """

    def __call__(self, guess: Guess) -> Tensor:
        """Return weight x the squared difference of probabilities, summed, a scalar."""
        targets = guess.targets
        if not targets.is_floating_point():
            targets = F.one_hot(targets, guess.seen.num_classes).to(guess.inputs.dtype)
        return self.weight * (guess.logits.softmax(dim=1) - targets).square().sum()


@dataclass(frozen=True, kw_only=True)
class Orthogonality(_Weighted):
    """How much the examples of a batch resemble each other: the mean squared cosine between two of them.

    It keeps the examples of a batch from sharing one picture; zero for a single example.

    Chapter: regularizers. Source: qian2021.
    """

    def __call__(self, guess: Guess) -> Tensor:
        """Return weight x mean squared cosine, a scalar."""
        flat = F.normalize(guess.inputs.flatten(1), dim=1)
        number = len(flat)
        if number == 1:
            return guess.inputs.sum() * 0.0
        squares = (flat @ flat.T).square()
        return self.weight * (squares.sum() - squares.diagonal().sum()) / (number * (number - 1))


def registered_mean(inputs: Tensor, target: Tensor) -> Tensor:
    """Shift every start's pictures by whole pixels onto the target's and return their mean.

    Args:
        inputs: Pictures of all starts (starts, batch, channels, height, width).
        target: Pictures to shift onto (batch, channels, height, width).
    """
    from skimage.registration import phase_cross_correlation

    shifted = inputs.clone()
    flat = [tensor.mean(dim=-3).cpu().double().numpy() for tensor in (inputs, target)]
    for start, example in np.ndindex(*inputs.shape[:2]):
        shift, _, _ = phase_cross_correlation(flat[1][example], flat[0][start, example])
        down, across = (round(float(value)) for value in shift)
        shifted[start, example] = torch.roll(inputs[start, example], (down, across), dims=(-2, -1))
    return shifted.mean(dim=0)
