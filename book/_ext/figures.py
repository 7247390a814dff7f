"""Local Sphinx extension: under each figure its name, a link to its PNG and a link to the cell that made it.

A cell is a figure's when its metadata have ``mystnb.figure``. One that stores no picture is a warning, with which the
book is not built: a page would show a caption without its figure.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.util import logging
from sphinx.util.osutil import relative_uri

LOGGER = logging.getLogger(__name__)


def find_figures(app, doctree):
    """Give every cell an id, and every figure the number of its cell and the place of its PNG."""
    for cell in doctree.findall(lambda n: isinstance(n, nodes.container) and n.get("nb_element") == "cell_code"):
        number = cell["cell_index"]
        cell["ids"].append(f"cell-{number}")  # as in the .ipynb
        wanted = cell["cell_metadata"].get("mystnb", {}).get("figure")
        if not wanted:
            continue
        name = wanted.get("name", "without a name")
        figures = list(cell.findall(nodes.figure))
        pictures = [next(figure.findall(nodes.image), None) for figure in figures]
        if not figures or None in pictures:
            LOGGER.warning("the figure %s has no stored picture; execute its notebook again", name, location=cell)
            continue
        for figure, picture in zip(figures, pictures, strict=True):
            figure["made_by"] = (name, number, picture["uri"])


def describe_figures(app, doctree, docname):
    if app.builder.format != "html":
        return
    for figure in doctree.findall(lambda n: isinstance(n, nodes.figure) and "made_by" in n):
        name, number, picture = figure["made_by"]
        file = app.env.images[picture][1]
        app.builder.images[picture] = file  # that of a scrubber is on no page
        here = app.builder.get_target_uri(docname)
        png = nodes.reference("", "PNG", refuri=relative_uri(here, f"_images/{file}"), internal=True)
        cell = nodes.reference("", "its cell", refuri=f"#cell-{number}", internal=True)
        line = nodes.paragraph("", "", nodes.literal("", name), nodes.Text(" · "), png, nodes.Text(" · "), cell)
        figure += nodes.legend("", line, classes=["made-by"])


def setup(app):
    app.connect("doctree-read", find_figures, priority=900)  # after the images were collected
    app.connect("doctree-resolved", describe_figures, priority=900)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": False}
