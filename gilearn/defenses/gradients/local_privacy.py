"""Noise at every client, before anything is aggregated: LDP-Fed and NbAFL (survey, section 3.3)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gilearn.defenses.gradients.accounting import classical_constant, gaussian_epsilon, gaussian_std
from gilearn.defenses.gradients.perturbation import clipped
from gilearn.defenses.gradients.privacy import chosen_parameters
from gilearn.federated import Client, Defense, Gradients, Observation
from gilearn.federated.checks import check_name, check_number, check_whole
from gilearn.linear import float64


@dataclass(frozen=True, kw_only=True)
class LDPFed(Defense):
    """Share every entry as a draw from a grid, in which a level is the less likely the further away it is.

    An entry is clipped to [-clip, clip] and put on the nearest of the grid's levels, v; level y is shared with
    probability in proportion to exp(-a |v - y| / 2), where one step of the grid counts as distance 1. This is condensed
    local differential privacy: whatever is shared is at most exp(a |v - v'|) times as likely from v as from v'. The
    client's alpha is divided evenly among the entries that it shares and its uploads, so that all of its uploads
    together are worth alpha for each step by which entries can differ at most.

    Args:
        alpha: Of all of a client's uploads, positive.
        clip: Largest magnitude of an entry, positive, in the units of what is shared.
        levels: Of the grid from -clip to clip, from 2; an odd number has zero among them.
        uploads: How often the client shares; once more is refused.
        parameters: Names of the parameters that are shared, layer by layer if the server asks so; the others are
            withheld. None: all.

    Raises:
        ValueError: A number is out of range. When applied: the uploads are used up, or the model has no parameter of a
            name.

    Chapter: differential-privacy. Source: truex2020, as reported in the survey's section 3.3 and gursoy2019; how
    the budget is divided is ours.
    """

    alpha: float
    clip: float
    levels: int = 33
    uploads: int = 1
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, lambda value: 0 < value < math.inf, "a positive number")
        check_number("clip", self.clip, lambda value: 0 < value < math.inf, "a positive number")
        check_whole("levels", self.levels, 2)
        check_whole("uploads", self.uploads)
        if not isinstance(self.parameters, tuple):
            raise ValueError(f"parameters: got {self.parameters!r}, wanted a tuple of names")

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return a draw for every entry of the chosen tensors; of an imagined client the draws' mean."""
        chosen = chosen_parameters(client.model, self.parameters)
        kept = tuple(g if use else None for g, use in zip(gradients, chosen, strict=True))
        number = sum(g.numel() for g in kept if g is not None)
        likely = self.probabilities(self.alpha / (number * self.uploads))
        if client.generator is None:
            return tuple(None if g is None else self._mean(g, likely) for g in kept)
        if client.memory.get("uploads", 0) >= self.uploads:
            raise ValueError(f"uploads: got one after {self.uploads}, wanted no more: the client's alpha is spent")
        client.memory["uploads"] = client.memory.get("uploads", 0) + 1
        return tuple(None if g is None else self._drawn(g, likely, client) for g in kept)

    def public(self, seen: Observation) -> Defense:
        """Return itself: the grid and its probabilities are public."""
        return self

    def probabilities(self, alpha: float) -> Tensor:
        """Return how likely level y (column) is shared for level v (row), float64, (levels, levels).

        Args:
            alpha: For one entry in one upload, positive.
        """
        check_number("alpha", alpha, lambda value: 0 < value < math.inf, "a positive number")
        places = torch.arange(self.levels, dtype=torch.float64)
        return (-alpha * (places[:, None] - places).abs() / 2).softmax(dim=1)

    @property
    def epsilon(self) -> float:
        """The epsilon of local differential privacy that alpha amounts to: alpha x the largest distance on the grid."""
        return self.alpha * (self.levels - 1)

    @property
    def grid(self) -> Tensor:
        """The levels' values, float64, (levels,)."""
        return torch.linspace(-self.clip, self.clip, self.levels, dtype=torch.float64)

    def _place(self, values: Tensor) -> Tensor:
        """Return where values are among the levels, from 0 to levels - 1, not rounded."""
        return (values.clamp(-self.clip, self.clip) / self.clip + 1) / 2 * (self.levels - 1)

    def _drawn(self, values: Tensor, likely: Tensor, client: Client) -> Tensor:
        """Return the draws: the first level up to which the probabilities add up to more than a uniform draw."""
        wide = float64(values)
        up_to, uniform = likely.to(wide.device).cumsum(1), client.draw(wide, "uniform").flatten()
        own = self._place(wide).round().long().flatten()
        drawn = torch.empty_like(own)
        for level in range(self.levels):
            here = own == level
            drawn[here] = torch.searchsorted(up_to[level], uniform[here], right=True).clamp_max(self.levels - 1)
        return self.grid.to(wide.device)[drawn].view_as(wide).to(values)

    def _mean(self, values: Tensor, likely: Tensor) -> Tensor:
        """Return the mean of what is shared, along lines between the levels: differentiable."""
        means = (likely @ self.grid).to(values)
        place = self._place(values)
        below = place.detach().floor().clamp_max(self.levels - 2)
        share, k = place - below, below.long()
        return (1 - share) * means[k] + share * means[k + 1]


@dataclass(frozen=True, kw_only=True)
class NbAFL(Defense):
    """Noising before aggregation: clip a client's trained weights, add Gaussian noise, share them.

    What is shared here is an update, weights before less weights after: it is made of the noisy weights after. It needs
    local steps (a gradient alone is taken for a step of learning rate 1). The server adds noise of its own to the
    aggregate before it sends the model out again: :meth:`broadcast`.

    Args:
        epsilon: Of the exposures together, positive.
        delta: Above 0, below 1.
        clip: The largest norm C of a client's weights, all tensors as one vector, positive.
        smallest: Examples of the client with the fewest, m, from 1. The paper takes 2 C / m for how far one example can
            move a client's weights: that is no consequence of the clipping, which alone bounds it by 2 C.
        clients: How many, N, from 1.
        rounds: How many, T, from 1.
        exposures: Rounds in which a client's upload is seen, L, from 1 to T.
        proximal: Factor mu of the term mu/2 ||weights - global weights||^2 in a client's loss, not negative.
        calibration: ``"classical"``: the paper's constant c = sqrt(2 ln(1.25 / delta)), whose theorem ends at an
            epsilon of 1 for each exposure; ``"analytic"``: the least noise that is (epsilon, delta)-private over all
            exposures.

    Raises:
        ValueError: A number is out of range, or the calibration unknown.

    Chapter: differential-privacy. Source: wei2020nbafl, algorithm 1, theorem 1; balle2018 for ``"analytic"``.
    """

    epsilon: float
    delta: float = 0.01
    clip: float
    smallest: int
    clients: int
    rounds: int
    exposures: int
    proximal: float = 0.0
    calibration: Literal["classical", "analytic"] = "classical"

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, lambda value: 0 < value < math.inf, "a positive number")
        check_number("delta", self.delta, lambda value: 0 < value < 1, "above 0, below 1")
        check_number("clip", self.clip, lambda value: 0 < value < math.inf, "a positive number")
        for name in ("smallest", "clients", "rounds", "exposures"):
            check_whole(name, getattr(self, name))
        if self.exposures > self.rounds:
            raise ValueError(f"exposures: got {self.exposures}, wanted at most the number of rounds, {self.rounds}")
        check_number("proximal", self.proximal, lambda value: 0 <= value < math.inf, "0 or more")
        check_name("calibration", self.calibration, ("classical", "analytic"))

    @property
    def sensitivity(self) -> float:
        """What the paper takes for the change that one example makes to a client's weights: 2 C / m."""
        return 2 * self.clip / self.smallest

    @property
    def uplink(self) -> float:
        """The standard deviation of a client's noise."""
        if self.calibration == "analytic":
            return gaussian_std(self.epsilon, delta=self.delta, sensitivity=self.sensitivity, steps=self.exposures)
        return classical_constant(self.delta) * self.exposures * self.sensitivity / self.epsilon

    @property
    def downlink(self) -> float:
        """The standard deviation of the server's noise: what the clients' noise in the mean lacks for T rounds.

        With T rounds seen, the mean needs c T (2 C / (m N)) / epsilon of noise, or its analytic counterpart; it has the
        clients', divided by the root of N. The paper's case T <= L sqrt(N), in which nothing is lacking, gives zero.
        """
        if self.calibration == "analytic":
            sensitivity = self.sensitivity / self.clients
            wanted = gaussian_std(self.epsilon, delta=self.delta, sensitivity=sensitivity, steps=self.rounds)
            return math.sqrt(max(0.0, wanted**2 - self.uplink**2 / self.clients))
        lacking = self.rounds**2 - self.exposures**2 * self.clients
        if lacking <= 0:
            return 0.0
        return (
            2 * classical_constant(self.delta) * self.clip * math.sqrt(lacking)
            / (self.smallest * self.clients * self.epsilon)
        )  # fmt: skip

    @property
    def spent(self) -> float:
        """The least epsilon, at this delta, that the clients' noise has over all exposures, by exact accounting."""
        return gaussian_epsilon(self.uplink / self.sensitivity, delta=self.delta, steps=self.exposures)

    @property
    def noise(self) -> tuple[tuple[str, float], ...]:
        """Return kind and standard deviation of a client's noise."""
        return (("normal", self.uplink),)

    def objective(self, objective: nn.Module, client: Client) -> nn.Module:
        """Return the loss with the proximal term."""
        return Proximal(objective, self.proximal) if self.proximal else objective

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the global weights less the client's, clipped and with noise."""
        before = [parameter.detach() for parameter in client.model.parameters()]
        after = tuple(None if g is None else w - g for w, g in zip(before, gradients, strict=True))
        short, std = clipped(after, self.clip), self.uplink
        return tuple(None if a is None else w - (a + std * client.draw(a)) for w, a in zip(before, short, strict=True))

    def public(self, seen: Observation) -> Defense:
        """Return itself: the distribution of its noise is public, and an imagined client draws its mean, zero."""
        return self

    @torch.no_grad()
    def broadcast(self, model: nn.Module, *, seed: int = 0) -> nn.Module:
        """Return the model as the server sends it out: a copy whose parameters have the downlink's noise.

        Args:
            model: After a round; it is not changed.
            seed: Seeds the noise, from 0.

        Raises:
            ValueError: The model is none, or the seed no whole number.
        """
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: got a {type(model).__name__}, wanted a torch.nn.Module")
        check_whole("seed", seed, 0)
        model, std, generator = copy.deepcopy(model), self.downlink, torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(std * drawn.to(parameter))
        return model


class Proximal(nn.Module):
    """A client's loss and mu/2 ||weights - global weights||^2: the global ones are those at hand when it is made.

    Args:
        objective: Has the model as its attribute ``model``.
        factor: mu.

    Chapter: differential-privacy. Source: wei2020nbafl.
    """

    def __init__(self, objective: Any, factor: float) -> None:
        super().__init__()
        self.objective, self.model, self.factor = objective, objective.model, factor
        self.start = [parameter.detach().clone() for parameter in self.model.parameters()]

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss."""
        pairs = zip(self.model.parameters(), self.start, strict=True)
        away = torch.stack([(parameter - start).square().sum() for parameter, start in pairs]).sum()
        loss: Tensor = self.objective(inputs, targets) + self.factor / 2 * away
        return loss
