"""Mixing: train on combinations of examples, with signs flipped or not, and predict from combinations."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gilearn.federated import Client, Defense, Observation
from gilearn.federated.checks import check_number, check_tensor, check_whole

_Array = np.ndarray[Any, Any]
_TRIES = 10_000


@dataclass(frozen=True, kw_only=True)
class MixUp(Defense):
    """Train on convex combinations of the client's examples: inputs and labels are mixed with the same coefficients.

    Every time that the client computes, each of its examples is the first of one encoding; its partners are other
    examples of the client, drawn without replacement. Targets become class probabilities, for the cross-entropy.

    An attack on the gradient returns encodings. So an imagined client, which draws nothing, takes its inputs for
    encodings and leaves them as they are; with a generator it mixes them anew. The rule is public; partners and
    coefficients are not part of it.

    Args:
        concentrations: Of the Dirichlet distribution of the coefficients, positive, one per example of an encoding, the
            client's own first. ``(a, a)`` is the Beta(a, a) of the original; ``(3, 1, 1, 1)`` with ``cap=0.65`` mixes
            four as GradAttack does.
        cap: No coefficient is larger: such draws are repeated. At most 1, and above 1 over their number.

    Raises:
        ValueError: A number is out of range.

    Chapter: mixup. Source: zhang2018; huang2021 for more than two.
    """

    concentrations: tuple[float, ...] = (1.0, 1.0)
    cap: float = 1.0

    def __post_init__(self) -> None:
        got = f"concentrations: got {self.concentrations}, wanted two or more positive numbers"
        if not isinstance(self.concentrations, (tuple, list)) or len(self.concentrations) < 2:
            raise ValueError(got)
        if not all(
            isinstance(each, (int, float)) and 0 < each < np.inf for each in cast(tuple[Any, ...], self.concentrations)
        ):
            raise ValueError(got)
        object.__setattr__(self, "concentrations", tuple(self.concentrations))
        _check_cap(self.cap, len(self.concentrations))

    def data(self, inputs: Tensor, targets: Tensor, client: Client) -> tuple[Tensor, Tensor]:
        """Return the encodings (batch, ...) and their class probabilities (batch, num_classes).

        Raises:
            ValueError: The client has fewer examples than an encoding takes, or its inputs are tokens.
        """
        if client.generator is None:
            return inputs, targets
        random = _random(client.generator)
        rows = _partners(inputs, len(self.concentrations), random)
        coefficients = _until(
            lambda number: random.dirichlet(self.concentrations, number), lambda c: c.max(1) <= self.cap, len(inputs)
        )
        return _mixed(inputs, rows, coefficients), _mixed(_probabilities(targets, inputs, client), rows, coefficients)

    def objective(self, objective: nn.Module, client: Client) -> nn.Module:
        """Return the loss as it is, if it takes class probabilities."""
        return _takes_probabilities(objective)

    def public(self, seen: Observation) -> Defense:
        """Return this rule."""
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class InstaHide(Defense):
    """Mix examples, then flip the sign of every pixel by a key that is drawn anew for each encoding and kept nowhere.

    Coefficients are magnitudes of normal draws over their sum. Without public images all ``k`` examples of an encoding
    are the client's (inside-dataset). With them two are, and k - 2 come from the public images (cross-dataset); labels
    are mixed over the client's own alone, with their coefficients, so that they add up to the private share.

    An imagined client, which draws nothing, takes its inputs for encodings and leaves them as they are.

    Args:
        k: Examples of an encoding, from 2; from 3 with public images.
        cap: No coefficient is larger, at most 1 and above 1/k: the authors' c1.
        share: The client's own two coefficients add up to at least this in an encoding with public images, 0 to below
            1: the authors' c2.
        center: Signs are flipped about this value. Pixels are in [0, 1] here and a model normalizes inside: 0.5 is what
            flipping after normalization to [-1, 1] does, and 0 leaves every magnitude, with pixels their value.
        public_images: (n, ...) in the shape of the client's, or ``None``.
        entropy: Where partners, coefficients and key come from. ``"system"``: the operating system's cryptographic
            generator, anew at each release, whatever the client's seed: a key that comes of a seed, or of a generator
            whose state can be reckoned back, is no key. Such a run cannot be repeated. ``"client"``: the client's
            generator, like every other draw in this package, for an experiment that has to be.

    Raises:
        ValueError: A number is out of range, or ``entropy`` is unknown.

    Chapter: instahide. Source: huang2020, and the authors' code for the coefficients.
    """

    k: int = 4
    cap: float = 0.65
    share: float = 0.3
    center: float = 0.5
    public_images: Tensor | None = field(default=None, repr=False)
    entropy: Literal["system", "client"] = "system"

    def __post_init__(self) -> None:
        least = 2 if self.public_images is None else 3
        check_whole("k", self.k, least)
        _check_cap(self.cap, self.k)
        check_number("share", self.share, lambda share: 0 <= share < 1, "0 to below 1")
        check_number("center", self.center, lambda center: 0 <= center <= 1, "a value of the pixels, 0 to 1")
        if self.public_images is not None:
            check_tensor("public_images", self.public_images)
            if len(self.public_images) < self.k - 2:
                raise ValueError(f"public_images: got {len(self.public_images)}, wanted at least k - 2 = {self.k - 2}")
        if self.entropy not in ("system", "client"):
            raise ValueError(f"entropy: got {self.entropy!r}, wanted 'system' or 'client'")

    @property
    def private(self) -> int:
        """How many examples of an encoding are the client's."""
        return self.k if self.public_images is None else 2

    def data(self, inputs: Tensor, targets: Tensor, client: Client) -> tuple[Tensor, Tensor]:
        """Return the encodings (batch, ...) and their mixed labels (batch, num_classes).

        Raises:
            ValueError: The client has fewer examples than an encoding takes, its inputs are tokens, or the public
                images have another shape.
        """
        if client.generator is None:
            return inputs, targets
        system = self.entropy == "system"
        random = np.random.default_rng(secrets.randbits(256)) if system else _random(client.generator)
        rows, pool = _partners(inputs, self.private, random), inputs
        if self.public_images is not None:
            if self.public_images.shape[1:] != inputs.shape[1:]:
                got, wanted = tuple(self.public_images.shape[1:]), tuple(inputs.shape[1:])
                raise ValueError(f"public_images: got pictures of shape {got}, wanted {wanted}")
            pool = torch.cat([inputs, self.public_images.to(inputs)])
            helpers = [random.choice(len(self.public_images), self.k - 2, replace=False) for _ in rows]
            rows = np.concatenate([rows, len(inputs) + np.stack(helpers)], axis=1)
        coefficients = _until(lambda number: self._draw(number, random), self._fits, len(inputs))
        own = slice(self.private)
        labels = _mixed(_probabilities(targets, inputs, client), rows[:, own], coefficients[:, own])
        bits = secrets.token_bytes(-(-inputs.numel() // 8)) if system else random.bytes(-(-inputs.numel() // 8))
        key = torch.from_numpy(np.unpackbits(np.frombuffer(bits, np.uint8))[: inputs.numel()]).view(inputs.shape)
        return self.center + (2 * key.to(inputs) - 1) * (_mixed(pool, rows, coefficients) - self.center), labels

    def objective(self, objective: nn.Module, client: Client) -> nn.Module:
        """Return the loss as it is, if it takes class probabilities."""
        return _takes_probabilities(objective)

    def public(self, seen: Observation) -> Defense:
        """Return this rule, whose draws an attacker makes from its own generator; no key is part of it."""
        return self.replace(entropy="client")

    def _draw(self, number: int, random: np.random.Generator) -> _Array:
        magnitudes = np.abs(random.standard_normal((number, self.k)))
        shares: _Array = magnitudes / magnitudes.sum(1, keepdims=True)
        return shares

    def _fits(self, coefficients: _Array) -> _Array:
        enough = coefficients[:, : self.private].sum(1) >= self.share
        fits: _Array = (coefficients.max(1) <= self.cap) & enough
        return fits


class MixupInference(nn.Module):
    """Predict from mixtures of an input with clean samples, by the mean of the probabilities: mixup inference.

    It acts when a trained model is asked, against adversarial examples. The client's gradients are not touched by it.

    Args:
        model: A trained classifier, best one trained with mixup: inputs -> logits (batch, classes).
        samples: Clean samples (n, ...).
        labels: Theirs (n,).
        rule: ``"PL"`` draws samples of the class that the model predicts for the input, ``"OL"`` of the other classes:
            first the class, then one of its samples.
        share: Of the input in each mixture, above 0 and up to 1; the paper's lambda.
        draws: Mixtures for each input, from 1; the paper's K.
        seed: Seeds the draws, which are new for every call.

    Raises:
        ValueError: A number is out of range, the rule is unknown, or samples and labels do not fit.

    Chapter: mixup. Source: pang2020.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Tensor,
        labels: Tensor,
        *,
        rule: Literal["PL", "OL"] = "OL",
        share: float = 0.5,
        draws: int = 30,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if rule not in ("PL", "OL"):
            raise ValueError(f"rule: got {rule!r}, wanted 'PL' or 'OL'")
        check_number("share", share, lambda share: 0 < share <= 1, "above 0 and up to 1")
        check_whole("draws", draws)
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: got a {type(model).__name__}, wanted a torch.nn.Module")
        check_tensor("samples", samples)
        whole = isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point()
        if not whole or bool((labels < 0).any()):
            raise ValueError(f"labels: got {labels!r}, wanted a tensor of classes (n,), from 0")
        if len(labels) != len(samples):
            raise ValueError(f"labels: got {len(labels)} for {len(samples)} samples, wanted one each, and at least one")
        self.model, self.samples, self.labels = model, samples, labels
        self.rule, self.share, self.draws = rule, share, draws
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logarithms of the mean probabilities (batch, classes), differentiable with respect to the inputs.

        Raises:
            ValueError: There is no sample of a class that is asked for, or the inputs are not of the samples' shape.
        """
        check_tensor("inputs", inputs)
        if inputs.shape[1:] != self.samples.shape[1:]:
            wanted = tuple(self.samples.shape[1:])
            raise ValueError(f"inputs: got examples of shape {tuple(inputs.shape[1:])}, wanted {wanted}, as samples")
        with torch.no_grad():
            predicted = self.model(inputs).argmax(dim=1).cpu()
        labels = self.labels.cpu()
        same = predicted[:, None] == labels
        weights = (same if self.rule == "PL" else ~same) / torch.bincount(labels).double()[labels]
        if not (weights.sum(dim=1) > 0).all():
            raise ValueError(f"samples: got none for a predicted class by the rule {self.rule}, wanted every class")
        drawn = torch.multinomial(weights, self.draws, replacement=True, generator=self._generator)
        others = self.samples[drawn.to(self.samples.device)].to(inputs)
        mixtures = self.share * inputs[:, None] + (1 - self.share) * others
        found: Tensor = self.model(mixtures.flatten(0, 1)).log_softmax(dim=1)
        return found.view(len(inputs), self.draws, -1).logsumexp(dim=1) - float(np.log(self.draws))


def _random(generator: torch.Generator) -> np.random.Generator:
    """Return NumPy's generator, which draws what torch's cannot, seeded by the client's."""
    return np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))


def _partners(inputs: Tensor, k: int, random: np.random.Generator) -> _Array:
    """Return which examples make each encoding (batch, k): its own first, then k - 1 others, no two the same."""
    if not inputs.is_floating_point():
        raise ValueError(f"inputs: got {inputs.dtype}, wanted floating-point numbers: tokens do not mix")
    n = len(inputs)
    if n < k:
        raise ValueError(f"inputs: got {n} examples at the client, wanted at least the {k} that an encoding takes")
    rows: _Array = np.stack([[i, *((i + 1 + random.choice(n - 1, k - 1, replace=False)) % n)] for i in range(n)])
    return rows


def _until(draw: Callable[[int], _Array], fits: Callable[[_Array], _Array], number: int) -> _Array:
    """Return rows of coefficients that all fit: those that do not are drawn again."""
    rows = draw(number)
    for _ in range(_TRIES):
        bad = ~fits(rows)
        if not bad.any():
            return rows
        rows[bad] = draw(int(bad.sum()))
    raise ValueError(f"cap: {_TRIES} draws of coefficients did not fit it, wanted a larger cap, or a smaller share")


def _mixed(values: Tensor, rows: _Array, coefficients: _Array) -> Tensor:
    """Return the combinations (batch, ...) of the rows of values (n, ...)."""
    weights = torch.from_numpy(coefficients).to(values)
    return torch.einsum("nk,nk...->n...", weights, values[torch.from_numpy(rows).to(values.device)])


def _probabilities(targets: Tensor, inputs: Tensor, client: Client) -> Tensor:
    return targets if targets.is_floating_point() else F.one_hot(targets, client.num_classes).to(inputs)


def _takes_probabilities(objective: nn.Module) -> nn.Module:
    loss = getattr(objective, "loss", "cross_entropy")
    if loss != "cross_entropy":
        raise ValueError(f"loss: got {loss!r}, wanted 'cross_entropy', which takes the probabilities of mixed labels")
    return objective


def _check_cap(cap: float, k: int) -> None:
    check_number("cap", cap, lambda cap: 1 / k < cap <= 1, f"above 1/{k} and at most 1")
