"""Import torchvision on any build of torch: ``from gilearn._torchvision import torchvision``.

torchvision's compiled operators are linked against one exact build of torch. Beside another one (the CPU build of torch
with PyPI's torchvision) they cannot be loaded, and ``import torchvision`` then fails on an operator that it only wants
to describe. The data sets, models and transforms that gilearn uses need none of these operators, so their two schemas
are declared here first, and only then.
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def operators_load() -> bool:
    """Say whether torchvision's compiled operators can be loaded into the torch that is installed."""
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("gilearn needs torchvision (pip install torchvision)", name="torchvision")
    for folder in map(Path, spec.submodule_search_locations):
        for library in (folder / f"_C{suffix}" for suffix in (*EXTENSION_SUFFIXES, ".so", ".pyd")):
            if library.exists():
                try:
                    torch.ops.load_library(library)  # type: ignore[no-untyped-call]
                except OSError:
                    return False
                return True
    return False


def _declare_schemas() -> torch.library.Library:
    declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        declared.define(schema)  # type: ignore[no-untyped-call]
    return declared


# The library object owns the declarations: they vanish with it, so it lives as long as the module.
_declared = None if operators_load() else _declare_schemas()

import torchvision  # noqa: E402

__all__ = ["operators_load", "torchvision"]
