"""Defenses that change what is shared (survey, section 3.3): perturbation and compression."""

from gilearn.defenses.gradients.compression import Mask, Pruning, Quantization
from gilearn.defenses.gradients.feedback import Compression, per_entry
from gilearn.defenses.gradients.low_rank import PowerSGD, Projection
from gilearn.defenses.gradients.perturbation import (
    BatchClipping,
    ExampleClipping,
    FakeGradients,
    GaussianNoise,
    LaplaceNoise,
)
from gilearn.defenses.gradients.signs import Signs

__all__ = [
    "BatchClipping",
    "Compression",
    "ExampleClipping",
    "FakeGradients",
    "GaussianNoise",
    "LaplaceNoise",
    "Mask",
    "PowerSGD",
    "Projection",
    "Pruning",
    "Quantization",
    "Signs",
    "per_entry",
]
