"""InstaHide decoded (Carlini et al., 2021): private pictures out of encodings, the one-time key notwithstanding.

An encoding is c + key * (m - c): a mixture m of pictures whose signs are flipped about a value c. Coefficients add up
to 1. So magnitudes A = |encodings - c| and pictures Z, measured from c, satisfy A = |L Z| with the coefficients L
(encodings, pictures): the key is gone. With c = 0 nothing else is. With c inside the pixels' range the sign of every
entry of L Z is lost, and Z is determined up to one sign per pixel.

What an attacker knows is an argument: coefficients go to :func:`solve`; without them :func:`labelled_coefficients`
takes the mixed labels, :func:`sparse_coefficients` nothing but encodings. All of it in float64 on the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, lsq_linear, nnls
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor

from gilearn.federated.checks import check_number, check_tensor, check_whole
from gilearn.linear import RANK_TOLERANCE

Matrix = NDArray[np.float64]

ZERO = 1e-6
"""A coefficient below this share of its picture's largest counts as zero: the solver's tolerance is a tenth of it."""


def solve(
    encodings: Tensor,
    coefficients: Tensor,
    *,
    center: float = 0.5,
    known: Tensor | None = None,
    start: Tensor | None = None,
    restarts: int = 3,
    seed: int = 0,
) -> Tensor:
    """Return the pictures behind encodings whose coefficients are known.

    With signs flipped about 0 these are least squares with bounds. Otherwise the products of two pictures' pixels are
    as many unknowns as there are pairs, in which the squared magnitudes are linear; where encodings suffice for them,
    pictures are exact. Where they do not, signs and pictures are searched in turn, from several starts.

    Args:
        encodings: (encodings, ...).
        coefficients: (encodings, pictures), those of known pictures last.
        center: The value that signs were flipped about.
        known: Pictures that the attacker has, public ones for instance (n, ...); they fix the signs.
        start: Pictures to search from, instead.
        restarts: Random starts of the search.
        seed: Seeds them.

    Returns:
        The private pictures (pictures, ...), float64. Without ``known``, and with a center above 0, up to one sign per
        pixel: it is right, or mirrored at the center, in all pictures at once.

    Raises:
        ValueError: There are fewer encodings than private pictures, the coefficients do not tell all of these apart, or
            shapes do not fit.

    Chapter: instahide. Source: carlini2021; the products are the lifting of candes2013.
    """
    magnitudes, weights = _magnitudes(encodings, center), _rows("coefficients", coefficients)
    check_whole("restarts", restarts)
    check_whole("seed", seed, 0)
    offset: Matrix = np.zeros_like(magnitudes)
    for name, pictures in (("known", known), ("start", start)):
        _check_pictures(name, pictures, encodings)
    if known is not None and len(known) >= weights.shape[1]:
        wanted = f"fewer than the {weights.shape[1]} that coefficients are of"
        raise ValueError(f"known: got {len(known)} pictures, wanted {wanted}")
    if known is not None:
        offset = weights[:, len(weights[0]) - len(known) :] @ (_flat(known) - center)
        weights = weights[:, : len(weights[0]) - len(known)]
    _check_determined(weights, magnitudes)
    if start is not None and len(start) != weights.shape[1]:
        raise ValueError(f"start: got {len(start)} pictures, wanted {weights.shape[1]}")
    shape = (weights.shape[1], *encodings.shape[1:])
    if center == 0:
        return torch.from_numpy(_bounded(weights, magnitudes - offset)).view(shape)
    random = np.random.default_rng(seed)
    starts = [random.uniform(-0.5, 0.5, (weights.shape[1], magnitudes.shape[1])) for _ in range(restarts)]
    if start is not None:
        starts = [_flat(start) - center]
    elif known is not None:
        starts.append(np.zeros_like(starts[0]))  # signs are then those of the known part
    else:
        lifted, rank = _lifted(magnitudes, weights)
        starts = [lifted] if rank == _pairs(weights.shape[1]) else starts
    ends = [_alternate(magnitudes, weights, first, offset, max(center, 1 - center), 200) for first in starts]
    gaps = np.stack([np.square(np.abs(weights @ end + offset) - magnitudes).sum(0) for end in ends])
    best = np.stack(ends)[gaps.argmin(0), :, np.arange(gaps.shape[1])].T  # every pixel has its own best start
    return torch.from_numpy(best + center).view(shape)


def sparse_coefficients(
    encodings: Tensor, pictures: int, *, known: Tensor | None = None, totals: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Find the coefficients behind encodings whose signs were flipped about 0, from the encodings alone.

    The magnitudes A are L Z then, and columns of L lie in the column space of A, not negative and mostly zero. Of all
    vectors there that are nowhere negative, and 1 at one encoding, a linear program takes that with the least sum.
    Vertices that are no column have about as many zeros as there are pictures; a column has one wherever its picture
    is not, and so is known when it is found. The one factor that each lacks comes from rows that add up to 1.

    Args:
        encodings: (encodings, ...); no more pictures than pixels.
        pictures: How many pictures they are made of, the known ones left out.
        known: Public pictures among which all other partners are (n, ...): what lies in their span is projected away.
        totals: What the coefficients of an encoding add up to (encodings,), as the mixed labels do; ``None``: to 1.
        seed: Seeds the order in which encodings are tried.

    Returns:
        Coefficients (encodings, pictures), float64, in an order of their own.

    Raises:
        ValueError: The rank of the magnitudes is below the number of pictures, or not all columns were found.

    Chapter: instahide. Source: spielman2012 for the linear programs.
    """
    magnitudes = _magnitudes(encodings, 0.0)
    check_whole("pictures", pictures)
    check_whole("seed", seed, 0)
    _check_pictures("known", known, encodings)
    if totals is not None:
        check_tensor("totals", totals, "(encodings,)", ndim=1, exact=True)
        if len(totals) != len(encodings):
            raise ValueError(f"totals: got {len(totals)} for {len(encodings)} encodings, wanted one each")
    least = RANK_TOLERANCE * np.linalg.norm(magnitudes)
    if known is not None:
        span = np.linalg.qr(_flat(known).T)[0]
        magnitudes = magnitudes - magnitudes @ span @ span.T
    space, values, _ = np.linalg.svd(magnitudes, full_matrices=False)
    rank = int((values > least).sum())
    if rank < pictures:
        raise ValueError(f"encodings: got magnitudes of rank {rank}, wanted at least {pictures}, one for each picture")
    number = len(magnitudes)
    basis = space[:, :pictures] * number**0.5
    found: list[Matrix] = []
    order = np.random.default_rng(seed).random(number)  # of those that are covered least, at random
    while len(found) < pictures and np.isfinite(order).any():
        at = int(order.argmin())
        order[at] = np.inf
        result = linprog(basis.sum(0), -basis, np.zeros(number), basis[[at]], [1.0], (None, None), method="highs")
        if result.x is None:
            continue
        column = basis @ result.x
        column /= np.linalg.norm(column)
        new = all(column @ other < 0.999 for other in found)
        if new and (column < ZERO * column.max()).sum() >= 2 * pictures:
            found.append(column)
            order += column / column.max()
    if len(found) < pictures:
        raise ValueError(f"encodings: found {len(found)} of {pictures} pictures in {number}, wanted more encodings")
    columns = np.stack(found, axis=1)
    sums = np.ones(number) if totals is None else totals.detach().cpu().double().numpy()
    return torch.from_numpy(columns * np.linalg.lstsq(columns, sums, rcond=None)[0])


def labelled_coefficients(
    encodings: Tensor,
    labels: Tensor,
    pictures: int,
    *,
    k: int = 4,
    center: float = 0.5,
    rounds: int = 20,
    restarts: int = 3,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Cluster encodings with the help of their mixed labels: find who is in which, and with which coefficient.

    Mixed labels are the coefficients, added up over pictures of one class. Their mean says how many pictures a class
    has. Solved with labels for coefficients, encodings give a mean picture of every class. Its pictures start there,
    apart by chance; then coefficients that add up to the labels are fitted to pictures, and pictures to coefficients.

    Args:
        encodings: (encodings, ...).
        labels: Class probabilities (encodings, classes).
        pictures: How many private pictures there are.
        k: How many make an encoding: no more coefficients are kept in the second half of the rounds.
        center: The value that signs were flipped about.
        rounds: Of fitting coefficients and pictures.
        restarts: Starts; that with the least residual wins.
        seed: Seeds them.

    Returns:
        Coefficients (encodings, pictures), and the pictures (pictures, ...), float64; by class, in an order of their
        own.

    Raises:
        ValueError: There are fewer encodings than pairs of classes, labels are negative or all zero, a number is no
            whole one from 1, or shapes do not fit.

    Chapter: instahide. Source: carlini2021 clusters with a trained network; the rounds are our own.
    """
    magnitudes, given = _magnitudes(encodings, center), _rows("labels", labels)
    for name, count in (("pictures", pictures), ("k", k), ("rounds", rounds), ("restarts", restarts)):
        check_whole(name, count)
    check_whole("seed", seed, 0)
    if len(given) != len(magnitudes) or given.min() < 0:
        raise ValueError(f"labels: got {len(given)} down to {given.min():.2g}, wanted {len(magnitudes)} of 0 or more")
    if not given.sum() > 0:
        raise ValueError("labels: got zeros alone, wanted class probabilities (encodings, classes)")
    share = given.sum(0) / given.sum() * pictures
    owners = np.repeat(np.arange(len(share)), _rounded(share, pictures))
    products = _pairs(int((share > 0).sum()))
    if len(given) < products:
        raise ValueError(f"encodings: got {len(given)} for {products} products of two classes, wanted at least as many")
    means, _ = _lifted(magnitudes, given)
    limit, spread = max(center, 1 - center), 0.5 * magnitudes.std()
    best: tuple[float, Matrix, Matrix] = (np.inf, means, means)
    for part in range(restarts):
        random = np.random.default_rng([seed, part])
        z: Matrix = means[owners] + spread * random.standard_normal((pictures, magnitudes.shape[1]))
        mixed = given @ means
        for number in range(rounds):
            signed = np.where(mixed < 0, -1, 1) * magnitudes
            weights = _weights(signed, z, given, owners, k if 2 * number >= rounds else pictures)
            z = _alternate(magnitudes, weights, z, 0.0, limit, 3)
            mixed = weights @ z
        gap = float(np.square(np.abs(mixed) - magnitudes).mean())
        best = min(best, (gap, weights, z), key=lambda one: one[0])
    return torch.from_numpy(best[1]), torch.from_numpy(best[2] + center).view(pictures, *encodings.shape[1:])


def pixel_signs(pictures: Tensor, reference: Tensor) -> Tensor:
    """Return the sign per pixel with which pictures are most like public ones.

    How two pixels go together, and each with the center, is a matter of the kind of picture. The signs follow the
    strongest of these products in both sets, along a spanning tree from the center to every pixel.

    Args:
        pictures: Measured from the center (n, ...), each pixel up to a sign.
        reference: Public pictures of the same kind, measured from the center (m, ...).

    Returns:
        +1 and -1, float64, in the shape of one picture.

    Raises:
        ValueError: The two have pictures of different shapes, or one has none.

    Chapter: instahide.
    """
    check_tensor("pictures", pictures)
    check_tensor("reference", reference)
    if pictures.shape[1:] != reference.shape[1:]:
        raise ValueError(f"reference: got shape {tuple(reference.shape)}, wanted (n, {tuple(pictures.shape[1:])})")
    own, public = (_products(_flat(one)) for one in (pictures, reference))
    agreed = np.minimum(np.abs(own), np.abs(public))
    tree = minimum_spanning_tree(np.triu(2 - agreed, 1))
    order, before = breadth_first_order(tree, len(own) - 1, directed=False)
    signs = np.ones(len(own))
    for pixel in order[1:]:
        alike = own[pixel, before[pixel]] * public[pixel, before[pixel]] >= 0
        signs[pixel] = signs[before[pixel]] * (1 if alike else -1)
    return torch.from_numpy(signs[:-1]).view(pictures.shape[1:])


def _products(flat: Matrix) -> Matrix:
    """Return the cosines between all pixels over a set of pictures, and a last one that is constant."""
    flat = np.hstack([flat, np.ones((len(flat), 1))])
    flat /= np.maximum(np.linalg.norm(flat, axis=0), 1e-300)
    products: Matrix = flat.T @ flat
    return products


def _bounded(weights: Matrix, sums: Matrix) -> Matrix:
    """Return the least squares in [0, 1], pixel by pixel where the unbounded ones are outside."""
    solution: Matrix = np.asarray(np.linalg.lstsq(weights, sums, rcond=None)[0], dtype=np.float64)
    for pixel in np.flatnonzero((solution.min(0) < -1e-12) | (solution.max(0) > 1 + 1e-12)):
        solution[:, pixel] = lsq_linear(weights, sums[:, pixel], (0, 1), method="bvls").x
    return solution


def _lifted(magnitudes: Matrix, weights: Matrix) -> tuple[Matrix, int]:
    """Return the pictures, up to a sign per pixel, from squares that are linear in products; and the products' rank."""
    one, other = np.triu_indices(weights.shape[1])
    design = weights[:, one] * weights[:, other] * np.where(one == other, 1, 2)
    solution, _, rank, _ = np.linalg.lstsq(design, magnitudes**2, rcond=RANK_TOLERANCE)
    products = np.zeros((magnitudes.shape[1], weights.shape[1], weights.shape[1]))
    products[:, one, other] = products[:, other, one] = solution.T
    values, vectors = np.linalg.eigh(products)
    pictures: Matrix = (np.sqrt(values[:, -1:].clip(min=0)) * vectors[:, :, -1]).T
    return pictures, int(rank)


def _alternate(magnitudes: Matrix, weights: Matrix, z: Matrix, offset: Any, limit: float, most: int) -> Matrix:
    """Take the signs from the pictures, then the pictures from the signs, until nothing moves."""
    inverse = np.linalg.pinv(weights, rcond=1e-6)
    for _ in range(most):
        signed = np.where(weights @ z + offset < 0, -1, 1) * magnitudes - offset
        moved = (inverse @ signed).clip(-limit, limit)
        if np.abs(moved - z).max() < 1e-13:
            break
        z = moved
    return z


def _pairs(pictures: int) -> int:
    return pictures * (pictures + 1) // 2


def _weights(signed: Matrix, z: Matrix, labels: Matrix, owners: NDArray[np.int64], k: int) -> Matrix:
    """Fit every encoding's coefficients, which add up to the labels within a class, and keep the k largest."""
    weights = np.zeros((len(signed), len(z)))
    for row, mixture, label in zip(weights, signed, labels, strict=True):
        who, classes = np.flatnonzero(label[owners] > ZERO), np.flatnonzero(label > ZERO)
        heavy = 3.0 * np.equal.outer(classes, owners[who])
        row[who] = nnls(np.vstack([z[who].T, heavy]), np.r_[mixture, 3.0 * label[classes]])[0]
        row[np.argsort(row)[: len(z) - k]] = 0
        row *= label.sum() / max(row.sum(), ZERO)
    return weights


def _rounded(share: Matrix, total: int) -> NDArray[np.int64]:
    """Return whole numbers near the shares that add up to a total."""
    whole = np.floor(share).astype(np.int64)
    whole[np.argsort(whole - share)[: total - whole.sum()]] += 1
    return whole


def _magnitudes(encodings: Tensor, center: float) -> Matrix:
    _check_center(center)
    check_tensor("encodings", encodings, "(encodings, ...)")
    return np.abs(_rows("encodings", encodings.flatten(1)) - center)


def _flat(pictures: Tensor) -> Matrix:
    flat: Matrix = pictures.detach().cpu().double().flatten(1).numpy()
    return flat


def _rows(name: str, values: Any) -> Matrix:
    try:
        rows: Matrix = torch.as_tensor(values).detach().cpu().double().numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: got a {type(values).__name__}, wanted a tensor or an array") from error
    if rows.ndim != 2 or rows.size == 0 or not np.isfinite(rows).all():
        raise ValueError(f"{name}: got shape {rows.shape}, wanted finite numbers with a row for every encoding")
    return rows


def _check_center(center: float) -> None:
    wanted = "0, or a value inside the pixels' range, below 1"
    check_number("center", center, lambda center: 0 <= center < 1, wanted)


def _check_pictures(name: str, pictures: Tensor | None, encodings: Tensor) -> None:
    if pictures is None:
        return
    check_tensor(name, pictures)
    if pictures.shape[1:] != encodings.shape[1:]:
        got, wanted = tuple(pictures.shape[1:]), tuple(encodings.shape[1:])
        raise ValueError(f"{name}: got pictures of shape {got}, wanted {wanted}")


def _check_determined(weights: Matrix, magnitudes: Matrix) -> None:
    number, pictures = weights.shape
    if number != len(magnitudes):
        raise ValueError(f"coefficients: got rows for {number} encodings, wanted {len(magnitudes)}")
    if number < pictures:
        raise ValueError(f"encodings: got {number} for {pictures} pictures, wanted at least as many as pictures")
    rank = int(np.linalg.matrix_rank(weights, rtol=RANK_TOLERANCE))
    if rank < pictures:
        why = "a picture occurs nowhere, or always in the same proportion to others"
        raise ValueError(f"coefficients: got rank {rank}, wanted {pictures}, the number of pictures: {why}")
