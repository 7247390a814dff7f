"""Batches: their labels from minima and sums of the last layer's rows, or from a linear system in the counts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from gilearn.attacks.labels.base import LabelRule
from gilearn.attacks.labels.head import as_inputs, examples, last_layer_gradient, last_linear
from gilearn.content import Content
from gilearn.federated import Observation
from gilearn.federated.explicit import Explicit
from gilearn.hooks import recorded_inputs


@dataclass(frozen=True, kw_only=True)
class RowMinimum(LabelRule):
    """The distinct labels of a batch: the classes whose rows reach lowest, as GradInversion extracts them.

    A class that no example has gets a row of positive multiples of the features. If these are not negative, a negative
    entry gives a class away, and the B classes with the least minima are the labels, provided that none repeats.

    Args:
        strict: Refuse a batch whose number of classes with negative entries is not its size; the published rule, which
            is ``strict=False``, returns B classes whatever they are.

    Chapter: labels-batch. Source: yin2021; survey, section 2.1.1.
    """

    strict: bool = True

    def __call__(self, seen: Observation) -> Tensor:
        """Return the labels (batch,), int64, ascending and distinct.

        Raises:
            ValueError: There are more examples than classes, the last layer's weight gradient is withheld, or, if
                strict, fewer classes than examples have negative entries (repeats), or more (features of both signs).
        """
        least, number = last_layer_gradient(seen).min(dim=1).values, examples(seen)
        if number > len(least):
            raise ValueError(f"seen: got {number} examples of {len(least)} classes; this rule finds no repeats")
        present = int((least < 0).sum())
        if self.strict and present != number:
            reason = "features of both signs" if present > number else "repeated labels"
            raise ValueError(
                f"seen: {present} classes have negative entries in a batch of {number} ({reason}?); "
                "this rule needs distinct labels and features that are not negative"
            )
        return least.argsort()[:number].sort().values


@dataclass(frozen=True, kw_only=True)
class LLG(LabelRule):
    """Labels with repeats, from the sums of the rows: Label Leakage from Gradients (Wainakh et al., 2021).

    With features that are not negative, a class's sum is about (count x impact + offset), the impact being negative.
    Classes with negative sums are there at least once; then the lowest sum gets a label, and its impact back, until
    there are as many labels as examples. This one knows the gradient alone: it takes the impact from the negative sums
    and no offset. :class:`LLGStar` and :class:`LLGPlus` estimate both with the model.

    Chapter: labels-batch. Source: wainakh2021.
    """

    def __call__(self, seen: Observation) -> Tensor:
        """Return the labels (batch,), int64, ascending.

        Raises:
            ValueError: The last layer's weight gradient is withheld, or no class has a negative sum.
        """
        sums = last_layer_gradient(seen).sum(dim=1)
        impact, offset = self.calibration(seen, sums)
        return _dealt(sums, impact, offset, examples(seen))

    def calibration(self, seen: Observation, sums: Tensor) -> tuple[float, Tensor]:
        """Return the impact of one example on its class's sum, negative, and every class's offset (classes,)."""
        negative = sums[sums < 0].sum()
        return float(negative * (1 + 1 / len(sums)) / examples(seen)), torch.zeros_like(sums)


@dataclass(frozen=True, kw_only=True)
class LLGStar(LLG):
    """LLG with a white box: impact and offsets are those of batches of random inputs, one class at a time.

    Args:
        rounds: Batches per class, from 1.
        seed: Seeds the inputs, uniform in [0, 1], and dropout masks.

    Chapter: labels-batch. Source: wainakh2021 (LLG*).
    """

    rounds: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds: got {self.rounds}, wanted at least 1")

    def calibration(self, seen: Observation, sums: Tensor) -> tuple[float, Tensor]:
        """Return impact and offsets, measured on the model with batches of the attacker's own."""
        generator = torch.Generator().manual_seed(self.seed)
        own: list[Tensor] = []
        of_others: list[Tensor] = []
        for _ in range(self.rounds):
            for label in self.classes(len(sums)):
                x = self.inputs(seen, label, generator)
                logits, features = _last_inputs(seen, x, generator)
                sums_of_batch = (logits.softmax(dim=1) * features.sum(dim=1, keepdim=True)).mean(dim=0)
                own.append(sums_of_batch[label] - features.sum(dim=1).mean())
                sums_of_batch[label] = torch.nan
                of_others.append(sums_of_batch)
        impact = float(torch.stack(own).mean()) / examples(seen) * (1 + 1 / len(sums))
        return impact, torch.stack(of_others).nanmean(dim=0).nan_to_num()

    def classes(self, number: int) -> list[int]:
        """Return the classes to measure."""
        return list(range(number))

    def inputs(self, seen: Observation, label: int, generator: torch.Generator) -> Tensor:
        """Return a batch of that class."""
        if seen.tokens:
            raise ValueError("seen: got a model of tokens, and this rule draws pictures; LLGPlus takes examples")
        return torch.rand(seen.batch_size, *seen.input_shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LLGPlus(Content, LLGStar):
    """LLG with a white box and labelled data of the client's kind: batches of one class each, drawn with replacement.

    Args:
        examples: Auxiliary inputs (n, ...), not the client's.
        labels: Their labels (n,); classes without examples are not measured.

    Raises:
        ValueError: There are no examples, or not as many labels.

    Chapter: labels-batch. Source: wainakh2021 (LLG+).
    """

    examples: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.examples) == 0 or len(self.examples) != len(self.labels):
            raise ValueError(f"examples: got {len(self.examples)} with {len(self.labels)} labels, wanted one each")

    def classes(self, number: int) -> list[int]:
        """Return the classes that there are examples of."""
        return [label for label in range(number) if (self.labels == label).any()]

    def inputs(self, seen: Observation, label: int, generator: torch.Generator) -> Tensor:
        """Return a batch of that class."""
        own = (self.labels == label).nonzero().flatten()
        return self.examples[own[torch.randint(len(own), (seen.batch_size,), generator=generator)]]


@dataclass(frozen=True, kw_only=True)
class ILRG(LabelRule):
    """Labels with repeats, from one linear system in the counts: instance-wise label restoration (Ma et al., 2023).

    The quotient of a class's weight and bias gradient is an embedding of this class; the model's own last layer says
    which probabilities it would give. With these, the bias gradient is linear in the counts.

    Chapter: labels-batch. Source: ma2023.
    """

    def __call__(self, seen: Observation) -> Tensor:
        """Return the labels (batch,), int64, ascending.

        Raises:
            ValueError: The last layer's weight or bias gradient is withheld, absent or zero.
        """
        system, right = counts_system(seen)
        counts = torch.linalg.pinv(system) @ right
        return labels_of(rounded(counts.clamp(min=0), examples(seen)))


def counts_system(seen: Observation) -> tuple[Tensor, Tensor]:
    """Return matrix and right-hand side of the linear system that the counts of the classes solve, iLRG's Eq. (11).

    One row per class, from its bias gradient, and one that adds up the batch; float64 on the CPU.

    Raises:
        ValueError: The last layer's weight or bias gradient is withheld, absent or zero.
    """
    weight = last_layer_gradient(seen)
    module = last_linear(seen)
    bias = seen.gradient_of(module.bias)
    if bias is None or not (bias != 0).any():
        raise ValueError("seen: the bias gradient of the last layer is withheld, absent or zero; counting needs it")
    bias = bias.detach().cpu().double()
    safe = torch.where(bias == 0, torch.ones_like(bias), bias)
    embeddings = weight / safe[:, None]
    logits = embeddings @ module.weight.detach().cpu().double().T + module.bias.detach().cpu().double()
    probabilities = logits.softmax(dim=1).T  # column c: what an example of class c gets
    classes = len(bias)
    system = torch.cat([probabilities - torch.eye(classes, dtype=torch.float64), torch.ones(1, classes).double()])
    number = examples(seen)
    right = torch.cat([number * bias, torch.tensor([float(number)], dtype=torch.float64)])
    return system, right


@torch.no_grad()
def _last_inputs(seen: Observation, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return logits and last features of a batch of the attacker's, one row per example, float64 on the CPU."""
    masked = Explicit(generator=generator) if seen.mask_rates else nullcontext()
    with recorded_inputs(seen.network, [last_linear(seen)]) as recorded, masked:
        logits = seen.network(as_inputs(x, seen))
    return logits.flatten(0, -2).cpu().double(), recorded[0][1].flatten(0, -2).cpu().double()


def _dealt(sums: Tensor, impact: float, offset: Tensor, batch_size: int) -> Tensor:
    """Deal out a batch's labels: one to every negative sum, then always to the lowest, whose impact is given back."""
    if not impact < 0:
        raise ValueError("seen: no class has a negative sum; this rule needs features that are not negative")
    order = sums.argsort()
    found = [int(c) for c in order if sums[c] < 0][:batch_size]
    left = sums - offset
    left[found] -= impact
    while len(found) < batch_size:
        lowest = int(left.argmin())
        found.append(lowest)
        left[lowest] -= impact
    return torch.tensor(found, dtype=torch.int64).sort().values


def rounded(counts: Tensor, total: int) -> Tensor:
    """Round counts to whole numbers that add up to ``total``, moving those that rounding moved furthest."""
    if counts.sum() > 0:
        counts = counts * (total / counts.sum())
    whole = counts.floor()
    order = (counts - whole).argsort(descending=True)
    whole[order[: total - int(whole.sum())]] += 1
    return whole.long()


def labels_of(counts: Tensor) -> Tensor:
    """Return the labels that have these counts (classes,), ascending."""
    return torch.arange(len(counts)).repeat_interleave(counts)
