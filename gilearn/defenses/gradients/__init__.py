"""Defenses that change what is shared (survey, section 3.3): perturbation and compression."""

from gilearn.defenses.gradients.compression import Mask, Pruning
from gilearn.defenses.gradients.perturbation import (
    BatchClipping,
    ExampleClipping,
    FakeGradients,
    GaussianNoise,
    LaplaceNoise,
)
from gilearn.defenses.gradients.soteria import Soteria

__all__ = [
    "BatchClipping",
    "ExampleClipping",
    "FakeGradients",
    "GaussianNoise",
    "LaplaceNoise",
    "Mask",
    "Pruning",
    "Soteria",
]
