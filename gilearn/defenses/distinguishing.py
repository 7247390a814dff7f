"""The game behind a privacy audit: many trainings by DP-SGD, with one more example and without it, and who watches.

All trainings of a kind run side by side: per-example gradients are mapped over examples and over trainings.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parameters_to_vector

from gilearn.federated.checks import check_batch, check_mixes_nothing, check_name, check_number, check_whole
from gilearn.federated.task import LOSSES, Objective
from gilearn.values import Value

_ENTRIES = 2**23  # of the per-example gradients that are held at a time

Release = Callable[[Tensor, Tensor, float, float], Tensor]
"""What a step releases: takes per-example gradients (trainings, examples, parameters), a standard normal draw
(trainings, parameters), clipping norm and noise multiplier, and returns a noisy sum (trainings, parameters). An example
that does not take part has a gradient of zero. Where all trainings agree, the first axis has length 1."""


def noisy_sum(gradients: Tensor, draw: Tensor, norm: float, noise: float) -> Tensor:
    """Return what a step of DP-SGD releases: every example's gradient clipped, then the sum, then the noise.

    Args:
        gradients: (trainings, examples, parameters).
        draw: Standard normal (trainings, parameters).
        norm: The largest norm of one example's gradient, positive.
        noise: Standard deviation of the noise, in units of ``norm``, not negative.

    Raises:
        ValueError: The shapes are others, or a number is out of range.

    Chapter: auditing-privacy. Source: abadi2016, algorithm 1.
    """
    if not isinstance(gradients, Tensor) or gradients.ndim != 3:
        came = tuple(gradients.shape) if isinstance(gradients, Tensor) else type(gradients).__name__
        raise ValueError(f"gradients: got {came}, wanted a tensor (trainings, examples, parameters)")
    if not isinstance(draw, Tensor) or draw.ndim != 2 or draw.shape[1] != gradients.shape[2]:
        came = tuple(draw.shape) if isinstance(draw, Tensor) else type(draw).__name__
        raise ValueError(f"draw: got {came}, wanted a tensor (trainings, {gradients.shape[2]})")
    check_number("norm", norm, lambda value: 0 < value < math.inf, "a positive number")
    check_number("noise", noise, lambda value: 0 <= value < math.inf, "0 or more")
    lengths = torch.linalg.vector_norm(gradients, dim=2)
    factors = norm / lengths.clamp_min(norm)
    return torch.bmm(factors.unsqueeze(1), gradients).squeeze(1) + noise * norm * draw


class Adversary(Protocol):
    """Who inserts the example, and what it makes of what it sees; :class:`GradientCanary`, :class:`ExampleCanary`."""

    def insert(self, training: NoisyTraining, weights: Tensor) -> Tensor:
        """Return the gradient of what is inserted, before clipping, (trainings or 1, parameters)."""
        ...

    def watch(self, training: NoisyTraining, weights: Tensor, released: Tensor) -> Tensor | float:
        """Return what one step adds to the score (trainings,), given the weights before it and what it released."""
        ...

    def close(self, training: NoisyTraining, weights: Tensor) -> Tensor | float:
        """Return what the final weights (trainings, parameters) add to the score."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyTraining(Value):
    """DP-SGD of one model on one data set, run many times with fresh noise.

    A step takes part of the examples, each independently with probability ``rate``, releases their noisy sum, and moves
    by ``lr`` times that sum over the expected batch size, ``rate`` times the number of examples, which is public.

    Args:
        model: Where every training starts; it is copied and runs in inference mode.
        inputs: The data set without the canary (examples, ...).
        labels: (examples,).
        norm: Clipping norm of one example's gradient, positive.
        noise: Noise multiplier: standard deviation of the noise over ``norm``, positive.
        lr: Learning rate, positive.
        steps: From 1.
        rate: Probability of taking part in a step, above 0 to 1.
        loss: A key of ``gilearn.federated.LOSSES``.
        release: What a step releases; another function than :func:`noisy_sum` is an implementation to be audited.

    Raises:
        ValueError: A number is out of range, or model, inputs and labels do not fit.

    Chapter: auditing-privacy. Source: abadi2016, algorithm 1; nasr2021 for the game.
    """

    model: nn.Module = field(repr=False)
    inputs: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    norm: float = 1.0
    noise: float
    lr: float = 1.0
    steps: int = 1
    rate: float = 1.0
    loss: str = "cross_entropy"
    release: Release = noisy_sum
    num_classes: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("norm", "noise", "lr"):
            check_number(name, getattr(self, name), lambda value: 0 < value < math.inf, "a positive number")
        check_number("rate", self.rate, lambda value: 0 < value <= 1, "a probability above 0, to 1")
        check_whole("steps", self.steps)
        check_name("loss", self.loss, LOSSES)
        if not callable(self.release):
            raise ValueError(f"release: got {self.release!r}, wanted a function, such as noisy_sum")
        inputs, labels, num_classes = check_batch(self.model, self.inputs, self.labels)
        model = copy.deepcopy(self.model).eval()
        for name, value in {"inputs": inputs, "labels": labels, "num_classes": num_classes, "model": model}.items():
            object.__setattr__(self, name, value)
        check_mixes_nothing(self.model)

    @cached_property
    def start(self) -> Tensor:
        """The weights that every training starts with, (parameters,)."""
        return parameters_to_vector(self.model.parameters()).detach()

    def gradients(self, weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return every example's gradient at every training's weights.

        Args:
            weights: (trainings, parameters).
            inputs: (examples, ...).
            labels: (examples,).

        Returns:
            (trainings, examples, parameters), not clipped.
        """
        of_examples = vmap(grad(self._loss), (None, 0, 0))
        found: Tensor = vmap(of_examples, (0, None, None))(weights, inputs, labels)
        return found

    def losses(self, weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return every example's loss at every training's weights, (trainings, examples)."""
        with torch.no_grad():
            of_examples = vmap(self._loss, (None, 0, 0))
            found: Tensor = vmap(of_examples, (0, None, None))(weights, inputs, labels)
        return found

    def outputs(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Return the logits (trainings, examples, classes) at every training's weights."""
        with torch.no_grad():
            found: Tensor = vmap(lambda one: functional_call(self.model, self._named(one), (inputs,)))(weights)
        return found

    def run(self, trainings: int, *, seed: int = 0) -> Tensor:
        """Train on the data set as it is, many times.

        Args:
            trainings: How many, from 1.
            seed: Seeds the noise and who takes part.

        Returns:
            The final weights (trainings, parameters).

        Raises:
            ValueError: A number is out of range.
        """
        check_whole("trainings", trainings)
        generator = _seeded(seed)
        return torch.cat([self._train(number, generator)[0] for number in self._portions(trainings)])

    def play(self, adversary: Adversary, trainings: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Train without what the adversary inserts, and with it, many times, and return the adversary's scores.

        Args:
            adversary: Inserts an example, or its gradient, and scores what it sees: the higher, the more the training
                looks like one with the insertion.
            trainings: How many of each kind, from 1.
            seed: Seeds the noise and who takes part.

        Returns:
            Scores of the trainings without the insertion, and of those with it, (trainings,) each, all independent.

        Raises:
            ValueError: A number is out of range, or the insertion does not fit the model.

        Chapter: auditing-privacy. Source: nasr2021.
        """
        check_whole("trainings", trainings)
        if not all(callable(getattr(adversary, name, None)) for name in ("insert", "watch", "close")):
            raise ValueError(f"adversary: got {adversary!r}, wanted one that can insert, watch and close")
        generator = _seeded(seed)
        without, present = (
            torch.cat([self._train(n, generator, adversary, joins=joins)[1] for n in self._portions(trainings)])
            for joins in (False, True)
        )
        return without, present

    @cached_property
    def unused(self) -> int:
        """A parameter that no example moves: its gradient is zero at the start and at weights drawn around it.

        The weights of a pixel that is black in all examples are such parameters.

        Raises:
            ValueError: There is none.
        """
        spread = 0.1 * torch.randn(self.start.shape, generator=torch.Generator().manual_seed(0)).to(self.start)
        weights = torch.stack([self.start, self.start + spread])
        still = (self.gradients(weights, self.inputs, self.labels) == 0).flatten(0, 1).all(0)
        if not still.any():
            raise ValueError("inputs: got examples that move every parameter, wanted one that stays, to hide a canary")
        return int(still.nonzero()[0])

    def _train(
        self, number: int, generator: torch.Generator, adversary: Adversary | None = None, *, joins: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return final weights and scores of so many trainings."""
        weights, score = self.start[None], self.start.new_zeros(number)
        for _ in range(self.steps):
            gradients = self.gradients(weights, self.inputs, self.labels)
            if adversary is not None and joins:
                inserted = adversary.insert(self, weights).unsqueeze(1)
                gradients = torch.cat([gradients, inserted.expand(len(gradients), -1, -1)], dim=1)
            if self.rate < 1:
                drawn = torch.rand((number, gradients.shape[1], 1), generator=generator, dtype=torch.float64)
                gradients = gradients * (drawn < self.rate).to(gradients)
            draw = torch.randn((number, len(self.start)), generator=generator, dtype=self.start.dtype)
            released = self.release(gradients, draw.to(self.start), self.norm, self.noise)
            if adversary is not None:
                score = score + adversary.watch(self, weights, released)
            weights = weights - self.lr / (self.rate * len(self.inputs)) * released
        if adversary is not None:
            score = score + adversary.close(self, weights)
        return weights, score

    def _loss(self, weights: Tensor, example: Tensor, label: Tensor) -> Tensor:
        named = {f"model.{name}": value for name, value in self._named(weights).items()}
        loss: Tensor = functional_call(Objective(self.model, self.loss), named, (example[None], label[None]))
        return loss

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        parameters = dict(self.model.named_parameters())
        parts = torch.split(weights, [p.numel() for p in parameters.values()])
        return {name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)}

    def _portions(self, trainings: int) -> Iterator[int]:
        """Yield how many trainings run side by side, until there are enough."""
        most = max(1, _ENTRIES // ((len(self.inputs) + 1) * len(self.start)))
        for first in range(0, trainings, most):
            yield min(most, trainings - first)


@dataclass(frozen=True, kw_only=True)
class GradientCanary(Value):
    """Inserts a long gradient along a parameter that no example moves, and sees what every step releases.

    Its score is the logarithm of the likelihood ratio of what it sees there under :func:`noisy_sum`: without
    subsampling that grows with the sum of the released entries, the projection on its direction.

    Args:
        size: Norm of what it inserts, in clipping norms, before clipping; at least 1.
        parameter: Which one; ``None`` for the first that no example moves.

    Raises:
        ValueError: A number is out of range.

    Chapter: auditing-privacy. Source: nasr2021, the gradient attack.
    """

    size: float = 100.0
    parameter: int | None = None

    def __post_init__(self) -> None:
        check_number("size", self.size, lambda value: 1 <= value < math.inf, "at least 1")
        if self.parameter is not None:
            check_whole("parameter", self.parameter, 0)

    def insert(self, training: NoisyTraining, weights: Tensor) -> Tensor:
        """Return the gradient that it inserts."""
        inserted = torch.zeros_like(weights[:1])
        inserted[0, self._place(training)] = self.size * training.norm
        return inserted

    def watch(self, training: NoisyTraining, weights: Tensor, released: Tensor) -> Tensor:
        """Return the log likelihood ratio of the released entry (trainings,)."""
        seen = released[:, self._place(training)].double() / training.norm
        ratio = (seen - 0.5) / training.noise**2
        absent = torch.tensor(1 - training.rate, dtype=torch.float64, device=ratio.device).log()
        return torch.logaddexp(absent, ratio + math.log(training.rate))

    def close(self, training: NoisyTraining, weights: Tensor) -> float:
        """Return zero: it has seen everything."""
        return 0.0

    def _place(self, training: NoisyTraining) -> int:
        if self.parameter is None:
            return training.unused
        if self.parameter >= len(training.start):
            raise ValueError(f"parameter: got {self.parameter}, wanted one of {len(training.start)} parameters, from 0")
        return self.parameter


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleCanary(Value):
    """Inserts an example: a natural one, or one that was made for it, with a wrong label, say.

    Args:
        input: The example, without a batch axis.
        label: Its label, from 0.
        sees: ``"loss"``: the final model's loss on the example, and nothing else; ``"models"``: the model after every
            step. What moved it is then projected on the clipped gradient that the example has there.

    Raises:
        ValueError: The input is no tensor of finite numbers, the label no whole number, or what it sees is unknown.

    Chapter: auditing-privacy. Source: nasr2021, the attacks by API access, with intermediate models, and by a static
    poison.
    """

    input: Tensor = field(repr=False)
    label: int
    sees: str = "loss"

    def __post_init__(self) -> None:
        if not isinstance(self.input, Tensor):
            raise ValueError(f"input: got a {type(self.input).__name__}, wanted a tensor, one example without a batch")
        if not torch.isfinite(self.input).all():
            raise ValueError("input: got NaN or infinite values, wanted finite ones")
        check_whole("label", self.label, 0)
        check_name("sees", self.sees, ("loss", "models"))

    def insert(self, training: NoisyTraining, weights: Tensor) -> Tensor:
        """Return the example's gradient."""
        return training.gradients(weights, *self._example(training))[:, 0]

    def watch(self, training: NoisyTraining, weights: Tensor, released: Tensor) -> Tensor | float:
        """Return the projection of what a step released, if it sees the models."""
        if self.sees == "loss":
            return 0.0
        own = self.insert(training, weights)
        clipped = own / torch.linalg.vector_norm(own, dim=1, keepdim=True).clamp_min(training.norm)
        projected: Tensor = (released * clipped).sum(1).double() / training.norm
        return projected

    def close(self, training: NoisyTraining, weights: Tensor) -> Tensor | float:
        """Return the final model's loss with the sign changed, if that is what it sees."""
        if self.sees == "models":
            return 0.0
        return -training.losses(weights, *self._example(training))[:, 0].double()

    def _example(self, training: NoisyTraining) -> tuple[Tensor, Tensor]:
        if self.input.shape != training.inputs.shape[1:]:
            wanted = tuple(training.inputs.shape[1:])
            raise ValueError(f"input: got shape {tuple(self.input.shape)}, wanted {wanted}, like the data set's")
        if self.label >= training.num_classes:
            raise ValueError(f"label: got {self.label}, wanted one of {training.num_classes} classes, from 0")
        label = torch.tensor([self.label], device=training.labels.device)
        return self.input[None].to(training.inputs), label


def _seeded(seed: int) -> torch.Generator:
    check_whole("seed", seed, 0)
    return torch.Generator().manual_seed(seed)
