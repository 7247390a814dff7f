"""The book's figures: pictures beside their reconstructions, curves, rates with intervals; one style for all.

A function returns a ``matplotlib`` figure, which a notebook shows as the value of a cell; nothing stays open in
``pyplot``. Pictures are clipped to [0, 1] before they are drawn, because a value outside must not wrap around; the
numbers in the titles are of the unclipped pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gilearn import metrics

STYLE = Path(__file__).with_name("book.mplstyle")
"""The book's style file."""


def use_style() -> None:
    """Draw every figure from here on in the book's style. Chapter: setup."""
    plt.style.use(STYLE)


def leak(
    original: Tensor, reconstruction: Tensor, *, titles: Sequence[str] | None = None, amplify: float = 1.0
) -> Figure:
    """Draw original, reconstruction and difference, always in this order: side by side for one picture, in rows for
    more.

    Args:
        original: Pictures (batch, 1 or 3, height, width) in [0, 1].
        reconstruction: Pictures of the same shape; they are matched to the originals first.
        titles: A title for each picture, in place of its PSNR.
        amplify: Factor for the difference, positive; said in its title.

    Raises:
        ValueError: The shapes differ, a value is not finite, or ``amplify`` is not positive.

    Chapter: measuring-leakage.
    """
    if not amplify > 0:
        raise ValueError(f"amplify: got {amplify}, wanted a positive number")
    a, b = original.detach().cpu(), reconstruction.detach().cpu()[metrics.match(reconstruction, original)]
    if titles is None:
        titles = [f"{value:.0f} dB" for value in torch.as_tensor(metrics.psnr(b, a, reduction="none")).tolist()]
    factor = f"{amplify:,.0f}" if amplify < 1e6 else f"{amplify:.0e}".replace("e+", "e")
    times = "" if amplify == 1 else f" × {factor}"
    kinds = {"original": a, "reconstruction": b, f"difference{times}": (a - b).abs() * amplify}
    alone = len(a) == 1
    rows, columns, size = (1, 3, (6.0, 2.3)) if alone else (3, len(a), (1.25 * len(a) + 1.0, 4.2))
    with _figure(rows, columns, size) as (figure, axes):
        for row, (kind, pictures) in enumerate(kinds.items()):
            for column, picture in enumerate(pictures):
                axis = axes[0, row] if alone else axes[row, column]
                draw(axis, picture)
                if alone:
                    axis.set_title(f"{kind}\n{titles[0]}" if kind == "reconstruction" else f"{kind}\n")
                elif row == 1:
                    axis.set_title(titles[column])
                if not alone and column == 0:
                    axis.set_ylabel(kind)
    return figure


def gallery(pictures: Tensor, titles: Sequence[str] | None = None, *, columns: int = 8, side: float = 1.3) -> Figure:
    """Draw pictures in a grid.

    Args:
        pictures: Pictures (n, 1 or 3, height, width) in [0, 1].
        titles: One for each.
        columns: Pictures in a row.
        side: Width of a picture in inches.

    Raises:
        ValueError: The shape is none of pictures, or the number of titles differs.
    """
    if pictures.ndim != 4 or (titles is not None and len(titles) != len(pictures)):
        got = f"shape {tuple(pictures.shape)} and {len(titles or [])} titles"
        raise ValueError(f"pictures: got {got}, wanted (n, channels, height, width), and n titles or none")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    height = side + 0.25 * (titles is not None)
    with _figure(rows, columns, (side * columns, height * rows)) as (figure, axes):
        for axis in axes.flat:
            axis.axis("off")
        for k, picture in enumerate(pictures):
            axis = axes.flat[k]
            axis.axis("on")
            draw(axis, picture)
            if titles is not None:
                axis.set_title(titles[k])
    return figure


def descent(histories: Mapping[str, Tensor], *, ylabel: str = "gradient distance", best: bool = True) -> Figure:
    """Draw objectives against evaluations, both on logarithmic axes.

    Args:
        histories: By name, one value per evaluation, as in ``Reconstruction.history``.
        ylabel: What the values are.
        best: Draw the least value so far in place of each value.

    Raises:
        ValueError: There is nothing to draw.
    """
    if not histories:
        raise ValueError("histories: got none, wanted at least one")
    with _figure(1, 1, (6.0, 3.2)) as (figure, axes):
        axis = axes[0, 0]
        for name, values in histories.items():
            y = values.detach().cpu().numpy()
            y = np.minimum.accumulate(y) if best else y
            axis.loglog(np.arange(1, len(y) + 1), y, label=name)
        axis.set(xlabel="evaluations", ylabel=ylabel)
        axis.legend()
    return figure


def rates(intervals: Mapping[str, metrics.Interval], *, xlabel: str = "success rate") -> Figure:
    """Draw estimates with their intervals, one line each.

    Args:
        intervals: By name, as :func:`gilearn.metrics.success_rate` or :func:`gilearn.metrics.interval` return them.
        xlabel: What they estimate.

    Raises:
        ValueError: There is nothing to draw.
    """
    if not intervals:
        raise ValueError("intervals: got none, wanted at least one")
    with _figure(1, 1, (6.0, 0.4 * len(intervals) + 0.9)) as (figure, axes):
        axis = axes[0, 0]
        for row, value in enumerate(intervals.values()):
            axis.plot([value.low, value.high], [row, row], color="C0")
            axis.plot(value.estimate, row, "o", color="C0")
            axis.annotate(f"n={value.n}", (1, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        axis.set(xlabel=xlabel, yticks=range(len(intervals)), yticklabels=list(intervals))
        axis.set_ylim(len(intervals) - 0.5, -0.5)
    return figure


def frames(
    snapshots: Sequence[tuple[int, Tensor]], original: Tensor, *, side: int = 160
) -> tuple[list[Any], list[str]]:
    """Turn an attack's snapshots into what ``notebook.scrubber`` takes: pictures and their labels.

    Args:
        snapshots: Pairs (evaluation, inputs), as in ``Reconstruction.snapshots``.
        original: The true pictures (batch, channels, height, width), drawn left of, or above, every frame.
        side: Pixels that a picture is enlarged to.

    Returns:
        ``PIL`` images: the originals, a gap, the reconstructions. And labels: evaluation, and mean PSNR.

    Raises:
        ValueError: There is no snapshot.
    """
    if not snapshots:
        raise ValueError("snapshots: got none; run the attack with snapshots=30, say")
    labels = [f"evaluation {k}: {metrics.psnr(x, original):.1f} dB" for k, x in snapshots]
    shown = [_strip(original, x[metrics.match(x, original)], side) for _, x in snapshots]
    return shown, labels


def draw(axis: Axes, picture: Tensor) -> None:
    """Draw one picture (1 or 3, height, width) on an axis without ticks, clipped to [0, 1]."""
    axis.imshow(_pixels(picture), cmap="gray", vmin=0, vmax=1)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.set(xticks=[], yticks=[])


def _strip(original: Tensor, reconstruction: Tensor, side: int) -> Any:
    from PIL import Image

    def tile(picture: Tensor) -> Any:
        pixels = (255 * _pixels(picture)).round().astype(np.uint8)
        return Image.fromarray(pixels).convert("RGB").resize((side, side), Image.Resampling.NEAREST)

    gap, n = max(4, side // 20), len(original)
    step = side + gap
    columns, rows = (2, 1) if n == 1 else (n, 2)
    canvas = Image.new("RGB", (columns * step - gap, rows * step - gap), "white")
    for k in range(n):
        canvas.paste(tile(original[k]), (k * step, 0))
        canvas.paste(tile(reconstruction[k]), (step, 0) if n == 1 else (k * step, step))
    return canvas


def _pixels(picture: Tensor) -> np.ndarray[Any, Any]:
    clipped = picture.detach().cpu().double().clamp(0, 1)
    return clipped[0].numpy() if len(clipped) == 1 else clipped.permute(1, 2, 0).numpy()


@contextmanager
def _figure(rows: int, columns: int, size: tuple[float, float]) -> Iterator[tuple[Figure, np.ndarray[Any, Any]]]:
    # This loads the backend. A notebook's turns pyplot interactive then, which the style's context would undo at its
    # end.
    plt.draw_if_interactive()  # type: ignore[no-untyped-call]
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
        try:
            yield figure, axes
        finally:
            plt.close(figure)
