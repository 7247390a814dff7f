"""What leaves a client, and all that an attack gets to see."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from gilearn.federated.batch_norm import stripped
from gilearn.federated.checks import (
    as_tensors,
    check_knowledge,
    check_model_takes,
    check_name,
    check_names,
    check_shared,
)
from gilearn.federated.defense import Defense, Gradients, as_defense
from gilearn.federated.explicit import Explicit, dropout_masks
from gilearn.federated.files import read, restored, saved, with_state, write
from gilearn.federated.task import LOSSES, LocalSteps, Task
from gilearn.hooks import bare
from gilearn.values import Value

KNOWLEDGE: Mapping[str, str] = MappingProxyType(
    {
        "labels": "the labels of the batch, int64, shape (batch,)",
        "targets": "what the loss was computed with, after the defense: labels, or class probabilities",
        "batch_norm": "mean and biased variance of every batch normalization's input over the batch, in order of use",
        "masks": "the dropout masks, in order of use, scaled by 1 / (1 - p)",
        "rows": "which examples of the pool the batch is made of, in order, int64, shape (batch,)",
        "defense": "the public part of the client's defense, which every simulation then applies",
    }
)
"""What an observation can declare beyond what was shared, by name; nothing of it is there by default."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation(Value):
    """All that a server sees of one client: the global model, what the client shared, and what is declared by name.

    It holds copies: nothing that happens to the client's model or data afterwards reaches it. Make one with
    :func:`observe`, or from gradients that were computed elsewhere with :meth:`from_gradients`.

    Args:
        model: The global model as the server knows it, before the client's step, in the mode (train or eval) that the
            client computes in. Its batch-normalization buffers are the server's; no attack updates them.
        shared: What the client sent, one tensor per parameter of ``model.parameters()``; ``None`` where the client
            withheld one. A gradient, or, with ``local``, the update "weights before minus weights after".
        input_shape: Shape of one example, for images (channels, height, width), for tokens (length,).
        batch_size: Number of examples behind ``shared``.
        num_classes: Number of classes.
        loss: A key of :data:`LOSSES`.
        local: The public schedule of local steps; ``None`` for a single gradient (FedSGD).
        tokens: Whether the model takes integer tokens.
        knowledge: Declared extra knowledge, by the names in :data:`KNOWLEDGE`.

    Raises:
        ValueError: Number or shapes of the shared tensors do not fit the model, an entry is NaN or infinite, all are
            withheld, ``input_shape`` or ``num_classes`` does not fit the model, a name is unknown, or the model draws
            from PyTorch's global generator.

    Chapter: federated-learning.
    """

    model: nn.Module = field(repr=False)
    shared: Gradients = field(repr=False)
    input_shape: tuple[int, ...]
    batch_size: int
    num_classes: int
    loss: str = "cross_entropy"
    local: LocalSteps | None = None
    tokens: bool = False
    knowledge: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_name("loss", self.loss, LOSSES)
        check_names("knowledge", tuple(self.knowledge), KNOWLEDGE)
        for name in ("batch_size", "num_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted at least 1")
        model = copy.deepcopy(bare(self.model))
        shape = tuple(int(side) for side in self.input_shape)
        outputs = check_model_takes(model, shape, self.num_classes, tokens=self.tokens)
        knowledge = {
            name: _each(value, lambda tensor: tensor.detach().clone()) for name, value in self.knowledge.items()
        }
        check_knowledge(knowledge, self.batch_size, outputs, self.num_classes)
        if "defense" in knowledge:
            knowledge["defense"] = as_defense(knowledge["defense"])
        for name, value in {
            "model": model,
            "shared": check_shared(self.shared, model),
            "input_shape": shape,
            "knowledge": MappingProxyType(knowledge),
        }.items():
            object.__setattr__(self, name, value)
        _ = self._dropout  # refuses what draws globally

    @property
    def gradients(self) -> Gradients:
        """The gradient of one step; for an update its mean over the local steps, update / (lr x steps)."""
        return tuple(None if tensor is None else tensor / self._scale for tensor in self.shared)

    def gradient_of(self, parameter: Tensor | None) -> Tensor | None:
        """Return the entry of ``gradients`` for one parameter of ``model``; ``None`` where it was withheld.

        Args:
            parameter: A parameter of ``model`` or ``network``; ``None``, a layer's missing bias, has none.

        Raises:
            ValueError: It is a parameter of another model.
        """
        if parameter is None:
            return None
        for candidate, shared in zip(self.model.parameters(), self.shared, strict=True):
            if candidate is parameter:
                return None if shared is None else shared / self._scale
        raise ValueError(
            f"parameter: got one of shape {tuple(parameter.shape)}, wanted a parameter of seen.model itself"
        )

    @property
    def _scale(self) -> float:
        return 1.0 if self.local is None else self.local.lr * self.local.steps

    @cached_property
    def network(self) -> nn.Module:
        """The model for forward passes: it shares the weights, and no pass changes its buffers."""
        return stripped(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the model."""
        return next(self.model.parameters()).dtype

    @property
    def input_dtype(self) -> torch.dtype:
        """The type of the client's inputs: int64 for tokens."""
        return torch.int64 if self.tokens else self.dtype

    @cached_property
    def _dropout(self) -> tuple[tuple[tuple[int, ...], float], ...]:
        two = torch.zeros(2, *self.input_shape, dtype=self.input_dtype, device=self.device)
        return dropout_masks(self.network, two)

    @property
    def mask_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes (batch, ...) of the dropout masks of one forward pass, in order of use; none in eval mode."""
        return tuple((shape[0] * self.batch_size // 2, *shape[1:]) for shape, _ in self._dropout)

    @property
    def mask_rates(self) -> tuple[float, ...]:
        """The dropout probability p that goes with each of ``mask_shapes``."""
        return tuple(rate for _, rate in self._dropout)

    def known(self, name: str) -> Any:
        """Return declared knowledge, or raise a ``ValueError`` that says how it would be declared."""
        check_name("name", name, KNOWLEDGE)
        if name not in self.knowledge:
            raise ValueError(
                f"{name}: the observation does not declare it ({KNOWLEDGE[name]}); observe(..., declare=[{name!r}]) "
                f"hands it to the attacker, and so does Observation.from_gradients(..., knowledge={{{name!r}: ...}})"
            )
        return self.knowledge[name]

    def simulate(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        masks: Sequence[Tensor] | None = None,
        generator: torch.Generator | None = None,
        create_graph: bool = True,
        functional: bool = False,
    ) -> Gradients:
        """Return what the client would have shared, had its data been these; with the declared defense, if any.

        Args:
            inputs: Inputs (batch, *input_shape). Of a token model also embeddings (batch, length, width), which go past
                the embedding, and soft tokens (batch, length, vocabulary).
            targets: Labels (batch,), or class probabilities (batch, num_classes); of a sequence model (batch, length)
                and (batch, length, num_classes).
            masks: Dropout masks, in order of use, each (batch, ...), scaled by 1 / (1 - p). ``None``: those declared,
                else drawn, else nothing is dropped.
            generator: Draws the masks, and what the declared defense draws; ``None`` draws nothing.
            create_graph: Keep the result differentiable with respect to inputs, targets and masks.
            functional: Differentiate with ``torch.func``, which ``torch.func.vmap`` and ``torch.compile`` take.

        Returns:
            One tensor per parameter: zero where a parameter has no influence, ``None`` where it is not trained, or
            where embeddings went past it.
        """
        explicit = None
        if self._dropout or (self.tokens and inputs.is_floating_point()):
            masks = self.knowledge.get("masks") if masks is None else masks
            explicit = Explicit(masks=masks, generator=generator)
        how: dict[str, Any] = {"generator": generator, "create_graph": create_graph, "functional": functional}
        return self._task.share(inputs, targets, explicit=explicit, **how)

    @cached_property
    def _task(self) -> Task:
        defense = self.knowledge.get("defense", Defense())
        return Task(model=self.network, num_classes=self.num_classes, loss=self.loss, local=self.local, defense=defense)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Observation:
        """Return the same observation on another device, or in another floating-point type."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        model = copy.deepcopy(self.model).to(device=device, dtype=dtype)
        knowledge = {name: _each(value, moved) for name, value in self.knowledge.items()}
        return self.replace(model=model, shared=_each(self.shared, moved), knowledge=knowledge)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the observation to a file that :meth:`load` reads without running any code from it.

        Raises:
            ValueError: A declared defense holds what no file can hold without code.
        """
        content = {
            "state": self.model.state_dict(),
            "training": {name: module.training for name, module in self.model.named_modules()},
            "shared": list(self.shared),
            "local": None if self.local is None else asdict(self.local),
            "knowledge": {name: saved(value) for name, value in self.knowledge.items()},
            **{name: getattr(self, name) for name in ("input_shape", "batch_size", "num_classes", "loss", "tokens")},
        }
        write(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module) -> Observation:
        """Read an observation that :meth:`save` wrote.

        Args:
            path: The file.
            model: A network of the same architecture; a copy of it gets the saved weights.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, half-written or no observation, the architecture differs, or a declared
                defense's module is not imported.

        Chapter: federated-learning.
        """
        content = read(path, next(model.parameters()).device)
        fields = {name: content[name] for name in ("input_shape", "batch_size", "num_classes", "loss")}
        fields["local"] = None if content["local"] is None else LocalSteps(**content["local"])
        fields["knowledge"] = {name: restored(value) for name, value in content["knowledge"].items()}
        fields["tokens"] = content.get("tokens", False)
        return cls(model=with_state(model, content, path), shared=tuple(content["shared"]), **fields)

    @classmethod
    def from_gradients(
        cls,
        model: nn.Module,
        gradients: Mapping[str, Any] | Sequence[Any],
        *,
        input_shape: Sequence[int],
        batch_size: int,
        num_classes: int | None = None,
        loss: str = "cross_entropy",
        local: LocalSteps | None = None,
        tokens: bool = False,
        knowledge: Mapping[str, Any] | None = None,
    ) -> Observation:
        """Make an observation from gradients that were computed elsewhere: your own training loop, another framework.

        Args:
            model: The global model that the gradients were computed with, in the same mode (train or eval).
            gradients: Tensors or arrays: by parameter name, or in the order of ``model.parameters()``. ``None``, or a
                missing name, is a tensor that the client withheld. With ``local``, the update "weights before minus
                weights after".
            input_shape: Shape of one example, for images (channels, height, width).
            batch_size: Number of examples behind them.
            num_classes: Number of classes; by default the model's number of outputs (2 for one logit).
            loss: A key of :data:`LOSSES`, averaged over the batch.
            local: The schedule of local steps behind an update.
            tokens: Whether the model takes integer tokens.
            knowledge: Declared knowledge by the names in :data:`KNOWLEDGE`.

        Raises:
            ValueError: As :class:`Observation`; also for a name that the model does not have.

        Warns:
            UserWarning: The model drops units in train mode, and the masks are not declared.

        Chapter: federated-learning.
        """
        model, shape = bare(model), tuple(input_shape)
        if num_classes is None:
            num_classes = max(2, check_model_takes(model, shape, None, tokens=tokens)[-1])
        known = dict(knowledge or {})
        for name in known.keys() & {"labels", "targets"}:
            known[name] = torch.as_tensor(known[name], device=next(model.parameters()).device)
        seen = cls(
            model=model,
            shared=as_tensors(gradients, model),
            input_shape=shape,
            batch_size=batch_size,
            num_classes=num_classes,
            loss=loss,
            local=local,
            tokens=tokens,
            knowledge=known,
        )
        if seen.mask_rates and "masks" not in known:
            warnings.warn(
                "model: it drops units in train mode, and the masks that these gradients were computed with are not "
                "declared: no attack explains the gradients without searching the masks too; model.eval(), or "
                "knowledge={'masks': ...}",
                stacklevel=2,
            )
        return seen


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_each(part, change) for part in value) if isinstance(value, (tuple, list)) else value
