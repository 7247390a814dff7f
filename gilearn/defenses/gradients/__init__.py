"""Defenses that change what is shared (survey, section 3.3): perturbation and compression."""

from gilearn.defenses.gradients.compression import Mask, Pruning, Quantization
from gilearn.defenses.gradients.dynamic import Decay, FedCDP, FedSDP
from gilearn.defenses.gradients.feedback import Compression, per_entry
from gilearn.defenses.gradients.local_privacy import LDPFed, NbAFL
from gilearn.defenses.gradients.low_rank import PowerSGD, Projection
from gilearn.defenses.gradients.perturbation import (
    BatchClipping,
    ExampleClipping,
    FakeGradients,
    GaussianNoise,
    LaplaceNoise,
)
from gilearn.defenses.gradients.privacy import DPSGD, PartialNoise
from gilearn.defenses.gradients.signs import Signs
from gilearn.defenses.gradients.soteria import Soteria

__all__ = [
    "DPSGD",
    "BatchClipping",
    "Compression",
    "Decay",
    "ExampleClipping",
    "FakeGradients",
    "FedCDP",
    "FedSDP",
    "GaussianNoise",
    "LDPFed",
    "LaplaceNoise",
    "Mask",
    "NbAFL",
    "PartialNoise",
    "PowerSGD",
    "Projection",
    "Pruning",
    "Quantization",
    "Signs",
    "Soteria",
    "per_entry",
]
