"""Iteration-based attacks (survey, section 2.1): search for inputs whose gradient is the one that was shared.

``matching`` is the engine, ``objective`` what it computes, ``presets`` puts published attacks together; ``bayesian``
reads distance and regularizers as likelihood and prior. They are made
of the columns of the survey's Table 1, a namespace each: ``initialization``, ``distances``, ``regularizers``,
``optimizers``, the ``spaces`` that are searched, and the label rules of ``gilearn.attacks.labels``.
"""

from gilearn.attacks.iteration import bayesian, distances, initialization, optimizers, priors, regularizers, spaces
from gilearn.attacks.iteration.matching import GradientMatching

__all__ = [
    "GradientMatching",
    "bayesian",
    "distances",
    "initialization",
    "optimizers",
    "priors",
    "regularizers",
    "spaces",
]
