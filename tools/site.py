"""Build the site from the stored outputs, strictly, and print its path last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "_build" / "html" / "index.html"


def main() -> int:
    builder = str(Path(sys.executable).with_name("jupyter-book"))
    options = ["-W", "--keep-going", "-n", "-q", "--path-output", "."]
    options += ["--config", str(ROOT / "_config.yml"), "--toc", str(ROOT / "_toc.yml")]
    if subprocess.run([builder, "build", "book", *options], cwd=ROOT).returncode or not PAGE.exists():
        print("the site was not built; see the warnings above", file=sys.stderr)
        return 1
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
