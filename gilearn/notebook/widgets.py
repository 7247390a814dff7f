"""Pictures that move: a scrubber that needs no kernel, and the frame of the live playgrounds."""

from __future__ import annotations

import base64
import hashlib
import html
import inspect
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WIDTH = 720
"""Pixels that pictures under a slider are enlarged to, where there is room."""
_ASLEEP = "The slider sleeps: in JupyterLab, run this cell, or trust the notebook."  # the script removes it
_SCRIPT = """
(function () {
  var me = document.currentScript, root = me ? me.closest('.scrub') : document.getElementById('%(id)s');
  if (!root || root.dataset.ready) return;
  root.dataset.ready = 'yes';
  var data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  var picture = root.querySelector('img'), slider = root.querySelector('input');
  var label = root.querySelector('output'), button = root.querySelector('button'), timer = null;
  function show() {
    var k = +slider.value;
    picture.src = data.sources[k];
    picture.alt = data.alt + ', ' + data.labels[k];
    label.textContent = data.labels[k];
    slider.setAttribute('aria-valuetext', data.labels[k]);
  }
  function pause() { clearInterval(timer); timer = null; button.textContent = 'Play'; }
  function advance() {
    if (!root.isConnected || +slider.value >= +slider.max) { pause(); return; }
    slider.value = +slider.value + 1;
    show();
  }
  // JupyterLab takes arrow keys and space for its own shortcuts; here they belong to the slider and the button.
  root.addEventListener('keydown', function (event) {
    if (/^(Arrow|Page|Home|End| |Enter)/.test(event.key)) event.stopPropagation();
  });
  slider.addEventListener('input', function () { pause(); show(); });
  button.addEventListener('click', function () {
    if (timer) { pause(); return; }
    if (+slider.value >= +slider.max) slider.value = 0;
    button.textContent = 'Pause';
    timer = setInterval(advance, data.interval);
  });
  button.hidden = slider.hidden = false;
  root.querySelector('small').remove();
  show();
})();
"""


class Scrubber:
    """Pictures under a slider with a Play button: in JupyterLab and on a static page, by mouse and by keyboard.

    Args:
        frames: Pictures: ``PIL`` images, uint8 arrays (height, width[, 3]), or ``matplotlib`` figures.
        labels: What to say under each; their numbers by default.
        alt: What the pictures show, for those who cannot see them.
        start: The frame shown first; negative numbers count from the end.
        interval: Milliseconds between two frames while playing.

    Raises:
        ValueError: There are no frames, the labels differ in number, ``alt`` is empty, or ``start`` is out of range.

    Chapter: deep-leakage.
    """

    def __init__(
        self,
        frames: Sequence[Any],
        labels: Sequence[str] | None = None,
        *,
        alt: str,
        start: int = 0,
        interval: int = 250,
    ) -> None:
        labels = [str(k) for k in range(len(frames))] if labels is None else [str(label) for label in labels]
        if not frames or len(labels) != len(frames):
            raise ValueError(
                f"frames: got {len(frames)} with {len(labels)} labels, wanted at least one, and a label each"
            )
        if not alt.strip():
            raise ValueError("alt: got nothing, wanted a description of the pictures")
        if not -len(frames) <= start < len(frames):
            raise ValueError(f"start: got {start}, wanted a frame from {-len(frames)} to {len(frames) - 1}")
        pictures = [_picture(frame) for frame in frames]
        self.size = pictures[0].size
        self.drawn = hasattr(frames[0], "savefig")  # a drawing keeps its size; pixels are enlarged
        self.sources = [f"data:image/png;base64,{_encoded(picture, colours=64)}" for picture in pictures]
        self.still = _encoded(pictures[-1])
        self.labels, self.alt, self.interval = labels, alt, interval
        self.start = start % len(frames)
        self.id = "scrub-" + hashlib.sha256("".join(self.sources + labels).encode()).hexdigest()[:12]

    def _repr_html_(self) -> str:
        data = {"sources": self.sources, "labels": self.labels, "alt": self.alt, "interval": self.interval}
        payload = json.dumps(data).replace("<", "\\u003c")
        width, height = self.size
        look = "max-width:100%" if self.drawn else f"width:min(100%, {max(width, WIDTH)}px);image-rendering:pixelated"
        alt, label = html.escape(self.alt), html.escape(self.labels[self.start])
        return (
            f'<div class="scrub" id="{self.id}" role="group" aria-label="{alt}">'
            f'<img src="{self.sources[self.start]}" width="{width}" height="{height}" alt="{alt}, {label}"'
            f' style="{look};height:auto">'
            '<div><button type="button" hidden>Play</button> '
            f'<input type="range" hidden min="0" max="{len(self.sources) - 1}" value="{self.start}" step="1"'
            f' aria-label="{alt}: frame"> <output>{label}</output> <small>{_ASLEEP}</small></div>'
            f'<script type="application/json">{payload}</script><script>{_SCRIPT % {"id": self.id}}</script></div>'
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {
            "text/html": self._repr_html_(),
            "image/png": self.still,
            "text/plain": f"<Scrubber: {len(self.sources)} frames, {self.alt}>",
        }


def scrubber(frames: Sequence[Any], labels: Sequence[str] | None = None, *, alt: str, **options: Any) -> Scrubber:
    """Put pictures under a slider; see :class:`Scrubber` for the arguments. Chapter: deep-leakage."""
    return Scrubber(frames, labels, alt=alt, **options)


class Playground:
    """A live experiment in JupyterLab; where there is no kernel, the figure of its default setting.

    It runs its default setting when it is shown. A run can be stopped by the kernel's interrupt, or by the Stop button
    where the book's ``.jupyter`` is in use. A control named ``picture`` also takes a file of the reader's own, whose
    bytes are passed to the callback; and a callback with a parameter ``progress`` is asked to show some.

    Args:
        callback: A plain function of the controls, which returns a figure. It is called with their defaults at first.
        controls: By argument name, the choices; the first is the default.

    Raises:
        ValueError: There is no control, or one without a choice.

    Chapter: deep-leakage.
    """

    def __init__(self, callback: Callable[..., Any], controls: Mapping[str, Sequence[Any]]) -> None:
        if not controls or any(len(choices) == 0 for choices in controls.values()):
            raise ValueError("controls: got none, or one without a choice; wanted at least one, each with choices")
        self.callback, self.controls = callback, dict(controls)

    def defaults(self) -> dict[str, Any]:
        """Return the first choice of every control."""
        return {name: choices[0] for name, choices in self.controls.items()}

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if os.environ.get("GILEARN_STATIC"):  # the book's build: a stored output must not need a kernel
            display(self.callback(**self.defaults()))
            return
        box, run = self._widget()
        handle = display(box, display_id=True)
        if drawn := run():
            # Beside the widget, what the static page shows: it is what stays when the notebook is saved.
            data, metadata = drawn
            handle.update({**box._repr_mimebundle_(), **data}, metadata=metadata, raw=True)

    def widget(self) -> Any:
        """Return the controls with their buttons and the output below them, as an ``ipywidgets`` box."""
        return self._widget()[0]

    def _widget(self) -> tuple[Any, Callable[..., Any]]:
        import ipywidgets
        from IPython import get_ipython
        from IPython.display import display

        output, state = ipywidgets.Output(), ipywidgets.HTML()
        button = ipywidgets.Button(description="Run", button_style="primary")
        stop = ipywidgets.Button(description="Stop", layout={"display": "none"})
        stop.add_class("gilearn-stop")  # .jupyter/labextensions shows it, and lets it interrupt the kernel
        boxes = {
            name: ipywidgets.Dropdown(options=list(choices), description=name.replace("_", " "))
            for name, choices in self.controls.items()
        }
        upload = ipywidgets.FileUpload(accept="image/*", description="your picture")
        progress = {"progress": True} if "progress" in inspect.signature(self.callback).parameters else {}

        def run(_: Any = None) -> Any:
            chosen = {name: box.value for name, box in boxes.items()}
            if "picture" in chosen and upload.value:
                chosen["picture"] = bytes(upload.value[-1]["content"])
            button.disabled, state.value = True, "running; interrupt the kernel (■) to stop"
            output.clear_output()  # not the last picture under the new names
            drawn, outcome = None, "failed"
            with output:
                try:
                    figure = self.callback(**chosen, **progress)
                    # Once: its layout moves when a figure is drawn again.
                    drawn = get_ipython().display_formatter.format(figure)
                    outcome = ""
                    output.clear_output(wait=True)
                    display(drawn[0], metadata=drawn[1], raw=True)
                except KeyboardInterrupt:
                    outcome = "stopped"
                finally:
                    button.disabled, state.value = False, outcome
            return drawn

        def forget(_: Any) -> None:
            upload.value = ()  # a name was chosen after the file

        if "picture" in boxes:
            boxes["picture"].observe(forget, "value")
        button.on_click(run)
        own = [upload] if "picture" in boxes else []
        controls = ipywidgets.HBox([*boxes.values(), *own, button, stop, state], layout={"flex_flow": "row wrap"})
        return ipywidgets.VBox([controls, output]), run


def playground(callback: Callable[..., Any], **controls: Sequence[Any]) -> Playground:
    """Make a live experiment; see :class:`Playground`. Chapter: deep-leakage."""
    return Playground(callback, controls)


def _picture(frame: Any) -> Any:
    from PIL import Image

    if hasattr(frame, "savefig"):
        drawn = io.BytesIO()
        frame.savefig(drawn, format="png")
        frame = Image.open(drawn)
    return (frame if isinstance(frame, Image.Image) else Image.fromarray(frame)).convert("RGB")


def _encoded(picture: Any, colours: int | None = None) -> str:
    from PIL import Image

    if colours is not None:
        picture = picture.quantize(colours, dither=Image.Dither.NONE)
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode()
