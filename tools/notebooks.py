"""Execute the book's notebooks: from the text (.md) to its twin with outputs (.ipynb), never the other way.

The text is put into Jupytext's own form first, so that saving from JupyterLab changes nothing that nobody typed; and
the code of solutions is marked as collapsed.

    python tools/notebooks.py [--all] [--jobs N] [--list] [TEXT ...]

Notebooks run in parallel, the longest first, with one thread each. A notebook is executed again when something
changed since: its text, the package's code (not its comments or docstrings), a data set, a recorded result that it
shows, or the lock file; ``book/executed.json`` remembers what it was executed with. A notebook that fails, or that
writes to stderr, is not written.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
EXECUTED = BOOK / "executed.json"
RECORDED = ROOT / "data" / "recorded"
PICTURE = BOOK / "_assets" / "leaked-face.png"  # the README's, which is the first figure of the book
FORMATS = "ipynb,md:myst"
CELL_LIMIT = 900  # seconds, for a cell that hangs
ENVIRONMENT = {"GILEARN_STATIC": "1", "OMP_WAIT_POLICY": "passive", "PYTHONHASHSEED": "0"}
ENVIRONMENT |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("texts", nargs="*", type=Path, help="texts to execute; by default those that changed")
    arguments.add_argument("--all", action="store_true", help="execute every notebook")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count() or 2, help="notebooks at a time")
    arguments.add_argument("--list", action="store_true", help="print every notebook, the longest first, and stop")
    options = arguments.parse_args()
    if options.list:
        print(*(path.with_suffix(".ipynb").relative_to(ROOT).as_posix() for path in longest_first(texts())), sep="\n")
        return 0

    os.environ |= ENVIRONMENT
    executed = json.loads(EXECUTED.read_text()) if EXECUTED.exists() else {}
    common = fingerprint_of_common()
    for path in options.texts or texts():
        tidy(path.resolve())
    chosen = {path.resolve() for path in options.texts} or set(texts())
    inputs = {path: fingerprint(path, common) for path in longest_first(chosen)}
    due = [
        path
        for path, mark in inputs.items()
        if options.all or options.texts or executed.get(name(path)) != mark or not path.with_suffix(".ipynb").exists()
    ]
    failed = False
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(execute, path): path for path in due}
        for job in as_completed(running):
            path, outcome = running[job], job.result()
            print(f"{name(path)}: {outcome}", flush=True)
            if outcome.startswith("failed"):
                failed = True
                continue
            executed[name(path)] = inputs[path]
            known = {key: executed[key] for key in sorted(executed) if (BOOK / key).exists()}
            replace(EXECUTED, json.dumps(known, indent=1) + "\n")
    keep_picture()
    print(f"{len(inputs)} notebooks, {len(due)} due" + (", not all of which were written" if failed else ""))
    return failed


def texts(book: Path = BOOK) -> list[Path]:
    """The texts that are notebooks: those with a kernel in their header, and no copies that JupyterLab left."""
    own = files(book, ".md")
    return [path for path in own if "\nkernelspec:" in path.read_text().partition("\n---\n")[0]]


def files(folder: Path, *suffixes: str) -> list[Path]:
    """The files below a folder with one of these suffixes (without any: all), without JupyterLab's checkpoints."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".ipynb_checkpoints" not in path.parts]
    return [path for path in found if not suffixes or path.suffix in suffixes]


def longest_first(paths: Iterable[Path]) -> list[Path]:
    """Order texts by the seconds that their heading states, so that no process is left alone with a long one."""
    stated = {path: re.search(r"computing (\d+) seconds", path.read_text()) for path in paths}
    return sorted(stated, key=lambda path: (-int(stated[path][1]) if stated[path] else 0, path))


def name(path: Path) -> str:
    return path.relative_to(BOOK).as_posix()


def fingerprint_of_common() -> bytes:
    """Digest what every notebook depends on: code without comments and docstrings, style, data sets, lock file."""
    digest = hashlib.sha256()
    for path in files(ROOT / "gilearn", ".py", ".mplstyle", ".toml"):
        digest.update(code_of(path).encode() if path.suffix == ".py" else path.read_bytes())
    for path in [*files(ROOT / "data"), ROOT / "requirements.lock"]:
        if path.parent != RECORDED:
            digest.update(path.read_bytes())
    return digest.digest()


def code_of(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
            node.body = kept  # type: ignore[attr-defined]
    return ast.dump(tree)


def fingerprint(path: Path, common: bytes) -> str:
    """Digest what one notebook depends on: the common, its text, and the recorded results that the text names."""
    text = path.read_text()
    recorded = [(RECORDED / f"{name}.json") for name in re.findall(r"data\.recorded\(\s*\"([\w-]+)\"", text)]
    parts = [common, text.encode(), *(found.read_bytes() for found in recorded if found.exists())]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def tidied(text: str) -> str:
    """Return a text in Jupytext's own form, with the code of solutions collapsed, and no other."""
    notebook = jupytext.reads(text, fmt="md:myst")
    for cell in notebook.cells:
        cell.source = cell.source.strip("\n")
        collapse_solutions(cell.metadata)
    written: str = jupytext.writes(notebook, fmt="md:myst")
    return re.sub(r"\n    jupytext_version: [^\n]+", "", written, count=1)  # it would change with every installation


def collapse_solutions(metadata: dict[str, Any]) -> None:
    for folded in ("jupyter", "collapsed", "scrolled"):
        metadata.pop(folded, None)
    if "solution" in metadata.get("tags", []):
        metadata["jupyter"] = {"source_hidden": True}


def settle(notebook: dict[str, Any]) -> None:
    """Take out of a notebook what says nothing: versions, widgets (their pictures stay), times, what was unfolded."""
    notebook["metadata"] = {
        "kernelspec": notebook["metadata"]["kernelspec"],
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        "jupytext": {"formats": FORMATS},
    }
    for place, cell in enumerate((c for c in notebook["cells"] if c["cell_type"] == "code"), start=1):
        cell["metadata"].pop("execution", None)
        collapse_solutions(cell["metadata"])
        executed = cell["execution_count"] and place  # as in a notebook that was run once, from top to bottom
        cell["execution_count"] = executed
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = executed
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


def before_saving(model: dict[str, Any], path: str = "", **_: Any) -> None:
    """Let a chapter that JupyterLab saves differ from the repository's by what its reader changed, and nothing else.

    A ``pre_save_hook`` of Jupyter's server (``.jupyter/jupyter_server_config.py``); other files it leaves alone.
    """
    content = model.get("content")
    if model["type"] == "notebook" and content and content["metadata"].get("jupytext", {}).get("formats") == FORMATS:
        settle(content)
    elif (
        model["type"] == "file" and path.endswith(".md") and f"formats: {FORMATS}\n" in content.partition("\n---\n")[0]
    ):
        model["content"] = tidied(content)


def tidy(path: Path) -> None:
    """Put a text, and what is stored of its twin, into the form in which JupyterLab saves them."""
    twin = path.with_suffix(".ipynb")
    for file, tidied_of in ((path, tidied), (twin, tidied_twin)):
        if file.exists() and (form := tidied_of(text := file.read_text())) != text:
            replace(file, form)


def tidied_twin(stored: str) -> str:
    notebook = json.loads(stored)
    settle(notebook)
    return nbformat.writes(nbformat.from_dict(notebook)) + "\n"


def execute(path: Path) -> str:
    """Execute one text and write its twin; return what to print."""
    notebook = jupytext.read(path)
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"
    began = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=CELL_LIMIT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": path.parent}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return f"failed\n{error}"
    complaints = [
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    if complaints:
        return "failed: it writes to stderr\n" + "\n".join(complaints)
    settle(notebook)
    notebook = nbformat.from_dict(notebook)
    nbformat.validate(notebook)
    target = path.with_suffix(".ipynb")
    replace(target, nbformat.writes(notebook) + "\n")
    return f"{time.perf_counter() - began:.0f} s, {target.stat().st_size // 1000} kB"


def replace(path: Path, content: str | bytes) -> None:
    """Write beside the file and rename, so that it is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.replace(unfinished, path)


def keep_picture() -> None:
    """Keep the first figure of the book as a file, for the README."""
    if (BOOK / "index.ipynb").exists():
        replace(PICTURE, first_picture(BOOK / "index.ipynb"))


def first_picture(path: Path) -> bytes:
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output["data"]["image/png"])
    raise ValueError(f"{path} stores no picture")


if __name__ == "__main__":
    sys.exit(main())
