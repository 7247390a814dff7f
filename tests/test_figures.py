"""Figures: what the book's cells show."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from gilearn import metrics, plotting


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
    ],
)
def test_refusals(photos, call, message):
    with pytest.raises(ValueError, match=message):
        call(photos[0][:2])
