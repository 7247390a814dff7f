"""Published attacks as values of ``GradientMatching``: rows of the survey's Table 1.

Where ours differs from the survey's cell, from the paper or from the released code, it says so here.
"""

from __future__ import annotations

import torch

from gilearn.attacks import labels
from gilearn.attacks.iteration.bayesian import BayesOptimal, DeclaredNoise
from gilearn.attacks.iteration.distances import Cosine, Euclidean, GaussianKernel
from gilearn.attacks.iteration.initialization import Constant, Gaussian, Tiled
from gilearn.attacks.iteration.matching import GradientMatching
from gilearn.attacks.iteration.optimizers import LBFGS, Adam, AdamW, StepDecay, WarmupCosine
from gilearn.attacks.iteration.regularizers import (
    L2,
    BatchNormStatistics,
    GroupConsistency,
    LabelConsistency,
    TotalVariation,
)
from gilearn.attacks.iteration.spaces import Pixels
from gilearn.attacks.labels import Joint

DLG = GradientMatching(
    initialization=Gaussian(),
    labels=Joint(),
    distance=Euclidean(),
    optimizer=LBFGS(),
    iterations=300,
    restarts=3,
    tolerance=1e-12,
    dtype=torch.float64,
)
"""Deep Leakage from Gradients (Zhu et al., 2019): inputs and labels together, by L-BFGS.

Survey: Gaussian, l2 distance, L-BFGS. The released code: L-BFGS with learning rate 1, 20 steps per iteration, history
100, 300 iterations, one start, float32, no line search. Ours adds a strong-Wolfe line search, float64, a tolerance and
up to three starts, of which one that explains the gradient is the last.
``DLG.replace(optimizer=LBFGS(line_search_fn=None), restarts=1, dtype=None)`` is the released one.

Chapter: deep-leakage. Source: zhu2019.
"""

iDLG = DLG.replace(labels=labels.IDLG())
"""Improved DLG (Zhao et al., 2020): the label of a single example first, then the input by L-BFGS.

Survey: Uniform, l2 distance, L-BFGS. The released code draws a Gaussian, as ours does, and stops at a loss below 1e-6.
Ours adds what it adds to DLG, and takes the paper's inner-product rule for the label, which no sign of the features can
upset.

Chapter: labels-single. Source: zhao2020.
"""

CPL = iDLG.replace(initialization=Tiled(parts=2), regularizers=(LabelConsistency(weight=1.0),))
"""The client privacy leakage framework (Wei et al., 2020): a patterned start and a term for the label.

Survey: Geometric, 128x128, batch 8, l2 distance, L-BFGS, R_y. The released code starts from one random tile, repeated
two by two, takes the label by the row-sum shortcut, and compares the prediction with the model's output for the
*private* picture; its 128-pixel notebook uses AdamW, and its "batch" attacks every example's own gradient. Ours
compares with the extracted label, and adds what it adds to DLG.

Chapter: initialization. Source: wei2020cpl.
"""

InvGrad = GradientMatching(
    initialization=Gaussian(),
    labels=labels.Declared(),
    distance=Cosine(),
    regularizers=(TotalVariation(weight=1e-2),),
    optimizer=Adam(lr=0.1, schedule=StepDecay()),
    iterations=4800,
    space=Pixels(bounds=(0.0, 1.0)),
)
"""Inverting Gradients (Geiping et al., 2020): cosine distance, total variation, Adam, inputs kept in their box.

Survey: Gaussian, 224x224, ResNet, batch 8 (100), cosine, Adam, TV. The labels are assumed known. The released code's
defaults: learning rate 0.1 that falls at 3/8, 5/8 and 7/8 of 4,800 iterations, TV weight 0.1, one start, derivatives
not signed; its command line signs them, with TV 1e-4 and 24,000 iterations for large pictures. Ours takes the defaults
with TV 1e-2, which is better on the untrained networks of this book; 300 iterations often do.

Chapter: regularizers. Source: geiping2020.
"""

GradAttack = InvGrad.replace(labels=labels.RowMinimum(strict=False))
"""GradAttack's realistic attacker (Huang et al., 2021): InvGrad that is told neither labels nor batch-norm statistics.

Survey: Gaussian, 224x224, ResNet, batch 128, cosine, Adam, no batch-norm statistics, no labels. What the paper relaxes
are two things that earlier evaluations gave their attacks; the released code then extracts the labels, as ours does,
and keeps a term, of small weight, for statistics that are not the private batch's: add
``BatchNormStatistics(weight=..., source="running")`` for it, with ``"declared"`` for the strong attacker. Its settings:
signed derivatives, 10,000 iterations, TV 0.05; ours are InvGrad's.

Chapter: honest-evaluation. Source: huang2021.
"""

SAPAG = GradientMatching(
    initialization=Constant(value=0.5),
    labels=labels.Declared(),
    distance=GaussianKernel(width=1.0),
    optimizer=AdamW(lr=0.05),
    iterations=400,
)
"""Self-adaptive privacy attack (Wang et al., 2020): a Gaussian kernel per tensor, from a constant start, with AdamW.

Survey: constant, 224x224, ResNet, batch 8, Gaussian kernel, AdamW. There is no public code, and the abstract leaves the
kernel's width, the tensors' weights and the learning rate open: width, rate and iterations here are ours.

Chapter: distances. Source: wang2020.
"""

GradInversion = GradientMatching(
    initialization=Gaussian(),
    labels=labels.RowMinimum(),
    distance=Euclidean(squared=False),
    regularizers=(
        TotalVariation(weight=1e-4 / 1e-3),
        L2(weight=1e-6 / 1e-3),
        BatchNormStatistics(weight=0.1 / 1e-3),
        GroupConsistency(weight=0.01 / 1e-3, register=True),
    ),
    optimizer=Adam(lr=0.1, schedule=WarmupCosine(warmup=50), noise=0.2),
    iterations=20_000,
    restarts=8,
    parallel=8,
)
"""See through Gradients (Yin et al., 2021): labels first, then gradient, fidelity and group consistency.

Survey: Gaussian, 224x224, ResNet, batch 48, l2 distance, Adam, fidelity and group. The paper weighs the gradient's
term by 1e-3, TV by 1e-4, the norm by 1e-6, the batch-norm statistics by 0.1 and the group by 0.01; all of them are
divided by the gradient's weight here. Eight starts; Adam with learning rate 0.1, 50 iterations of warm-up and a cosine
over 20,000; Langevin noise of 0.2 times the learning rate. There is no public code; re-implementations disagree on
every constant. Ours registers by whole pixels where the paper uses RANSAC-flow, and takes the running statistics.

Chapter: regularizers. Source: yin2021.
"""

Bayesian = BayesOptimal(
    likelihood=DeclaredNoise(),
    prior=(TotalVariation(weight=100.0),),
    search=GradientMatching(
        initialization=Gaussian(),
        labels=labels.Declared(),
        optimizer=Adam(lr=0.1, schedule=StepDecay()),
        iterations=400,
        space=Pixels(bounds=(0.0, 1.0)),
    ),
)
"""The Bayesian framework (Balunovic et al., 2022): the likelihood of the declared noise, and total variation as prior.

Survey: Gaussian, 32x32, ConvNet, batch 1 (32), cosine, Adam, known p(g|x). The cosine is one of the baselines; the
attack's own term is log p(g|x). The released code: Adam with learning rate 0.5 that decays by 0.94, about 200 steps,
total variation with a weight that changes on the way; several starts, of which the last is returned. Ours has InvGrad's
Adam, one weight, which has to be tuned to the pictures, and an exact simulation of masks and clipping.

Chapter: bayesian. Source: balunovic2022.
"""
