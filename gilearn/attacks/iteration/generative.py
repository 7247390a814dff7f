"""GIAS: search in what a generator can draw, then in the generator's own weights (survey, section 2.1; Table 1)."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from gilearn.attacks.base import Attack, Reconstruction
from gilearn.attacks.iteration.distances import Cosine
from gilearn.attacks.iteration.initialization import Gaussian
from gilearn.attacks.iteration.matching import GradientMatching
from gilearn.attacks.iteration.optimizers import Adam, StepDecay
from gilearn.attacks.iteration.regularizers import TotalVariation
from gilearn.attacks.iteration.spaces import Latent, Pixels, Weights
from gilearn.attacks.iteration.spaces.base import Bounds
from gilearn.attacks.labels import Declared, Fixed, Joint
from gilearn.content import Content

_LATENT = GradientMatching(
    initialization=Gaussian(),
    labels=Declared(),
    distance=Cosine(),
    regularizers=(TotalVariation(weight=1e-6),),
    optimizer=Adam(lr=3e-2, schedule=StepDecay()),
    iterations=1000,
    restarts=4,
    parallel=4,
)
_WEIGHTS = _LATENT.replace(optimizer=Adam(lr=1e-3, schedule=StepDecay()), iterations=5000, restarts=1, parallel=1)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GIAS(Content, Attack):
    """Gradient inversion with a generative prior (Jeon et al., 2021): two searches by the one engine.

    First the latent vectors of a generator, of which the best of several starts is kept; then, from there, the
    generator's weights, a copy for every example, with the latent vectors fixed. The first search can return only what
    the generator draws; the second leaves its range.

    Survey: latent, 64x64, ResNet, batch 4, cosine, Adam, GAN-based. The released code: StyleGAN2; latent vectors by
    Adam with learning rate 3e-2, 500 to 1,000 iterations, 3 or 4 starts; weights with 1e-3, 5,000 to 8,000 iterations;
    total variation 1e-6; it takes the batch's true labels and batch-norm statistics as given. Ours has the same rates
    and terms and takes the declared labels, and no statistics. Its meta-learned generator (GIML) is not here.

    Args:
        generator: Maps (batch, *shape) to (batch, *input_shape), and draws nothing; what the attacker knows of the
            client's pictures beforehand.
        shape: Shape of one example's latent vector, which starts as N(0, 1).
        bounds: Least and largest latent value; ``None``: no projection.
        search: The first phase; its space is set here.
        refine: The second phase, likewise; ``None`` stops after the first.

    Raises:
        ValueError: A phase is none, or has a space of its own. When called: what :class:`Latent` and
            :class:`GradientMatching` refuse.

    Result: ``details`` has the first phase's inputs (``latent_inputs``), its ``latent_residual``, and its number of
    evaluations (``latent_evaluations``), after which history and snapshots are the second phase's.

    Chapter: generative-priors. Source: jeon2021, section 3.
    """

    generator: nn.Module
    shape: tuple[int, ...]
    bounds: Bounds | None = None
    search: GradientMatching = _LATENT
    refine: GradientMatching | None = _WEIGHTS

    def __post_init__(self) -> None:
        for name in ("search", "refine"):
            phase = getattr(self, name)
            if not (isinstance(phase, GradientMatching) or (name == "refine" and phase is None)):
                raise ValueError(f"{name}: got a {type(phase).__name__}, wanted a GradientMatching")
            if phase is not None and phase.space != Pixels():
                raise ValueError(f"{name}: got {phase.space}, wanted no space of its own: the generator's is searched")
        self._latent()

    def both(self, **changes: Any) -> GIAS:
        """Return the attack with the same changes in both phases: ``gias.both(distance=distances.Manhattan())``.

        Raises:
            ValueError: As :meth:`GradientMatching.replace`.

        Chapter: generative-priors.
        """
        refine = None if self.refine is None else self.refine.replace(**changes)
        changed: GIAS = self.replace(search=self.search.replace(**changes), refine=refine)
        return changed

    def reconstruct(
        self, seen: Any, *, seed: int, snapshots: int, progress: bool, time_limit: float | None
    ) -> Reconstruction:
        """Run the attack on checked arguments."""
        began = time.perf_counter()
        first = self.search.replace(space=self._latent())(
            seen, seed=seed, snapshots=-(-snapshots // 2), progress=progress, time_limit=time_limit
        )
        details = {
            "latent_inputs": first.inputs,
            "latent_residual": first.residual,
            "latent_evaluations": len(first.history),
        }
        left = None if time_limit is None else time_limit - (time.perf_counter() - began)
        if self.refine is None or (left is not None and left <= 0):
            return dataclasses.replace(first, attack=repr(self), details=details)
        weights = Weights(generator=self.generator, latent=first.variables["latent"], redraw=False, each=True)
        # Labels that were searched too are those that the first phase ended with.
        found = Fixed(cast(Tensor, first.labels)) if isinstance(self.search.labels, Joint) else self.refine.labels
        second = self.refine.replace(space=weights, labels=found)(
            seen, seed=seed, snapshots=snapshots // 2, progress=progress, time_limit=left
        )
        later = tuple((len(first.history) + evaluation, inputs) for evaluation, inputs in second.snapshots)
        return dataclasses.replace(
            second,
            seconds=time.perf_counter() - began,
            attack=repr(self),
            history=torch.cat([first.history, second.history]),
            snapshots=first.snapshots + later,
            restarts=first.restarts + second.restarts,
            variables={**first.variables, **second.variables},
            details=details,
        )

    def _latent(self) -> Latent:
        return Latent(generator=self.generator, shape=self.shape, bounds=self.bounds)
