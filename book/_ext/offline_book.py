"""Local Sphinx extension: a site that asks no other host for anything, and that hands out both twins of a notebook.

* Thebe goes: it points at a CDN, and its inline script is emitted twice, which is a script error on every page.
* A page made from an executed notebook offers its text (.md) for download beside it.
* Widget scripts go: no stored output has widget state.
* A link to a notebook in a stored output, which JupyterLab follows to the notebook, leads to its page.
"""

from __future__ import annotations

import posixpath
import shutil
from pathlib import Path

from docutils import nodes


def no_thebe_scripts(app, pagename, templatename, context, doctree):
    seen, kept = set(), []
    for script in context.get("script_files", []):
        body = (getattr(script, "attributes", None) or {}).get("body") or ""
        name = str(getattr(script, "filename", script) or "")
        if "THEBE_JS_URL" in body or "sphinx-thebe.js" in name or (name, body) in seen:
            continue
        seen.add((name, body))
        kept.append(script)
    context["script_files"] = kept
    context["css_files"] = [
        sheet for sheet in context.get("css_files", []) if "sphinx-thebe" not in str(getattr(sheet, "filename", sheet))
    ]


def no_thebe_nodes(app, doctree, docname):
    for node in list(doctree.findall(nodes.raw)):
        if "x-thebe-config" in node.astext() or node.astext().startswith("<script>kernelName"):
            node.parent.remove(node)


def link_pages(app, doctree, docname):
    for link in doctree.findall(nodes.reference):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(docname), link.get("refuri", "")))
        if target.endswith(".ipynb") and target.removesuffix(".ipynb") in app.env.found_docs:
            link["refuri"] = app.builder.get_relative_uri(docname, target.removesuffix(".ipynb"))


def offer_text(app, pagename, templatename, context, doctree):
    if doctree is None or Path(app.env.doc2path(pagename)).suffix != ".ipynb":
        return
    text = Path(app.env.doc2path(pagename)).with_suffix(".md")
    target = Path(app.outdir, "_sources", f"{pagename}.md")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(text, target)
    button = {
        "type": "link",
        "url": f"{context['pathto']('_sources', 1)}/{pagename}.md",
        "text": ".md",
        "icon": "fas fa-file-lines",
        "tooltip": "Download the notebook's text",
        "label": "download-text-button",
    }
    for group in context.get("header_buttons", []):
        if group.get("label") == "download-buttons":
            group["buttons"].insert(1, button)


def setup(app):
    app.connect("html-page-context", offer_text, priority=600)  # after the theme has made its buttons (501)
    app.connect("html-page-context", no_thebe_scripts, priority=900)
    app.connect("doctree-resolved", no_thebe_nodes, priority=900)
    app.connect("doctree-resolved", link_pages, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
