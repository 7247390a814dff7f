"""The libraries of the extra ``defenses``: loaded where they are used, so that importing the package needs none."""

from __future__ import annotations

import importlib
from typing import Any


def library(name: str) -> Any:
    """Return an installed module of the extra ``defenses``.

    Args:
        name: Its dotted name, as in ``import``.

    Raises:
        ImportError: It is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise
        raise ImportError(f"{name}: not installed, wanted pip install 'gilearn[defenses]'") from error
