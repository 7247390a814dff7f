"""A layer as a linear map with a cheap transpose: products, least squares, measured ranks.

It imports nothing else of the package, so that attacks, defenses and analyses can all stand on it.
"""

from gilearn.linear.algebra import (
    GRAM_TOLERANCE,
    RANK_TOLERANCE,
    LinearMap,
    LsmrResult,
    divide,
    float64,
    float64_device,
    gram_rank,
    least_squares,
    outer_residual,
    rank_and_condition,
)
from gilearn.linear.convolution import EXACT_RANK_UP_TO, ConvSystem, Solution, Trust, solve

__all__ = [
    "EXACT_RANK_UP_TO",
    "GRAM_TOLERANCE",
    "RANK_TOLERANCE",
    "ConvSystem",
    "LinearMap",
    "LsmrResult",
    "Solution",
    "Trust",
    "divide",
    "float64",
    "float64_device",
    "gram_rank",
    "least_squares",
    "outer_residual",
    "rank_and_condition",
    "solve",
]
