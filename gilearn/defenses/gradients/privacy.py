"""Differentially private gradients: per-example clipping and noise, of everything that is shared or of a part of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from gilearn.defenses.gradients.accounting import ACCOUNTANTS, gaussian_epsilon, sampled_epsilon
from gilearn.defenses.gradients.perturbation import GaussianNoise, clipped
from gilearn.federated import Client, Composition, Defense, Gradients, Observation
from gilearn.federated.checks import check_name, check_names, check_number


@dataclass(frozen=True, kw_only=True)
class DPSGD(Defense):
    """Clip every example's gradient, add noise in proportion to the clipping norm to their sum, divide by their number.

    The noise is drawn anew in every local step. Its standard deviation in the mean that a step is taken with is
    noise_multiplier x clip / examples of the step.

    Args:
        noise_multiplier: The noise's standard deviation on the sum over the clipping norm, not negative.
        clip: The largest norm of one example's gradient, all tensors taken as one long vector, positive, in the units
            of a gradient.

    Raises:
        ValueError: A number is out of range.

    Chapter: differential-privacy. Source: abadi2016, algorithm 1.
    """

    noise_multiplier: float
    clip: float

    def __post_init__(self) -> None:
        check_number("noise_multiplier", self.noise_multiplier, lambda value: 0 <= value < math.inf, "0 or more")
        check_number("clip", self.clip, lambda value: 0 < value < math.inf, "a positive number")

    def examples(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the clipped per-example gradients, each with the mean's share of the noise."""
        short = clipped(gradients, self.clip, examples=True)
        std = self.noise_multiplier * self.clip
        return tuple(None if g is None else g + std / len(g) * client.draw(g[0]) for g in short)

    def public(self, seen: Observation) -> Defense:
        """Return the clipping and, of a single step, the noise: an imagined client draws its mean, zero."""
        if seen.local is not None:
            return self
        std = self.noise_multiplier * self.clip / seen.batch_size
        return Composition(parts=(self.replace(noise_multiplier=0.0), GaussianNoise(std=std)))

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """What it adds after the gradients are averaged.

        Raises:
            ValueError: There is noise: it is added in the steps, before, and depends on their batches.
        """
        if not self.noise_multiplier:
            return ()
        raise ValueError(
            f"defense: got {self!r}, whose noise enters every step: wanted a single step, whose observation declares "
            "what the noise amounts to"
        )

    def epsilon(
        self,
        *,
        delta: float,
        steps: int = 1,
        sample_rate: float = 1.0,
        accountant: Literal["rdp", "rdp-classic", "prv"] = "rdp",
    ) -> float:
        """Return the epsilon of all the steps that an example can be in, for the example being there or not.

        Args:
            delta: Above 0, below 1.
            steps: How many of them are released, from 1.
            sample_rate: How likely an example is to be in a step, by a coin of its own every time: what the steps are
                worth to someone who does not see the coins. With 1, and of batches that are dealt in turns, count the
                steps that an example is in: no accountant is needed then, and the answer is exact.
            accountant: As in :func:`~gilearn.defenses.gradients.accounting.sampled_epsilon`.

        Raises:
            ValueError: A number is out of range, or there is no noise.
        """
        if not self.noise_multiplier:
            raise ValueError("noise_multiplier: got 0, wanted noise: clipping alone has no epsilon")
        check_number("sample_rate", sample_rate, lambda value: 0 < value <= 1, "above 0, at most 1")
        check_name("accountant", accountant, ACCOUNTANTS)
        if sample_rate == 1:
            return gaussian_epsilon(self.noise_multiplier, delta=delta, steps=steps)
        return sampled_epsilon(
            self.noise_multiplier, delta=delta, sample_rate=sample_rate, steps=steps, accountant=accountant
        )


@dataclass(frozen=True, kw_only=True)
class PartialNoise(DPSGD):
    """DP-SGD on some parameters, as H-FL adds noise to a part of the model; the others are withheld, or shared bare.

    Only the named tensors are clipped, together, and get noise. The survey's H-FL is more: its mediators compute with
    the clients on compressed features, and correct the error; of it this is the noise, and :func:`grouped` the groups.

    Args:
        parameters: Their names, as in ``model.named_parameters()``; at least one.
        rest: What happens to the others: ``"withheld"``, or ``"shared"`` without clipping and noise.

    Raises:
        ValueError: A number is out of range, there is no name, or ``rest`` is unknown. When applied: the model has no
            parameter of a name.

    Chapter: differential-privacy. Source: yang2021, reduced.
    """

    parameters: tuple[str, ...]
    rest: Literal["withheld", "shared"] = "withheld"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_parameters(self.parameters)
        check_name("rest", self.rest, ("withheld", "shared"))

    def examples(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the named tensors as DP-SGD does, the others as they are, or nothing in their place."""
        chosen = chosen_parameters(client.model, self.parameters)
        part = super().examples(tuple(g if use else None for g, use in zip(gradients, chosen, strict=True)), client)
        if self.rest == "withheld":
            return part
        return tuple(noisy if use else g for noisy, g, use in zip(part, gradients, chosen, strict=True))

    def public(self, seen: Observation) -> Defense:
        """Return the clipping and, where every entry that is shared has the same noise, the noise."""
        return super().public(seen) if self.rest == "withheld" else self

    def epsilon(self, **options: object) -> float:
        """Return the epsilon of what is shared; the arguments are those of :meth:`DPSGD.epsilon`.

        Raises:
            ValueError: As there; also if the rest is shared: no epsilon covers it.
        """
        if self.rest == "shared":
            raise ValueError(
                f"rest: got 'shared', wanted 'withheld': what is shared beside {', '.join(self.parameters)} has no "
                "noise, and all of it together no epsilon"
            )
        return super().epsilon(**options)  # type: ignore[arg-type]


def chosen_parameters(model: nn.Module, names: tuple[str, ...]) -> list[bool]:
    """Return which of a model's parameters, in order, are among the names; all of them if there are no names.

    Raises:
        ValueError: A name is none of the model's.
    """
    known = [name for name, _ in model.named_parameters()]
    check_names("parameters", names, known)
    return [not names or name in names for name in known]


def _check_parameters(names: object) -> None:
    if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"parameters: got {names!r}, wanted a tuple of names, at least one")
