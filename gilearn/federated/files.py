"""Observations in files: tensors, names and numbers, and no code."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gilearn.federated.defense import Defense

_FORMAT = 1


def write(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write the content under a temporary name first, so that the file is never half-written."""
    path = Path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as unfinished:
        try:
            torch.save({"format": _FORMAT, **content}, unfinished)
            unfinished.close()
            os.replace(unfinished.name, path)
        finally:
            Path(unfinished.name).unlink(missing_ok=True)


def read(path: str | os.PathLike[str], device: torch.device) -> dict[str, Any]:
    """Read what :func:`write` wrote, and run no code from it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, half-written, or something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        content = torch.load(path, weights_only=True, map_location=device)
    except Exception as error:  # torch raises a dozen types here, all of which mean the same to the caller
        raise ValueError(f"path: {path} is damaged, half-written or no saved observation ({error})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"path: {path} is no saved observation of format {_FORMAT}")
    return content


def with_state(model: nn.Module, content: Mapping[str, Any], path: str | os.PathLike[str]) -> nn.Module:
    """Return a copy of a model with the saved weights, in the saved modes and floating-point type.

    Raises:
        ValueError: The architectures differ.
    """
    floating = [tensor.dtype for tensor in content["state"].values() if tensor.is_floating_point()]
    model = copy.deepcopy(model).to(floating[0])
    try:
        model.load_state_dict(content["state"])
    except RuntimeError as error:
        raise ValueError(f"model: its architecture is not the one that {path} was saved with ({error})") from error
    for name, module in model.named_modules():
        module.training = content["training"].get(name, module.training)
    return model


def saved(value: Any) -> Any:
    """Return a value as names, numbers, text and tensors; of a defense its class's name and its fields.

    Raises:
        ValueError: Something in it is none of these.
    """
    if isinstance(value, Defense):
        fields = {name: saved(entry) for name, entry in vars(value).items()}
        return {"defense": f"{type(value).__module__}.{type(value).__qualname__}", "fields": fields}
    if isinstance(value, (tuple, list)):
        return type(value)(map(saved, value))
    if value is None or isinstance(value, (bool, int, float, str, Tensor)):
        return value
    raise ValueError(f"knowledge: holds a {type(value).__name__}, which a file without code cannot hold")


def restored(content: Any) -> Any:
    """Return what :func:`saved` was given.

    Raises:
        ValueError: A defense's class is not among those that are imported.
    """
    if isinstance(content, (tuple, list)):
        return type(content)(map(restored, content))
    if not isinstance(content, dict):
        return content
    known = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in _kinds(Defense)}
    kind = known.get(content["defense"])
    if kind is None:
        module = content["defense"].rpartition(".")[0]
        raise ValueError(f"path: holds the defense {content['defense']}, which is not imported: import {module} first")
    return kind(**{name: restored(value) for name, value in content["fields"].items()})


def _kinds(kind: type[Defense]) -> Iterable[type[Defense]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
