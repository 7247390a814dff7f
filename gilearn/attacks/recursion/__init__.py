"""Recursion-based attacks (survey, section 2.2): the input of a layer from its output, layer by layer, in closed
form.
"""

from gilearn.attacks.recursion.copa import COPA, PullBack
from gilearn.attacks.recursion.perceptron import PPDL_AHE, Perceptron
from gilearn.attacks.recursion.rgap import RGAP, LayerReport, RankWarning, Recursion
from gilearn.attacks.recursion.spn import PPDL_SPN, SPN

__all__ = [
    "COPA",
    "PPDL_AHE",
    "PPDL_SPN",
    "RGAP",
    "SPN",
    "LayerReport",
    "Perceptron",
    "PullBack",
    "RankWarning",
    "Recursion",
]
