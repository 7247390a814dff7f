"""Spaces behind a generator: its latent vectors, or its weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gilearn.attacks.iteration.initialization import Initialization
from gilearn.attacks.iteration.spaces.base import Bounds, Factor, Space, check_bounds
from gilearn.content import Content
from gilearn.federated import Observed


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Latent(Content, Space):
    """The latent vectors of a generator, whose pictures are the only ones that are considered.

    Args:
        generator: Maps (batch, *shape) to (batch, *input_shape); a copy follows the observation's device and type.
        shape: Shape of one example's latent vector.
        bounds: Least and largest latent value; ``None``: no projection.

    Raises:
        ValueError: The bounds cross. When built: the generator's outputs are no inputs, or it draws random numbers.

    Variables: ``latent`` (batch, *shape). Chapter: generative-priors. Source: jeon2021, first phase.
    """

    generator: nn.Module
    shape: tuple[int, ...]
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        _check_module(self.generator)
        check_bounds(self.bounds)

    def build(self, seen: Observed) -> Factor:
        """Copy the generator to where the observation is."""
        generator = _copied(self.generator, seen)
        latent = torch.zeros(seen.batch_size, *self.shape, device=seen.device, dtype=seen.dtype)
        _check_generator(generator, latent, seen)
        return self.replace(generator=generator)

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the latent vectors."""
        return {"latent": initialization((seen.batch_size, *self.shape), generator)}

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        """Return the generator's pictures."""
        return {"inputs": self.generator(variables["latent"])}

    def project(self, variables: dict[str, Tensor]) -> None:
        """Clip the latent vectors."""
        if self.bounds is not None:
            variables["latent"].clamp_(*self.bounds)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Weights(Content, Space):
    """The weights of a generator at a latent vector that stays: an untrained decoder's, or a trained one's.

    Args:
        generator: Maps ``latent`` to (batch, *input_shape); a copy of it is searched.
        latent: Its argument.
        redraw: Initialize the weights anew for every start, by the modules' own ``reset_parameters``, as a deep image
            prior does; ``False`` starts from the weights as they are, as GIAS's second phase does.
        each: Search a copy of the weights for every example, as GIAS does, instead of one for all.

    Raises:
        ValueError: When built: the generator's outputs are no inputs, it draws random numbers, or nothing of it can be
            redrawn.

    Variables: ``weights.`` and the parameter's name, one each; with ``each`` they have the examples in front. Chapter:
    generative-priors. Source: ulyanov2018, jeon2021.
    """

    generator: nn.Module
    latent: Tensor
    redraw: bool = True
    each: bool = False

    def __post_init__(self) -> None:
        _check_module(self.generator)

    def build(self, seen: Observed) -> Factor:
        """Copy the generator to where the observation is."""
        if self.redraw and not any(hasattr(module, "reset_parameters") for module in self.generator.modules()):
            raise ValueError("generator: no module of it has reset_parameters, wanted one that has, or redraw=False")
        bound = self.replace(
            generator=_copied(self.generator, seen), latent=self.latent.detach().to(seen.device, seen.dtype)
        )
        _check_generator(bound.generator, bound.latent, seen)
        return bound

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the weights, redrawn unless they are to be kept."""
        if not self.each:
            return self._drawn(generator)
        copies = [self._drawn(generator) for _ in range(seen.batch_size)]
        return {name: torch.stack([drawn[name] for drawn in copies]) for name in copies[0]}

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        """Return the pictures of these weights."""
        weights = {name: variables[f"weights.{name}"] for name, _ in self.generator.named_parameters()}
        if not self.each:
            return {"inputs": functional_call(self.generator, weights, (self.latent,))}
        rows = [
            functional_call(self.generator, {name: weight[k] for name, weight in weights.items()}, (latent[None],))
            for k, latent in enumerate(self.latent)
        ]
        return {"inputs": torch.cat(rows)}

    def _drawn(self, generator: torch.Generator) -> dict[str, Tensor]:
        network = copy.deepcopy(self.generator).cpu()
        if self.redraw:
            with torch.random.fork_rng(devices=[]):
                # The modules draw from the CPU's global generator and take no other; torch.manual_seed would reseed
                # those of accelerators as well.
                torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
                for module in network.modules():
                    reset: Any = getattr(module, "reset_parameters", lambda: None)
                    reset()
        return {f"weights.{name}": weight.detach() for name, weight in network.named_parameters()}


def _check_module(generator: Any) -> None:
    if not isinstance(generator, nn.Module):
        raise ValueError(f"generator: got {generator!r}, wanted an nn.Module")


def _copied(generator: nn.Module, seen: Observed) -> nn.Module:
    """Copy a user's network to where the observation is; nothing that the search does reaches the original."""
    return copy.deepcopy(generator).to(seen.device, seen.dtype).requires_grad_(False)


@torch.no_grad()
def _check_generator(generator: nn.Module, latent: Tensor, seen: Observed) -> None:
    before, wanted = torch.get_rng_state(), (seen.batch_size, *seen.input_shape)
    with torch.random.fork_rng(devices=[]):
        try:  # on the CPU, whose generator tells
            shape = tuple(copy.deepcopy(generator).cpu()(latent.cpu()).shape)
        except RuntimeError as error:
            raise ValueError(f"generator: it does not take latents of shape {tuple(latent.shape)} ({error})") from error
        drew = not torch.equal(before, torch.get_rng_state())
    if shape != wanted:
        raise ValueError(f"generator: got outputs of shape {shape}, wanted that of the inputs, {wanted}")
    if drew:
        raise ValueError("generator: it draws random numbers (dropout in train mode?), wanted generator.eval()")
