"""What only a notebook needs: pictures that move, live playgrounds, schematics, tables, the self-check of exercises.

No other part of the package imports it; ``ipywidgets`` is loaded when a playground is shown.
"""

from gilearn.notebook import playgrounds
from gilearn.notebook.diagrams import Box, diagram
from gilearn.notebook.exercises import check
from gilearn.notebook.tables import Table, table
from gilearn.notebook.widgets import Playground, Scrubber, playground, scrubber

__all__ = [
    "Box",
    "Playground",
    "Scrubber",
    "Table",
    "check",
    "diagram",
    "playground",
    "playgrounds",
    "scrubber",
    "table",
]
