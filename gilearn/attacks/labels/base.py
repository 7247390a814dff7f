"""The labels of a search: read off by a rule, declared, given, or free logits that are searched with the inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from gilearn.attacks.labels.head import traced
from gilearn.content import Content
from gilearn.federated import Observation, Observed
from gilearn.federated.checks import check_targets
from gilearn.values import Value


class LabelFactor(Protocol):
    """The labels' part of a search: variables of one start, and the targets that they stand for."""

    def begin(self, seen: Observed, initialization: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the variables of one start by name; ``initialization`` is that of the inputs."""
        ...

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``{"targets": ...}`` of one start, differentiable in its variables."""
        ...

    def project(self, variables: dict[str, Tensor]) -> None:
        """Move variables in place to where they may be."""
        ...


@dataclass(frozen=True, kw_only=True)
class LabelRule(Value):
    """Reads the labels of a batch off an observation; a subclass implements :meth:`__call__`."""

    def __call__(self, seen: Observation) -> Tensor:
        """Return the labels (batch,), int64, or raise a ``ValueError`` that says why this rule cannot."""
        raise NotImplementedError

    def build(self, seen: Observed) -> LabelFactor:
        """Return the labels of this observation as a factor of a search, in which they stay what they are.

        Raises:
            ValueError: The rule cannot read them, or read something that is no label of this batch.
        """
        return Fixed(self(cast(Observation, seen))).build(seen)


@dataclass(frozen=True, kw_only=True)
class Declared(LabelRule):
    """The labels that the threat model hands to the attacker: no extraction at all.

    Of a client whose defense changes labels these are the ones before; the function ``lambda seen:
    seen.known("targets")`` is the rule that reads what its loss saw.

    Chapter: deep-leakage.
    """

    def __call__(self, seen: Observed) -> Tensor:
        """Return the declared labels, or raise a ``ValueError`` if the observation declares none."""
        labels: Tensor = seen.known("labels")
        return labels


@dataclass(frozen=True, eq=False, repr=False)
class Fixed(Content):
    """Labels that are given, whoever found them, and not searched.

    Args:
        targets: Labels (batch,), or (batch, length) for a sequence, of an integer type; or probabilities, with the
            classes behind these axes.

    Chapter: anatomy.
    """

    targets: Tensor

    def build(self, seen: Observed) -> Fixed:
        """Return them where the observation is: labels int64, probabilities of the model's type.

        Raises:
            ValueError: They are no labels of this batch: other in number, out of range, or neither labels nor
                probabilities.
        """
        targets, shape = self.targets, traced(seen).shape
        if not isinstance(targets, Tensor):
            raise ValueError(f"labels: got a {type(targets).__name__}, wanted a tensor")
        if targets.dtype == torch.bool or targets.ndim == 0:
            raise ValueError(f"labels: got {targets!r}, wanted integer labels, one each")
        check_targets(targets, seen.batch_size, shape, seen.num_classes, "labels")
        if not targets.is_floating_point():
            return Fixed(targets.to(seen.device, torch.int64))
        if not (targets >= 0).all() or not torch.isfinite(targets).all():
            raise ValueError("labels: got probabilities that are negative, NaN or infinite")
        return Fixed(targets.to(seen.device, seen.dtype))

    def begin(self, seen: Observed, initialization: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return nothing: there is nothing to search."""
        return {}

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the labels."""
        return {"targets": self.targets}

    def project(self, variables: dict[str, Tensor]) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Joint(Value):
    """Search the labels together with the inputs, as the softmax of free logits.

    Args:
        initialization: Draws the logits (batch, num_classes), of sequences (batch, length, num_classes), from a shape
            and a generator, as the values of ``attacks.initialization`` do; ``None``: standard normal.

    Chapter: deep-leakage. Source: zhu2019.
    """

    initialization: Callable[[tuple[int, ...], torch.Generator], Tensor] | None = None

    def build(self, seen: Observed) -> Joint:
        """Return itself, or raise a ``ValueError`` if the observation's loss takes no class probabilities."""
        if seen.loss != "cross_entropy":
            raise ValueError(f"labels: Joint() needs the loss cross_entropy, the observation has {seen.loss}")
        return self

    def begin(self, seen: Observed, initialization: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the logits of one start, a row per example or per place of a sequence.

        The inputs' ``initialization`` does not matter.
        """
        shape = (seen.batch_size, *traced(seen).shape)
        if self.initialization is None:
            logits = torch.randn(shape, generator=generator, dtype=torch.float64)
        else:
            logits = self.initialization(shape, generator)
        return {"logits": logits.to(seen.device, seen.dtype)}

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the class probabilities."""
        return {"targets": variables["logits"].softmax(dim=-1)}

    def project(self, variables: dict[str, Tensor]) -> None:
        """Do nothing: every logit is allowed."""


def as_factor(labels: Any, seen: Observed) -> LabelFactor:
    """Return the labels' part of a search of this observation.

    Args:
        labels: What has a ``build``, as a :class:`LabelRule`, :class:`Joint` or :class:`Fixed`; or a plain function
            from an observation to its labels (batch,).
        seen: The observation.

    Raises:
        ValueError: ``labels`` is none of these, or cannot be had from this observation.
    """
    if isinstance(labels, type):
        raise ValueError(f"labels: got the class {labels.__name__}, wanted a value: {labels.__name__}()")
    if hasattr(labels, "build"):
        return cast(LabelFactor, labels.build(seen))
    if not callable(labels):
        raise ValueError(f"labels: got {labels!r}, wanted a rule, Joint(), Fixed(labels) or a function")
    return Fixed(labels(seen)).build(seen)
