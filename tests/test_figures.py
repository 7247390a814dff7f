"""Figures come back as files with their numbers; a figure that is not stored stops the build."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gilearn import notebook, plotting
from tools import figures
from tools.notebooks import texts
from tools.site import build

ROOT = Path(__file__).resolve().parents[1]


def rows(figure, folder):
    """What the file says, numbers as numbers."""
    figures.save(figure, "fig:made", folder)
    with (folder / "made.csv").open(newline="") as file:
        return [{key: number(value) for key, value in row.items() if value != ""} for row in csv.DictReader(file)]


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


def test_a_curve_is_drawn_again_from_its_file(tmp_path):
    rng = np.random.default_rng(0)
    figure, axes = plt.subplots(1, 2)
    for k in range(2):
        axes[k].semilogy(rng.random(50), np.exp(9 * rng.random(50)), label=f"curve {k}")
        axes[k].plot(np.arange(5), rng.standard_normal(5))
    plt.close(figure)
    found = rows(figure, tmp_path)

    again, fresh = plt.subplots(1, 2)
    for panel, series in dict.fromkeys((int(row["axes"]), row["series"]) for row in found):
        points = [(row["x"], row["y"]) for row in found if (row["axes"], row["series"]) == (panel, series)]
        fresh[panel].plot(*zip(*points, strict=True))
    plt.close(again)
    for old, new in zip(axes, fresh, strict=True):
        for a, b in zip(old.lines, new.lines, strict=True):
            np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())
    assert {row.get("label") for row in found} == {"curve 0", "curve 1", None}
    assert {(row["xscale"], row["yscale"]) for row in found} == {("linear", "log")}


def test_all_that_shows_numbers_is_in_the_file(tmp_path):
    figure, axes = plt.subplots(2, 3)
    axes[0, 0].scatter([1, 2], [3, 4], c=[0.5, 0.25], label="runs")
    axes[0, 0].axhline(0.1)
    axes[0, 0].axvline(7)
    axes[0, 1].bar(["a", "b"], [2.0, 5.0])
    axes[0, 2].errorbar([1], [10], yerr=[2])
    axes[1, 0].imshow([[1, 2], [3, 4]])
    axes[1, 1].fill_between([0, 1], [0, 0], [1, 2])
    axes[1, 2].stairs([5, 6], [0, 1, 2])
    axes[1, 2].set(xlabel="steps", title="last")
    plt.close(figure)
    found = rows(figure, tmp_path)

    def of(kind):
        wanted = ("x", "y", "x_end", "y_end", "value", "x_name")
        return [{key: row[key] for key in wanted if key in row} for row in found if row["kind"] == kind]

    assert of("point") == [{"x": 1, "y": 3, "value": 0.5}, {"x": 2, "y": 4, "value": 0.25}]
    assert of("level") == [{"y": 0.1}, {"x": 7}]
    assert [(bar["x_name"], bar["y_end"]) for bar in of("bar")] == [("a", 2), ("b", 5)]
    assert of("segment") == [{"x": 1, "y": 8, "x_end": 1, "y_end": 12}]
    assert [cell["value"] for cell in of("cell")] == [1, 2, 3, 4]
    assert {(1, 2), (0, 0)} <= {(point["x"], point["y"]) for point in of("area")}
    assert of("step") == [{"x": 0, "x_end": 1, "y": 5}, {"x": 1, "x_end": 2, "y": 6}]
    assert found[-1]["xlabel"] == "steps"
    assert found[-1]["title"] == "last"


def test_pictures_and_schematics_have_no_numbers(photos, tmp_path):
    for figure in (plotting.leak(photos[0][:1], photos[0][:1]), notebook.diagram({"a": notebook.Box(1, 1, "a")})):
        assert list(figures.numbers(figure)) == []
        figures.save(figure, "fig:none", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"none.svg", "none.pdf", "none.png"}


def test_the_same_figure_makes_the_same_files(tmp_path):
    def draw():
        figure = Figure()
        figure.subplots().plot([1, 3, 2])
        return figure

    for folder in "ab":
        figures.save(draw(), "fig:curve", tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert len(list((tmp_path / "a").iterdir())) == 4


NOTEBOOK = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

```{code-cell} ipython3
import numpy as np
import matplotlib.pyplot as plt
from gilearn.notebook import scrubber
x = np.linspace(0, 1, 5)
```

```{code-cell} ipython3
---
mystnb:
  figure: {name: fig:by-pyplot}
---
plt.plot(x, x**2);
```

```{code-cell} ipython3
---
mystnb:
  figure: {name: fig:by-value}
---
figure = plt.figure()
figure.subplots().plot(x, x**3)
plt.close(figure)
figure
```

```{code-cell} ipython3
---
mystnb:
  figure: {name: fig:film}
---
scrubber([np.full((4, 4), k, np.uint8) for k in (0, 99)], alt="gray")
```

```{code-cell} ipython3
---
mystnb:
  figure: {name: fig:nothing}
---
1 + 1
```

```{code-cell} ipython3
raise SystemError("never reached")
```
"""


def test_a_chapter_is_executed_for_its_figures(tmp_path):
    text = tmp_path / "chapter.md"
    text.write_text(NOTEBOOK)
    assert figures.figures_of(text) == ["fig:by-pyplot", "fig:by-value", "fig:film", "fig:nothing"]
    figures.execute(text, {"fig:by-pyplot", "fig:by-value", "fig:film"}, tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"by-{how}.{kind}" for how in ("pyplot", "value") for kind in ("svg", "pdf", "png", "csv")} | {
        "film.gif",
        "film.png",
    }
    for how, power in (("pyplot", 2), ("value", 3)):
        with (tmp_path / "out" / f"by-{how}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                assert float(row["y"]) == float(row["x"]) ** power
    with Image.open(tmp_path / "out" / "film.gif") as film:
        assert film.n_frames == 2
    with pytest.raises(Exception, match="fig:nothing: its cell shows no figure"):
        figures.execute(text, {"fig:nothing"}, tmp_path / "out")


def test_make_figures(tmp_path):
    said = subprocess.run(["make", "-n", "figures", "NAME=fig:two-branches"], cwd=ROOT, text=True, capture_output=True)
    assert "tools/figures.py fig:two-branches" in said.stdout
    command = [sys.executable, "tools/figures.py", "--into", str(tmp_path)]
    done = subprocess.run([*command, "fig:two-branches"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    kinds = ("csv", "pdf", "png", "svg")
    assert done.stdout.splitlines() == [str(tmp_path / f"two-branches.{kind}") for kind in kinds]
    with Image.open(tmp_path / "two-branches.png") as picture:
        assert min(picture.size) > 500

    done = subprocess.run([*command, "fig:no-such"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 2
    assert "no figure is called fig:no-such" in done.stderr
    assert "fig:two-branches" in done.stderr


def test_names_of_figures_are_names_of_files():
    named = [name for text in texts() for name in figures.figures_of(text)]
    assert len(named) > 20
    assert len({figures.stem(name) for name in named}) == len(named)


DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PAGE = """# A page

```{code-cell} ipython3
---
mystnb:
  image: {alt: A curve.}
  figure: {name: fig:curve, caption: A curve.}
---
figure
```
"""


@pytest.mark.parametrize("stored", [True, False])
def test_a_figure_that_is_not_stored_stops_the_build(tmp_path, capfd, stored):
    book = tmp_path / "book"
    for part in ("_ext", "_assets", "references.bib"):
        (shutil.copytree if (ROOT / "book" / part).is_dir() else shutil.copy)(ROOT / "book" / part, book / part)
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index.ipynb\n")
    page = jupytext.reads(PAGE, fmt="md:myst")
    page.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    page.metadata["language_info"] = {"name": "python"}
    drawn = {"text/plain": "<Figure size 1x1>"} | ({"image/png": DOT} if stored else {})
    page.cells[-1].outputs = [nbformat.v4.new_output("execute_result", drawn, execution_count=1)]
    book.joinpath("index.md").write_text(PAGE)
    nbformat.write(page, book / "index.ipynb")
    failed = build(tmp_path)
    said = capfd.readouterr().err
    if stored:
        assert not failed, said
        shown = (tmp_path / "_build" / "html" / "index.html").read_text()
        assert "fig:curve" in shown
        assert "#cell-1" in shown
        assert 'id="cell-1"' in shown
    else:
        assert failed
        assert "the figure fig:curve has no stored picture" in said
