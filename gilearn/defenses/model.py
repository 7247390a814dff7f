"""Defenses that change the model or its training (survey, section 3.2)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gilearn.federated import Observation, from_gradients


@dataclass(frozen=True, kw_only=True)
class Polarization:
    """The secret polarization network of Fan et al. (2020): a private head whose loss disturbs the shared gradients.

    The client attaches a fully connected head to features of the public model, and asks it for a code of signs that it
    drew for each class. The loss is ``share * cross_entropy + (1 - share) * mean hinge``, where the hinge of a head
    output h with code b is max(margin - b h, 0). Head and codes never leave the client; their loss is in the gradient
    of every layer below the features.

    Args:
        split: The features are what the first ``split`` layers of the public ``nn.Sequential`` put out.
        codes: Signs per class, from 1.
        share: Of the cross-entropy in the loss, from 0 to 1; 1 is no defense.
        margin: Of the hinge, positive.
        seed: Seeds the codes, the head, and the batches of its training.

    Raises:
        ValueError: A number is out of range.

    Chapter: convolution. Source: fan2020; survey section 2.2.
    """

    split: int
    codes: int = 16
    share: float = 0.5
    margin: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("split", "codes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least 1")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: got {self.share}, wanted 0 to 1")
        if self.margin <= 0:
            raise ValueError(f"margin: got {self.margin}, wanted a positive number")

    def train(
        self, model: nn.Sequential, x: Tensor, y: Tensor, *, steps: int = 300, batch_size: int = 64, lr: float = 0.01
    ) -> tuple[nn.Sequential, nn.Linear]:
        """Train a copy of a public model together with a private head.

        Args:
            model: The public model; at most the layers before ``split`` make the features.
            x: Inputs (n, ...).
            y: Labels (n,).
            steps: Of Adam, from 0.
            batch_size: Rows of a step.
            lr: Learning rate.

        Returns:
            The public model, and the private head (features -> codes).

        Raises:
            ValueError: ``split`` leaves no layer above the features.
        """
        if not self.split < len(model):
            raise ValueError(f"split: got {self.split} for a model of {len(model)} layers, wanted fewer")
        generator = torch.Generator().manual_seed(self.seed)
        model = copy.deepcopy(model)
        with torch.no_grad():
            features = model[: self.split](x[:1]).numel()
        head: nn.Linear = nn.utils.skip_init(nn.Linear, features, self.codes)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.uniform_(-(features**-0.5), features**-0.5, generator=generator)
        head.to(x)
        optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=lr)
        for _ in range(steps):
            rows = torch.randint(len(x), (batch_size,), generator=generator)
            optimizer.zero_grad()
            self.loss(model, head, x[rows], y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return model, head

    def loss(self, model: nn.Sequential, head: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
        """Return the client's loss on a batch."""
        features = model[: self.split](x)
        logits = model[self.split :](features)
        wanted = self._codes(logits.shape[1]).to(logits)[y]
        hinge = F.relu(self.margin - wanted * head(features.flatten(1))).mean()
        return self.share * F.cross_entropy(logits, y) + (1 - self.share) * hinge

    def observe(self, model: nn.Sequential, head: nn.Linear, x: Tensor, y: Tensor) -> Observation:
        """Return what leaves the client: the public model's gradient of the whole loss, for a batch."""
        model, head = copy.deepcopy(model), copy.deepcopy(head)
        gradients = torch.autograd.grad(self.loss(model, head, x, y), list(model.parameters()))
        return from_gradients(model, gradients, input_shape=tuple(x.shape[1:]), batch_size=len(x))

    def _codes(self, classes: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randint(0, 2, (classes, self.codes), generator=generator).mul(2).sub(1)
