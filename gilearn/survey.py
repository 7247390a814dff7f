"""Tables 1 and 2 of the survey (Zhang et al., IJCAI 2022) as data: every row names its implementation, chapter and
divergences.

Table 1 is the survey's. Of Table 2 only the caption survives in the text that we work from: its rows are the defenses
that the survey's section 3 discusses, its columns are ours. The rows are in ``survey.toml``.
"""

from __future__ import annotations

import pkgutil
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """A row of Table 1; the cells are the survey's, shortened as there.

    Args:
        name: The survey's name of the attack.
        citation: Key in the book's bibliography.
        paradigm: ``"iteration"`` (section 2.1) or ``"recursion"`` (section 2.2).
        distribution: Of the initial inputs.
        extracts_labels: The survey's mark L: the labels can be extracted directly.
        resolution: Of the pictures, in pixels.
        network: The victim.
        compares_states: The survey's mark T: results are compared between training states.
        batch_size: The largest; in brackets where attempted.
        loss: The distance between gradients; of a recursion, its method.
        optimizer: Empty for a recursion.
        additional: What else the attack uses.
        chapter: Where the book derives it.
        implementation: Dotted name in this package; ``None`` while there is none.
        divergences: Where released code differs from the survey's cells or from the paper, a sentence each.
    """

    name: str
    citation: str
    paradigm: Literal["iteration", "recursion"]
    distribution: str
    resolution: str
    network: str
    batch_size: str
    loss: str
    additional: str
    chapter: str
    optimizer: str = ""
    extracts_labels: bool = False
    compares_states: bool = False
    implementation: str | None = None
    divergences: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DefenseRow:
    """A row of Table 2, reconstructed from the survey's section 3.

    Args:
        perspective: Where the defense acts: ``"data"`` (3.1), ``"model"`` (3.2) or ``"gradients"`` (3.3).
        strategy: The kind of defense.
        name: The defense.
        citation: Key in the book's bibliography.
        idea: What it does, in a line.
        chapter: Where the book treats it.
        implementation: Dotted name in this package; ``None`` while there is none.
        divergences: Where the survey's account needs a correction, a sentence each.
    """

    perspective: Literal["data", "model", "gradients"]
    strategy: str
    name: str
    citation: str
    idea: str
    chapter: str
    implementation: str | None = None
    divergences: tuple[str, ...] = ()


def _read() -> tuple[tuple[AttackRow, ...], tuple[DefenseRow, ...]]:
    rows = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    for row in (*rows["attack"], *rows["defense"]):
        row["divergences"] = tuple(row.get("divergences", ()))
    return tuple(AttackRow(**row) for row in rows["attack"]), tuple(DefenseRow(**row) for row in rows["defense"])


TABLE_1, TABLE_2 = _read()
"""The survey's Table 1, all fifteen rows, and its Table 2: the defenses of section 3, in columns and words of ours."""


def table_1(*, results: bool = False) -> pd.DataFrame:
    """Return Table 1 as a data frame, one row per attack, in the survey's order.

    Args:
        results: Join what :func:`measured` has of every row's own setting; its ``pixels``, ``network``, ``batch`` and
            ``changes`` are called ``ours_pixels`` and so on.

    Raises:
        FileNotFoundError: ``results`` are wanted, and the package is installed without the repository, which has them.
        ValueError: A row has no result, or there is a result of no row.

    Chapter: table-1.
    """
    frame = _frame(TABLE_1)
    if not results:
        return frame
    own = measured()
    own = own[own.part == "row"].set_index("row").drop(columns="part")
    if sorted(own.index) != sorted(frame.index):
        apart = sorted(set(frame.index).symmetric_difference(own.index))
        raise ValueError(f"results: the record and Table 1 differ in {', '.join(apart)}; make table-1 records them")
    ours = {name: f"ours_{name}" for name in ("pixels", "network", "batch", "changes")}
    return frame.join(own.rename(columns=ours))


def measured() -> pd.DataFrame:
    """Return what ``make table-1`` recorded of Table 1: a line for every setting of ours.

    Returns:
        A frame with ``row``, the survey's name; ``part``: ``"row"``, its own setting, ``"batch"``, another batch,
        ``"trained"``, a trained network; the setting (``pixels``, ``network``, ``batch``, ``told``, ``mode``,
        ``changes`` of the preset, ``preset``, ``ran``); ``cases``; ``psnr`` in dB, its mean over the cases, with 95 %
        interval ``low`` to ``high`` and extremes ``least`` and ``most``; ``found``, the share of cases from 30 dB on,
        with Wilson's interval; ``labels``, the share of labels that were right; ``seconds`` of a case, the median.

    Raises:
        FileNotFoundError: The package is installed without the repository, which has the record.

    Chapter: table-1.
    """
    import pandas as pd

    from gilearn import data  # which needs torch; the tables alone do not

    return pd.DataFrame(data.recorded("table-1")["result"])


def table_2() -> pd.DataFrame:
    """Return Table 2, reconstructed, as a data frame, one row per defense. Chapter: table-2."""
    return _frame(TABLE_2)


def find(name: str) -> AttackRow | DefenseRow:
    """Return the row of that name, in either table.

    Raises:
        ValueError: There is no such row.
    """
    rows: tuple[AttackRow | DefenseRow, ...] = (*TABLE_1, *TABLE_2)
    for row in rows:
        if row.name == name:
            return row
    raise ValueError(f"name: got {name!r}, wanted one of {', '.join(row.name for row in rows)}")


def implementation(row: AttackRow | DefenseRow) -> Any:
    """Return the object in this package that runs the row.

    Raises:
        NotImplementedError: The row has none yet.
    """
    if row.implementation is None:
        raise NotImplementedError(f"{row.name} is not implemented yet; its chapter will be {row.chapter}")
    return pkgutil.resolve_name(row.implementation)


def _frame(rows: tuple[AttackRow, ...] | tuple[DefenseRow, ...]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows]).set_index("name")
