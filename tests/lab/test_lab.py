"""The book in a real JupyterLab, in a temporary clone: it reads well, runs, stops, and saving it changes nothing.

Needs Chromium: on the path, or named by the variable CHROMIUM. The variable LAB_CHAPTERS names the texts that are run
from top to bottom (default: setup), as in LAB_CHAPTERS="setup foundations/perceptron".
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from chromium import launched
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from gilearn import notebook as room

ROOT = Path(__file__).resolve().parents[2]
LONG = 120_000  # milliseconds, on a busy machine
RUN = os.environ.get("LAB_CHAPTERS", "setup").split()
READ = "iteration/labels-single"
PLAYGROUND = """
from gilearn.notebook import playground, playgrounds

playground(playgrounds.deep_leakage, picture=["digit", "retina"], iterations=[2, 5000])
"""


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """The last commit, and two notebooks of a reader that git does not know: a playground, a film nobody trusts."""
    folder = tmp_path_factory.mktemp("clone") / "gilearn"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    (folder / ".git" / "info" / "exclude").write_text("own-*\n")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(PLAYGROUND)], metadata=kernel), folder / "book/own-play.ipynb")
    film = room.scrubber([Image.new("L", (9, 9), level) for level in (0, 255)], alt="Dark, then bright")
    shown = new_output("display_data", {"text/html": film._repr_html_()})
    folded = {"tags": ["solution"], "jupyter": {"source_hidden": True}}
    answer = new_code_cell("41 + 1", metadata=folded, outputs=[new_output("stream", text="42")], execution_count=2)
    cells = [new_code_cell("film", outputs=[shown], execution_count=1), answer]
    nbformat.write(new_notebook(cells=cells, metadata=kernel), folder / "book/own-film.ipynb")
    return folder


def changes(clone):
    return subprocess.run(["git", "status", "--short"], cwd=clone, capture_output=True, text=True, check=True).stdout


@pytest.fixture(autouse=True)
def each_begins_clean(clone):
    subprocess.run(["git", "checkout", "--quiet", "."], cwd=clone, check=True)


@pytest.fixture(scope="session")
def address(clone, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("home")
    own = {name: str(home / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    own |= {name: str(home / name) for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    environment = os.environ | own | {"JUPYTER_CONFIG_PATH": str(clone / ".jupyter"), "PYTHONPATH": str(clone)}
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    for name in ("GILEARN_STATIC", "MPLBACKEND"):  # this process has no display; the kernel's is the notebook
        environment.pop(name, None)
    log = home / "log"
    with log.open("w") as written:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--notebook-dir={clone}/book",
             f"--port={port}", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"],
            cwd=clone, env=environment, stdout=written, stderr=written,
        )  # fmt: skip
    found = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{found}api/status", timeout=5)
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.5)
        yield found
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def browser():
    with launched() as opened:
        yield opened


@pytest.fixture
def visit(address, browser):
    """Open a file in JupyterLab."""
    context = browser.new_context(viewport={"width": 1400, "height": 1400})
    tab = context.new_page()
    tab.set_default_timeout(LONG)

    def open_file(path):
        tab.goto(f"{address}lab/tree/{path}?reset")
        tab.wait_for_function("window.jupyterapp && jupyterapp.shell.currentWidget?.context?.isReady")
        tab.wait_for_selector(".jp-Notebook .jp-Cell")
        return tab

    yield open_file
    context.close()


def command(tab, name):
    tab.evaluate("name => jupyterapp.commands.execute(name)", name)


def save(tab):
    command(tab, "docmanager:save")
    tab.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")


def wait_until_idle(tab):
    tab.wait_for_function(
        "jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'", timeout=5 * LONG
    )


def test_a_chapter_reads_as_on_the_site(visit, clone):
    tab = visit(f"{READ}.md")
    words = (clone / "book" / f"{READ}.md").read_text()
    tab.wait_for_selector(".gilearn-caption", state="attached")
    tab.wait_for_selector("text=Zhao et al. (2020)")
    tab.wait_for_function("jupyterapp.shell.currentWidget.content.widgets.every(c => c.isAttached)")
    assert tab.locator("[title$='Not Found']").count() == 0
    assert tab.locator("text=Undefined control sequence").count() == 0
    assert tab.locator(".katex-display").count() >= 1
    captions = tab.locator(".gilearn-caption").all_text_contents()
    assert len(captions) == words.count("\n    caption:")
    assert all(caption.startswith("Fig. ") for caption in captions)
    assert tab.locator("text=/^(Start|End) of/").count() == 0
    solutions = tab.locator("details:has(summary:has-text('Solution'))")
    assert solutions.count() == words.count("{solution-start}")
    assert tab.locator("details:has(summary:has-text('Solution'))[open]").count() == 0
    save(tab)
    assert changes(clone) == ""
    tab.locator(".jp-Notebook td a.gilearn-go").first.click()  # a chapter that this one needs
    tab.wait_for_function("path => jupyterapp.shell.currentWidget.context.path !== path", arg=f"{READ}.md")
    assert tab.evaluate("jupyterapp.shell.currentWidget.context.path") == "foundations/deep-leakage.md"


@pytest.mark.parametrize("chapter", RUN)
def test_running_and_saving_a_chapter_changes_nothing(visit, clone, chapter):
    tab = visit(f"{chapter}.md")
    wait_until_idle(tab)
    command(tab, "notebook:run-all-cells")
    tab.wait_for_function(
        "jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code')"
        ".every(c => c.model.executionState === 'idle' && c.model.executionCount)",
        timeout=10 * LONG,
    )
    wait_until_idle(tab)
    assert tab.evaluate(
        "jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code')"
        ".every(c => c.model.outputs.toJSON().every(o => o.output_type !== 'error'))"
    )
    before = (clone / "book" / f"{chapter}.md").stat().st_mtime_ns
    save(tab)
    assert (clone / "book" / f"{chapter}.md").stat().st_mtime_ns > before, "it was saved"
    assert changes(clone) == ""


def test_saving_the_twin_changes_nothing(visit, clone):
    tab = visit(f"{READ}.ipynb")
    tab.evaluate("jupyterapp.shell.currentWidget.content.widgets.forEach(c => { c.inputHidden = false })")
    save(tab)
    assert changes(clone) == "", "not even what a reader unfolded"


def test_a_playground_runs_stops_and_runs_again(visit):
    tab = visit("own-play.ipynb")
    wait_until_idle(tab)
    command(tab, "notebook:run-all-cells")
    tab.wait_for_selector(".jp-OutputArea .widget-output img")
    run, stop = tab.locator("button:has-text('Run').jupyter-button"), tab.locator(".gilearn-stop")
    choices = tab.locator(".widget-dropdown select")
    choices.nth(0).select_option("retina")
    choices.nth(1).select_option("5000")
    for _ in range(3):
        run.click()
        tab.wait_for_selector("text=/matching: +\\d+%/")
        assert tab.locator(".widget-output img").count() == 0, "the last picture is gone"
        stop.click()
        tab.wait_for_selector(".widget-html:has-text('stopped')")
        wait_until_idle(tab)
    choices.nth(1).select_option("2")
    with tab.expect_file_chooser() as chooser:
        tab.locator("button:has-text('your picture')").click()
    chooser.value.set_files({"name": "own.png", "mimeType": "image/png", "buffer": own_picture()})
    tab.wait_for_selector("button:has-text('your picture (1)')")
    run.click()
    tab.wait_for_selector(".widget-output img")
    save(tab)
    stored = json.dumps(tab.evaluate("jupyterapp.shell.currentWidget.content.model.toJSON()"))
    assert "image/png" in stored


def own_picture():
    written = io.BytesIO()
    Image.new("RGB", (90, 60), "teal").save(written, "PNG")
    return written.getvalue()


def test_a_solution_unfolds_with_what_it_prints(visit):
    tab = visit("own-film.ipynb")
    tab.wait_for_selector(".gilearn-solution .jp-InputPlaceholder")
    code, printed = tab.locator(".gilearn-solution .cm-content"), tab.locator(".gilearn-solution .jp-OutputArea-output")
    assert not code.is_visible()
    assert not printed.is_visible()
    tab.locator(".gilearn-solution .jp-InputPlaceholder").click()
    code.wait_for()
    printed.wait_for()


def test_a_film_that_nobody_trusts_says_so(visit):
    tab = visit("own-film.ipynb")
    assert tab.locator(".scrub img").is_visible()
    assert tab.locator(".scrub").get_by_text("run this cell").is_visible()
