"""What a space is, and the product of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from gilearn.attacks.iteration.initialization import Initialization
from gilearn.federated import Observed
from gilearn.values import Value

Bounds = tuple[float, float]
_T = TypeVar("_T")


@runtime_checkable
class Factor(Protocol):
    """A part of a search that is bound to an observation."""

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the variables of one start, by name."""
        ...

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        """Return the arguments of ``simulate`` that one start's variables stand for, differentiable in them."""
        ...

    def project(self, variables: dict[str, Tensor]) -> None:
        """Move one start's variables, in place, to where they may be: at the beginning, and after every step."""
        ...


class Space(Value):
    """What is searched; a subclass implements :meth:`begin` and :meth:`decode` of a :class:`Factor`."""

    def build(self, seen: Observed) -> Factor:
        """Return the space bound to an observation: on its device, in its type, checked against its shapes."""
        return self

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the variables of one start, by name, drawn by the attack's initialization."""
        raise NotImplementedError

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        """Return the arguments of ``simulate`` that one start's variables stand for."""
        raise NotImplementedError

    def project(self, variables: dict[str, Tensor]) -> None:
        """Leave the variables where they are."""

    def details(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        """Return what else the best start's variables say: the tokens next to embeddings, for instance."""
        return {}

    def __and__(self, other: Factor) -> Product:
        """Return the product of the two: both are searched together."""
        return Product(spaces=(self, other))


@dataclass(frozen=True, kw_only=True)
class Product(Space):
    """Several spaces that are searched together; ``a & b`` makes one.

    Args:
        spaces: Their variables, and what they decode to, must have different names.

    Raises:
        ValueError: Two of them have a variable of the same name, or both say what the inputs are.

    Chapter: anatomy.
    """

    spaces: tuple[Factor, ...]

    def build(self, seen: Observed) -> Factor:
        """Bind every one of them."""
        return Product(spaces=tuple(s.build(seen) if isinstance(s, Space) else s for s in self.spaces))

    def begin(self, seen: Observed, initialization: Initialization, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the variables of all."""
        return self._merged([space.begin(seen, initialization, generator) for space in self.spaces])

    def decode(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        """Return what all of them stand for."""
        return self._merged([space.decode(variables) for space in self.spaces])

    def project(self, variables: dict[str, Tensor]) -> None:
        """Project in all."""
        for space in self.spaces:
            space.project(variables)

    def details(self, variables: dict[str, Tensor]) -> dict[str, Any]:
        """Return what each of them adds."""
        return self._merged([space.details(variables) for space in self.spaces if isinstance(space, Space)])

    def _merged(self, parts: list[dict[str, _T]]) -> dict[str, _T]:
        merged: dict[str, _T] = {}
        for space, part in zip(self.spaces, parts, strict=False):
            for name in part:
                if name in merged:
                    raise ValueError(f"space: {space} and a space beside it both have {name!r}, wanted one of them")
            merged |= part
        return merged


def check_bounds(bounds: Bounds | None) -> None:
    """Raise a ``ValueError`` unless the bounds are none, or a lower and a higher end."""
    if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
        raise ValueError(f"bounds: got {bounds}, wanted a lower and a higher end")
