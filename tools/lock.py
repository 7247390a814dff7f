"""Resolve the project's ranges in a fresh environment and pin the result in requirements.lock.

    python tools/lock.py

The file holds constraints, not requirements: what a platform does not need is not installed there. torch and
torchvision are the tested pair of this file's text; a local build tag (+cpu) is dropped, so that any build of the
version satisfies it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
PAIR = ("torch==2.13.0", "torchvision==0.28.0")
HEADER = "# Written by tools/lock.py: versions for the book's build and the tests, as constraints (pip install -c).\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *PAIR, "-e", f"{ROOT}[book,test,browser]"], check=True)
        frozen = subprocess.run(
            [*pip, "freeze", "--exclude-editable"], check=True, capture_output=True, text=True
        ).stdout
    pins = [line for line in frozen.splitlines() if re.fullmatch(r"[\w.-]+==[\w.+!-]+", line)]
    pins = [re.sub(r"\+\w+$", "", line) for line in pins if not line.startswith(("nvidia-", "triton=="))]
    unfinished = LOCK.with_suffix(".unfinished")
    unfinished.write_text(HEADER + "\n".join(pins) + "\n")
    unfinished.replace(LOCK)
    print(f"{LOCK.name}: {len(pins)} pins")


if __name__ == "__main__":
    main()
