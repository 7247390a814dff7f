"""Refusals of ingredients that are none, by the name of their field."""

from __future__ import annotations

from typing import Any

import torch


def check_ingredient(field: str, value: Any, example: str, *methods: str) -> None:
    """Raise a ``ValueError`` unless an ingredient is a value with one of these methods.

    Args:
        field: Its name among the attack's fields.
        value: What came.
        example: Source of one that would do.
        methods: Names of methods; one of them is enough.
    """
    if isinstance(value, type):
        raise ValueError(f"{field}: got the class {_name(value)}, wanted a value such as {example}")
    if isinstance(value, torch.optim.Optimizer):
        raise ValueError(f"{field}: got a {_name(type(value))} over tensors, wanted a value such as {example}")
    if not any(callable(getattr(value, method, None)) for method in methods):
        raise ValueError(f"{field}: got {value!r}, wanted a value such as {example}")


def check_tuple(field: str, values: Any, example: str) -> None:
    """Raise a ``ValueError`` unless a field holds several values: a tuple or a list."""
    if not isinstance(values, (tuple, list)):
        check_ingredient(field, values, f"({example},)", "build", "__call__")
        raise ValueError(f"{field}: got a bare {values!r}, wanted a tuple: ({values!r},)")


def check_kind(field: str, value: Any, kind: type) -> None:
    """Raise a ``ValueError`` unless a field holds a value of a class."""
    if not isinstance(value, kind):
        raise ValueError(f"{field}: got {value!r}, wanted a {kind.__name__}")


def check_positive(field: str, value: float) -> None:
    """Raise a ``ValueError`` unless a number is above zero."""
    if not value > 0:
        raise ValueError(f"{field}: got {value}, wanted a positive number")


def _name(kind: type) -> str:
    return f"torch.optim.{kind.__name__}" if issubclass(kind, torch.optim.Optimizer) else kind.__name__
