"""Write the book's figures as files: SVG, PDF, PNG, and the numbers that they show as CSV.

    python tools/figures.py [--into FOLDER] [NAME ...]

A figure is named as under it on the page, ``fig:two-branches``; without a name, all are written. The chapter that holds
a figure is executed, up to the last cell that is asked for, and what the cell shows is written to ``_build/figures``:
a figure of matplotlib in four files, the pictures under a slider as an animated GIF and, the last of them, as a PNG.

The CSV has a row for each point, bar or cell of a heat map, in the data's own coordinates: ``axes`` counts the figure's
panels, ``xscale`` and ``yscale`` say which of their axes are logarithmic, ``kind`` and ``series`` what was drawn,
``label`` what the legend calls it, ``x_name`` and ``y_name`` what stands at that place of an axis of names. A panel
that shows a picture, or a schematic, has no rows; a figure of such panels has no CSV.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FIGURES = ROOT / "_build" / "figures"
COLUMNS = ("axes", "title", "xlabel", "ylabel", "xscale", "yscale", "kind", "series", "label",
           "x", "y", "x_end", "y_end", "value", "x_name", "y_name")  # fmt: skip
DPI = 300


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("names", nargs="*", help="figures; by default all")
    arguments.add_argument("--into", type=Path, default=FIGURES, help="where the files go")
    options = arguments.parse_args()
    from tools.notebooks import texts

    places = {name: path for path in texts() for name in figures_of(path)}
    if unknown := [name for name in options.names if name not in places]:
        print(f"no figure is called {', '.join(unknown)}; there are:", *sorted(places), sep="\n  ", file=sys.stderr)
        return 2
    wanted = options.names or list(places)
    for path in dict.fromkeys(places[name] for name in wanted):
        execute(path, {name for name in wanted if places[name] == path}, options.into.resolve())
    for name in wanted:
        print(*(path for path in sorted(options.into.glob(f"{stem(name)}.*"))), sep="\n")
    return 0


def stem(name: str) -> str:
    return name.removeprefix("fig:").replace(":", "-")


def name_of(cell: Any) -> str | None:
    """Return the name of a cell's figure; ``None`` if it makes none."""
    name: str | None = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
    return name


def figures_of(path: Path) -> list[str]:
    import jupytext

    return [name for cell in jupytext.read(path).cells if (name := name_of(cell))]


def execute(path: Path, names: set[str], folder: Path) -> None:
    """Execute a text up to the last of its named figures, and write them.

    Raises:
        CellExecutionError: A cell failed.
        ValueError: The cell of a figure showed none.
    """
    import jupytext
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell

    from tools.notebooks import CELL_LIMIT, ENVIRONMENT

    notebook = jupytext.read(path)
    begin = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tools import figures as _figures; _figures.listen()"
    cells, last = [new_code_cell(begin)], 0
    for cell in notebook.cells:
        cells.append(cell)
        if (name := name_of(cell)) in names:
            cells.append(new_code_cell(f"_figures.write({name!r}, {str(folder)!r})"))
            last = len(cells)
    notebook.cells = cells[:last]
    resources = {"metadata": {"path": path.parent}}
    client = NotebookClient(notebook, timeout=CELL_LIMIT, kernel_name="python3", resources=resources)
    client.execute(env={**os.environ, **ENVIRONMENT, "MPLBACKEND": "module://matplotlib_inline.backend_inline"})


# ---- in the kernel ----

_shown: list[Any] = []


def listen() -> None:
    """Remember what the running cell shows, as its value or by ``display``."""
    from IPython import get_ipython

    shell = get_ipython()
    shell.events.register("pre_run_cell", lambda _: _shown.append(None))  # a cell begins
    form = shell.display_formatter.format

    def remember(shown: Any, *arguments: Any, **options: Any) -> Any:
        _shown.append(shown)
        return form(shown, *arguments, **options)

    shell.display_formatter.format = remember


def write(name: str, folder: str | Path) -> None:
    """Write what the cell before this one has shown."""
    begins = [k for k, shown in enumerate(_shown) if shown is None]
    before = _shown[begins[-2] + 1 : begins[-1]]
    found = [shown for shown in before if hasattr(shown, "savefig") or hasattr(shown, "sources")]
    if not found:
        raise ValueError(f"{name}: its cell shows no figure")
    save(found[-1], name, Path(folder))
    _shown.clear()
    _shown.append(None)


# ---- the files ----


def save(figure: Any, name: str, folder: Path) -> None:
    """Write a figure of matplotlib, or pictures under a slider; the same figure makes the same bytes."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    place = folder / stem(name)
    if hasattr(figure, "sources"):
        film(figure, place)
        return
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(place.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
        figure.savefig(place.with_suffix(".pdf"), bbox_inches="tight", metadata={"CreationDate": None})
        figure.savefig(place.with_suffix(".png"), bbox_inches="tight", dpi=DPI)
    rows = list(numbers(figure))
    if rows:
        with place.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def film(scrubber: Any, place: Path) -> None:
    import base64
    import io

    from PIL import Image

    data = [base64.b64decode(source.partition(",")[2]) for source in scrubber.sources]
    frames = [Image.open(io.BytesIO(picture)) for picture in data]
    frames[0].save(
        place.with_suffix(".gif"), save_all=True, append_images=frames[1:], duration=scrubber.interval, loop=0
    )
    place.with_suffix(".png").write_bytes(base64.b64decode(scrubber.still))


def numbers(figure: Any) -> Iterator[dict[str, Any]]:
    """Go through the numbers that a figure shows, a row each."""
    for number, axes in enumerate(figure.axes):
        if not axes.axison:
            continue
        about = {key: getattr(axes, f"get_{key}")() for key in ("title", "xlabel", "ylabel", "xscale", "yscale")}
        for series, (kind, label, points) in enumerate(drawn(axes)):
            label = "" if str(label).startswith("_") else label
            for point in points:
                names = {f"{side}_name": called(axes, side, point) for side in "xy" if side in point}
                yield {"axes": number, **about, "kind": kind, "series": series, "label": label, **point, **names}


def drawn(axes: Any) -> Iterator[tuple[str, Any, Iterable[dict[str, Any]]]]:
    """Go through what is drawn on an axis in the data's coordinates: its kind, its label, its points."""
    from matplotlib import collections as many
    from matplotlib.container import BarContainer
    from matplotlib.patches import StepPatch

    for line in axes.lines:
        # One of axhline, axvline has only one coordinate that is the data's.
        across, up = line.get_transform().contains_branch_seperately(axes.transData)
        x, y = plain(line.get_xdata(orig=False)), plain(line.get_ydata(orig=False))
        if across and up:
            yield "line", line.get_label(), ({"x": a, "y": b} for a, b in zip(x, y, strict=True))
        elif across or up:
            yield "level", line.get_label(), [{"x": x[0]} if across else {"y": y[0]}]
    for bars in axes.containers:
        if isinstance(bars, BarContainer):
            boxes = ((b.get_x(), b.get_y(), b.get_width(), b.get_height()) for b in bars)
            yield "bar", bars.get_label(), ({"x": x, "y": y, "x_end": x + w, "y_end": y + h} for x, y, w, h in boxes)
    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            values, edges, _ = patch.get_data()
            steps = zip(plain(edges[:-1]), plain(edges[1:]), plain(values), strict=True)
            yield "step", patch.get_label(), ({"x": a, "x_end": b, "y": v} for a, b, v in steps)
    for group in axes.collections:
        label = group.get_label()
        if isinstance(group, many.PathCollection):
            offsets, values = plain(group.get_offsets()), group.get_array()
            values = [""] * len(offsets) if values is None else plain(values)
            yield "point", label, ({"x": x, "y": y, "value": v} for (x, y), v in zip(offsets, values, strict=True))
        elif isinstance(group, many.LineCollection):
            ends = ((plain(segment[0]), plain(segment[-1])) for segment in group.get_segments() if len(segment))
            yield "segment", label, ({"x": a[0], "y": a[1], "x_end": b[0], "y_end": b[1]} for a, b in ends)
        elif isinstance(group, many.PolyCollection):
            for path in group.get_paths():
                yield "area", label, ({"x": x, "y": y} for x, y in plain(path.vertices))
        elif isinstance(group, many.QuadMesh):
            yield "cell", label, grid(group.get_array().reshape(group.get_coordinates().shape[0] - 1, -1))
    for image in axes.images:
        if image.get_array().ndim == 2 and (len(axes.get_xticks()) or len(axes.get_yticks())):  # a picture has no ticks
            yield "cell", image.get_label(), grid(image.get_array())


def called(axes: Any, side: str, point: dict[str, Any]) -> str:
    """Return what an axis of names says at a point; nothing on an axis of numbers."""
    from matplotlib.category import StrCategoryFormatter
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    axis = getattr(axes, f"{side}axis")
    if not isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter | StrCategoryFormatter):
        return ""
    middle = (point[side] + point.get(f"{side}_end", point[side])) / 2
    places = axis.get_majorticklocs()
    names = axis.get_major_formatter().format_ticks(places)
    return next((name for place, name in zip(places, names, strict=True) if abs(place - middle) < 1e-9), "")


def grid(values: Any) -> Iterator[dict[str, Any]]:
    for y, row in enumerate(plain(values)):
        for x, value in enumerate(row):
            yield {"x": x, "y": y, "value": value}


def plain(values: Any) -> list[Any]:
    """Return an array as Python's numbers, which print as many digits as they have."""
    import numpy as np

    return list(np.ma.filled(np.ma.asarray(values, dtype=float), np.nan).tolist())


if __name__ == "__main__":
    sys.exit(main())
