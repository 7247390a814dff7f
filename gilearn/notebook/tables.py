"""Tables of results: a data frame that a page sets in columns, and that a terminal prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


class Table:
    """A table of results; a notebook shows it when it is the value of a cell.

    Args:
        rows: Whatever ``pandas.DataFrame`` takes: a mapping from column to values, or a list of mappings.
        digits: Decimals of every column's floating-point numbers, or a mapping from column to its own: a number of
            decimals, or a format such as ``"{:.0e}"``. Other values are shown as they print.
        index: Names of the rows; ``None`` numbers none.

    Raises:
        ValueError: ``digits`` names a column that there is not.

    Chapter: setup.
    """

    def __init__(self, rows: Any, *, digits: int | Mapping[str, int | str] = 2, index: Any = None) -> None:
        self.frame = pd.DataFrame(rows, index=index)
        self.named = index is not None or self.frame.index.name is not None
        if isinstance(digits, Mapping):
            for name in digits:
                if name not in self.frame.columns:
                    raise ValueError(f"digits: got {name!r}, wanted one of {', '.join(map(str, self.frame.columns))}")
        for name in self.frame.columns:
            form = digits.get(str(name), 2) if isinstance(digits, Mapping) else digits
            form = f"{{:.{form}f}}" if isinstance(form, int) else form
            self.frame[name] = [_shown(value, form) for value in self.frame[name]]

    def __repr__(self) -> str:
        shown: str = self.frame.to_string(index=self.named)
        return shown

    def _repr_html_(self) -> str:
        shown: str = self.frame.to_html(index=self.named, border=0, classes="results", justify="left")
        shown = shown.replace("<th></th>", "<td></td>")  # above the rows' names: nothing that would be read out
        return f'<div class="results" tabindex="0" role="group" aria-label="Table of results">{shown}</div>'


def table(rows: Any, *, digits: int | Mapping[str, int | str] = 2, index: Any = None) -> Table:
    """Make a table of results; see :class:`Table` for the arguments. Chapter: setup."""
    return Table(rows, digits=digits, index=index)


def _shown(value: Any, form: str) -> str:
    if hasattr(value, "item"):  # NumPy's and PyTorch's numbers
        value = value.item()
    return form.format(value) if isinstance(value, float) else str(value)
