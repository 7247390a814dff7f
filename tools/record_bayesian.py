"""The most probable picture, at equal optimality: which likelihood, which prior, which weight, which ball.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_bayesian

A case is a digit, an untrained MLP with sigmoids (64, 32, 10) and a draw of the noise, with a seed of its own; the
label is declared. ``MAP`` solves from the middle gray, and a second time from the private digit itself, which shows
whether the first has reached the same minimum. The factor of the prior is the best of five (of four for the priors, of
six or eight for who overlooks mask or clipping) on other cases, which are recorded as well. Fifteen minutes on one
core. What the file holds is kept; remove it to measure all again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gilearn import data, defenses, federated, metrics, models
from gilearn.attacks import GradientMatching, bayesian, initialization, optimizers, priors, regularizers
from gilearn.attacks.labels import Declared
from tools.recording import known, resume

COMMAND = "python -m tools.record_bayesian"
CASES = range(24)
TUNING = range(200, 206)
SOME = range(12)
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)
FEW = (0.25, 1.0, 4.0)
MUCH = (16.0, 64.0, 256.0)  # for who overlooks something: more and more of the prior
SCALE = 0.02
DIGITS, LABELS = data.digits()
DIGITS = DIGITS.double()
OTHERS = DIGITS[400:]
GRAY = initialization.Constant(value=0.5)
NOISES = ("Gaussian", "Laplace", "pruned")
LIKELIHOODS = ("l2", "l1", "cosine", "l1, no mask")


def mask(case: int) -> defenses.Mask:
    """A random half of the entries, which the server knows."""
    generator = torch.Generator().manual_seed(10_000 + case)
    shapes = [p.shape for p in models.mlp(64, (32,)).parameters()]
    return defenses.Mask(masks=tuple(torch.rand(shape, generator=generator) < 0.5 for shape in shapes))


def view(case: int, noise: str, scale: float = SCALE) -> tuple[Tensor, federated.Observation]:
    """One private digit and what was shared for it."""
    model = models.mlp(64, (32,), seed=case).double()
    defense = {
        "none": (),
        "Gaussian": (defenses.GaussianNoise(std=scale),),
        "Laplace": (defenses.LaplaceNoise(scale=scale),),
        "pruned": (defenses.LaplaceNoise(scale=scale), mask(case)),
        "clipped": (defenses.BatchClipping(norm=0.5), defenses.GaussianNoise(std=scale)),
    }[noise]
    x, y = DIGITS[case : case + 1], LABELS[case : case + 1]
    return x, federated.observe(model, x, y, declare=["labels", "defense"], defense=defense, seed=case)


def blind(seen: federated.Observation) -> federated.Observation:
    """The same observation without the defense."""
    return seen.replace(knowledge={"labels": seen.known("labels")})


def likelihood(name: str, seen: federated.Observation, scale: float = SCALE) -> Any:
    if name.startswith("l2"):
        return bayesian.Normal(std=scale)
    if name.startswith("l1"):
        return bayesian.Laplace(scale=scale)
    size = sum(float(g.square().sum()) for g in seen.shared)
    return bayesian.Directional(concentration=size / scale**2)


def solved(name: str, noise: str, weight: float, case: int, *, truth: bool = False) -> dict[str, float]:
    x, seen = view(case, noise)
    given = blind(seen) if name.endswith(("no mask", "no clipping")) else seen
    start = initialization.FromImage(picture=x) if truth else GRAY
    attack = bayesian.MAP(
        likelihood=likelihood(name, seen), prior=prior("digits").replace(weight=weight), initialization=start
    )
    result = attack(given)
    keep = {"psnr": round(metrics.psnr(result.inputs, x), 2), "objective": round(result.details["objective"], 4)}
    if truth:
        return keep
    return keep | {
        "gap": float(f"{result.details['gap']:.1e}"),
        "forecast": round(float(-10 * result.details["deviations"].square().mean().log10()), 2),
    }


@functools.cache
def prior(name: str) -> Any:
    if name == "digits":
        return priors.GaussianPrior.fit(OTHERS)
    if name == "pixels":
        return priors.GaussianPrior.fit(OTHERS, independent=True)
    if name == "faces":
        faces = torch.nn.functional.interpolate(data.faces()[0], size=8, mode="area")
        return priors.GaussianPrior.fit(faces)
    if name == "denoiser":
        return priors.LearnedPrior.fit(OTHERS, std=0.1)
    return regularizers.TotalVariation(weight=100.0)


def best(**key: Any) -> float:
    """The weight with the best mean over the tuning cases."""
    found: dict[float, list[float]] = {}
    for row in known("bayesian", []):
        if all(row.get(column) == value for column, value in ({"part": "tuning"} | key).items()):
            found.setdefault(row["weight"], []).append(row["psnr"])
    return max(found, key=lambda weight: float(np.mean(found[weight])))


def rivals(noise: str) -> tuple[str, ...]:
    if noise == "clipped":
        return ("l2", "l2, no clipping", "cosine")
    return LIKELIHOODS if noise == "pruned" else LIKELIHOODS[:3]


def optimum() -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield what each likelihood's solution is worth."""
    for noise in (*NOISES, "clipped"):
        for name in rivals(noise):
            columns = {"of": "likelihood", "noise": noise, "name": name}
            control = name == "l1, no mask"
            blinded = MUCH if control or name == "l2, no clipping" else ()
            for weight in (*(FEW if control else WEIGHTS), *blinded):
                for case in TUNING:
                    key = {"part": "tuning", **columns, "weight": weight, "case": case}
                    yield key, functools.partial(solved, name, noise, weight, case)
            weight = best(**columns)
            for case in CASES:
                for truth in (False, True)[: 2 - control]:
                    key = {"part": "truth" if truth else "solved", **columns, "weight": weight, "case": case}
                    yield key, functools.partial(solved, name, noise, weight, case, truth=truth)


def searched(
    name: str, scale: float, weight: float, case: int, *, prior_name: str = "digits", truth: bool = False, **how: Any
) -> dict[str, float]:
    """Search the posterior with the engine: by default L-BFGS from the middle gray."""
    noise = how.pop("noise", "Gaussian")
    x, seen = view(case, noise, scale)
    settings: dict[str, Any] = {"optimizer": optimizers.LBFGS(), "iterations": 20}
    ball = {key: how.pop(key) for key in ("delta", "draws") if key in how}
    start = initialization.FromImage(picture=x) if truth else GRAY
    search = GradientMatching(labels=Declared(), initialization=start, dtype=torch.float64, **(settings | how))
    base = () if prior_name == "none" else (prior(prior_name),)
    weighted = tuple(p.replace(weight=p.weight * weight) for p in base)
    attack = bayesian.BayesOptimal(likelihood=likelihood(name, seen, scale), prior=weighted, search=search, **ball)
    result = attack(seen, seed=case)
    error = float((result.inputs - x).norm())
    return {
        "psnr": round(metrics.psnr(result.inputs, x), 2),
        "objective": round(float(result.history.min()), 4),
        "error": round(error, 4),
    }


PRIORS = ("none", "TV", "pixels", "digits", "faces", "denoiser")


def which_prior() -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield what each prior is worth under little and under much normal noise."""
    for scale in (0.02, 0.1):
        for name in PRIORS:
            columns = {"of": "prior", "noise": "Gaussian", "scale": scale, "name": name}
            weights = (1.0,) if name == "none" else (0.0625, *FEW)
            for weight in weights:
                for case in TUNING[:4]:
                    key = {"part": "tuning", **columns, "weight": weight, "case": case}
                    yield key, functools.partial(searched, "l2", scale, weight, case, prior_name=name)
            weight = best(**columns)
            for case in SOME:
                for truth in (False, True)[: 1 + (scale == 0.1 and name in ("TV", "denoiser"))]:
                    key = {"part": "truth" if truth else "solved", **columns, "weight": weight, "case": case}
                    yield key, functools.partial(searched, "l2", scale, weight, case, prior_name=name, truth=truth)


def first_order() -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield what 200 steps of Adam reach of the same posteriors, the rate tuned for each."""
    for noise in ("Gaussian", "Laplace"):
        for name in ("l2", "l1"):
            weight = best(of="likelihood", noise=noise, name=name)
            columns = {"of": "first order", "noise": noise, "name": name}
            how = {"noise": noise, "iterations": 200}
            for rate in (0.01, 0.03, 0.1):
                for case in TUNING[:4]:
                    key = {"part": "tuning", **columns, "weight": rate, "case": case}
                    adam = optimizers.Adam(lr=rate, schedule=optimizers.StepDecay())
                    yield key, functools.partial(searched, name, SCALE, weight, case, optimizer=adam, **how)
            adam = optimizers.Adam(lr=best(**columns), schedule=optimizers.StepDecay())
            for case in SOME:
                key = {"part": "solved", **columns, "weight": adam.lr, "case": case}
                yield key, functools.partial(searched, name, SCALE, weight, case, optimizer=adam, **how)


def in_a_ball() -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield the adversary who aims at the ball: normal noise, a prior that is not normal."""
    for delta in (0.0, 2.0):
        for case in CASES:
            key = {
                "part": "solved",
                "of": "ball",
                "noise": "Gaussian",
                "name": "denoiser",
                "delta": delta,
                "case": case,
            }
            weight = best(of="prior", noise="Gaussian", scale=0.1, name="denoiser")
            how = {"prior_name": "denoiser", "delta": delta, "draws": 4}
            yield key, functools.partial(searched, "l2", 0.1, weight, case, **how)


def main() -> None:
    for plan in (optimum, which_prior, first_order, in_a_ball):
        resume("bayesian", COMMAND, plan())


if __name__ == "__main__":
    main()
