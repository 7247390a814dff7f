"""What only a notebook needs: the scrubber, the playgrounds, the self-check of exercises."""

from __future__ import annotations

import base64
import datetime
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
    drawn = notebook.scrubber([figure, figure], alt="two")
    assert drawn.size[0] > 100
    assert "pixelated" not in drawn._repr_html_(), "a drawing keeps its size"
    pixels = notebook.scrubber([np.zeros((6, 9), np.uint8), np.ones((6, 9), np.uint8)], alt="one")
    assert pixels.size == (9, 6)
    page = pixels._repr_html_()
    assert "width:min(100%, 720px);image-rendering:pixelated" in page, "pixels fill the page"
    assert 'value="0"' in page, "it opens on the first frame"
    assert page.index("trust the notebook") < page.index("small').remove()"), "until the script removes it"


@pytest.fixture
def shown(monkeypatch):
    """What is displayed; and that of a kernel, what a display is replaced with."""
    displayed = []

    class Handle:
        def update(self, data, **options):
            displayed.append(data)

    class Shell:
        class display_formatter:  # noqa: N801
            @staticmethod
            def format(figure):
                return {"text/plain": repr(figure)}, {}

    def display(value, **options):
        displayed.append(value)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr("IPython.get_ipython", Shell)
    return displayed


def test_playground_without_a_kernel_shows_its_default(monkeypatch, shown):
    played = notebook.playground(lambda seed, kind: (seed, kind), seed=[3, 4], kind=["a"])
    monkeypatch.setenv("GILEARN_STATIC", "1")
    played._ipython_display_()
    assert shown == [(3, "a")]


def test_playground_keeps_the_picture_of_its_default_beside_the_widget(monkeypatch, shown):
    monkeypatch.delenv("GILEARN_STATIC", raising=False)
    notebook.playground(lambda seed, kind: (seed, kind), seed=[3, 4], kind=["a"])._ipython_display_()
    box, figure, stored = shown
    assert isinstance(box, ipywidgets.VBox)
    assert figure == {"text/plain": "(3, 'a')"}
    assert stored == {**box._repr_mimebundle_(), **figure}
    assert "application/vnd.jupyter.widget-view+json" in stored


def controls(box):
    """By what is written on them."""
    return {child.description: child for child in box.children[0].children}


def test_playground_runs_what_is_chosen(shown):
    calls = []
    box = notebook.playground(lambda **chosen: calls.append(chosen), seed=[3, 4], kind=["a", "b"]).widget()
    found = controls(box)
    found["seed"].value = 4
    found["kind"].value = "b"
    found["Run"].click()
    assert calls == [{"seed": 4, "kind": "b"}]
    assert not found["Run"].disabled
    assert "your picture" not in found


def test_playground_shows_progress_and_is_stopped(shown):
    def callback(seed, *, progress=False):
        assert progress
        raise KeyboardInterrupt

    box = notebook.playground(callback, seed=[3, 4]).widget()
    found = controls(box)
    found["Run"].click()
    assert found[""].value == "stopped"
    assert not found["Run"].disabled
    assert shown == []


def png(width=90, height=60):
    written = io.BytesIO()
    Image.new("RGB", (width, height), (0, 128, 255)).save(written, "PNG")
    return written.getvalue()


def test_playground_takes_a_picture_of_one_s_own(shown):
    calls = []
    box = notebook.playground(lambda picture: calls.append(picture), picture=["face", "digit"]).widget()
    found = controls(box)
    content = {"name": "own.png", "type": "image/png", "size": 1, "content": memoryview(png())}
    found["your picture"].value = [{**content, "last_modified": datetime.datetime.now(datetime.UTC)}]
    found["Run"].click()
    found["picture"].value = "digit"
    found["Run"].click()
    assert calls == [png(), "digit"]


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def decibels(figure):
    return int(titles(figure)[1].split()[1])


def test_playgrounds_take_a_picture_by_its_path_or_its_bytes(tmp_path):
    (tmp_path / "own.png").write_bytes(png())
    for picture in (png(), tmp_path / "own.png", str(tmp_path / "own.png")):
        x, y = notebook.playgrounds._photo(picture, data.PHOTOS)
        torch.testing.assert_close(x[0, :, 5, 5], torch.tensor([0, 128 / 255, 1]))
        assert x.shape == (1, 3, 32, 32)
        assert y.tolist() == [0]
    for picture, told in (
        (b"no picture", "no picture"),
        ("nobody", "got 'nobody', wanted one of face, .* or the path of a file"),
    ):
        with pytest.raises(ValueError, match=f"picture: .*{told}"):
            notebook.playgrounds.deep_leakage(picture)


@pytest.mark.parametrize(
    ("error", "title"),
    [(0.0, "difference"), (0.3, "difference"), (3e-5, "difference × 10,000"), (2e-7, "difference × 1e06")],
)
def test_a_playground_s_difference_is_seen(error, title):
    figure = notebook.playgrounds._leak(torch.full((1, 1, 8, 8), 0.5), torch.full((1, 1, 8, 8), 0.5 + error))
    assert figure.axes[2].get_title().split("\n")[0] == title


def test_playground_of_the_recursion():
    play = notebook.playgrounds.recursion
    clear, narrow, noisy = play(png()), play(filters=3), play(noise=1e-3)
    assert decibels(clear) > 60
    assert decibels(narrow) < 30
    assert decibels(noisy) < 30
    with pytest.raises(ValueError, match="noise: got -1, wanted 0 or more"):
        play(noise=-1)


def test_playground_of_the_iteration():
    play = notebook.playgrounds.iteration
    assert decibels(play(iterations=40)) > decibels(play(iterations=2))
    assert decibels(play(iterations=40, noise=3.0)) < decibels(play(iterations=40))
    assert titles(play(png(), "squared", iterations=2))
    with pytest.raises(ValueError, match="distance: got 'l9', wanted one of cosine, squared, absolute"):
        play(distance="l9")


def test_playground_of_the_assumptions():
    play = notebook.playgrounds.assumptions
    exact, running, none = (decibels(play(statistics=source, iterations=40)) for source in ("exact", "running", "none"))
    assert exact > running
    assert exact > none + 3, "the private statistics are the difference, in training mode"
    assert titles(play(png(), mode="inference", iterations=2))
    with pytest.raises(ValueError, match="statistics: got 'own', wanted one of exact, running, none"):
        play(statistics="own")
    with pytest.raises(ValueError, match="mode: got 'eval', wanted one of training, inference"):
        play(mode="eval")


@pytest.mark.parametrize(("picture", "iterations"), [("face", 20), ("digit", 5), ("retina", 2)])
def test_playground_of_deep_leakage(picture, iterations):
    figure = notebook.playgrounds.deep_leakage(picture, iterations=iterations)
    titles = [axis.get_title() for axis in figure.axes]
    kinds = [title.splitlines()[0].partition(" ×")[0] for title in titles]
    assert kinds == ["original", "reconstruction", "difference"]
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
