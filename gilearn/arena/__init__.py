"""Attack x defense x victim x knowledge x client x data x batch x seed as one call: parallel, resumable, in a table.

A :class:`Grid` names what is combined, and :func:`run` runs every combination, a cell. A finished cell is a file of its
own: a run that was killed goes on where it was, and several processes or machines may work on one folder. A file is
called by a digest of all that determines its cell. Nothing is dropped: a combination that the package refuses, and one
that fails, are rows with a reason.

>>> from functools import partial
>>> from gilearn import arena, attacks, data, models
>>> grid = arena.Grid(
...     attacks={"iDLG": attacks.iDLG.replace(iterations=2)},
...     victims={"LeNet": partial(models.lenet, size=8, in_channels=1)},
...     data={"digits": partial(data.digits, 50)},
...     batches=(1, 2),
... )
>>> arena.run(grid)[["batch", "status"]].values.tolist()
[[1, 'done'], [2, 'refused']]

From the shell: ``python -m gilearn.arena GRID.toml``. Past one machine, joblib's Dask backend runs the cells:
``with joblib.parallel_config(backend="dask"): arena.run(grid, folder=shared)``.
"""

from gilearn.arena.files import load
from gilearn.arena.grid import Cell, Grid
from gilearn.arena.running import run, table

__all__ = ["Cell", "Grid", "load", "run", "table"]
