"""Un-mixing: from the encodings that a client trained on back to its pictures.

An attack on a gradient returns what the client computed with. Where that is a convex combination of pictures, these
functions take it apart. They work on encodings, whatever attack recovered them, and on what is declared to them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gilearn.attacks.labels.head import last_layer
from gilearn.federated import Observation
from gilearn.federated.checks import check_number, check_tensor, check_whole
from gilearn.linear import float64, rank_and_condition


@torch.no_grad()
def mixed_labels(seen: Observation, encoding: Tensor) -> Tensor:
    """Return the class probabilities that the loss saw, of a gradient of one encoding that has been recovered.

    The last bias gradient is softmax(F(x)) - y, where everything but y is known.

    Args:
        seen: The observation; its gradient is of one example.
        encoding: What the client computed with (1, *input_shape).

    Returns:
        The probabilities (classes,), float64.

    Raises:
        ValueError: The gradient is of several examples or steps, the encoding does not fit, the loss is another than
            cross-entropy, or the last layer is not fully connected, has no bias, or its bias gradient was withheld.

    Chapter: mixup.
    """
    if not isinstance(seen, Observation):
        raise ValueError(f"seen: got a {type(seen).__name__}, wanted an Observation")
    visits = seen.batch_size if seen.local is None else seen.local.steps * len(seen.local.rows(0, seen.batch_size))
    if visits != 1:
        raise ValueError(f"seen: got a gradient of {visits} examples, wanted one of a single encoding")
    check_tensor("encoding", encoding)
    if encoding.shape != (1, *seen.input_shape):
        raise ValueError(f"encoding: got shape {tuple(encoding.shape)}, wanted {(1, *seen.input_shape)}")
    if seen.loss != "cross_entropy":
        raise ValueError(f"seen: got the loss {seen.loss!r}; mixed labels are read off cross_entropy")
    _, bias = last_layer(seen)
    if bias is None:
        raise ValueError("seen: the last layer has no bias, or its gradient is withheld, and this reads it")
    logits = seen.network(encoding.to(seen.device, seen.dtype))
    return float64(logits[0]).softmax(dim=0) - float64(bias)


def partner(encoding: Tensor, candidates: Tensor, *, share: float | None = None) -> tuple[int, float]:
    """Find the known picture in an encoding of two: the one of which most can be taken away.

    If s of the encoding e is the picture p, then (e - s p) / (1 - s) is a picture: no pixel is below 0 or above 1. The
    largest s that leaves one is min(e / p, (1 - e) / (1 - p)) over all pixels; it is exact where the private picture
    has a pixel at 0 or 1 that the known one has not.

    Args:
        encoding: (1, ...).
        candidates: Known pictures (n, ...), in [0, 1].
        share: The partner's share in the encoding, from its mixed label for instance; ``None`` estimates it.

    Returns:
        The candidate's number, and its share.

    Raises:
        ValueError: The shapes differ, values are not in [0, 1], or ``share`` is not between 0 and 1.

    Chapter: mixup.
    """
    for name, given in (("encoding", encoding), ("candidates", candidates)):
        check_tensor(name, given)
        _check_range(name, given, 0.1 if name == "encoding" else 1e-6)
    if len(encoding) != 1:
        raise ValueError(f"encoding: got {len(encoding)}, wanted one, (1, ...)")
    if candidates.shape[1:] != encoding.shape[1:]:
        got, wanted = tuple(candidates.shape[1:]), tuple(encoding.shape[1:])
        raise ValueError(f"candidates: got pictures of shape {got}, wanted {wanted}")
    if share is not None:
        check_number("share", share, lambda share: 0 < share < 1, "a number between 0 and 1")
    e, p = float64(encoding).flatten(1), float64(candidates).flatten(1)
    if share is None:
        shares = torch.minimum(_quotient(e, p), _quotient(1 - e, 1 - p)).amin(dim=1)
        return int(shares.argmax()), float(shares.max())
    rest = (e - share * p) / (1 - share)
    return int((rest - rest.clamp(0, 1)).square().sum(dim=1).argmin()), share


def unmix(encodings: Tensor, coefficients: Tensor) -> Tensor:
    """Solve for pictures whose combinations are known: the least squares of coefficients @ pictures = encodings.

    Pictures that are known are taken away first: ``unmix(encodings - shares @ known, coefficients)``.

    Args:
        encodings: (releases, ...), of any number of epochs.
        coefficients: Of every picture in every encoding, (releases, pictures).

    Returns:
        The pictures (pictures, ...), float64, not clipped.

    Raises:
        ValueError: The numbers of releases differ, or the coefficients determine fewer pictures than there are.

    Chapter: mixup.
    """
    check_tensor("encodings", encodings)
    check_tensor("coefficients", coefficients, "(releases, pictures)", exact=True)
    if len(coefficients) != len(encodings):
        raise ValueError(f"coefficients: got {len(coefficients)} rows for {len(encodings)} encodings, wanted one each")
    matrix = float64(coefficients)
    rank, _ = rank_and_condition(matrix)
    if rank < matrix.shape[1]:
        wanted = f"as many as there are pictures, {matrix.shape[1]}: more encodings, or fewer pictures"
        raise ValueError(f"coefficients: got rank {rank}, wanted {wanted}")
    pictures: Tensor = torch.linalg.pinv(matrix) @ float64(encodings).flatten(1)
    return pictures.view(-1, *encodings.shape[1:])


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """Pictures and coefficients that explain encodings.

    Args:
        pictures: (pictures, ...), float64, not clipped.
        coefficients: (releases, pictures), float64.
        residual: Norm of what they leave unexplained over the norm of the encodings; the attacker can compute it.
    """

    pictures: Tensor = field(repr=False)
    coefficients: Tensor = field(repr=False)
    residual: float


def factorize(
    encodings: Tensor,
    number: int,
    *,
    labels: Tensor | None = None,
    ordered: bool = True,
    weight: float = 3.0,
    iterations: int = 3000,
) -> Factors:
    """Find the pictures in encodings of several epochs, knowing neither coefficients nor partners.

    If coefficients add up to 1 and pixels are in [0, 1], then encodings and their complements factorize:
    [E, 1 - E] = C [X, 1 - X], all four non-negative. So do mixed labels. The search is scikit-learn's.

    Args:
        encodings: (releases, ...).
        number: Of pictures, from 1.
        labels: Mixed labels (releases, classes), or ``None``.
        ordered: Whether they are whole epochs one after the other, in each the encodings in the order of their first
            pictures: those of a client that goes through its data in order. The search then begins at the means of what
            has the same first picture, else at a singular value decomposition.
        weight: Of a label beside a pixel, positive.
        iterations: Of the search at most, from 1.

    Raises:
        ValueError: The encodings are fewer than the pictures, or of no whole epochs, or do not lie in [0, 1], or the
            labels do not fit.

    Chapter: mixup. Source: lee1999 for the factorization.
    """
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    check_tensor("encodings", encodings)
    check_whole("iterations", iterations)
    check_number("weight", weight, lambda weight: 0 < weight < np.inf, "a positive number")
    releases = len(encodings)
    check_whole("number", number)
    if not 1 <= number <= releases or (ordered and releases % number):
        wanted = "a divisor of their number" if ordered else f"1 to {releases}"
        raise ValueError(f"number: got {number} for {releases} encodings, wanted {wanted}")
    if labels is not None:
        check_tensor("labels", labels, "class probabilities (releases, classes)", exact=True)
        _check_range("labels", labels, 0.1)
        if len(labels) != releases:
            raise ValueError(f"labels: got {len(labels)} for {releases} encodings, wanted one each")
    _check_range("encodings", encodings, 1e-6)
    flat = float64(encodings).flatten(1).cpu()
    pixels = flat.shape[1]
    columns = [flat, 1 - flat, *([] if labels is None else [weight * float64(labels).cpu()])]
    matrix = torch.cat(columns, dim=1).clamp_min(0).numpy()
    begin = {}
    if ordered:
        own = 0.5 * np.eye(number) + 0.5 / number
        begin = {"W": np.tile(own, (releases // number, 1)), "H": matrix.reshape(-1, number, matrix.shape[1]).mean(0)}
    search = NMF(number, init="custom" if ordered else "nndsvda", max_iter=iterations, tol=1e-10, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        coefficients = search.fit_transform(matrix, **begin)
    scales = search.components_[:, : 2 * pixels].sum(axis=1) / pixels
    pictures = torch.from_numpy(search.components_[:, :pixels] / scales[:, None])
    return Factors(
        pictures=pictures.view(number, *encodings.shape[1:]),
        coefficients=torch.from_numpy(coefficients * scales),
        residual=float(search.reconstruction_err_ / np.linalg.norm(matrix)),
    )


def _check_range(name: str, values: Tensor, tolerance: float) -> None:
    """Raise a ``ValueError`` unless values are in [0, 1], but for the error of a recovery."""
    least, most = float(values.min()), float(values.max())
    if least < -tolerance or most > 1 + tolerance:
        raise ValueError(f"{name}: got values from {least:.3g} to {most:.3g}, wanted [0, 1]")


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    """Return the quotients, infinite where nothing would be taken away."""
    return torch.where(below > 1e-9, above / below.clamp_min(1e-9), torch.inf)
