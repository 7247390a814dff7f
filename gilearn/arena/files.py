"""Grids in TOML files, which name what this package has, and can run nothing else."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from gilearn.arena.grid import Grid
from gilearn.federated.checks import check_name

_ROOMS = ("attacks", "data", "defenses", "federated", "models")


def load(path: str | os.PathLike[str]) -> Grid:
    """Read a grid from a TOML file: a table per axis, a line per name.

    ``{ use = "attacks.DLG", iterations = 50 }`` stands for a public name of this package, with other fields or with
    keyword arguments; on a line of its own ``"attacks.DLG"`` is short for it. Inside such a value another
    ``{ use = ... }`` is a value too, and a list a tuple. ``seeds`` may be their number.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no TOML, or a key, which is named, has what it cannot have.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"grid: there is no file {path}")
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # text that is no UTF-8 is one too
        raise ValueError(f"grid: {path} is no TOML ({error})") from error
    for axis in content:
        check_name("grid", axis, [field.name for field in fields(Grid)])
    for axis in ("attacks", "victims", "data"):
        if axis not in content:
            raise ValueError(f"{axis}: got nothing, wanted a table of at least one name")
    for axis in ("attacks", "victims", "data", "defenses", "clients"):
        if isinstance(content.get(axis), Mapping):
            later = axis in ("victims", "data")
            content[axis] = {name: _line(f"{axis}.{name}", line, later) for name, line in content[axis].items()}
    if isinstance(content.get("seeds"), int):
        content["seeds"] = range(content["seeds"])
    return Grid(**content)


def resolve(name: Any, key: str = "name") -> Any:
    """Return what a dotted name stands for: a public name of a public module of this package, and nothing else.

    Args:
        name: For instance ``"attacks.DLG"``, or ``"gilearn.attacks.DLG"``.
        key: What to call the name in an error.

    Raises:
        ValueError: It is no such name.
    """
    *rooms, last = str(name).removeprefix("gilearn.").split(".")
    if not rooms or rooms[0] not in _ROOMS:
        raise ValueError(f'{key}: got {name!r}, wanted a name in one of gilearn\'s {", ".join(_ROOMS)}: "attacks.DLG"')
    module = importlib.import_module(f"gilearn.{rooms[0]}")
    for room in rooms[1:]:
        names = getattr(module, "__all__", ())
        check_name(key, room, [each for each in names if isinstance(getattr(module, each), ModuleType)])
        module = getattr(module, room)
    own = [each for each in getattr(module, "__all__", vars(module)) if _is_own(getattr(module, each))]
    check_name(key, last, sorted(each for each in own if not each.startswith("_")))
    return getattr(module, last)


def _is_own(value: Any) -> bool:
    return not isinstance(value, ModuleType) and str(getattr(value, "__module__", "")).startswith("gilearn.")


def _line(key: str, line: Any, later: bool) -> Any:
    return _value(key, {"use": line} if isinstance(line, str) else line, later)


def _value(key: str, entry: Any, later: bool = False) -> Any:
    """Return what an entry of the file stands for; of what is to be called later, function and arguments."""
    if isinstance(entry, list):
        return tuple(_value(f"{key}[{k}]", part) for k, part in enumerate(entry))
    if not isinstance(entry, Mapping):
        return entry
    options = {name: _value(f"{key}.{name}", part) for name, part in entry.items() if name != "use"}
    if "use" not in entry:
        return options
    found = resolve(entry["use"], f"{key}.use")
    try:
        if later:
            inspect.signature(found).bind_partial(**options)
            return functools.partial(found, **options)
        if isinstance(found, type) or inspect.isfunction(found):
            return found(**options)
        return found.replace(**options) if options else found
    except TypeError as error:
        taken = ", ".join(inspect.signature(found).parameters)
        raise ValueError(
            f"{key}: got {sorted(options)} ({error}), wanted what {entry['use']} takes: {taken}"
        ) from error
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{key}: {error}") from error
