"""The plain functions behind the book's live playgrounds: a few choices in, a figure out.

Every one takes a picture by name, or one of your own: the path of a file, or its bytes. It is cut to its central square
and resized to what the victim takes.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gilearn import attacks, data, defenses, federated, models, plotting
from gilearn.attacks import labels
from gilearn.attacks.iteration import distances, optimizers, regularizers
from gilearn.federated.batch_norm import batch_norms
from gilearn.federated.checks import check_name

PICTURES = ("face", "digit", *data.PHOTOS)
"""What :func:`deep_leakage` can attack by name."""

DISTANCES: Mapping[str, distances.Distance] = MappingProxyType(
    {"cosine": distances.Cosine(), "squared": distances.Euclidean(), "absolute": distances.Manhattan()}
)
"""What :func:`iteration` compares gradients by."""

Picture = str | os.PathLike[str] | bytes


def deep_leakage(picture: Picture = "face", seed: int = 0, iterations: int = 20, *, progress: bool = False) -> Figure:
    """Run DLG against a sigmoid LeNet on one picture and draw what leaks.

    Args:
        picture: One of :data:`PICTURES`, or your own. Photographs have 32 pixels a side, the face 25, the digit 8.
        seed: Seeds the attack.
        iterations: Steps of L-BFGS, each of up to 20 evaluations; 20 are enough for the face and the digit.
        progress: Show a progress bar.

    Returns:
        Original, reconstruction, difference.

    Raises:
        ValueError: The picture is unknown or not readable, or ``iterations`` not positive.

    Chapter: deep-leakage.
    """
    if picture == "digit":
        x, y = data.digits(1)
        model = models.lenet(1, size=8, strides=(1, 1, 1))
    elif picture == "face":
        x, y = data.faces(92)
        x, y, model = x[91:], y[91:], models.lenet(1, size=25)
    else:
        x, y = _photo(picture, PICTURES)
        model = models.lenet(3)
    attack = attacks.DLG.replace(iterations=iterations, restarts=1)
    return _leak(x, attack(federated.observe(model, x, y), seed=seed, progress=progress).inputs)


def recursion(picture: Picture = "astronaut", filters: int = 12, noise: float = 0.0, seed: int = 0) -> Figure:
    """Run R-GAP against its CNN6 on one picture of 16 pixels and draw what leaks.

    Args:
        picture: A name in ``data.PHOTOS``, or your own.
        filters: Of the first convolution, at least 1; with fewer than 10 it puts out fewer values than the picture has.
        noise: Standard deviation of the noise on the gradient, as a part of every tensor's root mean square.
        seed: Seeds the network and the noise.

    Returns:
        Original, reconstruction, difference.

    Raises:
        ValueError: The picture is unknown or not readable, or a number is out of range.

    Chapter: r-gap.
    """
    x, _ = _photo(picture, data.PHOTOS, size=16)
    model = models.cnn6(size=16, widths=(filters, 36, 36, 36, 64, 128), seed=seed)
    label = (model(x)[:, 0] < 0).long()  # the label that the network gets wrong has the larger gradient
    seen = _noisy(federated.observe(model.double(), x.double(), label, loss="logistic"), noise, seed)
    attack = attacks.Recursion(exact_rank_up_to=0, iterations=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.RecursionWarning)  # what it warns of is to be seen
        found = attack(seen).inputs
    return _leak(x, found)


def iteration(
    picture: Picture = "astronaut",
    distance: str = "cosine",
    iterations: int = 100,
    noise: float = 0.0,
    seed: int = 0,
    *,
    progress: bool = False,
) -> Figure:
    """Run InvGrad against a ConvNet on one picture of 32 pixels and draw what leaks.

    Args:
        picture: A name in ``data.PHOTOS``, or your own.
        distance: A key of :data:`DISTANCES`.
        iterations: Steps of Adam.
        noise: Standard deviation of the noise on the gradient, as a part of every tensor's root mean square.
        seed: Seeds the network, the noise and the attack.
        progress: Show a progress bar.

    Returns:
        Original, reconstruction, difference.

    Raises:
        ValueError: The picture is unknown or not readable, the distance unknown, or a number is out of range.

    Chapter: anatomy.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance: got {distance!r}, wanted one of {', '.join(DISTANCES)}")
    x, y = _photo(picture, data.PHOTOS)
    seen = _noisy(federated.observe(models.convnet(seed=seed), x, y, declare=["labels"]), noise, seed)
    attack = attacks.InvGrad.replace(distance=DISTANCES[distance], iterations=iterations)
    return _leak(x, attack(seen, seed=seed, progress=progress).inputs)


def assumptions(
    picture: Picture = "astronaut",
    statistics: str = "exact",
    mode: str = "training",
    iterations: int = 100,
    seed: int = 0,
    *,
    progress: bool = False,
) -> Figure:
    """Run InvGrad without its prior through calibrated batch normalizations, and draw what leaks.

    Args:
        picture: A name in ``data.PHOTOS``, or your own; 16 pixels a side. Its label is declared.
        statistics: ``"exact"``, those of the private picture, declared; ``"running"``, the model's; or ``"none"``.
        mode: That of the client: ``"training"`` or ``"inference"``.
        iterations: Steps of Adam.
        seed: Seeds the network and the attack.
        progress: Show a progress bar.

    Returns:
        Original, reconstruction, difference.

    Raises:
        ValueError: The picture is unknown or not readable, or a choice unknown.

    Chapter: honest-evaluation.
    """
    terms = {
        "exact": (regularizers.BatchNormStatistics(weight=0.1, source="declared"),),
        "running": (regularizers.BatchNormStatistics(weight=0.01),),
        "none": (),
    }
    check_name("statistics", statistics, terms)
    check_name("mode", mode, ("training", "inference"))
    x, y = _photo(picture, data.PHOTOS, size=16)
    model = models.convnet(size=16, strides=(1, 2, 1), batch_norm=True, seed=seed).train()
    for layer in batch_norms(model):
        layer.momentum = None  # the plain average
    windows = data.photos(24)[0].unfold(2, 16, 2).unfold(3, 16, 2).permute(0, 2, 3, 1, 4, 5)
    with torch.no_grad():
        model(windows.reshape(-1, 3, 16, 16))
    seen = federated.observe(model.train(mode == "training"), x, y, declare=["labels", "batch_norm"])
    attack = attacks.InvGrad.replace(
        regularizers=terms[statistics],
        iterations=iterations,
        optimizer=optimizers.Adam(lr=0.3, schedule=optimizers.WarmupCosine(warmup=1)),
    )
    return _leak(x, attack(seen, seed=seed, progress=progress).inputs)


def posterior(digit: int = 0, noise: str = "Laplace", scale: float = 0.02, likelihood: str = "matched") -> Figure:
    """Solve for the most probable digit given a noisy gradient of a small perceptron, and draw it.

    Args:
        digit: Number of the private digit, 0 to 399; the prior is of the others.
        noise: ``"Laplace"`` or ``"normal"``.
        scale: Of the noise, positive; the gradient's largest entries are near 0.5.
        likelihood: ``"matched"``, or ``"other"``: that of the other noise.

    Returns:
        Original, the most probable digit, difference.

    Raises:
        ValueError: A choice is unknown, or a number out of range.

    Chapter: bayesian.
    """
    if noise not in ("Laplace", "normal"):
        raise ValueError(f"noise: got {noise!r}, wanted 'Laplace' or 'normal'")
    if likelihood not in ("matched", "other"):
        raise ValueError(f"likelihood: got {likelihood!r}, wanted 'matched' or 'other'")
    if not 0 <= digit < 400:
        raise ValueError(f"digit: got {digit}, wanted 0 to 399")
    x, y = data.digits()
    x, others, model = x[digit : digit + 1].double(), x[400:], models.mlp(64, (32,)).double()
    added = defenses.LaplaceNoise(scale=scale) if noise == "Laplace" else defenses.GaussianNoise(std=scale)
    seen = federated.observe(model, x, y[digit : digit + 1], defense=added, declare=["labels", "defense"])
    matched = (noise == "Laplace") == (likelihood == "matched")
    chosen = attacks.bayesian.Laplace(scale=scale) if matched else attacks.bayesian.Normal(std=scale)
    attack = attacks.bayesian.MAP(likelihood=chosen, prior=attacks.priors.GaussianPrior.fit(others))
    return _leak(x, attack(seen).inputs)


def vertical(pool: int = 12, batch: int = 4, rounds: int = 24, features: bool = True) -> Figure:
    """Run CAFE on a pool of digits in known batches, labels given, and draw up to eight of them.

    Args:
        pool: How many digits the parties hold, from 1.
        batch: Digits of a round, 1 to all.
        rounds: How many rounds the attacker sees, from 1.
        features: Whether the search gets what the linear steps find.

    Returns:
        Originals above, what is recovered below.

    Raises:
        ValueError: A number is out of range.

    Chapter: vertical.
    """
    if pool < 1:
        raise ValueError(f"pool: got {pool}, wanted at least 1")
    x, y = data.digits(pool)
    parts = federated.vertical_rounds(
        models.loop_net((1, 8, 8), widths=(24,), hidden=(16, 8)),
        x, y, batch_size=batch, num_rounds=rounds, declare=["rows"],
    )  # fmt: skip
    adam = optimizers.Adam(lr=0.1, schedule=optimizers.WarmupCosine(warmup=10))
    search = attacks.CAFE.matching.replace(labels=labels.Fixed(y), optimizer=adam, iterations=150)
    attack = attacks.CAFE.replace(matching=search, weight=attacks.CAFE.weight if features else 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.RankWarning)  # too few rounds are to be tried
        found = attack(federated.Several(parts=tuple(parts), size=pool)).inputs
    names = ["original"] * len(x[:8]) + ["recovered"] * len(x[:8])
    return plotting.gallery(torch.cat([x[:8], found[:8]]), names, columns=len(x[:8]), side=0.9)


def _leak(original: Tensor, found: Tensor) -> Figure:
    """Draw what leaks, with the difference times the power of ten that makes it visible."""
    original = original.to(found)
    largest = float((found - original).abs().max())
    amplify = 10.0 ** math.floor(-math.log10(largest)) if 0 < largest < 0.1 else 1.0
    return plotting.leak(original, found, amplify=amplify)


def _noisy(seen: federated.Observation, noise: float, seed: int) -> federated.Observation:
    if not noise >= 0:
        raise ValueError(f"noise: got {noise}, wanted 0 or more")
    generator = torch.Generator().manual_seed(seed)
    shared = []
    for g in seen.shared:
        if g is not None:
            drawn = torch.randn(g.shape, generator=generator, dtype=g.dtype)
            g = g + noise * g.square().mean().sqrt() * drawn
        shared.append(g)
    return seen.replace(shared=tuple(shared))


def _photo(picture: Picture, names: tuple[str, ...] | Mapping[str, object], size: int = 32) -> tuple[Tensor, Tensor]:
    """A photograph of the book by its name, or a picture of one's own by its path or its bytes, with a label."""
    if isinstance(picture, str) and picture in data.PHOTOS:
        return data.photos(size, names=[picture])
    if not isinstance(picture, bytes) and not Path(picture).is_file():
        raise ValueError(f"picture: got {str(picture)!r}, wanted one of {', '.join(names)}, or the path of a file")
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
            square = ImageOps.fit(opened.convert("RGB"), (size, size), Image.Resampling.BOX)
    except OSError as error:
        raise ValueError(f"picture: got a file that is no picture ({error}), wanted a PNG or JPEG, say") from error
    pixels = torch.from_numpy(np.asarray(square, np.float32).copy()).permute(2, 0, 1) / 255
    return pixels[None], torch.zeros(1, dtype=torch.long)
