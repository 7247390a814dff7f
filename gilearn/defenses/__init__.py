"""What a client can do about leakage (survey, section 3), by the place where it acts.

``model`` holds defenses that change the model or its loss (section 3.2), ``gradients`` those that change what is shared
(3.3); ``utility`` measures what they cost in accuracy. Each is a :class:`gilearn.federated.Defense`;
``observe(..., defense=(first, second))`` applies several in order.
"""

from gilearn.defenses import utility
from gilearn.defenses.gradients import (
    BatchClipping,
    ExampleClipping,
    FakeGradients,
    GaussianNoise,
    LaplaceNoise,
    Mask,
    Pruning,
)
from gilearn.defenses.model import Polarization, Reshuffling

__all__ = [
    "BatchClipping",
    "ExampleClipping",
    "FakeGradients",
    "GaussianNoise",
    "LaplaceNoise",
    "Mask",
    "Polarization",
    "Pruning",
    "Reshuffling",
    "utility",
]
