"""What a client can do about leakage (survey, section 3), by the place where it acts.

``data`` holds defenses that change the data (section 3.1), ``model`` those that change the model or its loss (3.2),
``gradients`` those that change what is shared (3.3); ``accounting`` says what noise is worth in epsilon, ``grouping``
deals clients to H-FL's mediators, and ``utility`` measures what defenses cost in accuracy. Each is a
:class:`gilearn.federated.Defense`; ``observe(..., defense=(first, second))`` applies several in order.
``gradients`` those that change what is shared (3.3); ``utility`` measures what they cost in accuracy, ``auditing``
attacks a guarantee of differential privacy. Each defense is a :class:`gilearn.federated.Defense`;
``observe(..., defense=(first, second))`` applies several in order.
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
    Pruning,
    accounting,
    grouping,
    Soteria,
    PowerSGD,
    Projection,
    Quantization,
    Signs,
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
    "accounting",
    "grouping",
    "auditing",
    "Soteria",
    "Signs",
    "per_entry",
    "utility",
]
