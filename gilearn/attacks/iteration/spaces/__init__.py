"""What is searched: a space says how variables begin, which inputs they stand for, and where they may be.

A space turns a start's variables, tensors by name, into arguments of ``Observation.simulate``: inputs, targets or
dropout masks. The labels' part of a search (``attacks.labels``: fixed or free logits) is a factor of the same kind, and
``a & b`` searches two spaces together.
"""

from gilearn.attacks.iteration.spaces.base import Factor, Product, Space
from gilearn.attacks.iteration.spaces.decoders import Latent, Weights
from gilearn.attacks.iteration.spaces.masks import Masks
from gilearn.attacks.iteration.spaces.pixels import Coarse, Pixels
from gilearn.attacks.iteration.spaces.tokens import Embeddings, SoftTokens

__all__ = [
    "Coarse",
    "Embeddings",
    "Factor",
    "Latent",
    "Masks",
    "Pixels",
    "Product",
    "SoftTokens",
    "Space",
    "Weights",
]
