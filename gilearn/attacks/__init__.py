"""Every attack takes an ``Observation``, and nothing else, and returns a ``Reconstruction``.

The rows of the survey's Table 1 stand here under the survey's names, ready to call: ``attacks.DLG(seen, seed=0)``.
``iteration`` holds the ingredients of those that search (survey, section 2.1), ``recursion`` those that solve (section
2.2), ``labels`` the rules that read labels off a gradient, ``disaggregation`` what takes a sum over clients apart.

Against defenses: ``unmixing`` and ``instahide`` take mixed data apart, ``releases`` pictures that were published with
noise, ``masks`` reads dropout masks, ``local_steps`` searches the order that a client visited its data in, ``bypass``
leaves out what a defense has changed, ``learned`` fits a map from gradients to pictures, ``feedback`` adds up what
error feedback sends late.
"""

from gilearn.attacks import instahide, labels, masks, releases, unmixing
from gilearn.attacks.base import Attack, Reconstruction
from gilearn.attacks.bypass import Bypass, untouched
from gilearn.attacks.disaggregation import Disaggregated, Disaggregation, GradDisagg
from gilearn.attacks.feedback import accumulated
from gilearn.attacks.iteration import bayesian, distances, initialization, optimizers, priors, regularizers, spaces
from gilearn.attacks.iteration.generative import GIAS
from gilearn.attacks.iteration.matching import GradientMatching
from gilearn.attacks.iteration.presets import CPL, DLG, SAPAG, Bayesian, GradAttack, GradInversion, InvGrad, iDLG
from gilearn.attacks.iteration.vertical import CAFE, Vertical
from gilearn.attacks.labels import Joint
from gilearn.attacks.learned import LearnedInversion
from gilearn.attacks.local_steps import UnknownOrder, surrogate
from gilearn.attacks.recursion import (
    COPA,
    PPDL_AHE,
    PPDL_SPN,
    RGAP,
    SPN,
    GradientDivision,
    PullBack,
    RankWarning,
    Recursion,
    RecursionWarning,
)

__all__ = [
    "CAFE",
    "COPA",
    "CPL",
    "DLG",
    "GIAS",
    "PPDL_AHE",
    "PPDL_SPN",
    "RGAP",
    "SAPAG",
    "SPN",
    "Attack",
    "Bayesian",
    "Bypass",
    "Disaggregated",
    "Disaggregation",
    "GradAttack",
    "GradDisagg",
    "GradInversion",
    "GradientDivision",
    "GradientMatching",
    "InvGrad",
    "Joint",
    "LearnedInversion",
    "PullBack",
    "RankWarning",
    "Reconstruction",
    "Recursion",
    "RecursionWarning",
    "UnknownOrder",
    "Vertical",
    "accumulated",
    "bayesian",
    "distances",
    "iDLG",
    "initialization",
    "instahide",
    "labels",
    "masks",
    "optimizers",
    "priors",
    "regularizers",
    "releases",
    "spaces",
    "surrogate",
    "unmixing",
    "untouched",
]
