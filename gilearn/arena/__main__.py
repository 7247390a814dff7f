"""Run a grid from the shell: ``python -m gilearn.arena GRID.toml``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gilearn.arena.files import load
from gilearn.arena.grid import AXES
from gilearn.arena.running import RESULT, run


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a grid from the shell, and print its table; a run that was stopped goes on."""
    parser = argparse.ArgumentParser(prog="python -m gilearn.arena", description=main.__doc__)
    parser.add_argument("grid", type=Path, metavar="GRID.toml", help="what is combined with what")
    parser.add_argument("--folder", type=Path, help="where finished cells are kept (GRID.cells)")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each (1); -1: one per core")
    parser.add_argument("--output", type=Path, help="write the whole table there too, as CSV")
    given = parser.parse_args(arguments)
    try:
        grid = load(given.grid)
        folder = given.folder or given.grid.with_suffix(".cells")
        found = run(grid, folder=folder, workers=given.workers, progress=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    varied = [axis for axis in AXES if found[axis].nunique() > 1]
    shown = found[[*varied, *RESULT]].dropna(axis="columns", how="all")
    print(shown.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="", max_colwidth=60))
    counts = found.status.value_counts()
    print(f"{len(found)} cells:", ", ".join(f"{count} {status}" for status, count in counts.items()))
    if given.output is not None:
        found.to_csv(given.output, index=False)


if __name__ == "__main__":
    main()
