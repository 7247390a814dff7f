"""Results that take too long for a chapter: computed once, kept in data/recorded, shown there as recorded."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).resolve().parents[1] / "data" / "recorded"


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
