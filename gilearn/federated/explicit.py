"""Randomness and tokens made explicit: dropout masks and embeddings become arguments of a forward pass.

A dropout layer draws its mask from the global generator, inside the network, where neither a client's seed nor an
attack's search reaches it; an embedding takes integers, which nobody can differentiate. Under :class:`Explicit` the
masks are given or drawn from a generator of the caller's, and an embedding takes vectors as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# How many axes of the input have a mask of their own; the others share it.
_MASKED_AXES: dict[Callable[..., Any], int | None] = {
    F.dropout: None,
    torch.dropout: None,
    F.dropout1d: 2,
    F.dropout2d: 2,
    F.dropout3d: 2,
}


class Explicit(TorchFunctionMode):
    """Run forward passes with dropout masks from outside, and with vectors in place of tokens.

    Args:
        masks: The masks, in order of use, already scaled: zeros, and 1 / (1 - p) for what stays. ``None``: draw them.
        generator: Draws the masks, on the CPU; without one nothing is dropped.

    Attributes:
        used: The masks of the passes so far, in order of use.
        rates: Their p.
        bypassed: Embedding weights that vectors went past; the pass does not depend on them.

    Raises:
        ValueError: Inside: fewer masks are given than are used, or one does not fit.
    """

    def __init__(self, *, masks: Iterable[Tensor] | None = None, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.given = None if masks is None else iter(masks)
        self.generator = generator
        self.used: list[Tensor] = []
        self.rates: list[float] = []
        self.bypassed: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Take over dropout and embeddings; pass everything else on."""
        kwargs = kwargs or {}
        if func in _MASKED_AXES:
            return self._dropped(func, *args, **kwargs)
        if func is F.embedding and args[0].is_floating_point():
            return self._embedded(*args[:2])
        return func(*args, **kwargs)

    def _dropped(self, func: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # torch.dropout calls its second option train.
        options = {"p": 0.5, "training": True} | dict(zip(("p", "training", "inplace"), args, strict=False)) | kwargs
        rate = float(options["p"])
        if not options.get("train", options["training"]) or rate == 0:
            return input
        axes = _MASKED_AXES[func]
        shape = input.shape if axes is None else (*input.shape[:axes], *[1] * (input.ndim - axes))
        mask = self._mask(tuple(shape), rate, input)
        self.used.append(mask)
        self.rates.append(rate)
        return input * mask

    def _mask(self, shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor:
        if self.given is not None:
            mask = next(self.given, None)
            if mask is None:
                raise ValueError(f"masks: got {len(self.used)}, and the model drops once more, with shape {shape}")
            if tuple(mask.shape) != shape:
                raise ValueError(f"masks[{len(self.used)}]: got shape {tuple(mask.shape)}, wanted {shape}")
            return mask.to(like.device, like.dtype)
        if self.generator is None:
            return torch.ones(shape, dtype=like.dtype, device=like.device)
        kept = torch.rand(shape, generator=self.generator, dtype=torch.float64) >= rate
        return (kept.double() / max(1 - rate, 1e-300)).to(like.device, like.dtype)

    def _embedded(self, vectors: Tensor, weight: Tensor) -> Tensor:
        """Return what an embedding makes of vectors: soft tokens (..., vocabulary), or embeddings (..., width)."""
        vocabulary, width = weight.shape
        if vocabulary == width:
            raise ValueError(
                f"inputs: the embedding has {width} words and as many dimensions: vectors of {width} could mean both"
            )
        if vectors.shape[-1] == width:
            self.bypassed.append(weight)
            return vectors
        if vectors.shape[-1] == vocabulary:
            return vectors @ weight
        raise ValueError(
            f"inputs: got vectors of {vectors.shape[-1]}, wanted {width} (embeddings) or {vocabulary} (soft tokens)"
        )


@torch.no_grad()
def dropout_masks(network: nn.Module, inputs: Tensor) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Return shape and rate of every dropout mask of one forward pass, in order of use.

    Args:
        network: Its mode (train or eval) is respected; no forward pass of it may change its buffers.
        inputs: Any batch that it takes.

    Raises:
        ValueError: The forward pass draws from a global generator all the same, as the dropout inside of PyTorch's
            attention does; a client's seed would not reach it.
    """
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        before = _global_states(devices)
        with Explicit() as explicit:
            network(inputs)
        moved = any(not torch.equal(a, b) for a, b in zip(before, _global_states(devices), strict=True))
    if moved:
        raise ValueError(
            "model: its forward pass draws from PyTorch's global generator (dropout inside attention, a random "
            "activation): wanted nn.Dropout, F.dropout, or model.eval()"
        )
    return tuple((tuple(mask.shape), rate) for mask, rate in zip(explicit.used, explicit.rates, strict=True))


def _global_states(devices: Sequence[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
