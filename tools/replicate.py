"""Execute the book on other data, and in other arithmetic; record which of its guarded cells hold.

    python tools/replicate.py [--folds 1 2 3] [--arithmetic] [--jobs N] [--record] [TEXT ...]

A fold replaces the first code cell of a chapter, its parameters, by another number: other pictures, weights, starts.
A cell is guarded when it asserts something; it holds when it runs without an error. Answers and solutions of exercises
are about fold 0 and are left out. Other arithmetic means fold 0 with one thread, with two, and with the vector units
held to AVX2; there every cell has to run, and every checked output to agree. What is finished is kept in
``_build/replication`` until the code of the chapter or of the package changes, so that a run that is stopped goes on;
``--record`` writes ``data/recorded/replication.json``, which the chapter ``back/replication`` shows.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.notebooks import (
    CELL_LIMIT,
    ENVIRONMENT,
    ROOT,
    digest,
    fingerprint_of_common,
    longest_first,
    name,
    replace,
    texts,
)
from tools.recording import record

KEPT = ROOT / "_build" / "replication"
COMMAND = "python -m tools.replicate --record"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
ONE, TWO = ({f"{library}_NUM_THREADS": n for library in ("OMP", "MKL", "OPENBLAS")} for n in ("1", "2"))
ARITHMETIC = {"one thread": ONE, "two threads": TWO, "one thread, AVX2": ONE | AVX2}


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("texts", nargs="*", type=Path, help="chapters; by default all that have a parameters cell")
    arguments.add_argument("--folds", nargs="*", type=int, default=[1, 2, 3])
    arguments.add_argument("--arithmetic", action="store_true", help="other arithmetic instead of other data")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    arguments.add_argument("--record", action="store_true", help="write data/recorded/replication.json")
    options = arguments.parse_args()
    os.environ |= ENVIRONMENT
    chosen = longest_first({path.resolve() for path in options.texts} or set(texts()))
    chosen = [path for path in chosen if path.stem != "replication"]  # it shows what this finds
    chosen = [path for path in chosen if parameters_of(jupytext.read(path)) is not None or options.arithmetic]
    common = fingerprint_of_common()
    ways = list(ARITHMETIC) if options.arithmetic else [f"fold {fold}" for fold in options.folds]
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {(way, name(path)): pool.submit(kept, way, path, common) for way in ways for path in chosen}
        found: dict[str, dict[str, Any]] = {way: {} for way in ways}
        for (way, chapter), job in waiting.items():
            found[way][chapter] = outcome = job.result()
            print(f"{way}: {chapter}: {outcome['held']} of {outcome['guarded']} hold", end="", flush=True)
            print(f", {outcome['seconds']} s", *(f"\n  {f['heading']}: {f['error']}" for f in outcome["failed"]))
    for way, chapters in found.items():
        held, guarded = (sum(c[key] for c in chapters.values()) for key in ("held", "guarded"))
        print(f"{way}: {held} of {guarded} cells hold, {100 * held / max(1, guarded):.1f} %")
    if options.record:
        path = ROOT / "data" / "recorded" / "replication.json"
        before = json.loads(path.read_text())["result"] if path.exists() else {}
        record("replication", COMMAND, {way: before.get(way, {}) | found.get(way, {}) for way in {**before, **found}})
    return 0


def parameters_of(notebook: Any) -> Any:
    """Return a notebook's parameters cell, its first code cell; ``None`` if it has none."""
    first = next((cell for cell in notebook.cells if cell.cell_type == "code"), None)
    return first if first is not None and "parameters" in first.metadata.get("tags", []) else None


def kept(way: str, path: Path, common: bytes) -> dict[str, Any]:
    """Return what a chapter's run on a fold, or in an arithmetic, came to; run it if that is not known yet."""
    place = KEPT / f"{label(way)}-{path.stem}.json"
    notebook = jupytext.read(path)
    mark = digest("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code"), common)
    if place.exists() and (content := json.loads(place.read_text()))["mark"] == mark:
        return dict(content["outcome"])
    began = time.perf_counter()
    outcome = in_arithmetic(path, way) if way in ARITHMETIC else on_fold(path, int(way.split()[1]))
    outcome["seconds"] = round(time.perf_counter() - began)
    replace(place, json.dumps({"mark": mark, "outcome": outcome}, indent=1))
    return outcome


def label(way: str) -> str:
    return way.replace(" ", "-").replace(",", "")


def on_fold(path: Path, fold: int) -> dict[str, Any]:
    """Execute a chapter with another fold, past its errors; count the guarded cells that hold."""
    notebook = jupytext.read(path)
    parameters = parameters_of(notebook)
    changed, number = (
        ("", 0) if parameters is None else re.subn(r"(?m)^FOLD = 0\b", f"FOLD = {fold}", parameters.source)
    )
    if number != 1:
        raise ValueError(f"{path.name}: wanted a first code cell with the tag parameters and one line FOLD = 0")
    parameters.source = changed
    exercises = {"exercise", "solution"}
    notebook.cells = [cell for cell in notebook.cells if not exercises & set(cell.metadata.get("tags", []))]
    client = NotebookClient(
        notebook,
        timeout=CELL_LIMIT,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": path.parent}},
    )
    client.execute()
    return counted(notebook)


def counted(notebook: Any) -> dict[str, Any]:
    """Count guarded cells, those that held, and say of the others where they stand and what went wrong."""
    heading, guarded, failed = "", 0, []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            heading = [heading, *re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)][-1]
            continue
        if not asserts(cell.source):
            continue
        guarded += 1
        errors = [o for o in cell.outputs if o.output_type == "error"]
        if errors:
            error = f"{errors[0].ename}: {errors[0].evalue}".splitlines()[0][:200]
            demanded = demand(cell.source, "\n".join(errors[0].traceback))
            failed.append({"cell": index, "heading": heading, "error": error, "asserts": demanded[:200]})
    return {"guarded": guarded, "held": guarded - len(failed), "failed": failed}


def demand(source: str, traceback: str) -> str:
    """Return the statement of a cell at which it stopped; where the traceback does not say, its first assertion."""
    lines = re.findall(r"Cell In\[\d+\], line (\d+)", re.sub(r"\x1b\[[\d;]*m", "", traceback))
    nodes = [node for node in ast.walk(parsed(source)) if isinstance(node, ast.stmt)]
    at = [node for node in nodes if lines and node.lineno <= int(lines[0]) <= (node.end_lineno or 0)]
    smallest = min(at, key=lambda node: (node.end_lineno or 0) - node.lineno, default=None)
    return asserts(source)[0] if smallest is None else ast.unparse(smallest)


def parsed(source: str) -> ast.Module:
    """Return the syntax tree of a cell, without its magic lines."""
    return ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.MULTILINE))


def asserts(source: str) -> list[str]:
    """Return the assertions in a cell's source."""
    tree = parsed(source)
    found = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found + [ast.unparse(call) for call in calls if "assert_" in ast.unparse(call.func)]


def in_arithmetic(path: Path, way: str) -> dict[str, Any]:
    """Run a chapter's stored notebook under nbval in other arithmetic; every cell counts."""
    report = KEPT / f"{label(way)}-{path.stem}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    command += [f"--nbval-cell-timeout={CELL_LIMIT}", f"--junitxml={report}", str(path.with_suffix(".ipynb"))]
    subprocess.run(command, cwd=ROOT, env=os.environ | ARITHMETIC[way], capture_output=True, check=False)
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = []
    for index, case in enumerate(cases):
        for wrong in [*case.findall("failure"), *case.findall("error")]:
            said = re.sub(r"(?:\x1b|#x1B)\[[\d;]*m", "", wrong.text or "")
            message = re.findall(r"^\w+(?:Error|Exception|Interrupt|Warning):.*$|^Timeout.*$", said, re.MULTILINE)
            failed.append(
                {
                    "cell": index,
                    "heading": case.get("name", ""),
                    "error": (message or said.strip().splitlines() or [""])[-1][:200],
                }
            )
    return {"guarded": len(cases), "held": len(cases) - len(failed), "failed": failed}


if __name__ == "__main__":
    sys.exit(main())
