"""Build the site from the stored outputs, strictly, and print its path last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "_build" / "html" / "index.html"


def build(root: Path) -> int:
    """Build ``root/book`` with the configuration beside it into ``root/_build``; return what the builder returns."""
    builder = str(Path(sys.executable).with_name("jupyter-book"))
    options = ["-W", "--keep-going", "-n", "-q", "--path-output", "."]
    options += ["--config", str(root / "_config.yml"), "--toc", str(root / "_toc.yml")]
    return subprocess.run([builder, "build", "book", *options], cwd=root).returncode


def main() -> int:
    if build(ROOT) or not PAGE.exists():
        print("the site was not built; see the warnings above", file=sys.stderr)
        return 1
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
