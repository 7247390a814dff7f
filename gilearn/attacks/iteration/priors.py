"""Regularizers that are minus the logarithm of a density of pictures, learned from pictures (survey, section 2.1.3).

Beside them the classics of ``regularizers``: total variation, say, is one of a density that nobody can draw from.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gilearn import models
from gilearn.attacks.iteration.checks import check_kind, check_positive
from gilearn.attacks.iteration.regularizers import Candidates, Term, Weighted
from gilearn.content import Content
from gilearn.federated import Observed


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GaussianPrior(Content, Weighted):
    """Pictures as draws of one normal distribution: half the squared distance from its mean, in its own units.

    Args:
        mean: Of the pictures (*input_shape).
        covariance: Of their flattened pixels (pixels, pixels), positive definite.
        weight: Factor of the term; 1 for minus the logarithm of the density.

    Raises:
        ValueError: The shapes do not fit, or an eigenvalue of the covariance is not positive.

    Chapter: bayesian.
    """

    mean: Tensor
    covariance: Tensor
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        pixels = self.mean.numel()
        if tuple(self.covariance.shape) != (pixels, pixels):
            raise ValueError(f"covariance: got shape {tuple(self.covariance.shape)}, wanted {(pixels, pixels)}")
        check_positive("covariance's least eigenvalue", float(torch.linalg.eigvalsh(self.covariance.double())[0]))

    @classmethod
    def fit(cls, pictures: Tensor, *, independent: bool = False, floor: float = 0.03) -> GaussianPrior:
        """Return the normal distribution of pictures (n, *input_shape).

        Args:
            pictures: At least two; not those that are attacked.
            independent: Pixels apart from each other, with one variance, the mean of theirs.
            floor: Standard deviation that every pixel has in addition, positive: some never change.
        """
        check_positive("floor", floor)
        _check_several(pictures)
        rows = pictures.detach().double().flatten(1)
        covariance = torch.cov(rows.T, correction=0)
        one = torch.eye(len(covariance), dtype=torch.float64, device=rows.device)
        covariance = covariance.diagonal().mean() * one if independent else covariance
        return cls(mean=rows.mean(0).view(pictures.shape[1:]), covariance=covariance + floor**2 * one)

    @property
    def precision(self) -> Tensor:
        """The weight times the inverse of the covariance, (pixels, pixels), float64."""
        inverse: Tensor = torch.linalg.inv(self.covariance.double())
        return self.weight * inverse

    def build(self, seen: Observed) -> Term:
        """Return the term, where the observation is."""
        mean, precision = (t.to(seen.device, seen.dtype) for t in (self.mean, self.precision))

        def term(candidates: Candidates) -> Tensor:
            apart: Tensor = (candidates.inputs - mean).flatten(2)
            return ((apart @ precision) * apart).sum(dim=(1, 2)) / 2

        return term


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LearnedPrior(Content, Weighted):
    """Pictures that a denoiser leaves as they are: half the squared distance of x from network(x), over its variance.

    The denoiser is y less the slope of half that distance at y. Where it is the best one for normal noise, the term is
    minus the logarithm of the density of noisy pictures, up to a constant.

    Args:
        network: Maps (n, *input_shape) to the same; a copy follows the observation's device and type.
        std: Of the noise that it takes off, positive.
        weight: Factor of the term; 1 for minus the logarithm of the density.

    Chapter: bayesian. Source: hurault2022; vincent2011 for why a denoiser knows the density.
    """

    network: nn.Module
    std: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind("network", self.network, nn.Module)
        check_positive("std", self.std)

    @classmethod
    def fit(cls, pictures: Tensor, *, std: float = 0.1, steps: int = 1500, seed: int = 0) -> LearnedPrior:
        """Return the prior of pictures (n, *input_shape), with a perceptron that learned to take noise off them.

        Args:
            pictures: Not those that are attacked.
            std: Of the noise, positive.
            steps: Of Adam, from 0, on 64 pictures each; the rate falls to zero along a line.
            seed: Seeds the perceptron, the choice of pictures and the noise.
        """
        _check_several(pictures)
        if steps < 0:
            raise ValueError(f"steps: got {steps}, wanted 0 or more")
        pixels, generator = pictures[0].numel(), torch.Generator().manual_seed(seed)
        perceptron = models.mlp(pixels, (256,), pixels, activation="gelu", seed=seed)
        learner = cls(network=nn.Sequential(*perceptron, nn.Unflatten(1, pictures.shape[1:])).to(pictures), std=std)
        optimizer = torch.optim.Adam(learner.network.parameters())
        for step in range(steps):
            clean = pictures[torch.randint(len(pictures), (64,), generator=generator).to(pictures.device)]
            noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64).to(clean)
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
            optimizer.zero_grad()
            gap = learner.denoised(clean + std * noise, create_graph=True) - clean
            gap.square().mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        learner.network.requires_grad_(False)
        return learner

    def denoised(self, pictures: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return what the denoiser makes of noisy pictures (n, *input_shape)."""
        with torch.enable_grad():
            x = pictures.detach().requires_grad_()
            energy = (x - self.network(x)).square().sum() / 2
            (slope,) = torch.autograd.grad(energy, x, create_graph=create_graph)
        return pictures - slope

    def build(self, seen: Observed) -> Term:
        """Return the term, with a copy of the network where the observation is."""
        network = copy.deepcopy(self.network).to(seen.device, seen.dtype).eval().requires_grad_(False)

        def term(candidates: Candidates) -> Tensor:
            x = candidates.inputs.flatten(0, 1)
            apart: Tensor = (x - network(x)).unflatten(0, candidates.inputs.shape[:2])
            return self.weight / self.std**2 * apart.square().flatten(1).sum(1) / 2

        return term


def _check_several(pictures: Tensor) -> None:
    if len(pictures) < 2:
        raise ValueError(f"pictures: got {len(pictures)}, wanted at least two")
