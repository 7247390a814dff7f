"""What a recursion says about its layers, and the warnings that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gilearn.linear import Trust


class RecursionWarning(UserWarning):
    """The gradient does not determine what comes back; see the kinds of it."""


class RankWarning(RecursionWarning):
    """A layer does not determine its input: what comes back is the input of least norm, and wrong."""


class SaturationWarning(RecursionWarning):
    """An activation puts out values so near to its bounds that their inverse has lost most of its digits."""


class TwinWarning(RecursionWarning):
    """Several inputs in the range of values explain the gradient; ``details["twins"]`` holds them all."""


@dataclass(frozen=True, kw_only=True)
class LayerReport(Trust):
    """What the recursion found at one layer, and how far to trust it; the rest is :class:`gilearn.linear.Trust`'s.

    A rank that was not measured is a bound that generic weights attain; where rows were dropped, less than it is
    possible. ``residual`` is that of the layer's system, a reconstruction's own the mismatch of the whole gradient.

    Args:
        layer: The module's name.
        dropped: Outputs that are no equations, because a ReLU hides them.
        saturated: Values of the solution so near to a bound of the activation that put them out that less than half of
            their digits survive its inverse.
        violation: Norm of what lies beyond these bounds over the norm of the solution: no input of the layer before
            explains that.
        courses: Of a pull-back: what it leaves unexplained of the earlier layer's constraints, relative, at its start
            and after every step; first of reachability alone, then, if that is not enough, with the gradient.
    """

    layer: str
    dropped: int = 0
    saturated: int = 0
    violation: float = 0.0
    courses: tuple[tuple[float, ...], ...] = ()

    @property
    def misfit(self) -> float:
        """What speaks against the solution: the larger of ``residual`` and ``violation``."""
        return max(self.residual, self.violation)

    def __str__(self) -> str:
        rank = f"rank {self.rank}" if self.measured else f"rank at most {self.rank}"
        parts = [f"{rank} of {self.unknowns}", f"{self.equations} equations"]
        parts += [f"{self.dropped} hidden by a ReLU"] if self.dropped else []
        parts += [f"condition {self.condition:.1e}", f"residual {self.residual:.1e}"]
        parts += [f"{self.saturated} values saturated"] if self.saturated else []
        return f"{self.layer}: {', '.join(parts)}"


def remarks(reports: Sequence[LayerReport], twins: int) -> list[RecursionWarning]:
    """Return what speaks against a result: of every layer, and that ``twins`` inputs explain the gradient."""
    said: list[RecursionWarning] = []
    for report in reports:
        where, bound = f"layer {report.layer!r}", "" if report.measured else "at most "
        if report.deficiency:
            said.append(
                RankWarning(
                    f"{where}: its system has rank {bound}{report.rank} for {report.unknowns} unknowns, "
                    f"{report.deficiency} directions of its input stay open"
                )
            )
        if report.saturated:
            said.append(
                SaturationWarning(
                    f"{where}: {report.saturated} of the {report.unknowns} values that an activation hands to it lie "
                    "at its bounds, where less than half of their digits are left"
                )
            )
    if twins:
        said.append(
            TwinWarning(
                f"{twins} inputs in the range of values explain the gradient; the brightest is returned, "
                "details['twins'] holds them all"
            )
        )
    return said


def layer_table(reports: Sequence[LayerReport]) -> pd.DataFrame:
    """Return reports, such as a reconstruction's ``details["layers"]``, as a table with one row per layer, indexed by
    its name.

    Chapter: r-gap.
    """
    columns = (
        "unknowns", "equations", "dropped", "rank", "measured", "deficiency", "condition", "residual", "saturated"
    )  # fmt: skip
    rows = {report.layer: {name: getattr(report, name) for name in columns} for report in reports}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(columns)).rename_axis("layer")
