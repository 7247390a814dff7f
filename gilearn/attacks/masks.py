"""Read a dropout mask off the classifier's gradient: a feature that was dropped has a column of zeros there."""

from __future__ import annotations

import torch
from torch import Tensor

from gilearn.attacks.labels.head import last_layer, last_linear
from gilearn.federated import Observation
from gilearn.federated.explicit import Explicit
from gilearn.hooks import recorded_calls


def read(seen: Observation) -> tuple[Tensor | None, ...]:
    """Return the dropout masks of one example's step, as far as the last layer's weight gradient shows them.

    That gradient is the outer product of the logits' deltas with the features that passed: delta (h m)'. What is zero
    of itself, as features after a ReLU can be, looks dropped. Where no mask is left open, ``seen.replace(knowledge={
    **seen.knowledge, "masks": masks.read(seen)})`` hands them to any attack; ``spaces.Masks(known=masks.read(seen))``
    searches those that are.

    Args:
        seen: An observation of one example and one step.

    Returns:
        Masks in order of use: that in front of the last fully connected layer, (1, features), scaled by 1 / (1 - p) as
        an observation's ``"masks"`` are, and ``None`` for all before it.

    Raises:
        ValueError: There are several examples or steps, the last dropout is not in front of the last layer, or the last
            layer's weight gradient is withheld.

    Chapter: dropout.
    """
    if not isinstance(seen, Observation):
        raise ValueError(f"seen: got a {type(seen).__name__}, wanted an Observation")
    if seen.batch_size != 1 or (seen.local is not None and seen.local.steps != 1):
        got = f"a batch of {seen.batch_size}" if seen.batch_size != 1 else "several steps"
        raise ValueError(f"seen: got {got}, whose masks add up in one gradient, wanted one example and one step")
    weight, _ = last_layer(seen)
    if weight is None:
        raise ValueError("seen: the weight gradient of the last layer is withheld, and the mask is read off it")
    if seen.mask_shapes[-1:] != ((1, weight.shape[1]),):
        got = f"masks of shapes {seen.mask_shapes}"
        raise ValueError(
            f"seen: got {got}, wanted the last to be (1, {weight.shape[1]}), that of the classifier's input"
        )
    if not _in_front(seen):
        raise ValueError("seen: got a last dropout with layers between it and the classifier, wanted it right in front")
    kept = (weight != 0).any(dim=0, keepdim=True)
    return (*[None] * (len(seen.mask_shapes) - 1), kept.to(seen.dtype) / (1 - seen.mask_rates[-1]))


@torch.no_grad()
def _in_front(seen: Observation) -> bool:
    """Return whether the classifier gets nothing where the last dropout drops all."""
    masks = [torch.ones(shape) for shape in seen.mask_shapes[:-1]] + [torch.zeros(seen.mask_shapes[-1])]
    inputs = torch.full((1, *seen.input_shape), 0 if seen.tokens else 0.5, dtype=seen.input_dtype, device=seen.device)
    layer = last_linear(seen)
    with recorded_calls(seen.network, [layer], read=lambda arguments, _: arguments[0]) as calls, Explicit(masks=masks):
        seen.network(inputs)
    return all(not given.any() for _, given in calls)
