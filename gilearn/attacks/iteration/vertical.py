"""CAFE: a pool of examples from many rounds of vertical federated learning whose batches are known (Jin et al., 2021).

Two linear systems over the rounds give what every party's first fully connected layer was fed, example by example; a
search then finds the inputs with these features. For a party that feeds the layer its columns, the features are these.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from gilearn.attacks.base import Attack, Reconstruction
from gilearn.attacks.iteration.checks import check_ingredient, check_kind
from gilearn.attacks.iteration.initialization import Uniform
from gilearn.attacks.iteration.matching import GradientMatching
from gilearn.attacks.iteration.optimizers import Adam, Optimizer
from gilearn.attacks.iteration.regularizers import Candidates, TotalVariation, Weighted
from gilearn.attacks.iteration.spaces import Pixels
from gilearn.attacks.labels.base import LabelRule
from gilearn.attacks.labels.head import last_linear
from gilearn.attacks.recursion.reports import RankWarning
from gilearn.federated import Several
from gilearn.hooks import recorded_inputs
from gilearn.linear import RANK_TOLERANCE, float64, float64_device
from gilearn.values import Value


@dataclass(frozen=True, kw_only=True, eq=False)
class Inner:
    """What the linear steps find of one party, in float64.

    Args:
        layer: Name of the party's first fully connected layer in the model.
        deltas: Gradient of every example's own loss in the layer's output, (examples, outputs).
        features: What the layer was fed, (examples, inputs).
        determined: Which examples the rounds determine, (examples,): those that the index matrix tells from all others,
            and whose gradient in the layer is not zero. The others' rows say nothing.
        rank: Of the index matrix.
        condition: Its largest singular value over the smallest that counts.
    """

    layer: str
    deltas: Tensor = field(repr=False)
    features: Tensor = field(repr=False)
    determined: Tensor = field(repr=False)
    rank: int
    condition: float


@dataclass(frozen=True, kw_only=True)
class LinearSteps(Value):
    """CAFE's first two steps: deltas of a layer from its bias gradients, its inputs from its weight gradients.

    Round k with the examples B_k shares dL/db = mean of delta_n and dL/dW = mean of delta_n x_n^T over n in B_k. The
    deltas solve the first system over all rounds, the inputs then the second.

    Args:
        first: Finds the deltas, one round an iteration, as the paper does; ``None``: least squares, at once.
        second: Likewise the inputs.
        iterations: Of each of the two, where there is an optimizer.

    Raises:
        ValueError: A number is out of range. When called: ``seen`` is no pool, a party has no fully connected layer
            with a bias, or its gradient is withheld.

    Warns:
        RankWarning: The rounds do not determine some of the examples.

    Chapter: vertical. Source: jin2021, steps I and II.
    """

    first: Optimizer | None = None
    second: Optimizer | None = None
    iterations: int = 20_000

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations: got {self.iterations}, wanted at least 1")
        for name in ("first", "second"):
            if getattr(self, name) is not None:
                check_ingredient(name, getattr(self, name), "optimizers.SGD(lr=5e-3)", "build")

    def __call__(self, seen: Several, *, seed: int = 0) -> tuple[Inner, ...]:
        """Return what is found of every party.

        Args:
            seen: The pool.
            seed: Seeds the optimizers' choice of rounds.
        """
        system = _System(seen)
        if system.rank < seen.batch_size:
            warnings.warn(
                f"rows: the index matrix of {len(seen.parts)} rounds has rank {system.rank} for {seen.batch_size} "
                f"examples: it determines {int(system.told.sum())} of them",
                RankWarning,
                stacklevel=2,
            )
        generator = torch.Generator().manual_seed(seed)
        return tuple(self._of(seen, system, name, generator) for name in inner_layers(seen.model))

    def _of(self, seen: Several, system: _System, name: str, generator: torch.Generator) -> Inner:
        weight, bias = (system.over_rounds(f"{name}.{which}") for which in ("weight", "bias"))
        if self.first is None:
            deltas = system.inverse @ bias
        else:
            ones = bias.new_ones(seen.batch_size, 1)
            deltas = self._descend(self.first, ones, bias[:, None], system, generator)
        sizes = deltas.square().sum(dim=1)
        if self.second is None:
            each = (system.inverse @ weight.flatten(1)).view(-1, *weight.shape[1:])
            features = torch.einsum("no,noi->ni", deltas, each) / sizes.clamp_min(1e-300)[:, None]
        else:
            features = self._descend(self.second, deltas, weight, system, generator)
        told = system.told & (sizes > RANK_TOLERANCE**2 * sizes.max())
        return Inner(
            layer=name, deltas=deltas, features=features, determined=told, rank=system.rank, condition=system.condition
        )

    def _descend(
        self, optimizer: Optimizer, factors: Tensor, right: Tensor, system: _System, generator: torch.Generator
    ) -> Tensor:
        """Return the x_n (examples, c) that minimize ||sum over a round of f_n x_n^T - what it shared||^2.

        One round an iteration: the factors f_n are (examples, f), what the rounds shared, as a mean, (rounds, f, c).
        """
        x = right.new_zeros(len(factors), right.shape[2]).requires_grad_()
        steps = optimizer.build([x], iterations=self.iterations, generator=generator)

        @torch.no_grad()
        def evaluate(k: int) -> Tensor:
            rows = system.rows[k]
            gap = factors[rows].T @ x[rows] - len(rows) * right[k]
            x.grad = torch.zeros_like(x).index_add_(0, rows, 2 * factors[rows] @ gap)
            return gap.square().sum()

        for k in torch.randint(len(right), (self.iterations,), generator=generator).tolist():
            steps.step(partial(evaluate, k))  # type: ignore[arg-type]
        return x.detach()


@dataclass(frozen=True, kw_only=True)
class PoolLabels(LabelRule):
    """The labels of a pool: where a mean of p - e_y over known examples is shared, every example's is solved for.

    The last layer's bias gradient is that mean; of p - e_y only the entry of the label is negative.

    Raises:
        ValueError: When built: ``seen`` is no pool, the last layer has no bias or withholds its gradient, the loss is
            not cross-entropy, or the rounds leave the label of an example open.

    Chapter: vertical. Source: jin2021 searches the labels; this is step I at the server's own layer.
    """

    def __call__(self, seen: Any) -> Tensor:
        """Return the labels (examples,), int64."""
        system = _System(seen)
        if seen.loss != "cross_entropy":
            raise ValueError(f"seen: got the loss {seen.loss!r}; this rule is for cross_entropy")
        if not bool(system.told.all()):
            raise ValueError(
                f"labels: the rounds determine those of {int(system.told.sum())} of {seen.batch_size} examples, wanted "
                "more rounds, labels.Joint(), or labels that are declared"
            )
        layer = last_linear(seen.parts[0])
        name = next(name for name, module in seen.parts[0].network.named_modules() if module is layer)
        deltas: Tensor = system.inverse @ system.over_rounds(f"{name}.bias".lstrip("."))
        return deltas.argmin(dim=1)


@dataclass(frozen=True, kw_only=True)
class InnerFeatures(Weighted):
    """How far the candidates' features are from those that the linear steps found.

    Args:
        weight: Factor of the term, not negative.
        inner: What was found of every party; examples that are not determined do not count.

    Chapter: vertical. Source: jin2021, step III.
    """

    inner: tuple[Inner, ...]

    def __call__(self, candidates: Candidates) -> Tensor:
        """Return weight x the squared distance, summed over parties, mean over the step's examples, (restarts,)."""
        network, rows = candidates.seen.network, candidates.rows
        layers = [network.get_submodule(one.layer) for one in self.inner]
        terms = []
        for inputs in candidates.inputs:
            with recorded_inputs(network, layers) as found:
                network(inputs)
            fed = dict(found)
            gaps = [self._gap(fed[layer], one, rows) for layer, one in zip(layers, self.inner, strict=True)]
            terms.append(torch.stack(gaps).sum())
        return self.weight * torch.stack(terms)

    def _gap(self, fed: Tensor, one: Inner, rows: Tensor | None) -> Tensor:
        wanted, told = (t.to(fed) if rows is None else t[rows].to(fed) for t in (one.features, one.determined))
        gaps: Tensor = told * (fed - wanted).square().sum(dim=1)
        return gaps.mean()


@dataclass(frozen=True, kw_only=True)
class Vertical(Attack):
    """Recover a pool of examples from rounds whose batches are known: two linear steps, then a search.

    Args:
        linear: The linear steps.
        weight: Of the features that they find, in the search; 0 leaves them out.
        matching: The search, with its other terms.

    Raises:
        ValueError: ``weight`` is negative, or a part is none. When called: as :class:`LinearSteps` and the search.

    Warns:
        RankWarning: As :class:`LinearSteps`.

    Chapter: vertical. Source: jin2021.
    """

    matching: GradientMatching
    linear: LinearSteps = LinearSteps()
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_kind("matching", self.matching, GradientMatching)
        check_kind("linear", self.linear, LinearSteps)
        if not self.weight >= 0:
            raise ValueError(f"weight: got {self.weight}, wanted 0 or more")

    def reconstruct(
        self, seen: Any, *, seed: int, snapshots: int, progress: bool, time_limit: float | None
    ) -> Reconstruction:
        """Run the attack; ``details["inner"]`` is what the linear steps found, in the order of the parties."""
        began = time.perf_counter()
        inner: tuple[Inner, ...] = ()
        terms = self.matching.regularizers
        if self.weight > 0:
            inner = self.linear(seen, seed=seed)
            terms = (*terms, InnerFeatures(weight=self.weight, inner=inner))
        rest = None if time_limit is None else max(time_limit - (time.perf_counter() - began), 1e-3)
        found = self.matching.replace(regularizers=terms).reconstruct(
            seen, seed=seed, snapshots=snapshots, progress=progress, time_limit=rest
        )
        details = {**found.details, "inner": inner}
        return replace(found, details=details, seconds=time.perf_counter() - began, attack=repr(self))


CAFE = Vertical(
    weight=40.0,
    matching=GradientMatching(
        initialization=Uniform(),
        space=Pixels(bounds=(0.0, 1.0)),
        labels=PoolLabels(),
        regularizers=(TotalVariation(weight=7.0, above=0.14),),
        optimizer=Adam(lr=0.01),
        iterations=20_000,
        parts=1,
    ),
)
"""Catastrophic data leakage in vertical federated learning (Jin et al., 2021): three steps over a known pool.

Survey: Uniform, 32x32, Loop-Net, batch 100, l2 distance, SGD. The released code has pictures of 28x28 pixels, searches
the labels too, moves step I by SGD with rate 5e-3 and steps II and III by an Adam of its own, which corrects for its
bias twice, with rate 1e-2; each of 20,000 rounds is seen once. Relative to the distance of gradients, and in our units,
its step III weighs the features 4, and 7 what exceeds a total variation of 0.14. Ours solves steps I and II, and the
labels, by least squares, weighs features 40, keeps pixels between 0 and 1, and looks at one of its rounds in each
iteration of step III.
``CAFE.replace(linear=LinearSteps(first=SGD(lr=5e-3), second=Adam(lr=1e-2)))`` has the paper's optimizers.

Chapter: vertical. Source: jin2021.
"""


def inner_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the name of every party's first fully connected layer: of every one of ``model.parties``, or of the model.

    Raises:
        ValueError: There is none, or it has no bias.

    Chapter: vertical.
    """
    names = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = []
    for number, party in enumerate(cast(Any, getattr(model, "parties", [model]))):
        layer = next((module for module in party.modules() if isinstance(module, nn.Linear)), None)
        if layer is None or layer.bias is None:
            raise ValueError(f"seen: party {number} has no fully connected layer with a bias, which CAFE solves for")
        found.append(names[layer])
    return tuple(found)


class _System:
    """The index matrix of a pool's rounds, whose row k says which examples round k is a mean of, and its inverse."""

    def __init__(self, seen: Any) -> None:
        if not isinstance(seen, Several):
            raise ValueError(
                f"seen: got a {type(seen).__name__}, wanted rounds of one pool: federated.Several(parts=...)"
            )
        if any(part.local is not None for part in seen.parts):
            raise ValueError("seen: got updates of local steps, wanted gradients: the steps are linear in these")
        self.seen = seen
        matrix = torch.zeros(len(seen.rows), seen.batch_size, dtype=torch.float64)
        for row, rows in zip(matrix, seen.rows, strict=True):
            row.index_add_(0, torch.tensor(rows), row.new_full((len(rows),), 1 / len(rows)))
        device = float64_device(seen.device)
        u, values, v = torch.linalg.svd(matrix, full_matrices=False)
        self.rank = int((values > RANK_TOLERANCE * values[0]).sum())
        self.condition = float(values[0] / values[self.rank - 1])
        u, values, v = u[:, : self.rank], values[: self.rank], v[: self.rank]
        self.inverse = ((v.T / values) @ u.T).to(device)
        self.told = (v.square().sum(dim=0) > 1 - 1e-8).to(device)
        self.rows = [torch.tensor(rows, device=device) for rows in seen.rows]

    def over_rounds(self, name: str) -> Tensor:
        """Return the gradient of a parameter in every round, (rounds, *shape), float64."""
        names = [own for own, _ in self.seen.model.named_parameters()]
        if name not in names:
            raise ValueError(f"seen: the model has no {name!r}, which the linear steps read")
        found = [part.shared[names.index(name)] for part in self.seen.parts]
        if any(tensor is None for tensor in found):
            raise ValueError(f"seen: the gradient of {name!r} is withheld, and the linear steps read it")
        return torch.stack([float64(cast(Tensor, tensor)) for tensor in found])
