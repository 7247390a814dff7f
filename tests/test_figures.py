"""Figures, scrubber, playground, self-check: what the book's cells show."""

from __future__ import annotations

import base64
import io
import json
import re

import ipywidgets
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from gilearn import attacks, exercises, federated, metrics, models, playgrounds, plotting, viewer


@pytest.fixture(autouse=True)
def nothing_stays_open():
    style = dict(mpl.rcParams)
    yield
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == style, "a figure changed the reader's style"


def titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes]


def test_leak_keeps_its_order(photos):
    x = photos[0][:1]
    figure = plotting.leak(x, x + 0.1)
    assert [title.splitlines()[0] for title in titles(figure)] == ["original", "reconstruction", "difference"]
    assert "20 dB" in titles(figure)[1]
    shown = [axis.images[0].get_array() for axis in figure.axes]
    np.testing.assert_allclose(shown[0], x[0].permute(1, 2, 0), atol=1e-6)
    np.testing.assert_allclose(shown[2], np.full((32, 32, 3), 0.1), atol=1e-6)


def test_leak_of_a_batch_matches_first(photos):
    x = photos[0][:3]
    figure = plotting.leak(x, x[[2, 0, 1]], amplify=10)
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()] == [
        "original",
        "reconstruction",
        "difference × 10",
    ]
    assert all(axis.images[0].get_array().max() == 0 for axis in figure.axes[6:])


def test_values_outside_the_range_do_not_wrap():
    """A picture that overshoots is clipped: 1.2 is white, not dark."""
    x = torch.tensor([[[[1.2, -0.3]]]])
    figure = plotting.gallery(x)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), [[1.0, 0.0]])
    pictures, _ = plotting.frames([(0, x.expand(1, 1, 1, 2))], torch.zeros_like(x), side=10)
    assert np.asarray(pictures[0])[0, -1].tolist() == [0, 0, 0]
    assert np.asarray(pictures[0])[0, 15].tolist() == [255, 255, 255]


def test_descent_and_rates():
    figure = plotting.descent({"a": torch.tensor([3.0, 5.0, 1.0])})
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [3, 3, 1])
    figure = plotting.rates({"one": metrics.success_rate([True, False]), "two": metrics.success_rate([True])})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["one", "two"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: plotting.leak(x, x, amplify=0), "amplify: got 0"),
        (lambda x: plotting.leak(x, x[:1]), "reconstruction: got shape"),
        (lambda x: plotting.gallery(x, ["one"]), "pictures: got shape .* and 1 titles"),
        (lambda x: plotting.descent({}), "histories: got none"),
        (lambda x: plotting.rates({}), "intervals: got none"),
        (lambda x: plotting.frames([], x), "snapshots: got none"),
        (lambda x: viewer.scrubber([], alt="a"), "frames: got 0"),
        (lambda x: viewer.scrubber([np.zeros((4, 4), np.uint8)], ["a", "b"], alt="a"), "frames: got 1 with 2 labels"),
        (lambda x: viewer.scrubber([np.zeros((4, 4), np.uint8)], alt=" "), "alt: got nothing"),
        (lambda x: viewer.scrubber([np.zeros((4, 4), np.uint8)], alt="a", start=1), "start: got 1"),
        (lambda x: viewer.playground(print), "controls: got none"),
        (lambda x: viewer.playground(print, seed=[]), "controls: got none, or one without a choice"),
        (lambda x: playgrounds.deep_leakage("lena"), "picture: got 'lena', wanted one of face"),
    ],
)
def test_refusals(photos, call, message):
    with pytest.raises(ValueError, match=message):
        call(photos[0][:2])


@pytest.fixture(scope="module")
def film():
    from gilearn import data

    x, y = data.digits(1)
    seen = federated.observe(models.lenet(1, size=8, strides=(1, 1, 1)), x, y)
    return attacks.iDLG(seen, snapshots=6).snapshots, x


def test_scrubber(film):
    snapshots, x = film
    frames, labels = plotting.frames(snapshots, x)
    shown = viewer.scrubber(frames, labels, alt="A digit <appears>")
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
    assert shown.id == viewer.scrubber(frames, labels, alt="other").id, "the same frames make the same page"


def test_scrubber_takes_figures_and_arrays(photos):
    figure = plotting.gallery(photos[0][:2])
    assert viewer.scrubber([figure, figure], alt="two").size[0] > 100
    assert viewer.scrubber([np.zeros((6, 9), np.uint8)], alt="one").size == (9, 6)


def test_playground_without_a_kernel_shows_its_default(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    played = viewer.playground(lambda seed, kind: (seed, kind), seed=[3, 4], kind=["a"])
    monkeypatch.setenv("GILEARN_STATIC", "1")
    played._ipython_display_()
    assert shown == [(3, "a")]
    monkeypatch.delenv("GILEARN_STATIC")
    played._ipython_display_()
    assert isinstance(shown[1], ipywidgets.VBox)


def test_playground_runs_what_is_chosen():
    calls = []
    box = viewer.playground(lambda **chosen: calls.append(chosen), seed=[3, 4], kind=["a", "b"]).widget()
    *choices, button = box.children[0].children
    choices[0].value = 4
    choices[1].value = "b"
    button.click()
    assert calls == [{"seed": 4, "kind": "b"}]
    assert not button.disabled


@pytest.mark.parametrize(("picture", "iterations"), [("face", 20), ("digit", 5), ("retina", 2)])
def test_playground_of_deep_leakage(picture, iterations):
    figure = playgrounds.deep_leakage(picture, iterations=iterations)
    assert [title.splitlines()[0] for title in titles(figure)] == ["original", "reconstruction", "difference"]
    if picture == "face":
        assert int(titles(figure)[1].split()[1]) > 60, "the default setting of the playground shows a leak"


def test_check(capsys):
    exercises.check(torch.tensor([1.0, 2.0]), [1, 2.0005])
    exercises.check(3, 3.0)
    exercises.check("yes", "yes")
    assert capsys.readouterr().out.count("right") == 3
    with pytest.raises(ValueError, match="not yet: your answer is off by 0.5, wanted at most 0.001"):
        exercises.check(1.5, 1.0)
    with pytest.raises(ValueError, match=r"shape \(2,\), wanted \(\)"):
        exercises.check([1, 2], 1)
    with pytest.raises(ValueError, match="not yet: False is not it"):
        exercises.check(False, True)
    with pytest.raises(ValueError, match="not yet: your answer is off by nan"):
        exercises.check(float("nan"), 1.0)
