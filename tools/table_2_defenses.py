"""The rows of the survey's Table 2 as the grid attacks them and as trainings pay for them: one strength each.

A row is a defense of the client, an aggregation, a choice of network, batch or local steps, or what happens where a
model is used. ``Iterative privacy bounds`` and ``Adversary instantiation`` are no mechanisms: they say something about
training with differential privacy, and DP-SGD stands for it, at two strengths.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from gilearn import defenses
from gilearn.defenses.aggregation import CKKS, AdditiveSharing, BatchCrypt, Paillier, SAFELearn, SecureAggregation
from gilearn.defenses.aggregation.tally import Tally
from gilearn.defenses.aggregation.vectors import Layers, split
from gilearn.federated import Aggregation, Defense
from tools.record_homomorphic import InTheOpen

AGGREGATED = (
    "Secure aggregation", "MPC aggregation", "SAFELearn", "PPDL-AHE encryption", "Encrypted factorization",
    "BatchCrypt",
)  # fmt: skip
"""The rows that protect the sum over clients."""

STRENGTHS = {
    "MixUp": "four pictures an encoding, no coefficient above .65",
    "InstaHide": "four pictures, signs flipped about .5",
    "Mixup inference": "30 samples, at prediction alone",
    "DP-Pix": "epsilon 2, cells of 2 (digits) or 4 pixels",
    "DP-Blur": "as DP-Pix, blurred by half a cell",
    "Depth and batches": "batches of four (training: five times as large, a fifth of the steps)",
    "Local iterations": "ten steps",
    "Dropout": "half of the features",
    "Rank analysis": "a narrower network, of deficient rank",
    "Fewer parameters": "a network with fewer parameters than input values",
    "Secure aggregation": "sums over four clients",
    "MPC aggregation": "sums over four clients, two servers",
    "SAFELearn": "sums over four clients, two servers",
    "PPDL-AHE encryption": "Paillier, sums over four clients",
    "Encrypted factorization": "CKKS, sums over four clients",
    "BatchCrypt": "8 bits, sums over four clients",
    "LDP-Fed": "alpha 312,500 over 30 uploads, entries to .1",
    "NbAFL": "classical constant, epsilon 60 over 30 rounds, weights to 20",
    "H-FL": "DP-SGD on all layers but the last: norm 1, noise 1",
    "Iterative privacy bounds": "DP-SGD: norm 1, noise 3",
    "Adversary instantiation": "DP-SGD: norm 1, noise 1",
    "Soteria": "half of the active features",
    "Fed-CDP": "every layer: norm 1, noise 1",
    "Gradient pruning": "98 % of each tensor",
    "PowerSGD": "rank 1, error fed back",
    "EF-signSGD": "signs and a magnitude, error fed back",
}
"""What each row does, as it runs here."""


def partial_noise(model: nn.Module) -> Defense:
    """H-FL's noise: on all layers but the last, whose gradients are shared bare."""
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    names = tuple(name for name, _ in model.named_parameters() if name.rpartition(".")[0] not in last)
    return defenses.PartialNoise(noise_multiplier=1.0, clip=1.0, parameters=names, rest="shared")


def defense(row: str, cell: int) -> Any:
    """Return what a client does: a defense, a function of the network that returns one, or ``None``.

    Args:
        row: A name of Table 2.
        cell: Side of a cell of pixelization.

    Raises:
        ValueError: There is no such row.
    """
    _check(row)
    release = {"cell": cell, "m": cell**2, "epsilon": 2.0}
    found: dict[str, Any] = {
        "MixUp": defenses.MixUp(concentrations=(3.0, 1.0, 1.0, 1.0), cap=0.65),
        "InstaHide": defenses.InstaHide(entropy="client"),
        "DP-Pix": defenses.DPPix(**release),
        "DP-Blur": defenses.DPBlur(**release, sigma=cell / 2),
        "Dropout": defenses.Dropout(p=0.5),
        "LDP-Fed": defenses.LDPFed(alpha=1e7 / 32, clip=0.1, uploads=30),
        "NbAFL": defenses.NbAFL(epsilon=60.0, clip=20.0, smallest=300, clients=4, rounds=30, exposures=30),
        "H-FL": functools.partial(partial_noise),
        "Iterative privacy bounds": defenses.DPSGD(noise_multiplier=3.0, clip=1.0),
        "Adversary instantiation": defenses.DPSGD(noise_multiplier=1.0, clip=1.0),
        "Soteria": defenses.Soteria(share=0.5),
        "Fed-CDP": defenses.FedCDP(clip=1.0, noise_multiplier=1.0),
        "Gradient pruning": defenses.Pruning(share=0.98),
        "PowerSGD": defenses.PowerSGD(rank=1),
        "EF-signSGD": defenses.Signs(feedback=True),
    }
    return found.get(row)


@dataclass(frozen=True, kw_only=True)
class Opened(Paillier):
    """Paillier's aggregation without the cipher: the same whole numbers, added."""

    def total(self, vectors: Mapping[int, Layers], weights: Mapping[int, int], tally: Tally) -> Layers:
        codec = self.codec(sum(weights.values()))
        sums: Any = 0
        for k, own in vectors.items():
            scaled = np.rint(np.ldexp(np.concatenate(own), self.fraction_bits))
            if not np.isfinite(scaled).all() or np.abs(scaled).max() > codec.packing.largest:
                raise ValueError(
                    "shared: got an entry that is not finite or too large, wanted numbers within the field"
                )
            sums = sums + weights[k] * scaled.astype(np.int64)
        return split(sums * codec.step, [len(layer) for layer in own])


def opened(row: str) -> Aggregation | None:
    """Return what :func:`aggregation` does, Paillier and BatchCrypt without ciphers: sums alike to the last bit."""
    without: dict[str, Aggregation] = {"PPDL-AHE encryption": Opened(), "BatchCrypt": InTheOpen(bits=8)}
    return without.get(row) or aggregation(row)


def aggregation(row: str) -> Aggregation | None:
    """Return what protects the sum; ``None`` for rows that protect no sum, or an error for no row."""
    _check(row)
    found: dict[str, Aggregation] = {
        "Secure aggregation": SecureAggregation(),
        "MPC aggregation": AdditiveSharing(),
        "SAFELearn": SAFELearn(),
        "PPDL-AHE encryption": Paillier(),
        "Encrypted factorization": CKKS(),
        "BatchCrypt": BatchCrypt(bits=8),
    }
    return found.get(row)


def _check(row: str) -> None:
    """Refuse what is neither a row nor a training without defense: it would run unprotected under its name."""
    if row not in STRENGTHS and not row.startswith("none"):
        raise ValueError(f"row: got {row!r}, wanted 'none' or one of {', '.join(STRENGTHS)}")
