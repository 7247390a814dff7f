"""Learning to invert (Wu et al., 2023): fit a map from what is shared to pictures, on pictures that are public."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gilearn.attacks.base import Attack, Reconstruction, residual
from gilearn.content import Content
from gilearn.federated import Defense, Observation, Observed
from gilearn.federated.checks import check_targets, check_tensor

_PENALTIES = tuple(10.0**exponent for exponent in range(-1, 6))


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
            entries, with the penalty of the least leave-one-out error among powers of ten. It holds no matrix of
            entries by pixels, only one of examples by examples.

    Raises:
        ValueError: The examples are no batch, labels and inputs do not fit each other, or ``defense`` or ``regressor``
            is none.

    Chapter: compression. Source: wu2023, who fit a neural network.
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
        seen = _single(seen)
        picture, scores = self.fitted(seen, seed=seed)(seen)
        target = seen.knowledge.get("labels", scores.argmax(dim=1).to(seen.device))
        return Reconstruction(
            inputs=picture,
            labels=target,
            residual=residual(self._told(seen), picture, target),
            seconds=time.perf_counter() - began,
            attack=repr(self),
            seed=seed,
            details={"auxiliary": len(self.inputs)},
        )

    def fitted(self, seen: Observation, *, seed: int = 0) -> Callable[[Observation], tuple[Tensor, Tensor]]:
        """Return the map, for any observation of the same model and defense: one fit for many clients.

        Args:
            seen: One of them; of it only what is public is used, the model and what it declares of the defense.
            seed: Seeds what the simulated clients draw.

        Returns:
            A function from an observation to inputs (1, *input_shape) and scores of the classes (1, num_classes).

        Raises:
            ValueError: As :meth:`reconstruct`.
        """
        seen = _single(seen)
        if tuple(self.inputs.shape[1:]) != seen.input_shape:
            raise ValueError(f"inputs: got examples of shape {tuple(self.inputs.shape[1:])}, wanted {seen.input_shape}")
        check_targets(self.labels, len(self.labels), (seen.num_classes,), seen.num_classes, "labels")
        inputs, labels = self.inputs.to(seen.device, seen.dtype), self.labels.to(seen.device)
        told, generator = self._told(seen), torch.Generator().manual_seed(seed)
        entries = [
            _flat(told.simulate(x[None], y[None], generator=generator, create_graph=False))
            for x, y in zip(inputs, labels, strict=True)
        ]
        wanted = torch.cat([inputs.flatten(1), torch.eye(seen.num_classes).to(inputs)[labels]], dim=1)
        predict = _fit(self.regressor, torch.stack(entries), wanted.double().cpu())
        low, high = float(inputs.min()), float(inputs.max())

        def inverted(other: Observation) -> tuple[Tensor, Tensor]:
            found = predict(_flat(other.shared)[None]).to(inputs)
            pixels, scores = found[:, : -seen.num_classes], found[:, -seen.num_classes :]
            return pixels.view(1, *seen.input_shape).clamp(low, high), scores

        return inverted

    def _told(self, seen: Observation) -> Observation:
        if self.defense is None:
            return seen
        return seen.replace(knowledge={**seen.knowledge, "defense": self.defense})


def _single(seen: Observed) -> Observation:
    if not isinstance(seen, Observation) or seen.batch_size != 1:
        raise ValueError(f"seen: got a {type(seen).__name__} of {seen.batch_size} examples, wanted one client's single")
    return seen


def _flat(gradients: Any) -> Tensor:
    return torch.cat([g.detach().flatten() for g in gradients if g is not None]).double().cpu()


def _fit(regressor: Any, entries: Tensor, wanted: Tensor) -> Callable[[Tensor], Tensor]:
    if regressor is None:
        return _ridge(entries, wanted)
    from sklearn.base import clone

    own = clone(regressor).fit(entries.numpy(), wanted.numpy())
    return lambda given: torch.from_numpy(own.predict(given.numpy()))


def _ridge(entries: Tensor, wanted: Tensor, penalties: Sequence[float] = _PENALTIES) -> Callable[[Tensor], Tensor]:
    """Return ridge regression's prediction, from inner products of examples."""
    center, spread, offset = entries.mean(0), entries.std(0, correction=0), wanted.mean(0)
    spread = torch.where(spread > 0, spread, 1.0)
    scaled = (entries - center) / spread
    values, vectors = torch.linalg.eigh(scaled @ scaled.T)
    target = vectors.T @ (wanted - offset)

    def duals(penalty: float) -> Tensor:
        found: Tensor = vectors @ (target / (values + penalty)[:, None])
        return found

    def left_out(penalty: float) -> float:
        """Return the mean squared error of examples that are left out one by one, from one fit."""
        own_weight = 1 / len(entries) + (vectors.square() * (values / (values + penalty))).sum(1, keepdim=True)
        return float((penalty * duals(penalty) / (1 - own_weight)).square().mean())

    best = duals(min(penalties, key=left_out))

    def predict(given: Tensor) -> Tensor:
        found: Tensor = offset + ((given - center) / spread) @ scaled.T @ best
        return found

    return predict
