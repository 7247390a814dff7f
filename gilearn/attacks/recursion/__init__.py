"""Recursion-based attacks (survey, section 2.2): the input of a layer from its output, layer by layer, in closed
form.
"""

from gilearn.attacks.recursion.copa import COPA, PullBack
from gilearn.attacks.recursion.gradient_division import PPDL_AHE, GradientDivision
from gilearn.attacks.recursion.reports import (
    LayerReport,
    RankWarning,
    RecursionWarning,
    SaturationWarning,
    TwinWarning,
    layer_table,
)
from gilearn.attacks.recursion.rgap import RGAP, Recursion
from gilearn.attacks.recursion.spn import PPDL_SPN, SPN

__all__ = [
    "COPA",
    "PPDL_AHE",
    "PPDL_SPN",
    "RGAP",
    "SPN",
    "GradientDivision",
    "LayerReport",
    "PullBack",
    "RankWarning",
    "Recursion",
    "RecursionWarning",
    "SaturationWarning",
    "TwinWarning",
    "layer_table",
]
