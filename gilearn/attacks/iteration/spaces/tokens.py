"""Spaces of texts: embeddings, or a probability of every word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gilearn.attacks.iteration.initialization import Initialization
from gilearn.attacks.iteration.spaces.base import Factor, Space
from gilearn.content import Content
from gilearn.federated import Observed


@dataclass(frozen=True, kw_only=True)
class Embeddings(Space):
    """The embeddings of a text, free vectors that go past the model's embedding layer.

    The gradient of the embedding layer itself does not count: the simulation has none.

    Args:
        layer: Name of the embedding layer that takes the tokens; ``None``: the only one.

    Raises:
        ValueError: When built: there is no such layer, or more than one and none is named.

    Variables: ``embeddings`` (batch, length, width). The result's ``details["tokens"]`` (batch, length) are the words
    next to them. Chapter: transformers-text. Source: deng2021.
    """

    layer: str | None = None

    def build(self, seen: Observed) -> Factor:
        """Find the embedding layer's table."""
        return _BoundEmbeddings(layer=self.layer, table=_table(seen, self.layer))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _BoundEmbeddings(Content, Space):
    layer: str | None
    table: Tensor

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        return {"embeddings": initialization((seen.batch_size, *seen.input_shape, self.table.shape[1]), generator)}

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        return {"inputs": variables["embeddings"]}

    def details(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        embeddings = variables["embeddings"]
        return {"tokens": torch.cdist(embeddings, self.table.expand(len(embeddings), -1, -1)).argmin(dim=-1)}


@dataclass(frozen=True, kw_only=True)
class SoftTokens(Space):
    """A probability of every word at every place of a text, as the softmax of free logits.

    Args:
        layer: Name of the embedding layer that takes the tokens; ``None``: the only one.

    Raises:
        ValueError: As :class:`Embeddings`.

    Variables: ``token_logits`` (batch, length, vocabulary). The result's ``details["tokens"]`` (batch, length) are the
    most probable words. Chapter: transformers-text.
    """

    layer: str | None = None

    def build(self, seen: Observed) -> Factor:
        """Count the words."""
        return _BoundSoftTokens(layer=self.layer, vocabulary=len(_table(seen, self.layer)))


@dataclass(frozen=True, kw_only=True)
class _BoundSoftTokens(Space):
    layer: str | None
    vocabulary: int

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        return {"token_logits": initialization((seen.batch_size, *seen.input_shape, self.vocabulary), generator)}

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        return {"inputs": variables["token_logits"].softmax(dim=-1)}

    def details(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        return {"tokens": variables["token_logits"].argmax(dim=-1)}


def _table(seen: Observed, layer: str | None) -> Tensor:
    """Return the weight (vocabulary, width) of the embedding layer."""
    layers = {name: module for name, module in seen.model.named_modules() if isinstance(module, nn.Embedding)}
    if layer is None and len(layers) == 1:
        return next(iter(layers.values())).weight.detach()
    if layer not in layers:
        wanted = f"one of {', '.join(map(repr, layers))}" if layers else "a model with an nn.Embedding"
        raise ValueError(f"layer: got {layer!r}, wanted {wanted}")
    return layers[layer].weight.detach()
