"""What compressors have in common: error feedback, and the bits of an upload."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gilearn.federated import Client, Defense, Gradients


@dataclass(frozen=True, kw_only=True)
class Compression(Defense):
    """A defense that shares a compressed gradient, and may add next time what it left out: error feedback.

    With feedback the client keeps p - C(p) in its memory, where p is its gradient or update plus what it kept, and
    C(p) what it shared. Without, whatever is left out is lost. An imagined client begins with an empty memory.

    Args:
        feedback: Whether to keep what is left out.

    Raises:
        ValueError: ``feedback`` is no truth value.

    Chapter: compression. Source: karimireddy2019, algorithm 2; lin2018, where it is residual accumulation.
    """

    feedback: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.feedback, bool):
            raise ValueError(f"feedback: got {self.feedback!r}, wanted True or False")

    def compressed(self, gradients: Gradients, client: Client) -> Gradients:
        """Return what a server decodes, one tensor per parameter, from what the client sends for these."""
        return gradients

    def shared(self, gradients: Gradients, client: Client) -> Gradients:
        """Return the compressed gradients; with feedback, of the gradients plus what earlier rounds left out."""
        if not self.feedback:
            return self.compressed(gradients, client)
        kept = client.memory.get("kept", (None,) * len(gradients))
        whole = tuple(g if g is None or k is None else g + k for g, k in zip(gradients, kept, strict=True))
        sent = self.compressed(whole, client)
        pairs = zip(whole, sent, strict=True)
        client.memory["kept"] = tuple(None if w is None or s is None else (w - s).detach() for w, s in pairs)
        return sent


def per_entry(defense: Defense, shared: Gradients) -> float:
    """Return the bits of an upload over its number of entries: the unit in which compressors are compared.

    Args:
        defense: What the client does; a :class:`gilearn.federated.Defense`.
        shared: What a server decodes, one tensor per parameter, at least one.

    Raises:
        ValueError: The defense is none, or nothing is shared.

    Chapter: compression.
    """
    if not isinstance(defense, Defense):
        raise ValueError(f"defense: got a {type(defense).__name__}, wanted a gilearn.federated.Defense")
    if not isinstance(shared, tuple | list) or not all(g is None or isinstance(g, Tensor) for g in shared):
        raise ValueError(f"shared: got {shared!r}, wanted tensors, one per parameter, or None")
    entries = sum(g.numel() for g in shared if g is not None)
    if not entries:
        raise ValueError("shared: got no tensors, wanted at least one")
    return defense.bits(shared) / entries


def check_own(argument: str, own: object, wanted: str) -> None:
    """Raise a ``ValueError`` unless these are tensors, or ``None``, in a tuple: one per parameter."""
    if not isinstance(own, tuple) or not all(one is None or isinstance(one, Tensor) for one in own):
        raise ValueError(f"{argument}: got {own!r}, wanted a tuple of {wanted}, or None")


def check_fits(argument: str, own: Gradients, gradients: Gradients, *, axes: int | None = None) -> None:
    """Raise a ``ValueError`` unless there is one, or ``None``, for each of the gradients, of its shape.

    Args:
        argument: Their name.
        own: What there is.
        gradients: What it is for.
        axes: Only so many axes, from the first, have to agree.
    """
    if len(own) != len(gradients):
        raise ValueError(f"{argument}: got {len(own)}, wanted one for each of {len(gradients)} gradients")
    for one, g in zip(own, gradients, strict=True):
        if one is not None and g is not None and one.shape[:axes] != g.shape[:axes]:
            wanted = f"one that fits a gradient of shape {tuple(g.shape)}"
            raise ValueError(f"{argument}: got one of shape {tuple(one.shape)}, wanted {wanted}")


def width(tensor: Tensor) -> int:
    """Return the bits of one number of a tensor's type."""
    return 8 * tensor.element_size()
