"""Defenses that change the model or its training (survey, section 3.2)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gilearn.federated import Client, Defense, Observation
from gilearn.federated.checks import check_number, check_whole


@dataclass(frozen=True, kw_only=True)
class Dropout(Defense):
    """A dropout layer between encoder and classifier: the last fully connected layer gets a part of its features.

    Every step draws which features of every example are set to zero; the others are divided by 1 - p. Like any dropout
    it is off for a model in evaluation mode. A server that is not told of it simulates a client without the layer; one
    that is puts the layer into its model, ``seen.replace(model=defense.insert(seen.model))``, and has masks to read or
    to search.

    Args:
        p: Probability that a feature is set to zero, from 0 to below 1.

    Raises:
        ValueError: ``p`` is out of range. When it runs: the model has no fully connected layer.

    Chapter: dropout. Source: zheng2021; survey, section 3.2.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        check_number("p", self.p, lambda p: 0 <= p < 1, "0 to below 1")

    def insert(self, model: nn.Module) -> nn.Module:
        """Return a copy of a model with an ``nn.Dropout`` in front of its last fully connected layer.

        The parameters keep their order; a gradient of one is a gradient of the other.
        """
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: got a {type(model).__name__}, wanted a torch.nn.Module")
        model = copy.deepcopy(model)
        name, classifier = _classifier(model)
        parent, _, own = name.rpartition(".")
        inserted = nn.Sequential(nn.Dropout(self.p), classifier).train(classifier.training)
        if not name:
            return inserted
        setattr(model.get_submodule(parent), own, inserted)
        return model

    def objective(self, objective: nn.Module, client: Client) -> nn.Module:
        """Return the loss with the layer in the client's model; an imagined client drops nothing."""
        return objective if client.generator is None else _Dropping(objective, self.p)


class _Dropping(nn.Module):
    """A loss whose model drops features in front of its classifier; the model itself stays as it is."""

    def __init__(self, objective: nn.Module, p: float) -> None:
        super().__init__()
        self.objective, self.model, self.p = objective, cast(nn.Module, objective.model), p

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        _, classifier = _classifier(self.model)

        def dropped(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (F.dropout(given[0], self.p, training=module.training), *given[1:])

        hook = classifier.register_forward_pre_hook(dropped)
        try:
            loss: Tensor = self.objective(inputs, targets)
        finally:
            hook.remove()
        return loss


def _classifier(model: nn.Module) -> tuple[str, nn.Linear]:
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f"model: got a {type(model).__name__} without an nn.Linear, wanted one to drop features of")
    return layers[-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Polarization(Defense):
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
        head: The private head (features -> codes); :meth:`train` returns a value that has one.

    Raises:
        ValueError: A number is out of range.

    Chapter: convolution. Source: fan2020; survey section 2.2.
    """

    split: int
    codes: int = 16
    share: float = 0.5
    margin: float = 1.0
    seed: int = 0
    head: nn.Linear | None = field(default=None, repr=False)

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
    ) -> tuple[nn.Sequential, Polarization]:
        """Train a copy of a public model together with a private head.

        Args:
            model: The public model; at most the layers before ``split`` make the features.
            x: Inputs (n, ...).
            y: Labels (n,).
            steps: Of Adam, from 0.
            batch_size: Rows of a step.
            lr: Learning rate.

        Returns:
            The public model, and this defense with its private head.

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
        trained = self.replace(head=head.to(x))
        loss = Polarized(model, trained)
        optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=lr)
        for _ in range(steps):
            rows = torch.randint(len(x), (batch_size,), generator=generator)
            optimizer.zero_grad()
            loss(x[rows], y[rows]).backward()
            optimizer.step()
        return model, trained

    def objective(self, objective: nn.Module, client: Client) -> nn.Module:
        """Return the client's whole loss, with its private head's part.

        Raises:
            ValueError: It has no head yet, or the model is no ``nn.Sequential``.
        """
        if not isinstance(objective.model, nn.Sequential):
            raise ValueError(f"model: got a {type(objective.model).__name__}, wanted an nn.Sequential to split")
        if self.head is None:
            return Polarized(objective.model, self)
        head = copy.deepcopy(self.head).to(next(objective.model.parameters()))
        return Polarized(objective.model, self.replace(head=head))


class Polarized(nn.Module):
    """The loss of a client with a private head: share * cross_entropy + (1 - share) * mean hinge.

    Args:
        model: The public model.
        defense: The settings, and the head.

    Raises:
        ValueError: The defense has no head.
    """

    def __init__(self, model: nn.Sequential, defense: Polarization) -> None:
        super().__init__()
        if defense.head is None:
            raise ValueError("defense: the polarization has no private head yet, train(model, x, y) makes one")
        self.model, self.head, self.defense = model, defense.head, defense

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch."""
        settings = self.defense
        features = self.model[: settings.split](inputs)
        logits = self.model[settings.split :](features)
        wanted = codes(settings, logits.shape[1]).to(logits)[targets]
        hinge = F.relu(settings.margin - wanted * self.head(features.flatten(1))).mean()
        return settings.share * F.cross_entropy(logits, targets) + (1 - settings.share) * hinge


def codes(defense: Polarization, classes: int) -> Tensor:
    """Return the secret code of every class, signs (classes, codes)."""
    generator = torch.Generator().manual_seed(defense.seed + 1)
    return torch.randint(0, 2, (classes, defense.codes), generator=generator).mul(2).sub(1)


@dataclass(frozen=True, kw_only=True)
class Reshuffling(Defense):
    """Visit the client's data in a new order in every epoch of its local steps, which the server is not told.

    Give the client a schedule of as many epochs: ``LocalSteps(steps=epochs * len(x) // b, lr=..., batch_size=b)``.

    Args:
        epochs: How many orders are drawn, from 1.

    Raises:
        ValueError: The number is out of range.

    Chapter: local-steps. Source: dimitrov2022, for what the server does not know.
    """

    epochs: int

    def __post_init__(self) -> None:
        check_whole("epochs", self.epochs)

    def data(self, inputs: Tensor, targets: Tensor, client: Client) -> tuple[Tensor, Tensor]:
        """Return every epoch's rows in its order, one epoch after the other; an imagined client's are in their own."""
        places = inputs.new_zeros(len(inputs), dtype=torch.float64)
        orders = [client.draw(places, "uniform").argsort(stable=True) for _ in range(self.epochs)]
        rows = torch.cat(orders)
        return inputs[rows], targets[rows]

    def public(self, seen: Observation) -> Defense:
        """Return itself: that the data are reshuffled is public, how they were is not."""
        return self
