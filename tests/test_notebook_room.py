"""What only a notebook needs: the scrubber, the playgrounds, the self-check of exercises."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from gilearn import attacks, data, federated, models, notebook, plotting
from gilearn.notebook import exercises


@pytest.fixture(scope="module")
def film():
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


def right_answer(entry):
    if "picture" in entry:
        return getattr(data, entry["picture"])(**entry.get("options", {}))[0][entry.get("rows", slice(None))]
    return entry["target"]


def scaled(answer, factor):
    return [factor * number for number in answer] if isinstance(answer, list) else factor * answer


@pytest.mark.parametrize("label", exercises.targets())
def test_every_exercise_refuses_wrong_answers(label, capsys):
    entry = exercises.targets()[label]
    right = right_answer(entry)
    wrong = [True, 0, None, "?", *(trap["target"] for trap in entry.get("confused", ()))]
    if not isinstance(right, str):
        wrong += [scaled(right, factor) for factor in (0.9, 1.1)]
    for answer in wrong:
        with pytest.raises(ValueError, match="^not yet: "):
            notebook.check(label, answer)
    assert capsys.readouterr().out == ""
    notebook.check(label, ...)
    notebook.check(label, right)
    assert capsys.readouterr().out == "not answered yet\n✓ right\n"


def test_check_of_every_kind(monkeypatch, capsys):
    made = {
        "ex:list": {"target": [1, 2.5], "within": 0.01},
        "ex:word": {"target": "Mixup"},
        "ex:number": {"target": 3, "confused": [{"target": 9, "within": 0, "hint": "not its square"}]},
        "ex:picture": {"picture": "digits", "options": {"n": 4}, "rows": [1, 3], "psnr": 30},
    }
    monkeypatch.setattr(exercises, "targets", lambda: made)
    digits = data.digits(4)[0][[1, 3]]
    for label, answer in (
        ("ex:list", torch.tensor([1, 2.5])),
        ("ex:list", np.array([1, 2.505])),
        ("ex:word", " mixup"),
        ("ex:number", torch.tensor(3)),
        ("ex:picture", digits + 0.01),
    ):
        notebook.check(label, answer)
    assert capsys.readouterr().out.count("right") == 5
    for label, answer, message in (
        ("ex:list", [1, 2.52], "off by 0.02, wanted at most 0.01"),
        ("ex:list", 1, r"another shape than the target: a number and \(2,\)"),
        ("ex:list", [True, 2.5], "got .*, wanted a number for each"),
        ("ex:list", [float("nan"), 2.5], "off by nan"),
        ("ex:word", "cutmix", "'cutmix' is not it"),
        ("ex:number", np.bool_(True), "wanted a number"),
        ("ex:number", 9, "not its square"),
        ("ex:picture", 0, "got a int, wanted pictures"),
        ("ex:picture", digits[:1], r"got shape \(1, 1, 8, 8\), wanted pictures"),
        ("ex:picture", digits + 0.1, "your pictures have 20.0 dB, wanted 30 dB"),
    ):
        with pytest.raises(ValueError, match=f"^not yet: .*{message}"):
            notebook.check(label, answer)
    with pytest.raises(ValueError, match="exercise: got 'ex:none', wanted the label of one, such as 'ex:list'"):
        notebook.check("ex:none", 1)


def test_table():
    made = notebook.table({"picture": ["a<b", "c"], "dB": [31.26, torch.tensor(9.0)], "n": [3, 4]}, digits=1)
    assert [line.split() for line in repr(made).splitlines()] == [
        ["picture", "dB", "n"],
        ["a<b", "31.3", "3"],
        ["c", "9.0", "4"],
    ]
    page = made._repr_html_()
    assert "a&lt;b" in page
    assert "31.3" in page
    named = notebook.table([{"error": 1e-9}], digits={"error": "{:.0e}"}, index=["first"])
    assert repr(named).split() == ["error", "first", "1e-09"]
    with pytest.raises(ValueError, match="digits: got 'x', wanted one of error"):
        notebook.table([{"error": 1.0}], digits={"x": 1})


def test_diagram():
    boxes = {"a": notebook.Box(1, 1, "client", "private"), "b": notebook.Box(4, 1, "server", "shared")}
    figure = notebook.diagram(boxes, [("a", "b", "gradient"), ("b", "a")], size=(5, 2))
    words = [text.get_text() for text in figure.axes[0].texts]
    assert [word for word in words if word] == ["client", "server", "gradient"]
    assert figure.get_size_inches().tolist() == [5, 2]
    for arrow in (("a", "c"), ("a", "a")):
        with pytest.raises(ValueError, match="arrows: got one from 'a' to '.', wanted names out of a, b"):
            notebook.diagram(boxes, [arrow])
    with pytest.raises(ValueError, match="kind: got 'secret', wanted one of plain, private"):
        notebook.Box(0, 0, "", "secret")


def test_figures_show_after_a_diagram(tmp_path):
    """The first figure of a notebook loads the backend; in the style's context that would switch showing off."""
    (tmp_path / "cell.py").write_text(
        "import matplotlib.pyplot as plt\n"
        "from gilearn import notebook\n"
        "notebook.diagram({'a': notebook.Box(1, 1, 'client')})\n"
        "print(plt.isinteractive())\n"
    )
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", str(tmp_path / "cell.py")]
    inline = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "IPYTHONDIR": str(tmp_path)}
    ran = subprocess.run(command, env=inline, capture_output=True, text=True, check=True)
    assert ran.stdout.strip().endswith("True")


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
