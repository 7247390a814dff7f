"""Attacks, their ingredients and defenses are values: frozen dataclasses that differ in a field or two."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, cast

_Self = TypeVar("_Self", bound="Value")


class Value:
    """A frozen, keyword-only dataclass with :meth:`replace`: the base of everything that is put together by value."""

    def replace(self: _Self, **changes: Any) -> _Self:
        """Return the same value with other fields: ``InvGrad.replace(iterations=300)``.

        Raises:
            ValueError: A name is not one of its fields, or a new value is refused.

        Chapter: anatomy.
        """
        names = [field.name for field in dataclasses.fields(cast(Any, self))]
        for name in changes:
            if name not in names:
                raise ValueError(f"{name}: {type(self).__name__} has no such field, wanted one of {', '.join(names)}")
        return cast(_Self, dataclasses.replace(cast(Any, self), **changes))
