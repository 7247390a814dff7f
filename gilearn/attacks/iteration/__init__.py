"""Iteration-based attacks (survey, section 2.1): search for inputs whose gradient is the one that was shared.

``matching`` is the engine. What it is made of are the columns of the survey's Table 1, a module each:
``initialization``, ``distances``, ``regularizers``, ``optimizers``, and the label rules of ``gilearn.attacks.labels``.
``presets`` puts published attacks together.
"""

from gilearn.attacks.iteration.distances import (
    Cosine,
    Distance,
    Euclidean,
    GaussianKernel,
    LayerwiseCosine,
    Manhattan,
    Masked,
)
from gilearn.attacks.iteration.initialization import Constant, Gaussian, Image, Initialization, Patterned, Uniform
from gilearn.attacks.iteration.matching import GradientMatching, Joint
from gilearn.attacks.iteration.optimizers import (
    LBFGS,
    SGD,
    Adam,
    AdamW,
    Optimizer,
    Schedule,
    StepDecay,
    WarmupCosine,
)
from gilearn.attacks.iteration.regularizers import (
    L2,
    BatchNormStatistics,
    GroupConsistency,
    Guess,
    LabelConsistency,
    Orthogonality,
    Regularizer,
    TotalVariation,
)

__all__ = [
    "L2",
    "LBFGS",
    "SGD",
    "Adam",
    "AdamW",
    "BatchNormStatistics",
    "Constant",
    "Cosine",
    "Distance",
    "Euclidean",
    "Gaussian",
    "GaussianKernel",
    "GradientMatching",
    "GroupConsistency",
    "Guess",
    "Image",
    "Initialization",
    "Joint",
    "LabelConsistency",
    "LayerwiseCosine",
    "Manhattan",
    "Masked",
    "Optimizer",
    "Orthogonality",
    "Patterned",
    "Regularizer",
    "Schedule",
    "StepDecay",
    "TotalVariation",
    "Uniform",
    "WarmupCosine",
]
