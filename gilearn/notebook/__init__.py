"""What only a notebook needs: pictures that move, live playgrounds, the self-check of exercises.

No other part of the package imports it; ``ipywidgets`` is loaded when a playground is shown.
"""

from gilearn.notebook import playgrounds
from gilearn.notebook.exercises import check
from gilearn.notebook.widgets import Playground, Scrubber, playground, scrubber

__all__ = ["Playground", "Scrubber", "check", "playground", "playgrounds", "scrubber"]
