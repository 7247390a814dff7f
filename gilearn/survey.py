"""Tables 1 and 2 of the survey (Zhang et al., IJCAI 2022) as data: every row names its implementation, chapter and
divergences.

Table 1 is the survey's. Of Table 2 only the caption survives in the text that we work from: its rows are the defenses
that the survey's section 3 discusses, its columns are ours. The rows are in ``survey.toml``.
"""

from __future__ import annotations

import math
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
        broken_by: Who gets past it, with the number that the book prints; or that nobody does, and what was tried.
        broken_in: The chapter that shows it.
        implementation: Dotted name in this package; ``None`` while there is none.
        divergences: Where the survey's account needs a correction, a sentence each.
    """

    perspective: Literal["data", "model", "gradients"]
    strategy: str
    name: str
    citation: str
    idea: str
    chapter: str
    broken_by: str
    broken_in: str
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
    _check_rows(own, frame, 1)
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


def table_2(*, results: bool = False) -> pd.DataFrame:
    """Return Table 2, reconstructed, as a data frame, one row per defense, in the order of the survey's section 3.

    Args:
        results: Join what ``make table-2`` recorded of every row at the ``strength`` that the column of this name
            states. ``points_digits``, ``points_faces`` and ``points_colour``: accuracy lost in percentage points, each
            with 95 % interval ``_low`` to ``_high``; ``seconds`` and ``bytes``, of the training on digits, as
            quotients to no defense. Of both kinds of pictures of the grid, ``digits`` and ``pictures``, for example:
            ``by_digits``, the attack of Table 1 with the largest mean PSNR; ``best_digits``, that PSNR in dB, with
            ``best_digits_low`` to ``best_digits_high``; ``told_digits``, that of a search that knows the defense, NaN
            where there is none; ``through_digits`` of ``ran_digits`` attacks were at least 3 dB above their guess.

    Raises:
        FileNotFoundError: ``results`` are wanted, and the package is installed without the repository, which has them.
        ValueError: A row has no result or not all of it, or there is a result of no row.

    Chapter: table-2.
    """
    frame = _frame(TABLE_2)
    if not results:
        return frame
    import pandas as pd

    from gilearn import data  # which needs torch; the tables alone do not

    own = pd.DataFrame([_joined(row) for row in data.recorded("table-2")["result"]]).set_index("row")
    _check_rows(own, frame, 2)
    return frame.join(own)


def against(part: str = "alone") -> pd.DataFrame:
    """Return what ``make table-2`` recorded of attacks against defenses: a line for every cell of the grid.

    Args:
        part: ``"alone"``, the attacks of Table 1, which do not know the defense; ``"told"``, a search that does.

    Returns:
        A frame with ``pictures``, ``"digits"`` or ``"pictures"``; ``attack``; ``row``, a name of Table 2 or ``"none"``;
        ``cases`` that were done; ``psnr`` in dB, their mean, with 95 % interval ``low`` to ``high``, NaN of fewer than
        two cases; how many were ``refused`` by the attack or the defense, how many ``failed``, and the ``reason``, or
        no text; ``guess``, the mean PSNR in dB of a guess without a gradient, NaN where none is recorded.

    Raises:
        ValueError: There is no such part.
        FileNotFoundError: The package is installed without the repository, which has the record.

    Chapter: table-2.
    """
    import pandas as pd

    from gilearn import data  # which needs torch; the tables alone do not
    from gilearn.federated.checks import check_name

    check_name("part", part, ("alone", "told"))
    result = data.recorded("grid")["result"]
    guesses = {(one["pictures"], one["attack"]): _mean(one["psnr"])["psnr"] for one in result["guess"]}
    lines = []
    for cell in (cell for cell in result["cells"] if cell["part"] == part):
        done = [value for value, status in zip(cell["psnr"], cell["status"], strict=True) if status == "done"]
        line = {name: cell[name] for name in ("pictures", "attack", "row")} | {"cases": len(done)} | _mean(done)
        line |= {status: cell["status"].count(status) for status in ("refused", "failed")}
        line |= {"reason": cell["reason"] or "", "guess": guesses.get((cell["pictures"], cell["attack"]), math.nan)}
        lines.append(line)
    return pd.DataFrame(lines)


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


def _check_rows(own: pd.DataFrame, frame: pd.DataFrame, number: int) -> None:
    """Refuse a record whose rows are not those of the table of this number."""
    if sorted(own.index) != sorted(frame.index):
        apart = ", ".join(sorted(set(frame.index).symmetric_difference(own.index)))
        raise ValueError(f"results: the record and Table {number} differ in {apart}; make table-{number} records them")


def _mean(values: list[float]) -> dict[str, float]:
    """The mean, with the interval that two values or more have."""
    from gilearn import metrics

    if len(values) < 2:
        return {"psnr": values[0] if values else math.nan, "low": math.nan, "high": math.nan}
    found = metrics.interval(values)
    return {"psnr": found.estimate, "low": found.low, "high": found.high}


def _joined(row: dict[str, Any]) -> dict[str, Any]:
    """What Table 2 joins of a recorded row, in one level."""
    try:
        return _flat(row)
    except KeyError as error:
        raise ValueError(f"results: the record of {row['row']} has no {error} yet; make table-2 goes on") from error


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {"row": row["row"], "strength": row["strength"]}
    for task, lost in row["points"].items():
        flat |= {f"points_{task}": lost["estimate"]} | {f"points_{task}_{end}": lost[end] for end in ("low", "high")}
    flat |= {"seconds": row["seconds"]["digits"], "bytes": row["megabytes"]["digits"]}
    for kind, left in row["privacy"].items():
        flat |= {f"best_{kind}": left["psnr"]} | {f"best_{kind}_{end}": left[end] for end in ("low", "high")}
        flat |= {f"by_{kind}": left["attack"], f"told_{kind}": left["told"]["psnr"] if left["told"] else math.nan}
        flat |= {f"{count}_{kind}": left[count] for count in ("through", "ran")}
    return flat


def _frame(rows: tuple[AttackRow, ...] | tuple[DefenseRow, ...]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows]).set_index("name")
