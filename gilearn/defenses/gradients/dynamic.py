"""Fed-CDP (Wei et al., 2021): every example's gradient is clipped and gets noise in every local step, less over rounds.

Beside it Fed-SDP, which does the same once, to what a client shares. ``spending`` says what each spends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gilearn.federated import Client, Defense, Gradients, Observation
from gilearn.federated.checks import check_name, check_number, check_whole
from gilearn.values import Value

SHAPES = ("linear", "exponential", "cosine")
"""The ways from the first round's value to the last one's."""


@dataclass(frozen=True, kw_only=True)
class Decay(Value):
    """A positive number that changes from round to round, and keeps its last value after the last of them.

    Args:
        start: In round 1, positive.
        end: In round ``rounds`` and later, positive.
        rounds: From 2.
        shape: ``"linear"``: the same difference every round; ``"exponential"``: the same factor; ``"cosine"``: half a
            wave, slow at both ends.

    Raises:
        ValueError: A number is out of range, or the shape unknown.

    Chapter: dynamic-noise. Source: wei2021 for the idea; these shapes are ours.
    """

    start: float
    end: float
    rounds: int
    shape: Literal["linear", "exponential", "cosine"] = "linear"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            check_number(name, getattr(self, name), lambda value: 0 < value < math.inf, "a positive number")
        check_whole("rounds", self.rounds, 2)
        check_name("shape", self.shape, SHAPES)

    def at(self, number: int) -> float:
        """Return the value in a round, counted from 1."""
        check_whole("number", number)
        share = min(1.0, (number - 1) / (self.rounds - 1))
        if self.shape == "exponential":
            return float(self.start ** (1 - share) * self.end**share)
        share = (1 - math.cos(math.pi * share)) / 2 if self.shape == "cosine" else share
        return float((1 - share) * self.start + share * self.end)


@dataclass(frozen=True, kw_only=True)
class FedCDP(Defense):
    """In every local step, clip each example's gradient layer by layer, and add normal noise to it.

    What the noise protects is one example, and it does so from the moment on at which its gradient is there. A layer
    is what one module owns, its weights and its bias. Rounds are counted in the client's memory, from 1: those that it
    takes part in.

    Args:
        clip: The largest norm C of a layer's gradient, positive: one number, or one for every round.
        noise_multiplier: The noise's standard deviation over C, not negative: one number, or one for every round.

    Raises:
        ValueError: A number is out of range. When declared to an attacker: one of them changes from round to round.

    Chapter: dynamic-noise. Source: wei2021; survey, section 3.3.
    """

    clip: float | Decay
    noise_multiplier: float | Decay

    def __post_init__(self) -> None:
        _check_clip_and_noise(self.clip, self.noise_multiplier, Decay)

    def at(self, number: int) -> FedCDP:
        """Return the same defense with the numbers of one round, from 1, that it then keeps."""
        found = {
            name: value.at(number)
            for name, value in (("clip", self.clip), ("noise_multiplier", self.noise_multiplier))
            if isinstance(value, Decay)
        }
        return self.replace(**found)

    def data(self, inputs: Tensor, targets: Tensor, client: Client) -> tuple[Tensor, Tensor]:
        """Count the round, and leave the data as they are."""
        client.memory["round"] = client.memory.get("round", 0) + 1
        return inputs, targets

    def examples(self, gradients: Gradients, client: Client) -> Gradients:
        """Return per-example gradients, clipped and with noise, each (batch, ...)."""
        clip, multiplier = self._numbers(client)
        clipped = clipped_layers(gradients, layers(client.model), clip, examples=True)
        return tuple(None if g is None else g + multiplier * clip * client.draw(g) for g in clipped)

    def public(self, seen: Observation) -> Defense:
        """Return the clipping, and the size of the noise on what was shared where that has one.

        Raises:
            ValueError: The numbers change from round to round, and the observation does not know its round.
        """
        for name in ("clip", "noise_multiplier"):
            if isinstance(getattr(self, name), Decay):
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, wanted a number, as no observation knows its round: "
                    "declare defense.at(number), with the number of the round"
                )
        clip, multiplier = float(self.clip), float(self.noise_multiplier)  # type: ignore[arg-type]
        rate, size = 1.0, seen.batch_size
        if seen.local is not None:
            rate, size = seen.local.lr, len(seen.local.rows(0, seen.batch_size))
        several = seen.local is not None and seen.local.steps > 1
        std = 0.0 if several else rate * multiplier * clip / math.sqrt(size)
        return KnownCDP(clip=clip, noise_multiplier=multiplier, std=std)

    def _numbers(self, client: Client) -> tuple[float, float]:
        now = self.at(client.memory.get("round", 1))
        return float(now.clip), float(now.noise_multiplier)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class KnownCDP(FedCDP):
    """Fed-CDP as those simulate it who know it: an imagined client clips, and its noise is zero.

    Args:
        std: Standard deviation of the noise on every entry of what was shared; 0 where it is no noise that is added
            to what is shared: after several local steps the later ones have moved with the noise of the earlier.

    Chapter: dynamic-noise.
    """

    std: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("std", self.std, lambda value: 0 <= value < math.inf, "0 or more")

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """Return kind and standard deviation, if it has one."""
        return (("normal", self.std),) if self.std else ()

    def public(self, seen: Observation) -> Defense:
        """Return itself."""
        return self


@dataclass(frozen=True, kw_only=True)
class FedSDP(Defense):
    """Clip what is shared, and add normal noise to it, once in a round: the per-client defense before Fed-CDP.

    What the noise protects is everything that the client has done in the round, from the moment on at which it is
    shared.

    Args:
        clip: The largest norm C, in the units of what is shared, positive.
        noise_multiplier: The noise's standard deviation over C, not negative.
        scope: ``"layer"``: C bounds every layer's norm; ``"whole"``: that of all layers as one long vector.

    Raises:
        ValueError: A number is out of range, or the scope unknown.

    Chapter: dynamic-noise. Source: wei2021, after geyer2017.
    """

    clip: float
    noise_multiplier: float
    scope: Literal["layer", "whole"] = "layer"

    def __post_init__(self) -> None:
        _check_clip_and_noise(self.clip, self.noise_multiplier)
        check_name("scope", self.scope, ("layer", "whole"))

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """Return kind and standard deviation."""
        return (("normal", self.noise_multiplier * self.clip),) if self.noise_multiplier else ()

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return what is shared, clipped and with noise."""
        groups = layers(client.model) if self.scope == "layer" else ("",) * len(gradients)
        clipped = clipped_layers(gradients, groups, self.clip)
        std = self.noise_multiplier * self.clip
        return tuple(None if g is None else g + std * client.draw(g) for g in clipped)

    def public(self, seen: Observation) -> Defense:
        """Return itself: an imagined client clips, and its noise is zero."""
        return self


def layers(model: nn.Module) -> tuple[str, ...]:
    """Return the layer that every parameter of a model belongs to: the name of the module that owns it.

    Raises:
        ValueError: It is no model.

    Chapter: dynamic-noise.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got a {type(model).__name__}, wanted a torch.nn.Module")
    return tuple(name.rpartition(".")[0] for name, _ in model.named_parameters())


def clipped_layers(gradients: Gradients, groups: Sequence[str], clip: float, *, examples: bool = False) -> Gradients:
    """Return gradients whose norm, over the tensors of a layer, is at most a bound: longer ones are shortened to it.

    Args:
        gradients: One tensor per parameter; ``None`` is passed on.
        groups: The layer of each.
        clip: The bound, positive.
        examples: The tensors have an axis of examples in front, and each example's are clipped on their own.

    Raises:
        ValueError: There are not as many layers' names as tensors, or the bound is not positive.

    Chapter: dynamic-noise. Source: wei2021; abadi2016, algorithm 1, for the clipping.
    """
    if len(groups) != len(gradients):
        raise ValueError(f"gradients: got {len(gradients)} tensors, wanted {len(groups)}, one per parameter")
    check_number("clip", clip, lambda value: 0 < value < math.inf, "a positive number")
    given = [g if g is None or examples else g[None] for g in gradients]
    squares: dict[str, Tensor] = {}
    for group, g in zip(groups, given, strict=True):
        if g is not None:
            squares[group] = squares.get(group, 0.0) + g.flatten(1).square().sum(dim=1)
    factors = {group: clip / _root(square).clamp_min(clip) for group, square in squares.items()}
    clipped = [
        None if g is None else g * factors[group].view(-1, *[1] * (g.ndim - 1))
        for group, g in zip(groups, given, strict=True)
    ]
    return tuple(g if g is None or examples else g[0] for g in clipped)


def _root(squares: Tensor) -> Tensor:
    """Return the root of squares; its slope at zero is zero and not infinite, so that a search goes through."""
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


def _check_clip_and_noise(clip: object, multiplier: object, *kinds: type) -> None:
    if not isinstance(clip, kinds):
        check_number("clip", clip, lambda value: 0 < value < math.inf, "a positive number")
    if not isinstance(multiplier, kinds):
        check_number("noise_multiplier", multiplier, lambda value: 0 <= value < math.inf, "0 or more")
