"""Results that take too long for a chapter: computed once, kept in data/recorded, shown there as recorded."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).resolve().parents[1] / "data" / "recorded"


def resume(
    name: str,
    command: str,
    plan: Iterable[tuple[dict[str, Any], Callable[[], dict[str, Any]]]],
    hidden: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Measure the rows of a plan one after the other; keep each as soon as it is there: a stopped run goes on.

    A plan pairs a row's key (what is measured: ``{"size": 32, "seed": 0}``) with a function of no argument that returns
    the row's other columns. ``None`` in a key stands for a column that the row does not have. A row whose key is
    recorded is not measured again; rows that the plan does not name stay.

    Args:
        hidden: Columns too long to print.
    """
    done = known(name, [])
    for key, measure in plan:
        key = json.loads(json.dumps(key))  # tuples are lists in the file
        if any(all(row.get(column) == value for column, value in key.items()) for row in done):
            continue
        done.append({column: value for column, value in key.items() if value is not None} | measure())
        print({column: value for column, value in done[-1].items() if column not in hidden}, flush=True)
        record(name, command, done)
    return done


def known(name: str, otherwise: Any) -> Any:
    """Return the result that is recorded under a name, or something else if none is."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text())["result"] if path.exists() else otherwise


def record(name: str, command: str, result: Any) -> Path:
    """Write a result with the command that made it and the machine that ran it; never half."""
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "machine": machine(), "result": result}
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)
    return path


def machine() -> dict[str, Any]:
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "accelerator": accelerator,
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
    }
