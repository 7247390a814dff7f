"""What else the attacker knows about pictures and labels (survey, section 2.1.3): terms beside the gradient's distance.

A regularizer is built for an observation, of which it takes what the threat model declares, and maps the
:class:`Candidates` of a step to one term for each of them, already times its weight. One of one's own is any function
of candidates: ``lambda candidates: candidates.inputs.abs().flatten(1).mean(1)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gilearn.federated import Observed
from gilearn.federated.batch_norm import batch_norms, recorded_statistics
from gilearn.federated.explicit import Explicit
from gilearn.values import Value


@dataclass(kw_only=True)
class Candidates:
    """What the attacker holds at one step of the search: the inputs and labels of all restarts that run together.

    Args:
        seen: The observation.
        inputs: Dummy inputs (restarts, batch, *input_shape).
        targets: Labels (restarts, batch), or class probabilities (restarts, batch, num_classes).
        iteration: Number of the iteration, from 0.
        progress: Share of the iterations that are done, 0 to 1.
        masks: The dropout masks of every restart, where they are searched.
        rows: Which examples of the pool the batch is made of, where a step looks at a part of it; ``None``: all.
    """

    seen: Observed
    inputs: Tensor
    targets: Tensor
    iteration: int = 0
    progress: float = 0.0
    masks: Sequence[Sequence[Tensor] | None] | None = None
    rows: Tensor | None = None
    _passes: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]] = field(default_factory=list, repr=False)

    @property
    def logits(self) -> Tensor:
        """The model's output (restarts, batch, num_classes)."""
        return torch.stack([logits for logits, _ in self._passed()])

    @property
    def statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and biased variance, each (restarts, channels), of every batch normalization's input in order of use."""
        layers = zip(*(statistics for _, statistics in self._passed()), strict=True)
        return [(torch.stack([m for m, _ in layer]), torch.stack([v for _, v in layer])) for layer in layers]

    def _passed(self) -> Sequence[tuple[Tensor, list[tuple[Tensor, Tensor]]]]:
        """Pass every restart through the network, once: a batch normalization must not mix them."""
        if not self._passes:
            for inputs, masks in zip(self.inputs, self.masks or [None] * len(self.inputs), strict=True):
                with recorded_statistics(self.seen.network) as statistics, self._explicit(masks):
                    logits = self.seen.network(inputs)
                self._passes.append((logits, [found for _, found in statistics]))
        return self._passes

    def _explicit(self, masks: Sequence[Tensor] | None) -> AbstractContextManager[object]:
        """Return what a forward pass has to run under: dropout and embeddings take what the search has."""
        if not (getattr(self.seen, "mask_shapes", ()) or getattr(self.seen, "tokens", False)):
            return nullcontext()
        return Explicit(masks=self.seen.knowledge.get("masks") if masks is None else masks)


Term = Callable[[Candidates], Tensor]
"""A built regularizer: maps candidates to one number each (restarts,), differentiable in their inputs."""


@runtime_checkable
class Regularizer(Protocol):
    """Anything that builds a term for an observation. The engine takes a bare :data:`Term` as well.

    One that compares restarts with each other has ``compares = True``: the engine refuses to run it on a single one.
    """

    def build(self, seen: Observed) -> Term:
        """Return the term, with whatever it takes from the observation, and with a memory of its own."""
        ...


@dataclass(frozen=True, kw_only=True)
class Weighted(Value):
    """A regularizer with a weight that is its own term: what most of them are.

    Args:
        weight: Factor of the term, not negative.
    """

    weight: float

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight: got {self.weight}, wanted 0 or more")

    def build(self, seen: Observed) -> Term:
        """Return the term for an observation."""
        return self

    def __call__(self, candidates: Candidates) -> Tensor:
        """Return weight x the term, (restarts,)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TotalVariation(Weighted):
    """How much neighbouring pixels differ: zero on a constant picture, large on noise.

    Args:
        weight: Factor of the term, not negative.
        isotropic: The mean norm of the differences to the right and below, instead of the sum of their mean magnitudes.
        above: A total variation up to this is as good as none: what is weighed is the excess, not negative.

    Chapter: regularizers; vertical for ``above``. Source: geiping2020 (anisotropic); jin2021 for ``above``.
    """

    isotropic: bool = False
    above: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.above >= 0:
            raise ValueError(f"above: got {self.above}, wanted 0 or more")

    def __call__(self, candidates: Candidates) -> Tensor:
        """Return weight x total variation above the bound, (restarts,); any number of channels."""
        x = candidates.inputs
        across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
        if not self.isotropic:
            size = across.abs().flatten(1).mean(1) + down.abs().flatten(1).mean(1)
        else:
            both = torch.stack([across[..., :-1, :], down[..., :-1]])
            size = torch.linalg.vector_norm(both, dim=0).flatten(1).mean(1)
        return self.weight * ((size - self.above).clamp_min(0.0) if self.above else size)


@dataclass(frozen=True, kw_only=True)
class L2(Weighted):
    """The norm of the inputs, GradInversion's weakest prior.

    Chapter: regularizers. Source: yin2021.
    """

    def __call__(self, candidates: Candidates) -> Tensor:
        """Return weight x norm, (restarts,)."""
        return self.weight * _norms(candidates.inputs)


@dataclass(frozen=True, kw_only=True)
class BatchNormStatistics(Weighted):
    """How far the candidates are from the means and variances of every batch normalization's input: the fidelity term.

    Args:
        weight: Factor of the term, not negative.
        source: ``"running"``, the averages that every model carries, or ``"declared"``, those of the private batch,
            which the threat model must declare as ``batch_norm``.

    Raises:
        ValueError: The source is unknown. When built: the model has no batch normalization, keeps no averages, or the
            observation declares no statistics.

    Chapter: regularizers. Source: yin2021; huang2021 for the difference between the two sources.
    """

    source: str = "running"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source not in ("running", "declared"):
            raise ValueError(f"source: got {self.source!r}, wanted 'running' or 'declared'")

    def build(self, seen: Observed) -> Term:
        """Return weight x the sum over the layers of the norms of both differences."""
        wanted = [(mean.to(seen.device), variance.to(seen.device)) for mean, variance in self.wanted(seen)]

        def term(candidates: Candidates) -> Tensor:
            layers = zip(candidates.statistics, wanted, strict=True)
            gaps = [_norms(mean - m) + _norms(variance - v) for (mean, variance), (m, v) in layers]
            return self.weight * torch.stack(gaps).sum(dim=0)

        return term

    def wanted(self, seen: Observed) -> list[tuple[Tensor, Tensor]]:
        """Return the statistics that the candidates should have."""
        layers = batch_norms(seen.model)
        if not layers:
            raise ValueError("seen: the model has no batch normalization whose statistics could be compared")
        if self.source == "declared":
            return list(seen.known("batch_norm"))
        if any(layer.running_mean is None for layer in layers):
            raise ValueError("seen: a batch normalization of the model keeps no running statistics")
        return [(layer.running_mean, layer.running_var) for layer in layers]  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class GroupConsistency(Weighted):
    """How far a restart is from the mean of all that run together, or from what registration makes of that mean.

    Args:
        weight: Factor of the term, not negative.
        register: Shift every restart's picture onto the mean picture before the mean is taken again.
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

    @property
    def compares(self) -> bool:
        """``True``: a single restart has nobody to agree with."""
        return True

    def build(self, seen: Observed) -> Term:
        """Return weight x the norm of the difference to the consensus, which it keeps from step to step."""
        before: list[Tensor] = []

        def term(candidates: Candidates) -> Tensor:
            agreed = self.consensus(
                candidates.inputs, candidates.progress, candidates.iteration, before[0] if before else None
            )
            if self.register and candidates.progress >= self.after:  # a plain mean is taken anew at every step
                before[:] = [agreed]
            return self.weight * _norms(candidates.inputs - agreed)

        return term

    def consensus(self, inputs: Tensor, progress: float, iteration: int, before: Tensor | None) -> Tensor:
        """Return what the restarts agree on.

        Args:
            inputs: Of all restarts (restarts, batch, *input_shape).
            progress: Share of the iterations that are done.
            iteration: Their number.
            before: What the last registration has left, if there was one.
        """
        mean = inputs.detach().mean(dim=0)
        if not self.register or progress < self.after:
            return mean
        if iteration % self.every and before is not None:
            return before
        return registered_mean(inputs.detach(), mean)


@dataclass(frozen=True, kw_only=True)
class LabelConsistency(Weighted):
    """How far the model's prediction for a candidate is from its label: CPL's.

    The label is the extracted or optimized one. The released code compares with the model's output for the private
    input, which no server has.

    Chapter: regularizers. Source: wei2020cpl.
    """

    def __call__(self, candidates: Candidates) -> Tensor:
        """Return weight x the squared difference of probabilities, summed, (restarts,)."""
        targets = candidates.targets
        if not targets.is_floating_point():
            targets = F.one_hot(targets, candidates.seen.num_classes).to(candidates.inputs.dtype)
        return self.weight * (candidates.logits.softmax(dim=-1) - targets).square().flatten(1).sum(1)


@dataclass(frozen=True, kw_only=True)
class Orthogonality(Weighted):
    """How much the examples of a batch resemble each other: the mean squared cosine between two of them.

    It keeps the examples of a batch from sharing one picture; zero for a single example.

    Chapter: regularizers. Source: qian2021.
    """

    def __call__(self, candidates: Candidates) -> Tensor:
        """Return weight x mean squared cosine, (restarts,)."""
        flat = F.normalize(candidates.inputs.flatten(2), dim=2)
        number = flat.shape[1]
        if number == 1:
            return flat.sum(dim=(1, 2)) * 0.0
        squares = (flat @ flat.transpose(1, 2)).square()
        others = squares.sum(dim=(1, 2)) - squares.diagonal(dim1=1, dim2=2).sum(1)
        return self.weight * others / (number * (number - 1))


@dataclass(frozen=True, kw_only=True)
class MaskRate(Weighted):
    """How far the share of dropped units in a searched dropout mask is from its rate p, which the model states.

    The sum over all masks of |share - p|, where an entry's share is 1 - (1 - p) x entry: masks come scaled.

    Raises:
        ValueError: When called: no masks are searched.

    Chapter: dropout. Source: scheliga2023, as its code has it.
    """

    def build(self, seen: Observed) -> Term:
        """Return the term, with the rates of the observation."""
        rates: tuple[float, ...] = getattr(seen, "mask_rates", ())

        def term(candidates: Candidates) -> Tensor:
            searched = candidates.masks or [None]
            if any(masks is None for masks in searched):
                raise ValueError(
                    "regularizers: got MaskRate, and no masks are searched, wanted space=Pixels() & Masks()"
                )
            rows = [
                sum((1 - (1 - p) * mask.mean() - p).abs() for mask, p in zip(masks or (), rates, strict=True))
                for masks in searched
            ]
            return self.weight * torch.stack([torch.as_tensor(row) for row in rows])

        return term


def registered_mean(inputs: Tensor, target: Tensor) -> Tensor:
    """Shift every restart's pictures by whole pixels onto the target's and return their mean.

    Args:
        inputs: Pictures of all restarts (restarts, batch, channels, height, width).
        target: Pictures to shift onto (batch, channels, height, width).
    """
    from skimage.registration import phase_cross_correlation

    shifted = inputs.clone()
    flat = [tensor.mean(dim=-3).cpu().double().numpy() for tensor in (inputs, target)]
    for restart, example in np.ndindex(*inputs.shape[:2]):
        shift, _, _ = phase_cross_correlation(flat[1][example], flat[0][restart, example])
        down, across = (round(float(value)) for value in shift)
        shifted[restart, example] = torch.roll(inputs[restart, example], (down, across), dims=(-2, -1))
    return shifted.mean(dim=0)


def _norms(values: Tensor) -> Tensor:
    """Return the norm of every restart's values, (restarts,)."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms
