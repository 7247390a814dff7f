"""InstaHide's decoding: pictures by trying every pattern of signs, coefficients as they were drawn."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from formulas.rows import rand, randn, rows
from gilearn.attacks.instahide import labelled_coefficients, pixel_signs, solve, sparse_coefficients

MODULES = ["gilearn.attacks.instahide"]
NO_FORMULA: set[str] = set()


def mixed(encodings, pictures, k, generator, center=0.0, pixels=6):
    """Draw encodings, coefficients and pictures; of each encoding k pictures, signs flipped about the center."""
    who = torch.rand(encodings, pictures, generator=generator).argsort(1)[:, :k]
    weights = torch.zeros(encodings, pictures, dtype=torch.float64)
    weights.scatter_(1, who, 0.2 + rand(encodings, k, generator=generator))
    weights /= weights.sum(1, keepdim=True)
    private = rand(pictures, pixels, generator=generator)
    key = torch.randint(2, (encodings, pixels), generator=generator) * 2 - 1
    return center + key * (weights @ private - center), weights, private


def same_signs(pictures, center):
    """Return pictures with every pixel mirrored so that the first picture's is above the center."""
    pictures = pictures.numpy() - center
    return pictures * np.where(pictures[0] < 0, -1, 1)


def up_to_signs(center):
    return lambda function, *given: same_signs(function(*given, center=center), center)


def by_trying_signs(center):
    def pictures(encodings, weights):
        """Every pattern of signs, pixel by pixel: that with the least residual."""
        weights, columns = weights.numpy(), (encodings - center).abs().numpy().T
        solved = []
        for column in columns:
            tried = [np.array(signs) * column for signs in itertools.product((1, -1), repeat=len(column))]
            solutions = [np.linalg.solve(weights.T @ weights, weights.T @ signed) for signed in tried]
            gaps = [np.abs(weights @ one - signed).max() for one, signed in zip(solutions, tried, strict=True)]
            solved.append(solutions[int(np.argmin(gaps))])
        return same_signs(torch.tensor(np.array(solved).T + center), center)

    return pictures


def with_known(function, encodings, weights, known, center):
    return function(encodings, weights, center=center, known=known)


def in_order(columns):
    return sorted(np.asarray(columns).T.round(9).clip(0).tolist())


def single_labels(generator):
    """Every class has one picture, so that labels are the coefficients."""
    encodings, weights, _ = mixed(40, 4, 3, generator, center=0.5)
    return encodings, weights


def flipped(generator):
    reference = randn(5, 2, 3, generator=generator)
    signs = (torch.randint(2, (2, 3), generator=generator) * 2 - 1).double()
    return reference * signs, reference


def nearest_signs(pictures, reference):
    """Every pattern of signs: that which makes the pictures the public ones."""
    patterns = [torch.tensor(signs).view(2, 3).double() for signs in itertools.product((1, -1), repeat=6)]
    return min(patterns, key=lambda signs: float((pictures * signs - reference).abs().sum()))


def partly_known(center):
    def draw(generator):
        encodings, weights, private = mixed(12, 5, 3, generator, center=center)
        return encodings, weights, private[2:], center

    return draw


def with_signs_of_mixtures(encodings, weights, known, center):
    """By trying every pattern of signs, as above, of what is left when the known part is subtracted."""
    columns = (encodings - center).abs().numpy().T
    own, rest = weights[:, :2].numpy(), (weights[:, 2:] @ (known - center)).numpy().T
    solved = []
    for column, offset in zip(columns, rest, strict=True):
        tried = [np.array(signs) * column - offset for signs in itertools.product((1, -1), repeat=len(column))]
        solutions = [np.linalg.solve(own.T @ own, own.T @ signed) for signed in tried]
        gaps = [np.abs(own @ one - signed).max() for one, signed in zip(solutions, tried, strict=True)]
        solved.append(solutions[int(np.argmin(gaps))])
    return np.array(solved).T + center


ROWS = [
    *rows(up_to_signs(0.0), [lambda g: mixed(8, 3, 2, g)[:2]], [(solve, by_trying_signs(0.0))], rtol=1e-7),
    *rows(up_to_signs(0.5), [lambda g: mixed(8, 3, 2, g, 0.5)[:2]], [(solve, by_trying_signs(0.5))], rtol=1e-7),
    *rows(with_known, [partly_known(0.0)], [(solve, with_signs_of_mixtures)], rtol=1e-7),
    *rows(
        lambda function, encodings, weights: in_order(function(encodings, 5)),
        [lambda g: mixed(25, 5, 2, g)[:2]] * 3,
        [(sparse_coefficients, lambda encodings, weights: in_order(weights))],
        rtol=1e-6,
    ),
    *rows(
        lambda function, encodings, labels: function(encodings, labels, 4, k=3)[0],
        [single_labels] * 2,
        [(labelled_coefficients, lambda encodings, labels: labels)],
        rtol=1e-5,
    ),
    *rows(lambda function, *given: function(*given), [flipped] * 3, [(pixel_signs, nearest_signs)]),
]
EYE = torch.eye(4)
FEW = torch.arange(24.0).view(4, 6).sin().abs()
REFUSALS = [
    (lambda: solve(FEW[:2], EYE[:2, :3]), "^encodings: got 2 for 3 pictures, wanted at least as many"),
    (lambda: solve(FEW, EYE[:, [0, 0, 1]]), "^coefficients: got rank 2, wanted 3, the number of pictures"),
    (lambda: solve(FEW, EYE[:3]), "^coefficients: got rows for 3 encodings, wanted 4"),
    (lambda: solve(FEW, EYE, center=1.0), "^center: got 1.0, wanted 0, or a value inside the pixels' range"),
    (lambda: solve(FEW, torch.ones(4)), r"^coefficients: got shape \(4,\), wanted finite numbers with a row"),
    (lambda: solve(FEW[0], EYE), r"^encodings: got shape \(6,\), wanted \(encodings, ...\)"),
    (lambda: sparse_coefficients(FEW, 5), "^encodings: got magnitudes of rank 4, wanted at least 5, one for"),
    (lambda: sparse_coefficients(FEW, 4), "^encodings: found 0 of 4 pictures in 4, wanted more encodings"),
    (lambda: labelled_coefficients(FEW, EYE[:3], 4), "^labels: got 3 down to 0, wanted 4 of 0 or more"),
    (lambda: labelled_coefficients(FEW, -EYE, 4), "^labels: got 4 down to -1, wanted 4 of 0 or more"),
    (lambda: labelled_coefficients(FEW, EYE, 4), "^encodings: got 4 for 10 products of two classes"),
    (lambda: pixel_signs(FEW, FEW[:, :5]), r"^reference: got shape \(4, 5\), wanted \(n, \(6,\)\)"),
]
