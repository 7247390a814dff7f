"""What JupyterLab cannot know of the book: what stands behind its references and citations, as the site numbers them.

``.jupyter/jupyter_server_config.py`` has it written for ``.jupyter/labextensions/gilearn-book``, whenever the server
starts.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import yaml
from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

from tools.notebooks import BOOK, ROOT, replace

FACTS = ROOT / ".jupyter" / "labextensions" / "gilearn-book" / "static" / "book.json"
NUMBERED = re.compile(
    r"^\((?P<target>[\w:-]+)\)=\n#+ (?P<title>.+)|^ +name: (?P<figure>fig:[\w-]+)|^\$\$ \((?P<equation>eq:[\w-]+)\)"
    r"|\{exercise-start\} (?P<stars>★+) (?P<task>.+)\n:label: (?P<exercise>ex:[\w-]+)",
    re.MULTILINE,
)


def facts() -> dict[str, Any]:
    return {"references": references(), "citations": citations(BOOK / "references.bib")}


def references() -> dict[str, dict[str, str]]:
    """By label: what a reference says, and the file that it leads to, seen from JupyterLab's root."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    found, number = {}, 0
    numbers: dict[str, int | None] = {toc["root"]: None}
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            number += bool(part.get("numbered"))
            numbers[chapter["file"]] = number if part.get("numbered") else None
    for file, chapter in numbers.items():
        path = (BOOK / file).with_suffix(".md")
        place = f"{chapter}." if chapter else ""
        counts = {"figure": 0, "equation": 0}
        for match in NUMBERED.finditer(path.read_text()):
            kind = match.lastgroup or ""
            if kind in counts:
                counts[kind] += 1
                count = f"{place}{counts[kind]}"
                label, text = match[kind], f"Fig. {count}" if kind == "figure" else f"({count})"
            elif kind == "exercise":
                label, text = match["exercise"], f"Exercise “{match['task']}”"
            else:
                label, text = match["target"], match["title"]
            found[label] = {"text": text, "file": f"/{path.relative_to(BOOK).as_posix()}"}
    return found


def citations(path: Path) -> dict[str, dict[str, str]]:
    """By key: how the text names a source, alone and in parentheses, and the source in full."""
    return {key: citation(entry) for key, entry in parse_file(str(path)).entries.items()}


def citation(entry: Entry) -> dict[str, str]:
    def plain(field: str) -> str:
        return str(Text.from_latex(entry.fields.get(field, "")))

    names = [str(Text.from_latex(" ".join(person.last_names))) for person in entry.persons.get("author", ())]
    names = names or [plain("organization") or plain("title")]
    who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    where = plain("journal") or plain("booktitle") or plain("publisher")
    told = [f"{', '.join(names)} ({plain('year')}).", f"<em>{html.escape(plain('title'))}</em>.", html.escape(where)]
    told += [html.escape(plain("note"))]
    arxiv = re.search(r"arXiv:(\d+\.\d+)", plain("note"))
    url = plain("url") or (f"https://arxiv.org/abs/{arxiv[1]}" if arxiv else "")
    return {
        "narrative": f"{who} ({plain('year')})",
        "parenthetical": f"{who}, {plain('year')}",
        "html": f"<p>{' '.join(part for part in told if part)}</p>",
        "url": f"https://doi.org/{plain('doi')}" if plain("doi") else url,
    }


def write() -> None:
    replace(FACTS, json.dumps(facts(), ensure_ascii=False, indent=1) + "\n")
