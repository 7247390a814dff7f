"""Learning to invert (Wu et al., 2023): fit a map from what is shared to pictures, on pictures that are public."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gilearn.attacks.base import Attack, Reconstruction, residual
from gilearn.content import Content
from gilearn.federated import Defense, Observation, Observed
from gilearn.federated.checks import check_targets, check_tensor


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LearnedInversion(Content, Attack):
    """Invert a single example's gradient by a regression that was fitted to auxiliary examples.

    The attacker has examples like the client's. It simulates what a client would share for each of them, with the
    defense, fits a map from all entries of that to pixels and label, and applies it to what it saw. The defense need
    not have a derivative, and what it hides in the mean is filled in with what such pictures look like.

    Args:
        inputs: The auxiliary inputs (n, *input_shape), at least two.
        labels: Their labels (n,), int64.
        defense: What the simulated clients do; ``None``: what the observation declares, or nothing.
        regressor: An unfitted scikit-learn regressor of several outputs; ``None`` for ridge regression on standardized
            entries, with the penalty of the least leave-one-out error among powers of ten.

    Raises:
        ValueError: The examples are no batch, labels and inputs do not fit each other, or ``defense`` or ``regressor``
            is none.

    Chapter: compression. Source: wu2023, who fit a neural network. Component: ``sklearn.linear_model.RidgeCV``.
    """

    inputs: Tensor
    labels: Tensor
    defense: Defense | None = None
    regressor: Any = field(default=None)

    def __post_init__(self) -> None:
        check_tensor("inputs", self.inputs, "(n, ...), at least two examples")
        if len(self.inputs) < 2:
            raise ValueError("inputs: got 1 example, wanted at least 2 to fit a map to")
        if not isinstance(self.labels, Tensor) or self.labels.is_floating_point():
            raise ValueError(f"labels: got {type(self.labels).__name__}, wanted a tensor of classes, int64")
        if self.labels.shape != self.inputs.shape[:1]:
            raise ValueError(
                f"labels: got shape {tuple(self.labels.shape)} for {len(self.inputs)} inputs, wanted one each"
            )
        if self.defense is not None and not isinstance(self.defense, Defense):
            raise ValueError(f"defense: got {self.defense!r}, wanted a Defense, or None")
        if self.regressor is not None and not all(hasattr(self.regressor, name) for name in ("fit", "predict")):
            raise ValueError(f"regressor: got {self.regressor!r}, wanted one with fit and predict, or None")

    def reconstruct(
        self, seen: Observed, *, seed: int, snapshots: int, progress: bool, time_limit: float | None
    ) -> Reconstruction:
        """Run the attack; it has no steps to show. The seed draws what the simulated clients draw.

        Returns:
            The inputs, clipped to the auxiliary examples' range; ``labels`` are those declared, or else predicted.

        Raises:
            ValueError: It is an observation of several clients or examples, or the auxiliary ones are of another shape.
        """
        began = time.perf_counter()
        if not isinstance(seen, Observation) or seen.batch_size != 1:
            raise ValueError(
                f"seen: got a {type(seen).__name__} of {seen.batch_size} examples, wanted one client's single"
            )
        if tuple(self.inputs.shape[1:]) != seen.input_shape:
            raise ValueError(f"inputs: got examples of shape {tuple(self.inputs.shape[1:])}, wanted {seen.input_shape}")
        check_targets(self.labels, len(self.labels), (seen.num_classes,), seen.num_classes, "labels")
        if self.defense is not None:
            seen = seen.replace(knowledge={**seen.knowledge, "defense": self.defense})
        inputs, labels = self.inputs.to(seen.device, seen.dtype), self.labels.to(seen.device)
        generator = torch.Generator().manual_seed(seed)
        entries = [
            _flat(self._shared(seen, inputs[k : k + 1], labels[k : k + 1], generator)) for k in range(len(inputs))
        ]
        wanted = torch.cat([inputs.flatten(1), torch.eye(seen.num_classes).to(inputs)[labels]], dim=1)
        map_ = _ridge() if self.regressor is None else _fresh(self.regressor)
        map_.fit(torch.stack(entries).numpy(), wanted.double().cpu().numpy())
        found = torch.from_numpy(map_.predict(_flat(seen.shared)[None].numpy()))
        pixels, scores = found[:, : -seen.num_classes], found[:, -seen.num_classes :]
        picture = pixels.to(inputs).view(1, *seen.input_shape).clamp(float(inputs.min()), float(inputs.max()))
        target = seen.knowledge.get("labels", scores.argmax(dim=1).to(seen.device))
        return Reconstruction(
            inputs=picture,
            labels=target,
            residual=residual(seen, picture, target),
            seconds=time.perf_counter() - began,
            attack=repr(self),
            seed=seed,
            details={"auxiliary": len(inputs), "entries": len(entries[0])},
        )

    def _shared(self, seen: Observation, x: Tensor, y: Tensor, generator: torch.Generator) -> Any:
        return seen.simulate(x, y, generator=generator, create_graph=False)


def _flat(gradients: Any) -> Tensor:
    return torch.cat([g.detach().flatten() for g in gradients if g is not None]).double().cpu()


def _ridge() -> Any:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(alphas=[10.0**k for k in range(-1, 6)]))


def _fresh(regressor: Any) -> Any:
    from sklearn.base import clone

    return clone(regressor)
