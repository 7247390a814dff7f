"""What only a notebook needs: the scrubber, the playgrounds, the self-check of exercises."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from gilearn import attacks, federated, models, notebook, plotting


@pytest.fixture(scope="module")
def film():
    from gilearn import data

    x, y = data.digits(1)
    seen = federated.observe(models.lenet(1, size=8, strides=(1, 1, 1)), x, y)
    return attacks.iDLG(seen, snapshots=6).snapshots, x


def test_scrubber(film):
    snapshots, x = film
    frames, labels = plotting.frames(snapshots, x)
    shown = notebook.scrubber(frames, labels, alt="A digit <appears>")
    page = shown._repr_html_()
    assert "http" not in page
    data = json.loads(re.search(r'application/json">(.*?)</script>', page, re.DOTALL)[1])
    assert data["labels"] == labels
    assert len(data["sources"]) == 6
    for source in data["sources"]:
        picture = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"))))
        assert picture.size == frames[0].size
    assert "A digit &lt;appears&gt;" in page
    assert "<appears>" not in page
    assert "dB" in labels[-1]
    assert set(shown._repr_mimebundle_()) == {"text/html", "image/png", "text/plain"}
    assert shown.id == notebook.scrubber(frames, labels, alt="other").id, "the same frames make the same page"


def test_scrubber_takes_figures_and_arrays(photos):
    figure = plotting.gallery(photos[0][:2])
    assert notebook.scrubber([figure, figure], alt="two").size[0] > 100
    assert notebook.scrubber([np.zeros((6, 9), np.uint8)], alt="one").size == (9, 6)


def test_playground_without_a_kernel_shows_its_default(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    played = notebook.playground(lambda seed, kind: (seed, kind), seed=[3, 4], kind=["a"])
    monkeypatch.setenv("GILEARN_STATIC", "1")
    played._ipython_display_()
    assert shown == [(3, "a")]
    monkeypatch.delenv("GILEARN_STATIC")
    played._ipython_display_()
    assert isinstance(shown[1], ipywidgets.VBox)


def test_playground_runs_what_is_chosen():
    calls = []
    box = notebook.playground(lambda **chosen: calls.append(chosen), seed=[3, 4], kind=["a", "b"]).widget()
    *choices, button = box.children[0].children
    choices[0].value = 4
    choices[1].value = "b"
    button.click()
    assert calls == [{"seed": 4, "kind": "b"}]
    assert not button.disabled


@pytest.mark.parametrize(("picture", "iterations"), [("face", 20), ("digit", 5), ("retina", 2)])
def test_playground_of_deep_leakage(picture, iterations):
    figure = notebook.playgrounds.deep_leakage(picture, iterations=iterations)
    titles = [axis.get_title() for axis in figure.axes]
    assert [title.splitlines()[0] for title in titles] == ["original", "reconstruction", "difference"]
    if picture == "face":
        assert int(titles[1].split()[1]) > 60, "the default setting of the playground shows a leak"


def test_check(capsys):
    notebook.check(torch.tensor([1.0, 2.0]), [1, 2.0005])
    notebook.check(3, 3.0)
    notebook.check("yes", "yes")
    assert capsys.readouterr().out.count("right") == 3
    with pytest.raises(ValueError, match="not yet: your answer is off by 0.5, wanted at most 0.001"):
        notebook.check(1.5, 1.0)
    with pytest.raises(ValueError, match=r"shape \(2,\), wanted \(\)"):
        notebook.check([1, 2], 1)
    with pytest.raises(ValueError, match="not yet: False is not it"):
        notebook.check(False, True)
    with pytest.raises(ValueError, match="not yet: your answer is off by nan"):
        notebook.check(float("nan"), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: notebook.scrubber([], alt="a"), "frames: got 0"),
        (lambda: notebook.scrubber([np.zeros((4, 4), np.uint8)], ["a", "b"], alt="a"), "frames: got 1 with 2 labels"),
        (lambda: notebook.scrubber([np.zeros((4, 4), np.uint8)], alt=" "), "alt: got nothing"),
        (lambda: notebook.scrubber([np.zeros((4, 4), np.uint8)], alt="a", start=1), "start: got 1"),
        (lambda: notebook.playground(print), "controls: got none"),
        (lambda: notebook.playground(print, seed=[]), "controls: got none, or one without a choice"),
        (lambda: notebook.playgrounds.deep_leakage("lena"), "picture: got 'lena', wanted one of face"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_widgets_are_loaded_when_they_are_shown():
    script = """
import sys
from gilearn.notebook import check, playground, playgrounds, scrubber
playground(print, seed=[1])
assert "ipywidgets" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_function_hides_a_module():
    from types import ModuleType

    assert isinstance(notebook.widgets, ModuleType)
    assert callable(notebook.scrubber)
