"""Schematics: boxes and arrows, drawn by code in the book's style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from gilearn.plotting import STYLE

_COLOURS = {
    "plain": ("#ffffff", "#444444"),
    "private": ("#fbe6d9", "#D55E00"),
    "shared": ("#d9eaf5", "#0072B2"),
    "recovered": ("#d9f0e8", "#009E73"),
    "none": ("none", "none"),
}


@dataclass(frozen=True)
class Box:
    """A box of a schematic.

    Args:
        x: Centre, in inches from the left edge.
        y: Centre, in inches from the lower edge.
        text: What it says; ``$...$`` is set as a formula.
        kind: ``"plain"``, ``"private"`` for what never leaves the client, ``"shared"`` for what the attacker sees,
            ``"recovered"`` for what the attack finds, or ``"none"`` for text without a box.
    """

    x: float
    y: float
    text: str
    kind: str = "plain"

    def __post_init__(self) -> None:
        if self.kind not in _COLOURS:
            raise ValueError(f"kind: got {self.kind!r}, wanted one of {', '.join(_COLOURS)}")


def diagram(
    boxes: Mapping[str, Box], arrows: Sequence[Sequence[str]] = (), *, size: tuple[float, float] = (7.0, 2.2)
) -> Figure:
    """Draw boxes, and arrows between them.

    Args:
        boxes: By a name that only ``arrows`` use.
        arrows: Each from one name to another, and what stands beside it, which may be left out; two that run both ways
            between the same boxes bend apart, and a name twice is an error.
        size: Width and height in inches.

    Raises:
        ValueError: An arrow names a box that there is not.

    Chapter: federated-learning.
    """
    for start, end, *_ in arrows:
        if start not in boxes or end not in boxes or start == end:
            raise ValueError(f"arrows: got one from {start!r} to {end!r}, wanted names out of {', '.join(boxes)}")
    both_ways = {(start, end) for start, end, *_ in arrows} & {(end, start) for start, end, *_ in arrows}
    plt.draw_if_interactive()  # type: ignore[no-untyped-call]  # loads the backend before the style's context
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=size, layout="none")
        try:
            axis = figure.add_axes((0, 0, 1, 1))
            axis.set(xlim=(0, size[0]), ylim=(0, size[1]))
            axis.axis("off")
            drawn = {name: _box(axis, box) for name, box in boxes.items()}
            figure.canvas.draw()  # now the boxes have their sizes
            for start, end, *words in arrows:
                bend = 0.25 if (start, end) in both_ways else 0.0
                _arrow(axis, drawn[start], drawn[end], words[0] if words else "", bend)
        finally:
            plt.close(figure)
    return figure


def _box(axis: Any, box: Box) -> Text:
    fill, edge = _COLOURS[box.kind]
    around = {"boxstyle": "round,pad=0.5", "facecolor": fill, "edgecolor": edge, "linewidth": 1.2}
    centred = {"ha": "center", "va": "center", "fontsize": 10, "linespacing": 1.4, "zorder": 3}
    text: Text = axis.text(box.x, box.y, box.text, bbox=around, **centred)
    return text


def _arrow(axis: Any, start: Text, end: Text, words: str, bend: float) -> None:
    (x0, y0), (x1, y1) = start.get_position(), end.get_position()
    line = {
        "arrowstyle": "-|>",
        "color": "#444444",
        "shrinkA": 3,
        "shrinkB": 3,
        "patchA": start.get_bbox_patch(),
        "patchB": end.get_bbox_patch(),
        "connectionstyle": f"arc3,rad={bend}",
    }
    axis.annotate("", (x1, y1), (x0, y0), arrowprops=line, zorder=4)  # after the boxes, whose places it needs
    if words:
        # Beside the middle of the arrow, on the side to which it bends.
        length = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1e-9)
        across = ((y1 - y0) / length, -(x1 - x0) / length)
        off = bend * length / 2
        x, y = (x0 + x1) / 2 + off * across[0], (y0 + y1) / 2 + off * across[1]
        upright = abs(x1 - x0) < abs(y1 - y0)
        place = {"ha": "left", "va": "center"} if upright else {"ha": "center", "va": "bottom"}
        shift = (0.08, 0.0) if upright else (0.0, 0.05)
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
        axis.text(x + shift[0], y + shift[1], words, fontsize=9, bbox=white, zorder=5, **place)
