"""Values that hold tensors or networks: told apart, and shown, by what they hold."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from gilearn.values import Value


class Content(Value):
    """A value with tensors or networks among its fields: its ``repr`` shows their shapes and checksums, and compares.

    A subclass is a dataclass with ``eq=False, repr=False``.
    """

    def __repr__(self) -> str:
        """Return the value with a shape and a checksum in the place of every tensor."""
        shown = (f"{f.name}={_shown(getattr(self, f.name))}" for f in dataclasses.fields(cast(Any, self)) if f.repr)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        """Say whether the other holds the same."""
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self) -> int:
        """Return a number that equal values share."""
        return hash(repr(self))


def checksum(tensors: Iterable[Tensor], *, digits: int = 8) -> str:
    """Return the first digits, eight by default, of the SHA-256 of tensors' shapes, types and entries."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:digits]


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"<{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} {checksum([value])}>"
    if isinstance(value, nn.Module):
        return f"<{type(value).__name__} {checksum(value.state_dict().values())}>"
    return repr(value)
