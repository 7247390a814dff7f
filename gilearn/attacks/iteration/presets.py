"""Published attacks as values of ``GradientMatching``: rows of the survey's Table 1.

Where ours differs from the survey's cell, from the paper or from the released code, it says so here.
"""

from __future__ import annotations

import torch

from gilearn.attacks import labels
from gilearn.attacks.iteration.distances import Euclidean
from gilearn.attacks.iteration.initialization import Gaussian
from gilearn.attacks.iteration.matching import GradientMatching, Joint
from gilearn.attacks.iteration.optimizers import LBFGS

DLG = GradientMatching(
    initialization=Gaussian(),
    labels=Joint(),
    distance=Euclidean(),
    optimizer=LBFGS(),
    iterations=300,
    starts=3,
    tolerance=1e-12,
    patience=3,
    dtype=torch.float64,
)
"""Deep Leakage from Gradients (Zhu et al., 2019): inputs and labels together, by L-BFGS.

Survey: Gaussian, l2 distance, L-BFGS. The released code: L-BFGS with learning rate 1, 20 steps per iteration, history
100, 300 iterations, one start, float32, no line search. Ours adds a strong-Wolfe line search, float64, a tolerance and
up to three starts. ``dataclasses.replace(DLG, optimizer=LBFGS(line_search=False), starts=1, dtype=None)`` is the
released one.

Chapter: deep-leakage. Source: zhu2019.
"""

iDLG = GradientMatching(
    initialization=Gaussian(),
    labels=labels.IDLG(),
    distance=Euclidean(),
    optimizer=LBFGS(),
    iterations=300,
    starts=3,
    tolerance=1e-12,
    patience=3,
    dtype=torch.float64,
)
"""Improved DLG (Zhao et al., 2020): the label of a single example first, then the input by L-BFGS.

Survey: Uniform, l2 distance, L-BFGS. The released code draws a Gaussian, as ours does, and stops at a loss below 1e-6.
Ours adds what it adds to DLG, and takes the paper's inner-product rule for the label, which no sign of the features can
upset.

Chapter: labels-single. Source: zhao2020.
"""
