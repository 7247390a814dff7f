"""Recursion-based attacks (survey, section 2.2): the input of a layer from its output, layer by layer, in closed
form.
"""

from gilearn.attacks.recursion.perceptron import PPDL_AHE, Perceptron

__all__ = ["PPDL_AHE", "Perceptron"]
