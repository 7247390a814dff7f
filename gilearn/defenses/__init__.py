"""What a client can do about leakage (survey, section 3), by the place where it acts.

``data`` holds defenses that change the data (section 3.1), ``model`` those that change the model or its loss (3.2),
``gradients`` those that change what is shared (3.3); each is a :class:`gilearn.federated.Defense`, and
``observe(..., defense=(first, second))`` applies several in order. ``aggregation``, imported by name, holds those that
change how the server adds up. ``utility`` measures what they cost in accuracy, ``auditing`` attacks a guarantee of
differential privacy.
"""

from gilearn.defenses import auditing, utility
from gilearn.defenses.data import DPBlur, DPPix, InstaHide, MixUp, MixupInference
from gilearn.defenses.gradients import (
    DPSGD,
    BatchClipping,
    Decay,
    ExampleClipping,
    FakeGradients,
    FedCDP,
    FedSDP,
    GaussianNoise,
    LaplaceNoise,
    LDPFed,
    Mask,
    NbAFL,
    PartialNoise,
    PowerSGD,
    Projection,
    Pruning,
    Quantization,
    Signs,
    Soteria,
    accounting,
    grouping,
    per_entry,
)
from gilearn.defenses.model import Dropout, Polarization, Reshuffling

__all__ = [
    "DPSGD",
    "BatchClipping",
    "DPBlur",
    "DPPix",
    "Decay",
    "Dropout",
    "ExampleClipping",
    "FakeGradients",
    "FedCDP",
    "FedSDP",
    "GaussianNoise",
    "InstaHide",
    "LDPFed",
    "LaplaceNoise",
    "Mask",
    "MixUp",
    "MixupInference",
    "NbAFL",
    "PartialNoise",
    "Polarization",
    "PowerSGD",
    "Projection",
    "Pruning",
    "Quantization",
    "Reshuffling",
    "Signs",
    "Soteria",
    "accounting",
    "auditing",
    "grouping",
    "per_entry",
    "utility",
]
