"""Label extraction (survey, section 2.1.1): read the labels off the gradient of the last fully connected layer.

With cross-entropy, row c of that layer's weight gradient is the batch mean of (p_c - [y = c]) h: the probability of
class c, less one for the examples that have it, times the features h. All rules live on that sign. They compute in
float64 and return a batch's labels in ascending order, since no gradient knows the order of its examples. An update
after local steps is read as the mean gradient of these steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from scipy.optimize import linprog, lsq_linear
from torch import Tensor, nn

from gilearn.federated import Observation


@runtime_checkable
class LabelRule(Protocol):
    """Anything that reads the labels of a batch off an observation."""

    def __call__(self, seen: Observation) -> Tensor:
        """Return the labels (batch,), int64, or raise a ``ValueError`` that says why this rule cannot."""
        ...


@dataclass(frozen=True)
class Declared:
    """The labels that the threat model hands to the attacker: no extraction at all. Chapter: deep-leakage."""

    def __call__(self, seen: Observation) -> Tensor:
        """Return the declared labels, or raise a ``ValueError`` if the observation declares none."""
        labels: Tensor = seen.known("labels")
        return labels


@dataclass(frozen=True)
class IDLG:
    """The label of a single example from the signs of inner products, as iDLG extracts it.

    With one example every row of the last layer's weight gradient is a multiple of the same features, and only the true
    class has a negative factor: its row is the one whose inner products with all others are not positive.

    Chapter: deep-leakage, labels-single. Source: zhao2020; survey, section 2.1.1.
    """

    def __call__(self, seen: Observation) -> Tensor:
        """Return the label, shape (1,), int64.

        Raises:
            ValueError: There is more than one example, the gradient of the last layer is withheld or zero, or not
                exactly one class fits (soft labels, noise; two classes without a bias).
        """
        if seen.batch_size != 1:
            raise ValueError(f"seen: got a batch of {seen.batch_size}; iDLG's rule is for one example")
        weight, bias = last_layer(seen)
        if seen.loss == "logistic":
            return _negative(bias).long()
        if weight is None:
            raise ValueError("seen: the weight gradient of the last layer is withheld, and iDLG's rule reads it")
        rows = weight.double()
        products = rows @ rows.T
        products.fill_diagonal_(-torch.inf)
        fits = (products <= 0).all(dim=1) & (rows != 0).any(dim=1)
        if int(fits.sum()) == 2 and bias is not None:  # two rows that point apart: only their bias tells which is which
            fits &= _negative(bias)
        if int(fits.sum()) != 1:
            raise ValueError(
                f"seen: {int(fits.sum())} classes fit iDLG's rule, wanted one (soft labels? noise? two classes?)"
            )
        return fits.nonzero().flatten()


@dataclass(frozen=True, kw_only=True)
class Yin:
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
        least = _rows(seen).min(dim=1).values
        if seen.batch_size > len(least):
            raise ValueError(
                f"seen: got {seen.batch_size} examples of {len(least)} classes; this rule finds no repeats"
            )
        present = int((least < 0).sum())
        if self.strict and present != seen.batch_size:
            reason = "features of both signs" if present > seen.batch_size else "repeated labels"
            raise ValueError(
                f"seen: {present} classes have negative entries in a batch of {seen.batch_size} ({reason}?); "
                "this rule needs distinct labels and features that are not negative"
            )
        return least.argsort()[: seen.batch_size].sort().values


@dataclass(frozen=True, kw_only=True)
class LLG:
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
        sums = _rows(seen).sum(dim=1)
        impact, offset = self.calibration(seen, sums)
        return _dealt(sums, impact, offset, seen.batch_size)

    def calibration(self, seen: Observation, sums: Tensor) -> tuple[float, Tensor]:
        """Return the impact of one example on its class's sum, negative, and every class's offset (classes,)."""
        negative = sums[sums < 0].sum()
        return float(negative * (1 + 1 / len(sums)) / seen.batch_size), torch.zeros_like(sums)


@dataclass(frozen=True, kw_only=True)
class LLGStar(LLG):
    """LLG with a white box: impact and offsets are those of batches of random inputs, one class at a time.

    Args:
        rounds: Batches per class, from 1.
        seed: Seeds the inputs, uniform in [0, 1].

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
                logits, features = _last_inputs(seen, x)
                sums_of_batch = (logits.softmax(dim=1) * features.sum(dim=1, keepdim=True)).mean(dim=0)
                own.append(sums_of_batch[label] - features.sum(dim=1).mean())
                sums_of_batch[label] = torch.nan
                of_others.append(sums_of_batch)
        impact = float(torch.stack(own).mean()) / seen.batch_size * (1 + 1 / len(sums))
        return impact, torch.stack(of_others).nanmean(dim=0).nan_to_num()

    def classes(self, number: int) -> list[int]:
        """Return the classes to measure."""
        return list(range(number))

    def inputs(self, seen: Observation, label: int, generator: torch.Generator) -> Tensor:
        """Return a batch of that class."""
        return torch.rand(seen.batch_size, *seen.input_shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class LLGPlus(LLGStar):
    """LLG with a white box and labelled data of the client's kind: batches of one class each, drawn with replacement.

    Args:
        examples: Auxiliary inputs (n, ...), not the client's.
        labels: Their labels (n,); classes without examples are not measured.

    Raises:
        ValueError: There are no examples, or not as many labels.

    Chapter: labels-batch. Source: wainakh2021 (LLG+).
    """

    examples: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.examples) == 0 or len(self.examples) != len(self.labels):
            raise ValueError(f"examples: got {len(self.examples)} with {len(self.labels)} labels, wanted one each")

    def classes(self, number: int) -> list[int]:
        """Return the classes that there are examples of."""
        return [label for label in range(number) if (self.labels == label).any()]

    def inputs(self, seen: Observation, label: int, generator: torch.Generator) -> Tensor:
        """Return a batch of that class."""
        rows = (self.labels == label).nonzero().flatten()
        return self.examples[rows[torch.randint(len(rows), (seen.batch_size,), generator=generator)]]


@dataclass(frozen=True, kw_only=True)
class ILRG:
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
        return _labels_of(_rounded(counts.clamp(min=0), seen.batch_size))


@dataclass(frozen=True, kw_only=True)
class RLG:
    """The classes that occur, from the row space of the gradient: Revealing Labels from Gradients (Dang et al., 2021).

    The weight gradient of the last layer is (derivatives of the logits) x (features). Its row space is that of the
    derivatives, whatever the features' signs; and every example's derivative is negative at its own label alone. So a
    class occurs if some vector of the row space is negative there and nowhere else, which a linear program decides.

    It needs fewer examples than classes and features: S examples, time steps or local steps' examples in all, with
    S < min(features, classes - 1).

    Args:
        tolerance: Singular values below this share of the largest count as zero.

    Raises:
        ValueError: ``tolerance`` is not between 0 and 1.

    Chapter: labels-bag-of-words. Source: dang2021. Component: ``scipy.optimize.linprog`` (HiGHS).
    """

    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance: got {self.tolerance}, wanted between 0 and 1")

    def __call__(self, seen: Observation) -> Tensor:
        """Return the labels (batch,), int64, ascending.

        Where a class repeats, the counts are those that explain the bias gradient best, as in :class:`ILRG`, with every
        present class at least once and no other.

        Raises:
            ValueError: As :meth:`present`; or there are fewer classes than examples, and no bias gradient to count by.
        """
        present = self.present(seen)
        if len(present) > seen.batch_size:
            raise ValueError(f"seen: {len(present)} classes fit a batch of {seen.batch_size}: the rank was misjudged")
        if len(present) == seen.batch_size:
            return present
        system, right = counts_system(seen)
        spare = seen.batch_size - len(present)
        right = right - system[:, present].sum(dim=1)
        more = lsq_linear(system[:, present].numpy(), right.numpy(), bounds=(0, spare)).x
        counts = torch.zeros(system.shape[1], dtype=torch.float64)
        counts[present] = 1 + _rounded(torch.from_numpy(more), spare).double()
        return _labels_of(counts.long())

    def present(self, seen: Observation) -> Tensor:
        """Return the classes that occur, int64, ascending: the bag of words of a batch or a sentence.

        Raises:
            ValueError: The rank is not below classes - 1 and features, no class can be told, or the weight gradient is
                withheld.
        """
        rows = _rows(seen)
        _, sizes, basis = torch.linalg.svd(rows.T, full_matrices=False)  # features x classes
        rank = int((sizes > self.tolerance * sizes[0]).sum())
        most = min(rows.shape[0] - 1, rows.shape[1])
        if rank >= most:
            raise ValueError(
                f"seen: the gradient has rank {rank}; this rule needs less than {most} (features or classes)"
            )
        columns = basis[:rank].T.numpy()  # one per class
        return torch.tensor([c for c in range(len(columns)) if _separable(columns, c)], dtype=torch.int64)


def last_layer(seen: Observation) -> tuple[Tensor | None, Tensor | None]:
    """Return the shared gradient of the last fully connected layer: weight (classes, features) and bias (classes,).

    Either is ``None`` where the client withheld it, or where there is no bias.

    Raises:
        ValueError: The model ends in no fully connected layer.
    """
    linear = [module for module in seen.model.modules() if isinstance(module, nn.Linear)]
    outputs = seen.num_classes if seen.loss == "cross_entropy" else 1
    if not linear or linear[-1].out_features != outputs:
        raise ValueError(f"seen: the model's last layer is no nn.Linear with {outputs} outputs, which label rules need")
    return seen.gradient_of(linear[-1].weight), seen.gradient_of(linear[-1].bias)


def _negative(bias: Tensor | None) -> Tensor:
    """Say for each output whether its bias gradient is negative, as it is for the true class alone."""
    if bias is None or not (bias != 0).any():
        raise ValueError(
            "seen: the bias gradient of the last layer is withheld, absent or zero, and the label hides in it"
        )
    return bias < 0


def counts_system(seen: Observation) -> tuple[Tensor, Tensor]:
    """Return matrix and right-hand side of the linear system that the counts of the classes solve, iLRG's Eq. (11).

    One row per class, from its bias gradient, and one that adds up the batch; float64 on the CPU.

    Raises:
        ValueError: The last layer's weight or bias gradient is withheld, absent or zero.
    """
    weight = _rows(seen)
    module = _last_linear(seen)
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
    right = torch.cat([seen.batch_size * bias, torch.tensor([float(seen.batch_size)], dtype=torch.float64)])
    return system, right


def _rows(seen: Observation) -> Tensor:
    """Return the last layer's weight gradient (classes, features), float64 on the CPU."""
    if seen.loss != "cross_entropy":
        raise ValueError(f"seen: got the loss {seen.loss!r}; this rule is for cross_entropy")
    weight, _ = last_layer(seen)
    if weight is None:
        raise ValueError("seen: the weight gradient of the last layer is withheld, and this rule reads it")
    if not (weight != 0).any():
        raise ValueError("seen: the weight gradient of the last layer is zero")
    return weight.detach().cpu().double()


def _last_linear(seen: Observation) -> nn.Linear:
    last_layer(seen)  # refuses a model that ends otherwise
    return [module for module in seen.model.modules() if isinstance(module, nn.Linear)][-1]


@torch.no_grad()
def _last_inputs(seen: Observation, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and last features of a batch of the attacker's, float64 on the CPU."""
    caught: list[Tensor] = []
    handle = _last_linear(seen).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        logits = seen.model(x.to(seen.device, seen.dtype))
    finally:
        handle.remove()
    return logits.cpu().double(), caught[0].cpu().double()


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


def _separable(columns: np.ndarray, c: int) -> bool:
    """Say whether a hyperplane through the origin has column c alone on its negative side (the others may touch it)."""
    signs = -columns.copy()
    signs[c] = columns[c]
    bounds = np.zeros(len(columns))
    bounds[c] = -1.0
    found = linprog(np.zeros(columns.shape[1]), A_ub=signs, b_ub=bounds, bounds=(None, None), method="highs")
    return bool(found.status == 0)


def _rounded(counts: Tensor, total: int) -> Tensor:
    """Round counts to whole numbers that add up to ``total``, moving those that rounding moved furthest."""
    if counts.sum() > 0:
        counts = counts * (total / counts.sum())
    whole = counts.floor()
    order = (counts - whole).argsort(descending=True)
    whole[order[: total - int(whole.sum())]] += 1
    return whole.long()


def _labels_of(counts: Tensor) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(counts)
