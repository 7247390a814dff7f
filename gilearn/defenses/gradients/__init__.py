"""Defenses that change what is shared (survey, section 3.3): perturbation and compression."""

from gilearn.defenses.gradients.compression import Mask, Pruning
from gilearn.defenses.gradients.dynamic import Decay, FedCDP, FedSDP
from gilearn.defenses.gradients.perturbation import (
    BatchClipping,
    ExampleClipping,
    FakeGradients,
    GaussianNoise,
    LaplaceNoise,
)

__all__ = [
    "BatchClipping",
    "Decay",
    "ExampleClipping",
    "FakeGradients",
    "FedCDP",
    "FedSDP",
    "GaussianNoise",
    "LaplaceNoise",
    "Mask",
    "Pruning",
]
