"""Tables 1 and 2 of the survey (Zhang et al., IJCAI 2022) as data: every row names its implementation, chapter and
divergences.

Table 1 is the survey's. Of Table 2 only the caption survives in the text that we work from: its rows are the defenses
that the survey's section 3 discusses, its columns are ours.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """A row of Table 1; the cells are the survey's, shortened as there.

    Args:
        name: The survey's name of the attack.
        citation: Key in the book's bibliography.
        paradigm: ``"iteration"`` (section 2.1) or ``"recursion"`` (section 2.2).
        distribution: Of the initial inputs.
        extracts_labels: The survey's mark L: the labels can be extracted directly.
        resolution: Of the pictures, in pixels.
        network: The victim.
        compares_states: The survey's mark T: results are compared between training states.
        batch_size: The largest; in brackets where attempted.
        loss: The distance between gradients; of a recursion, its method.
        optimizer: Empty for a recursion.
        additional: What else the attack uses.
        chapter: Where the book derives it.
        implementation: Dotted name in this package; ``None`` while there is none.
        divergences: Where released code differs from the survey's cells or from the paper, a sentence each.
    """

    name: str
    citation: str
    paradigm: Literal["iteration", "recursion"]
    distribution: str
    resolution: str
    network: str
    batch_size: str
    loss: str
    additional: str
    chapter: str
    optimizer: str = ""
    extracts_labels: bool = False
    compares_states: bool = False
    implementation: str | None = None
    divergences: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DefenseRow:
    """A row of Table 2, reconstructed from the survey's section 3.

    Args:
        perspective: Where the defense acts: ``"data"`` (3.1), ``"model"`` (3.2) or ``"gradients"`` (3.3).
        strategy: The kind of defense.
        name: The defense.
        citation: Key in the book's bibliography.
        idea: What it does, in a line.
        chapter: Where the book treats it.
        implementation: Dotted name in this package; ``None`` while there is none.
        divergences: Where the survey's account needs a correction, a sentence each.
    """

    perspective: Literal["data", "model", "gradients"]
    strategy: str
    name: str
    citation: str
    idea: str
    chapter: str
    implementation: str | None = None
    divergences: tuple[str, ...] = ()


def table_1() -> pd.DataFrame:
    """Return Table 1 as a data frame, one row per attack, in the survey's order. Chapter: table-1."""
    return _frame(TABLE_1)


def table_2() -> pd.DataFrame:
    """Return Table 2, reconstructed, as a data frame, one row per defense. Chapter: table-2."""
    return _frame(TABLE_2)


def find(name: str) -> AttackRow | DefenseRow:
    """Return the row of that name, in either table.

    Raises:
        ValueError: There is no such row.
    """
    rows: tuple[AttackRow | DefenseRow, ...] = (*TABLE_1, *TABLE_2)
    for row in rows:
        if row.name == name:
            return row
    raise ValueError(f"name: got {name!r}, wanted one of {', '.join(row.name for row in rows)}")


def implementation(row: AttackRow | DefenseRow) -> Any:
    """Return the object in this package that runs the row.

    Raises:
        NotImplementedError: The row has none yet.
    """
    if row.implementation is None:
        raise NotImplementedError(f"{row.name} is not implemented yet; its chapter will be {row.chapter}")
    module, _, attribute = row.implementation.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _frame(rows: tuple[AttackRow, ...] | tuple[DefenseRow, ...]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows]).set_index("name")


def _attack(
    paradigm: Literal["iteration", "recursion"], name: str, citation: str, *cells: str, chapter: str, **more: Any
) -> AttackRow:
    """Make a row from its cells in the survey's order, with the survey's marks L and T behind them."""
    distribution, resolution, network, batch_size, loss, optimizer, additional = cells
    return AttackRow(
        name=name,
        citation=citation,
        paradigm=paradigm,
        distribution=distribution.removesuffix(" L"),
        extracts_labels=distribution.endswith(" L"),
        resolution=resolution,
        network=network.removesuffix(" T"),
        compares_states=network.endswith(" T"),
        batch_size=batch_size,
        loss=loss,
        optimizer=optimizer,
        additional=additional,
        chapter=chapter,
        **more,
    )


# fmt: off
TABLE_1: tuple[AttackRow, ...] = (
    _attack(
        "iteration", "DLG", "zhu2019",
        "Gaussian", "64x64", "LeNet", "8", "l2 distance", "L-BFGS", "-",
        chapter="foundations/deep-leakage", implementation="gilearn.attacks.DLG",
        divergences=(
            "The released code attacks one 32x32 picture; its batch and text experiments are not released.",
            "Ours adds a strong-Wolfe line search, float64 and up to three starts; without them some seeds diverge.",
        ),
    ),
    _attack(
        "iteration", "iDLG", "zhao2020",
        "Uniform L", "32x32", "LeNet", "1", "l2 distance", "L-BFGS", "-",
        chapter="iteration/labels-single", implementation="gilearn.attacks.iDLG",
        divergences=(
            "The released code draws Gaussian inputs; what it draws uniformly are the weights. Ours is Gaussian too.",
            "The released code takes the smallest row sum, which wants features of one sign; ours is the paper's rule.",
        ),
    ),
    _attack(
        "iteration", "CPL", "wei2020cpl",
        "Geometric", "128x128", "LeNet", "8", "l2 distance", "L-BFGS", "Ry regularizer",
        chapter="iteration/initialization", implementation="gilearn.attacks.CPL",
        divergences=(
            "The released 128-pixel notebook uses AdamW and a wider network.",
            "Its Ry compares with the network's output on the true picture, which no server has.",
        ),
    ),
    _attack(
        "iteration", "InvGrad", "geiping2020",
        "Gaussian L", "224x224", "ResNet T", "8 (100)", "cosine", "Adam", "TV regularizer",
        chapter="iteration/distances", implementation="gilearn.attacks.InvGrad",
        divergences=(
            "In batch mode the released command line forces all labels to differ, and takes them as given.",
            "The released code has three defaults of the TV weight, 0.1 and 1e-4 among them; ours is 1e-2.",
            "Batch size 100 is an attempt: a few of its pictures are recognizable.",
        ),
    ),
    _attack(
        "iteration", "SAPAG", "wang2020",
        "Constant", "224x224", "ResNet T", "8", "Gaussian kernel", "AdamW", "Gaussian kernel",
        chapter="iteration/distances", implementation="gilearn.attacks.SAPAG",
        divergences=(
            "No code was released. The kernel's closed form is our reading; its width and the rate are ours.",
        ),
    ),
    _attack(
        "iteration", "GradInversion", "yin2021",
        "Gaussian L", "224x224", "ResNet T", "48", "l2 distance", "Adam", "fidelity and group regularizers",
        chapter="iteration/regularizers", implementation="gilearn.attacks.GradInversion",
        divergences=(
            "No official code was released. Ours registers the group by whole pixels where the paper uses RANSAC-flow.",
        ),
    ),
    _attack(
        "iteration", "GradDisagg", "lam2021",
        "Gaussian", "32x32", "MLP", "32 (128)", "l2 distance", "L-BFGS", "participant information",
        chapter="iteration/disaggregation",
        divergences=("The released code disaggregates only; it has no inversion.",),
    ),
    _attack(
        "iteration", "GradAttack", "huang2021",
        "Gaussian L", "224x224", "ResNet T", "128", "cosine", "Adam", "no batch-norm statistics, no labels",
        chapter="iteration/honest-evaluation",
        divergences=("Batch size 128 is an attempt; the released examples are CIFAR-10 with batch size 16.",),
    ),
    _attack(
        "iteration", "Bayesian", "balunovic2022",
        "Gaussian", "32x32", "ConvNet T", "1 (32)", "cosine", "Adam", "known p(g|x)",
        chapter="iteration/bayesian",
        divergences=(
            "The attack's matching term is log p(g|x); cosine is one of the baselines that it is compared with.",
        ),
    ),
    _attack(
        "iteration", "CAFE", "jin2021",
        "Uniform", "32x32", "Loop-Net", "100", "l2 distance", "SGD", "vertical federated learning",
        chapter="iteration/vertical",
        divergences=(
            "In the released code only the first of three steps uses SGD; data and labels move by a hand-written Adam.",
        ),
    ),
    _attack(
        "iteration", "GIAS", "jeon2021",
        "Latent", "64x64", "ResNet T", "4", "cosine", "Adam", "GAN-based",
        chapter="iteration/generative-priors",
        divergences=("The released code takes the batch's true batch-norm statistics and labels as given.",),
    ),
    _attack(
        "recursion", "PPDL-AHE", "phong2018",
        "N/A", "20x20", "MLP", "1", "gradient division", "", "-",
        chapter="foundations/perceptron", implementation="gilearn.attacks.PPDL_AHE",
        divergences=(
            "No code was released. Ours combines all neurons by least squares, which suffers least from noise.",
        ),
    ),
    _attack(
        "recursion", "PPDL-SPN", "fan2020",
        "N/A", "32x32", "ConvNet", "8", "linear solving", "", "noise analysis",
        chapter="recursion/convolution", implementation="gilearn.attacks.PPDL_SPN",
        divergences=(
            "No code was released.",
            "Batch size 8 here, while section 2.2 says that recursion cannot deal with mini-batches.",
        ),
    ),
    _attack(
        "recursion", "R-GAP", "zhu2021",
        "N/A", "32x32", "ConvNet", "1", "inverse matrix", "", "rank analysis",
        chapter="recursion/r-gap", implementation="gilearn.attacks.RGAP",
        divergences=(
            "The released demonstration sets the label against the prediction: its scalar equation then has one root.",
        ),
    ),
    _attack(
        "recursion", "COPA", "chen2021",
        "N/A", "32x32", "ConvNet", "1", "least squares", "", "pull-back constraints",
        chapter="recursion/copa", implementation="gilearn.attacks.COPA",
        divergences=("The paper's own script was not released; a follow-up's code was.",),
    ),
)
# fmt: on
"""The survey's Table 1, all fifteen rows."""


_NO_GUARANTEE = "The survey's introduction cites it as differential privacy; it perturbs one layer and guarantees none."
_AUDIT = "The survey's introduction cites it as differential privacy; it audits differential privacy from below."
_NO_PRUNING = "Section 3.3 describes it as pruning of small values; it sends low-rank factors."


def _row(
    perspective: Any, strategy: str, name: str, citation: str, chapter: str, idea: str, *divergences: str
) -> DefenseRow:
    return DefenseRow(
        perspective=perspective,
        strategy=strategy,
        name=name,
        citation=citation,
        idea=idea,
        chapter=f"defenses/{chapter}",
        divergences=divergences,
    )


TABLE_2: tuple[DefenseRow, ...] = (
    _row("data", "mixing", "MixUp", "zhang2018", "mixup", "train on convex combinations of pairs, labels included"),
    _row(
        "data",
        "mixing",
        "InstaHide",
        "huang2020",
        "instahide",
        "mix private and public images, flip signs by a one-time key",
    ),
    _row(
        "data", "mixing", "Mixup inference", "pang2020", "mixup", "mix the input with clean samples at prediction time"
    ),
    _row("data", "pixelization", "DP-Pix", "fan2018", "pixelization", "average over cells, add Laplace noise"),
    _row("data", "pixelization", "DP-Blur", "fan2019", "pixelization", "pixelize with noise, then blur"),
    _row("model", "network", "Depth and batches", "zhang2022", "network-size", "more unknowns for every equation"),
    _row("model", "training", "Local iterations", "wei2020cpl", "local-steps", "share after several local steps"),
    _row("model", "network", "Dropout", "zheng2021", "dropout", "a dropout layer between encoder and classifier"),
    _row(
        "model", "network", "Rank analysis", "zhu2021", "network-size", "choose layers whose systems are rank deficient"
    ),
    _row("model", "network", "Fewer parameters", "geiping2020", "network-size", "fewer parameters than input values"),
    _row(
        "gradients",
        "aggregation",
        "Secure aggregation",
        "bonawitz2017",
        "secure-aggregation",
        "masks that cancel in the sum",
    ),
    _row(
        "gradients",
        "aggregation",
        "MPC aggregation",
        "lia2020",
        "secure-aggregation",
        "additive secret shares of updates",
    ),
    _row("gradients", "aggregation", "SAFELearn", "fereidooni2021", "secure-aggregation", "private sums in two rounds"),
    _row(
        "gradients",
        "aggregation",
        "PPDL-AHE encryption",
        "phong2018",
        "homomorphic-encryption",
        "add encrypted updates",
    ),
    _row(
        "gradients", "aggregation", "Encrypted factorization", "kim2018", "homomorphic-encryption", "add under full HE"
    ),
    _row(
        "gradients",
        "aggregation",
        "BatchCrypt",
        "zhang2020",
        "homomorphic-encryption",
        "quantize and pack, then encrypt",
    ),
    _row("gradients", "perturbation", "LDP-Fed", "truex2020", "differential-privacy", "local differential privacy"),
    _row(
        "gradients",
        "perturbation",
        "NbAFL",
        "wei2020nbafl",
        "differential-privacy",
        "Gaussian noise before aggregation",
    ),
    _row(
        "gradients", "perturbation", "H-FL", "yang2021", "differential-privacy", "mediators, noise on part of the model"
    ),
    _row(
        "gradients",
        "theory",
        "Iterative privacy bounds",
        "he2021",
        "differential-privacy",
        "how iterations spend privacy",
    ),
    _row(
        "gradients",
        "audit",
        "Adversary instantiation",
        "nasr2021",
        "auditing-privacy",
        "lower bounds by attacking",
        _AUDIT,
    ),
    _row(
        "gradients",
        "perturbation",
        "Soteria",
        "sun2021",
        "soteria",
        "perturb the representation layer alone",
        _NO_GUARANTEE,
    ),
    _row(
        "gradients",
        "perturbation",
        "Fed-CDP",
        "wei2021",
        "dynamic-noise",
        "clip and add noise per example, less over time",
    ),
    _row("gradients", "compression", "Gradient pruning", "zhu2019", "compression", "send the largest entries only"),
    _row("gradients", "compression", "PowerSGD", "vogels2019", "compression", "send low-rank factors", _NO_PRUNING),
    _row("gradients", "compression", "EF-signSGD", "karimireddy2019", "compression", "send signs, remember the error"),
)
"""The survey's Table 2: the defenses of its section 3. Columns and wording are ours."""
