"""What a client can do about leakage (survey, section 3), by the place where it acts.

``data`` holds defenses that change the data (section 3.1), ``model`` those that change the model or its loss (3.2),
``gradients`` those that change what is shared (3.3); ``utility`` measures what they cost in accuracy. Each is a
:class:`gilearn.federated.Defense`; ``observe(..., defense=(first, second))`` applies several in order.
"""

from gilearn.defenses import utility
from gilearn.defenses.data import DPBlur, DPPix, InstaHide, MixUp, MixupInference
from gilearn.defenses.gradients import (
    BatchClipping,
    ExampleClipping,
    FakeGradients,
    GaussianNoise,
    LaplaceNoise,
    Mask,
    PowerSGD,
    Projection,
    Pruning,
    Quantization,
    Signs,
    per_entry,
)
from gilearn.defenses.model import Dropout, Polarization, Reshuffling

__all__ = [
    "BatchClipping",
    "DPBlur",
    "DPPix",
    "Dropout",
    "ExampleClipping",
    "FakeGradients",
    "GaussianNoise",
    "InstaHide",
    "LaplaceNoise",
    "Mask",
    "MixUp",
    "MixupInference",
    "Polarization",
    "PowerSGD",
    "Projection",
    "Pruning",
    "Quantization",
    "Reshuffling",
    "Signs",
    "per_entry",
    "utility",
]
