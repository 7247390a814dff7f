"""Every notebook is a pair that agrees and was executed; every chapter has the form that readers rely on."""

from __future__ import annotations

import base64
import copy
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from jupytext.compare import compare_notebooks

from gilearn.notebook.exercises import targets
from tools import notebooks
from tools.lab import facts
from tools.notebooks import before_saving, longest_first, texts, tidied, tidied_twin
from tools.replicate import parameters_of

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
TEXTS = texts()
CHAPTERS = [p for p in TEXTS if p.parent not in (BOOK, BOOK / "back")]
each_notebook = pytest.mark.parametrize("text", TEXTS, ids=lambda p: p.stem)
each_chapter = pytest.mark.parametrize("text", CHAPTERS, ids=lambda p: p.stem)


def cells(text: Path, kind: str = "code"):
    return [cell for cell in nbformat.read(text.with_suffix(".ipynb"), as_version=4).cells if cell.cell_type == kind]


def pages(kind: str) -> list[Path]:
    """The book's files of a kind, without the copies that JupyterLab leaves beside what it opened."""
    return [path for path in BOOK.rglob(f"*.{kind}") if ".ipynb_checkpoints" not in path.parts]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def test_there_are_chapters():
    assert len(CHAPTERS) >= 4
    assert {p.with_suffix("") for p in pages("ipynb")} == {p.with_suffix("") for p in TEXTS}


def test_what_jupyterlab_leaves_behind_is_not_executed(tmp_path):
    for folder in (tmp_path, tmp_path / "part" / ".ipynb_checkpoints"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "chapter.md").write_text("---\nkernelspec:\n  name: python3\n---\n")
    assert texts(tmp_path) == [tmp_path / "chapter.md"]


def test_a_recorded_result_concerns_the_notebooks_that_show_it(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "RECORDED", tmp_path)
    shows, other = tmp_path / "shows.md", tmp_path / "other.md"
    shows.write_text('rows = data.recorded("sizes")["result"]\n')
    other.write_text('rows = data.recorded("rates")["result"]\n')
    before = [notebooks.fingerprint(path, b"") for path in (shows, other)]
    (tmp_path / "sizes.json").write_text("{}")
    after = [notebooks.fingerprint(path, b"") for path in (shows, other)]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_the_longest_notebook_runs_first():
    stated = [int(found[1]) for p in longest_first(CHAPTERS) if (found := re.search(r"computing (\d+)", p.read_text()))]
    assert len(stated) == len(CHAPTERS)
    assert stated == sorted(stated, reverse=True)


def test_the_table_of_contents_lists_every_page():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    written = {p.relative_to(BOOK).as_posix() for p in pages("ipynb")}
    written |= {p.relative_to(BOOK).with_suffix("").as_posix() for p in pages("md") if p not in TEXTS}
    assert set(listed) == written


@each_notebook
def test_text_and_notebook_agree(text):
    notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    compare_notebooks(notebook, jupytext.read(text), fmt="md:myst", allow_expected_differences=True)


@each_notebook
def test_saving_from_jupyterlab_changes_nothing(text):
    assert text.read_text() == tidied(text.read_text())
    twin = text.with_suffix(".ipynb").read_text()
    assert twin == tidied_twin(twin)


def test_what_jupyterlab_adds_is_not_saved():
    """A kernel's version, times, counts of a second run, a widget beside its picture, a solution that was unfolded."""
    settled = nbformat.read(BOOK / "setup.ipynb", as_version=4)
    wild = copy.deepcopy(settled)
    wild.metadata |= {"widgets": {}, "language_info": {"name": "python", "version": "3.99"}}
    wild.metadata.jupytext["default_lexer"] = "ipython3"
    for count, cell in enumerate((c for c in wild.cells if c.cell_type == "code"), start=7):
        cell.execution_count = count
        cell.metadata |= {"execution": {"iopub.status.busy": "now"}, "collapsed": True}
        for output in cell.outputs:
            if "data" in output:
                output.data["application/vnd.jupyter.widget-view+json"] = {"model_id": "x"}
    before_saving({"type": "notebook", "content": wild}, "setup.ipynb")
    assert wild == settled
    text = (BOOK / "setup.md").read_text()
    model = {"type": "file", "content": text.replace(":tags: [nbval", ":tags: [solution, nbval", 1)}
    before_saving(model, "setup.md")
    assert "source_hidden: true" in model["content"]
    other = {"type": "notebook", "content": {"metadata": {"widgets": {}}, "cells": []}}
    before_saving(other, "another.ipynb")
    assert other["content"]["metadata"] == {"widgets": {}}


def test_jupyterlab_knows_every_label_and_key():
    known = facts()
    for path in pages("md"):
        words = path.read_text()
        for label in re.findall(r"\{(?:ref|numref|eq)\}`(?:[^`<]*<)?([^`>]+)>?`", words):
            assert label in known["references"], f"{path.stem}: {label}"
        for keys in re.findall(r"\{cite:\w\}`([^`]+)`", words):
            assert set(keys.split(",")) <= set(known["citations"])
    assert known["references"]["ch:setup"]["file"] == "/setup.md"
    assert known["citations"]["zhu2019"]["narrative"] == "Zhu et al. (2019)"
    assert known["citations"]["liu1989"]["parenthetical"] == "Liu and Nocedal, 1989"


@each_notebook
def test_executed_in_order_without_error(text):
    counts = [cell.execution_count for cell in cells(text)]
    assert counts == list(range(1, len(counts) + 1))
    for cell in cells(text):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")


@each_notebook
def test_checked_cells_store_what_is_checked(text):
    """nbval passes a checked cell without stored output unseen; and what is stored must not change from run to run."""
    checked = [cell for cell in cells(text) if "nbval-check-output" in tags(cell)]
    assert checked
    for cell in checked:
        assert cell.outputs, f"checked, and nothing to compare:\n{cell.source}"
        shown = "".join(o.get("text", "") + str(o.get("data", {}).get("text/plain", "")) for o in cell.outputs)
        assert not re.search(r"0x[0-9a-f]{6,}", shown), "a memory address"
        measured = re.sub(r"(below |above |=)1e-\d+", "", shown)  # a bound is not a measurement
        assert not re.search(r"\d\.\d{5,}|\de-\d{2}", measured), f"a raw float:\n{shown}"
        assert not re.search(r"\d+(\.\d+)? ?(s|ms|seconds)\b", shown), f"a time:\n{shown}"


@each_notebook
def test_no_widget_state_and_no_timing(text):
    notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    assert "widgets" not in notebook.metadata
    assert set(notebook.metadata) == {"kernelspec", "language_info", "jupytext"}
    for cell in notebook.cells:
        assert "execution" not in cell.metadata
        for output in cell.get("outputs", []):
            assert not any("widget" in kind for kind in output.get("data", {}))


@each_notebook
def test_size(text):
    assert text.with_suffix(".ipynb").stat().st_size < 600_000


@each_notebook
def test_code_fits_the_page(text):
    for cell in cells(text):
        assert len(cell.source.splitlines()) <= 25, cell.source
        assert all(len(line) < 80 for line in cell.source.splitlines()), cell.source
        assert not re.search(r"https?://|[!%]pip", cell.source)
    assert not re.search(r"/(?:root|home/\w+|tmp/\w+|Users/\w+)/", text.with_suffix(".ipynb").read_text())


@each_notebook
def test_every_picture_has_words(text):
    for cell in cells(text):
        if any("image/png" in o.get("data", {}) and "text/html" not in o.data for o in cell.outputs):
            shown = cell.metadata.get("mystnb", {})
            assert len(shown.get("image", {}).get("alt", "")) > 30, f"no alt text:\n{cell.source}"
            assert len(shown.get("figure", {}).get("caption", "")) > 20, f"no caption:\n{cell.source}"
            assert shown["figure"]["name"].startswith("fig:")
            results = [o for o in cell.outputs if o.output_type in ("display_data", "execute_result")]
            assert len(results) == 1, f"the site would give each of several results this name:\n{cell.source}"


@pytest.mark.parametrize("path", pages("md"), ids=lambda p: p.stem)
def test_equations_need_no_macros(path):
    """JupyterLab does not know those of the site's configuration."""
    assert re.findall(r"\\(?:norm|Loss|inner)\b", path.read_text()) == []


def test_labels_are_unique_in_the_whole_book():
    words = "\n".join(path.read_text() for path in pages("md"))
    names = re.findall(r"name: (fig:[\w-]+)", words)
    names += re.findall(r"^:label: (\S+)|^\(((?:ch|sec):\S+)\)=|^\$\$ \((eq:\S+)\)", words, re.MULTILINE)
    assert len(names) == len(set(names)), {name for name in names if names.count(name) > 1}


@each_chapter
def test_chapter_form(text):
    words = text.read_text()
    lines = words.splitlines()
    title = next(k for k, line in enumerate(lines) if line.startswith("# "))
    assert re.fullmatch(r"\(ch:[\w-]+\)=", lines[title - 1])
    assert re.match(r"\*Reading \d+ minutes · computing \d+ seconds on two cores\*", lines[title + 2])
    order = [
        ":class: objectives", "| You need | because | where |", ":class: threat-model", "## What this does not show",
        ":class: summary", "## Exercises", "## Quiz", "## Further reading",
    ]  # fmt: skip
    positions = [words.index(mark) for mark in order]
    assert positions == sorted(positions)
    box = words[positions[2] :].split(":::")[0]
    for part in ("**Attacker**", "**Sees**", "**Is assumed to know**", "**Does not know**"):
        assert part in box
    objectives = words[positions[0] :].split(":::")[0]
    assert 3 <= objectives.count("\n- ") <= 5
    assert len(words[positions[4] :].split(":::")[0].split(".")) <= 7, "a summary of at most five lines"
    assert words[positions[6] : positions[7]].count(":class: dropdown") >= 3


@each_chapter
def test_chapter_is_checked(text):
    checked = [cell for cell in cells(text) if "nbval-check-output" in tags(cell)]
    assert 3 <= len(checked) <= 12
    assert any("assert_close" in cell.source for cell in cells(text)), "the from-scratch cell is proved equal"


@each_chapter
def test_exercises_have_solutions_that_check_themselves(text):
    words = text.read_text()
    exercises = re.findall(r"\{exercise-start\} (★+) .+\n:label: (ex:[\w-]+)", words)
    assert 3 <= len(exercises) <= 5
    stars = [len(mark) for mark, _ in exercises]
    assert stars == sorted(stars)
    for _, label in exercises:
        solution = words.partition(f"{{solution-start}} {label}\n:class: dropdown")[2].partition("{solution-end}")[0]
        assert "check(" in solution, label


@each_chapter
def test_exercises_are_answered_in_the_open(text):
    """Under the task, a cell for the reader's answer, which knows the target; the solution passes the same check."""
    notebook = nbformat.read(text.with_suffix(".ipynb"), as_version=4)
    places = {}
    for k, cell in enumerate(notebook.cells):
        kind = {"exercise", "solution"} & set(tags(cell))
        for label in re.findall(r"^check\(\"(ex:[\w-]+)\", .+\)$", cell.source, re.MULTILINE):
            places.setdefault(label, {}).update(dict.fromkeys(kind, k))
    for _, label in re.findall(r"\{exercise-start\} (★+) .+\n:label: (ex:[\w-]+)", text.read_text()):
        assert label in targets(), label
        assert set(places[label]) == {"exercise", "solution"}, label
        answer, solution = (notebook.cells[places[label][kind]] for kind in ("exercise", "solution"))
        assert places[label]["exercise"] < places[label]["solution"], label
        assert answer.source == f'answer = ...\ncheck("{label}", answer)'
        assert answer.outputs[0].text == "not answered yet\n"
        assert solution.outputs[-1].text.endswith("✓ right\n")
        assert solution.metadata.jupyter.source_hidden


@each_chapter
def test_a_chapter_runs_on_other_folds(text):
    parameters = parameters_of(jupytext.read(text))
    assert parameters is not None, "the first code cell has no tag `parameters`"
    assert re.match(r"FOLD = 0\b", parameters.source)


@each_chapter
def test_cells_show_numbers(text):
    """No column of truth values in place of results."""
    shown = "\n".join(o.get("text", "") for cell in cells(text) for o in cell.outputs)
    assert len(re.findall(r"\b(?:True|False)\b", shown)) <= 3
    assert not re.search(r"\bcheck\([^\n]*,\s*(True|False)\s*\)", text.read_text())


@each_chapter
def test_prose_outweighs_code(text):
    """12 to 20 words a line of code, with room on both sides."""
    prose = sum(len(cell.source.split()) for cell in cells(text, "markdown"))
    code = sum(bool(line.strip()) for cell in cells(text) for line in cell.source.splitlines())
    assert 6 <= prose / code <= 26, f"{prose / code:.1f} words a line of code"


@each_chapter
def test_citations_are_in_the_bibliography(text):
    keys = set(re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.MULTILINE))
    for group in re.findall(r"\{cite:\w+\}`([^`]+)`", text.read_text()):
        assert set(group.split(",")) <= keys


def test_the_readme_s_picture_is_the_book_s():
    for cell in cells(BOOK / "index.md"):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert base64.b64decode(output.data["image/png"]) == (BOOK / "_assets" / "leaked-face.png").read_bytes()
                return
    pytest.fail("the index stores no picture")
