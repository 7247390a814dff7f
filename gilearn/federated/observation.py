"""What leaves a client, and all that an attack gets to see."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from gilearn.federated.checks import as_tensors, check_batch, check_model_takes, check_name, check_shared
from gilearn.federated.client import LOSSES, LocalSteps, client_gradient, client_update
from gilearn.federated.norms import batch_norms, recorded_statistics

KNOWLEDGE: Mapping[str, str] = MappingProxyType(
    {
        "labels": "the labels of the batch, int64, shape (batch,)",
        "batch_norm": "mean and biased variance of every batch normalization's input over the batch, in order of use",
    }
)
"""What an observation can declare beyond the shared gradients, by name; nothing of it is there by default."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """All that a server sees of one client: the global model, what the client shared, and what is declared by name.

    It holds copies: nothing that happens to the client's model or data afterwards reaches it. Make one with
    :func:`observe`, or from gradients that were computed elsewhere with :func:`from_gradients`.

    Args:
        model: The global model as the server knows it, before the client's step, in the mode (train or eval) that the
            client computes in. Its batch-normalization buffers are the server's; no attack updates them.
        shared: What the client sent, one tensor per parameter of ``model.parameters()``; ``None`` where the client
            withheld one. A gradient, or, with ``local``, the update "weights before minus weights after".
        input_shape: Shape of one example, for images (channels, height, width).
        batch_size: Number of examples behind ``shared``.
        num_classes: Number of classes.
        loss: A key of :data:`LOSSES`.
        local: The public schedule of local steps; ``None`` for a single gradient (FedSGD).
        knowledge: Declared extra knowledge, by the names in :data:`KNOWLEDGE`.

    Raises:
        ValueError: Number or shapes of the shared tensors do not fit the model, an entry is NaN or infinite, all are
            withheld, ``input_shape`` or ``num_classes`` does not fit the model, or a name is unknown.

    Chapter: federated-learning.
    """

    model: nn.Module = field(repr=False)
    shared: tuple[Tensor | None, ...] = field(repr=False)
    input_shape: tuple[int, ...]
    batch_size: int
    num_classes: int
    loss: str = "cross_entropy"
    local: LocalSteps | None = None
    knowledge: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_name("loss", self.loss, LOSSES)
        for name in self.knowledge:
            check_name("knowledge", name, KNOWLEDGE)
        for name in ("batch_size", "num_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least 1")
        model = _frozen_copy(self.model)
        shape = tuple(int(side) for side in self.input_shape)
        check_model_takes(model, shape, self.num_classes)
        labels = self.knowledge.get("labels")
        if labels is not None and len(labels) != self.batch_size:
            raise ValueError(f"labels: got {len(labels)} for a batch of {self.batch_size}, wanted one each")
        for name, value in {
            "model": model,
            "shared": check_shared(self.shared, model),
            "input_shape": shape,
            "knowledge": MappingProxyType({name: _copied(value) for name, value in self.knowledge.items()}),
        }.items():
            object.__setattr__(self, name, value)

    @property
    def gradients(self) -> tuple[Tensor | None, ...]:
        """The gradient of one step; for an update its mean over the local steps, update / (lr x steps)."""
        if self.local is None:
            return self.shared
        scale = self.local.lr * self.local.steps
        return tuple(None if tensor is None else tensor / scale for tensor in self.shared)

    def gradient_of(self, parameter: Tensor | None) -> Tensor | None:
        """Return the entry of ``gradients`` for one parameter of ``model``; ``None`` where it was withheld."""
        for candidate, gradient in zip(self.model.parameters(), self.gradients, strict=True):
            if candidate is parameter:
                return gradient
        return None

    network = property(lambda self: self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the model."""
        return next(self.model.parameters()).dtype

    def known(self, name: str) -> Any:
        """Return declared knowledge, or raise a ``ValueError`` that says how it would be declared."""
        check_name("name", name, KNOWLEDGE)
        if name not in self.knowledge:
            raise ValueError(
                f"{name}: the observation does not declare it ({KNOWLEDGE[name]}); "
                f"observe(..., declare=[{name!r}]) hands it to the attacker"
            )
        return self.knowledge[name]

    def simulate(
        self, x: Tensor, targets: Tensor, *, create_graph: bool = True, functional: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Return what the client would have shared, had its data been ``x`` and ``targets``.

        Args:
            x: Inputs (batch, *input_shape).
            targets: Labels (batch,), or class probabilities (batch, num_classes).
            create_graph: Keep the result differentiable with respect to both.
            functional: Differentiate with ``torch.func``, which ``torch.func.vmap`` and ``torch.compile`` take.

        Returns:
            One tensor per parameter: zero where a parameter has no influence, ``None`` where it is not trained.
        """
        how: dict[str, Any] = {"loss": self.loss, "create_graph": create_graph, "functional": functional}
        if self.local is None:
            return client_gradient(self.model, x, targets, **how)
        return client_update(self.model, x, targets, self.local, **how)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Observation:
        """Return the same observation on another device, or in another floating-point type."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            return type(value)(map(move, value)) if isinstance(value, (tuple, list)) else value

        model = copy.deepcopy(self.model).to(device=device, dtype=dtype)
        knowledge = {name: move(value) for name, value in self.knowledge.items()}
        return dataclasses.replace(self, model=model, shared=move(self.shared), knowledge=knowledge)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the observation to a file that :func:`load` reads without running any code from it."""
        content = {
            "format": 1,
            "state": self.model.state_dict(),
            "training": {name: module.training for name, module in self.model.named_modules()},
            "shared": list(self.shared),
            "local": None if self.local is None else dataclasses.asdict(self.local),
            "knowledge": dict(self.knowledge),
            **{name: getattr(self, name) for name in ("input_shape", "batch_size", "num_classes", "loss")},
        }
        path = Path(path)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as unfinished:
            try:
                torch.save(content, unfinished)
                unfinished.close()
                os.replace(unfinished.name, path)
            finally:
                Path(unfinished.name).unlink(missing_ok=True)


def observe(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    declare: Sequence[str] = (),
    local: LocalSteps | None = None,
    loss: str = "cross_entropy",
    num_classes: int | None = None,
    seed: int = 0,
) -> Observation:
    """Let a client compute on its private batch, and return what leaves it.

    Args:
        model: The global model. It is not changed.
        x: The private inputs (batch, ...).
        y: The private labels (batch,), or class probabilities (batch, num_classes).
        declare: Names from :data:`KNOWLEDGE` that the threat model hands to the attacker.
        local: Take these local steps and share the update; ``None`` shares one gradient.
        loss: A key of :data:`LOSSES`.
        num_classes: Number of classes; by default the model's number of outputs (2 for one logit).
        seed: Seeds what the client draws, for instance in a dropout layer.

    Returns:
        An :class:`Observation` that shares no memory with the client.

    Raises:
        ValueError: The batch is empty or not finite, labels and inputs do not fit each other or the model, the gradient
            is not finite, or a name is unknown.

    Chapter: federated-learning. Source: survey, section 1; mcmahan2017.
    """
    check_name("loss", loss, LOSSES)
    for name in declare:
        check_name("declare", name, KNOWLEDGE)
    client = copy.deepcopy(model)
    num_classes = check_batch(client, x, y, num_classes)
    device = next(client.parameters()).device
    x, y = x.detach().to(device), y.detach().to(device)
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), recorded_statistics(client) as statistics:
        torch.manual_seed(seed)
        if local is None:
            shared = client_gradient(client, x, y, loss=loss)
        else:
            shared = client_update(client, x, y, local, loss=loss)
    knowledge = {"labels": y, "batch_norm": tuple((m.detach(), v.detach()) for m, v in statistics)}
    return Observation(
        model=model,
        shared=shared,
        input_shape=tuple(x.shape[1:]),
        batch_size=len(x),
        num_classes=num_classes,
        loss=loss,
        local=local,
        knowledge={name: knowledge[name] for name in declare},
    )


def from_gradients(
    model: nn.Module,
    gradients: Mapping[str, Any] | Sequence[Any],
    *,
    input_shape: Sequence[int],
    batch_size: int,
    num_classes: int | None = None,
    loss: str = "cross_entropy",
    local: LocalSteps | None = None,
    knowledge: Mapping[str, Any] | None = None,
) -> Observation:
    """Make an observation from gradients that were computed elsewhere: your own training loop, another framework.

    Args:
        model: The global model that the gradients were computed with, in the same mode (train or eval).
        gradients: Tensors or arrays: by parameter name, or in the order of ``model.parameters()``. ``None``, or a
            missing name, is a tensor that the client withheld. With ``local``, the update "weights before minus weights
            after".
        input_shape: Shape of one example, for images (channels, height, width).
        batch_size: Number of examples behind them.
        num_classes: Number of classes; by default the model's number of outputs (2 for one logit).
        loss: A key of :data:`LOSSES`, averaged over the batch.
        local: The schedule of local steps behind an update.
        knowledge: Declared knowledge by the names in :data:`KNOWLEDGE`.

    Raises:
        ValueError: As :class:`Observation`; also for a name that the model does not have.

    Chapter: federated-learning.
    """
    shape = tuple(input_shape)
    if num_classes is None:
        num_classes = max(2, check_model_takes(model, shape, None))
    return Observation(
        model=model,
        shared=as_tensors(gradients, model),
        input_shape=shape,
        batch_size=batch_size,
        num_classes=num_classes,
        loss=loss,
        local=local,
        knowledge=dict(knowledge or {}),
    )


def load(path: str | os.PathLike[str], model: nn.Module) -> Observation:
    """Read an observation that :meth:`Observation.save` wrote.

    Args:
        path: The file.
        model: A network of the same architecture; a copy of it gets the saved weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, half-written or no observation, or the architecture differs.

    Chapter: federated-learning.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        content = torch.load(path, weights_only=True, map_location=next(model.parameters()).device)
    except Exception as error:  # torch raises a dozen types here, all of which mean the same to the caller
        raise ValueError(f"path: {path} is damaged, half-written or no saved observation ({error})") from error
    if not isinstance(content, dict) or content.get("format") != 1:
        raise ValueError(f"path: {path} is no saved observation of format 1")
    model = copy.deepcopy(model).to(next(iter(content["state"].values())).dtype)
    try:
        model.load_state_dict(content["state"])
    except RuntimeError as error:
        raise ValueError(f"model: its architecture is not the one that {path} was saved with ({error})") from error
    for name, module in model.named_modules():
        module.training = content["training"].get(name, module.training)
    fields = {name: content[name] for name in ("input_shape", "batch_size", "num_classes", "loss", "knowledge")}
    local = None if content["local"] is None else LocalSteps(**content["local"])
    return Observation(model=model, shared=tuple(content["shared"]), local=local, **fields)


def _frozen_copy(model: nn.Module) -> nn.Module:
    """Copy a model so that no forward pass changes its buffers: a layer in train mode uses its batch's statistics,
    keeps none.
    """
    model = copy.deepcopy(model)
    for module in batch_norms(model):
        module.track_running_stats = False
    return model


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return type(value)(map(_copied, value)) if isinstance(value, (tuple, list)) else value
