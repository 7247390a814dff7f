"""The Bayesian view of gradient inversion (Balunovic et al., 2022): a likelihood of the gradient, a prior of pictures.

A likelihood is a distance whose unit is known: minus the logarithm of the density of what was shared, less its value
without noise. With a prior (``priors``), :class:`BayesOptimal` searches the minimum of their sum, or of its mean over a
ball; :class:`MAP` solves for it with second-order steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from gilearn.attacks.base import Attack, Reconstruction, residual
from gilearn.attacks.iteration.checks import check_ingredient, check_kind, check_positive, check_tuple
from gilearn.attacks.iteration.distances import Distance, Gradients, pairs, total
from gilearn.attacks.iteration.initialization import Constant, Initialization
from gilearn.attacks.iteration.matching import GradientMatching, built
from gilearn.attacks.iteration.priors import GaussianPrior
from gilearn.attacks.iteration.regularizers import Candidates, Regularizer, Term, TotalVariation
from gilearn.attacks.labels.base import Declared, Joint, as_factor
from gilearn.federated import Observed
from gilearn.values import Value


@dataclass(frozen=True, kw_only=True)
class Likelihood(Value):
    """A distance that is a sum of losses of scaled residuals: of half their squares, unless a subclass has others."""

    floors: ClassVar[tuple[float, ...]] = (0.0,)
    """Where :meth:`weights` rounds off a kink, one after the other."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_positive(name, value)

    def __call__(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return minus the logarithm of the density, less its value without noise: a scalar."""
        return self.loss(self.residuals(simulated, shared))

    def residuals(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the differences of all entries in units of the noise, one flat vector."""
        scale: float = next(iter(vars(self).values()))
        return torch.cat([(a - b).flatten() for a, b in pairs(simulated, shared)]) / scale

    def loss(self, residuals: Tensor) -> Tensor:
        """Return the sum of the losses."""
        return residuals.square().sum() / 2

    def weights(self, residuals: Tensor, floor: float) -> Tensor:
        """Return every loss's derivative over its residual, the weight of a reweighted least-squares step."""
        return torch.ones_like(residuals)

    def conjugate(self, multipliers: Tensor) -> Tensor:
        """Return the sum of the losses' convex conjugates, at multipliers that are weights times residuals."""
        return multipliers.square().sum() / 2


@dataclass(frozen=True, kw_only=True)
class Normal(Likelihood):
    """Independent normal noise on every entry: half the squared differences over the variance.

    Args:
        std: Its standard deviation, positive, in the units of what is shared.

    Chapter: bayesian. Source: balunovic2022.
    """

    std: float


@dataclass(frozen=True, kw_only=True)
class Laplace(Likelihood):
    """Independent Laplace noise on every entry: the absolute differences over the scale.

    Args:
        scale: Its scale, positive, in the units of what is shared; the standard deviation is sqrt(2) times it.

    Chapter: bayesian. Source: balunovic2022.
    """

    scale: float
    floors: ClassVar[tuple[float, ...]] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

    def loss(self, residuals: Tensor) -> Tensor:
        """Return the sum of the magnitudes."""
        return residuals.abs().sum()

    def weights(self, residuals: Tensor, floor: float) -> Tensor:
        """Return one over the magnitudes."""
        return (residuals.square() + floor**2).rsqrt()

    def conjugate(self, multipliers: Tensor) -> Tensor:
        """Return zero: no multiplier is greater than 1 in size."""
        return multipliers.new_zeros(())


@dataclass(frozen=True, kw_only=True)
class Directional(Likelihood):
    """A direction scattered about the true one (von Mises and Fisher): concentration x (1 - cosine).

    Args:
        concentration: Positive; one over the variance of the unit vector's entries.

    Chapter: bayesian. Source: balunovic2022.
    """

    concentration: float

    def residuals(self, simulated: Gradients, shared: Gradients) -> Tensor:
        """Return the difference of the two unit vectors over the standard deviation."""
        a, b = (torch.cat([t.flatten() for t in side]) for side in zip(*pairs(simulated, shared), strict=True))
        scaled: Tensor = self.concentration**0.5 * (a / a.norm().clamp(min=1e-30) - b / b.norm().clamp(min=1e-30))
        return scaled


@dataclass(frozen=True, kw_only=True)
class DeclaredNoise(Value):
    """The likelihood of the noise that the declared defense adds; what else it does, the simulation does too.

    Raises:
        ValueError: When built: no defense is declared, it adds no noise, or noise whose density has no simple form.

    Chapter: bayesian. Source: balunovic2022.
    """

    def build(self, seen: Observed) -> Likelihood:
        """Return the likelihood for an observation."""
        noise = seen.known("defense").noise
        if noise and all(kind == "normal" for kind, _ in noise):
            return Normal(std=sum(scale**2 for _, scale in noise) ** 0.5)
        if len(noise) == 1 and noise[0][0] == "laplace":
            return Laplace(scale=noise[0][1])
        wanted = "wanted normal noise, or one Laplace noise; name another likelihood yourself"
        raise ValueError(f"likelihood: the declared defense adds {list(noise) or 'no noise'}, {wanted}")


@dataclass(frozen=True, kw_only=True)
class BayesOptimal(Attack):
    """The adversary who wants to end within delta of the picture: the greatest mean log-posterior over a ball.

    With delta 0 it is the most probable picture. The mean is that of the logarithm, as in the paper, over fixed draws,
    each with its opposite: up to a constant a lower bound of the logarithm of the ball's probability.

    Args:
        likelihood: A distance whose unit is known, or what builds one from the observation.
        prior: Regularizers, each minus the logarithm of a density of pictures.
        search: The engine; its distance is not used.
        delta: Radius of the ball, not negative: the norm of the errors of all pixels of a picture.
        draws: Pairs of draws, from 1.

    Raises:
        ValueError: A number is out of range, an ingredient is none, or the search has regularizers.

    Chapter: bayesian. Source: balunovic2022.
    """

    likelihood: Distance | DeclaredNoise = DeclaredNoise()
    prior: tuple[Regularizer | Term, ...] = (TotalVariation(weight=100.0),)
    search: GradientMatching = field(default_factory=lambda: GradientMatching(labels=Declared()))
    delta: float = 0.0
    draws: int = 8

    def __post_init__(self) -> None:
        check_ingredient("likelihood", self.likelihood, "bayesian.Laplace(scale=0.01)", "build", "__call__")
        check_tuple("prior", self.prior, "priors.GaussianPrior.fit(pictures)")
        check_kind("search", self.search, GradientMatching)
        if self.search.regularizers:
            raise ValueError(f"search: got regularizers {self.search.regularizers}, wanted them as prior")
        if not self.delta >= 0 or self.draws < 1:
            raise ValueError(f"delta, draws: got {self.delta}, {self.draws}, wanted 0 or more, and at least 1")

    def reconstruct(self, seen: Observed, **options: Any) -> Reconstruction:
        """Run the search on the posterior; the options are those of the call."""
        distance = built(self.likelihood, seen)
        prior = (self._ball(distance, options["seed"]),) if self.delta else self.prior
        attack = self.search.replace(distance=distance, regularizers=prior)
        return replace(attack.reconstruct(seen, **options), attack=repr(self))

    def _ball(self, distance: Distance, seed: int) -> Term:
        """Return the mean over the ball, less the distance in its centre, which the engine adds."""
        terms: list[Term] = []

        def likelihood(c: Candidates, inputs: Tensor) -> Tensor:
            given: list[dict[str, Any]] = [{} if m is None else {"masks": m} for m in c.masks or [None] * len(inputs)]
            gradients = (c.seen.simulate(x, y, **g) for x, y, g in zip(inputs, c.targets, given, strict=True))
            return torch.stack([distance(g, c.seen.shared) for g in gradients])

        def mean(c: Candidates) -> Tensor:
            if not terms:
                terms.extend(built(regularizer, c.seen) for regularizer in self.prior)
            moved = [c.inputs + offset for offset in _offsets(c.inputs[0], self.delta, self.draws, seed)]
            priors = [term(replace(c, inputs=x, _passes=[])) for x in moved for term in terms]
            return total([likelihood(c, x) for x in moved] + priors) / len(moved) - likelihood(c, c.inputs)

        return mean


@dataclass(frozen=True, kw_only=True)
class MAP(Attack):
    """The most probable picture of few pixels, to the optimum: reweighted Gauss-Newton steps in float64.

    A step linearizes the simulation, solves for the minimum of the posterior that this gives, a convex problem, and
    goes half as far until the posterior rises. A Laplace likelihood is solved by reweighted least squares, its kink
    rounded off at 1, 0.1, ... 1e-6 of the noise's scale.

    Args:
        likelihood: A :class:`Likelihood`, or what builds one from the observation.
        prior: Of the pictures.
        labels: A rule that reads the labels off the observation, or labels that are known.
        initialization: Where the steps start.
        steps: At most so many, from 1.

    Raises:
        ValueError: An ingredient is none, or ``steps`` is below 1. When called: the prior is of other pictures.

    The result's ``details``: ``objective``, minus the logarithm of the posterior up to a constant; ``gap``, by how much
    it can be above the minimum if the simulation is linear about the result (a duality gap); ``deviations`` (batch,
    *input_shape), each pixel's standard deviation about the result by the noise's Fisher information.

    Chapter: bayesian.
    """

    likelihood: Likelihood | DeclaredNoise = DeclaredNoise()
    prior: GaussianPrior
    labels: Any = Declared()
    initialization: Initialization = Constant(value=0.5)
    steps: int = 40

    def __post_init__(self) -> None:
        check_ingredient("likelihood", self.likelihood, "bayesian.Laplace(scale=0.01)", "build", "residuals")
        check_kind("prior", self.prior, GaussianPrior)
        if isinstance(self.labels, Joint):
            raise ValueError(f"labels: got {self.labels!r}, wanted a rule or labels that are known: none are searched")
        check_ingredient("initialization", self.initialization, "initialization.Gaussian()", "__call__")
        check_positive("steps", self.steps)

    def reconstruct(self, seen: Observed, *, seed: int, time_limit: float | None, **options: Any) -> Reconstruction:
        """Run the steps; the options are those of the call."""
        began, shape = time.perf_counter(), (seen.batch_size, *seen.input_shape)
        if self.prior.mean.shape != shape[1:]:
            raise ValueError(f"prior: got pictures of {tuple(self.prior.mean.shape)}, wanted {shape[1:]}")
        working = seen.to(dtype=torch.float64)
        targets = as_factor(self.labels, cast(Any, working)).decode({})["targets"]
        posterior = _Posterior(working, built(self.likelihood, working), self.prior, targets)
        x = self.initialization(shape, torch.Generator().manual_seed(seed)).to(working.device).flatten()
        history = [posterior.value(x)]
        for _ in range(self.steps):
            way = posterior.way(x)
            tries = ((posterior.value(x + way / 2**k), x + way / 2**k) for k in range(12))
            value, x = next((found for found in tries if found[0] < history[-1]), (history[-1], x))
            history.append(value)
            late = time_limit is not None and time.perf_counter() > began + time_limit
            if late or history[-2] - value < 1e-12 * abs(value):
                break
        gap, deviations = posterior.report(x)
        return Reconstruction(
            inputs=x.view(shape).to(seen.dtype, copy=True),
            labels=targets,
            residual=residual(working, x.view(shape), targets),
            seconds=time.perf_counter() - began,
            attack=repr(self),
            seed=seed,
            history=torch.tensor(history, dtype=torch.float64),
            details={"objective": history[-1], "gap": gap, "deviations": deviations.view(shape)},
        )


class _Posterior:
    """Minus the logarithm of a posterior, of flat pictures in float64."""

    def __init__(self, seen: Observed, likelihood: Likelihood, prior: GaussianPrior, targets: Tensor) -> None:
        self.seen, self.likelihood, self.targets = seen, likelihood, targets
        self.mean = prior.mean.to(seen.device, torch.float64).flatten().repeat(seen.batch_size)
        self.precision = torch.block_diag(*[prior.precision.to(seen.device)] * seen.batch_size)  # type: ignore[no-untyped-call]

    def residuals(self, x: Tensor) -> Tensor:
        inputs = x.view(self.seen.batch_size, *self.seen.input_shape)
        return self.likelihood.residuals(self.seen.simulate(inputs, self.targets, functional=True), self.seen.shared)

    @torch.no_grad()
    def value(self, x: Tensor) -> float:
        apart = x - self.mean
        return float(self.likelihood.loss(self.residuals(x)) + apart @ self.precision @ apart / 2)

    def jacobian(self, x: Tensor) -> Tensor:
        """Return the residuals' derivatives, (residuals, pixels), by forward differentiation."""
        one = torch.eye(len(x), dtype=x.dtype, device=x.device)
        push = torch.func.vmap(lambda v: torch.func.jvp(self.residuals, (x,), (v,))[1], out_dims=1, chunk_size=64)
        return cast(Tensor, push(one))

    def way(self, x: Tensor) -> Tensor:
        """Return the way from x to the minimum of the posterior whose simulation is linearized there."""
        residuals, jacobian, way = self.residuals(x), self.jacobian(x), torch.zeros_like(x)
        for floor in self.likelihood.floors:
            for _ in range(20):
                left = residuals + jacobian @ way
                weights = self.likelihood.weights(left, floor)
                weighted, self.multipliers = weights[:, None] * jacobian, weights * left
                slope = left @ weighted + self.precision @ (x + way - self.mean)
                step = torch.linalg.solve(jacobian.T @ weighted + self.precision, slope)
                way = way - step
                if float(step.norm()) <= 1e-2 * floor or not floor:
                    break
        return way

    def report(self, x: Tensor) -> tuple[float, Tensor]:
        """Return the gap to the dual's value at the last multipliers, and the pixels' deviations."""
        jacobian, residuals, s = self.jacobian(x), self.residuals(x), self.multipliers
        pulled = s @ jacobian
        dual = s @ residuals - self.likelihood.conjugate(s) - pulled @ (x - self.mean)
        dual -= pulled @ torch.linalg.solve(self.precision, pulled) / 2
        covariance = torch.linalg.inv(jacobian.T @ jacobian + self.precision)
        return self.value(x) - float(dual), covariance.diagonal().sqrt()


def _offsets(picture: Tensor, delta: float, pairs: int, seed: int) -> Tensor:
    """Return draws of a ball about every picture of (batch, ...), each with its opposite: (2 x pairs, batch, ...)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(pairs, *picture.shape, generator=generator, dtype=torch.float64).flatten(2)
    radii = torch.rand(*drawn.shape[:2], 1, generator=generator, dtype=torch.float64) ** (1 / drawn.shape[2])
    inside = (delta * radii * drawn / drawn.norm(dim=2, keepdim=True)).view(pairs, *picture.shape).to(picture)
    return torch.cat([inside, -inside])
