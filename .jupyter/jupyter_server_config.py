"""Jupyter's server as this book's reader; `make lab` points JUPYTER_CONFIG_PATH here.

A chapter that is saved differs from the repository's by what its reader changed, and citations, references, captions
and solutions are shown as on the site.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import lab, notebooks  # noqa: E402

lab.write()
c.FileContentsManager.pre_save_hook = notebooks.before_saving
c.LabApp.extra_labextensions_path = [str(ROOT / ".jupyter" / "labextensions")]
