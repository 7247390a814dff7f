"""Iteration-based attacks (survey, section 2.1): search for inputs whose gradient is the one that was shared.

``matching`` is the engine. What it is made of are the columns of the survey's Table 1, a module each:
``initialization``, ``distances``, ``optimizers``, and the label rules of ``gilearn.attacks.labels``. ``presets`` puts
published attacks together.
"""

from gilearn.attacks.iteration.distances import Distance, Euclidean
from gilearn.attacks.iteration.initialization import Gaussian, Initialization, Uniform
from gilearn.attacks.iteration.matching import GradientMatching, Joint
from gilearn.attacks.iteration.optimizers import LBFGS, Adam, Optimizer

__all__ = [
    "LBFGS",
    "Adam",
    "Distance",
    "Euclidean",
    "Gaussian",
    "GradientMatching",
    "Initialization",
    "Joint",
    "Optimizer",
    "Uniform",
]
