"""Releases of pictures cell by cell, and what is made of them, from their formulas."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from formulas.rows import entries, rand, rows
from gilearn.attacks.releases import combined, identified, restored
from gilearn.defenses.data import DPBlur, DPPix, blurred, cells

MODULES = ["gilearn.attacks.releases", "gilearn.defenses.data.pixelization"]
NO_FORMULA: set[str] = set()


def release(defense, pictures, seed):
    return defense.release(pictures, seed=seed)


def means(pictures, cell):
    n, channels, height, width = pictures.shape
    return pictures.reshape(n, channels, height // cell, cell, width // cell, cell).mean(dim=(3, 5))


def enlarged(small, cell):
    return torch.from_numpy(np.kron(small.numpy(), np.ones((cell, cell))))


def by_hand(pictures, seed, *, cell, m, epsilon, sigma=None):
    """Return cell means with Laplace noise of scale channels x m / (cell^2 epsilon), clipped, enlarged, and blurred."""
    small = means(pictures, cell)
    if epsilon < math.inf:
        scale = pictures.shape[1] * m / cell**2 / epsilon
        shares = entries(rand(*small.shape, generator=torch.Generator().manual_seed(seed)))
        drawn = [scale * (math.log(2 * u) if u < 0.5 else -math.log(2 * (1 - u))) for u in shares]
        small = (small + torch.tensor(drawn, dtype=torch.float64).view(small.shape)).clamp(0, 1)
    big = enlarged(small, cell)
    return big if sigma is None else smooth(big, sigma)


def smooth(pictures, sigma):
    """Return scipy's Gaussian filter, of three standard deviations, mirrored at the border."""
    from scipy.ndimage import gaussian_filter1d

    options = {"mode": "mirror", "truncate": 9.0}
    values = pictures.numpy()
    for axis in (2, 3):
        values = gaussian_filter1d(
            values, sigma, axis=axis, radius=min(math.ceil(3 * sigma), values.shape[axis] - 1), **options
        )
    return torch.from_numpy(values)


def middle(releases, *, how):
    values = np.mean if how == "mean" else np.median
    return torch.from_numpy(np.asarray(values(releases.numpy(), axis=0)))


def ridge(releases, public, public_releases):
    """Return the least-squares map with an intercept whose left-out rows, refitted without each, are told best."""
    given, wanted, known = (t.flatten(1).numpy() for t in (public_releases, public, releases))

    def fitted(rows, penalty):
        x, y = given[rows], wanted[rows]
        centred = x - x.mean(0)
        slope = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (y - y.mean(0)))
        return slope, y.mean(0) - x.mean(0) @ slope

    def left_out(penalty):
        errors = []
        for k in range(len(given)):
            slope, offset = fitted([j for j in range(len(given)) if j != k], penalty)
            errors.append(np.mean((given[k] @ slope + offset - wanted[k]) ** 2))
        return np.mean(errors)

    best = min((0.1, 1.0, 10.0, 100.0), key=left_out)
    slope, offset = fitted(list(range(len(given))), best)
    return torch.from_numpy(known @ slope + offset).view_as(releases).clamp(0, 1)


def nearest(releases, candidates):
    gaps = [
        [sum(abs(a - b) for a, b in zip(entries(r), entries(c), strict=True)) for c in candidates] for r in releases
    ]
    return torch.tensor([row.index(min(row)) for row in gaps])


def pictures(shape, generator):
    return rand(*shape, generator=generator), int(torch.randint(99, (), generator=generator))


def told(shape, public, generator):
    return tuple(rand(n, *shape, generator=generator) for n in (3, public, public))


PICTURES = [partial(pictures, (2, 1, 8, 12)), partial(pictures, (1, 3, 4, 4))]
ROWS = [
    *rows(
        release,
        PICTURES,
        [
            (DPPix(cell=4, m=3, epsilon=0.7), partial(by_hand, cell=4, m=3, epsilon=0.7)),
            (DPPix(cell=2, m=1, epsilon=5.0, fresh=True), partial(by_hand, cell=2, m=1, epsilon=5.0)),
            (DPPix(cell=1, m=1, epsilon=math.inf), partial(by_hand, cell=1, m=1, epsilon=math.inf)),
            (DPBlur(cell=2, m=2, epsilon=3.0, sigma=1.1), partial(by_hand, cell=2, m=2, epsilon=3.0, sigma=1.1)),
            (DPBlur(cell=4, m=2, epsilon=9.0, sigma=40.0), partial(by_hand, cell=4, m=2, epsilon=9.0, sigma=40.0)),
        ],
    ),
    *rows(lambda f, x, _: f(x, 2), PICTURES, [(cells, lambda x, _: means(x, 2))]),
    *rows(lambda f, x, _: f(x, 0.8), PICTURES, [(blurred, lambda x, _: smooth(x, 0.8))]),
    *(
        row
        for how in ("median", "mean")
        for row in rows(
            lambda f, x, _, how=how: f(x, how=how),
            [partial(pictures, (5, 2, 1, 3, 3)), partial(pictures, (4, 1, 1, 2, 2))],
            [(combined, lambda x, _, how=how: middle(x, how=how))],
        )
    ),
    *rows(
        lambda f, r, public, known: f(r, public=public, public_releases=known),
        [partial(told, (1, 2, 2), 9), partial(told, (1, 2, 3), 30)],
        [(restored, ridge)],
    ),
    *rows(
        lambda f, r, candidates: f(r, candidates).tolist(),
        [lambda g: (rand(4, 1, 3, 3, generator=g), rand(6, 1, 3, 3, generator=g))],
        [(identified, lambda r, c: nearest(r, c).tolist())],
    ),
]
ONE = torch.zeros(1, 1, 4, 4)
REFUSALS = [
    (lambda: DPPix(cell=0, m=1, epsilon=1.0), "^cell: got 0, wanted at least 1"),
    (lambda: DPPix(cell=1, m=0, epsilon=1.0), "^m: got 0, wanted at least 1"),
    (lambda: DPPix(cell=1, m=1, epsilon=0.0), "^epsilon: got 0.0, wanted a positive number"),
    (lambda: DPPix(cell=1, m=1, epsilon=math.nan), "^epsilon: got nan, wanted a positive number"),
    (lambda: DPBlur(cell=1, m=1, epsilon=1.0, sigma=0.0), "^sigma: got 0.0, wanted a positive number"),
    (lambda: DPPix(cell=3, m=1, epsilon=1.0).release(ONE), r"^cell: got 3, which does not divide the sides \(4, 4\)"),
    (
        lambda: DPPix(cell=2, m=1, epsilon=1.0).release(ONE + 1.5),
        "^pictures: got values from 1.5 to 1.5, wanted 0 to 1",
    ),
    (
        lambda: DPPix(cell=2, m=1, epsilon=1.0).release(ONE * math.nan),
        "^pictures: got NaN or infinite values, wanted finite ones",
    ),
    (lambda: cells(torch.zeros(4, 4), 2), r"^pictures: got torch.float32 of shape \(4, 4\), wanted floating"),
    (lambda: cells(torch.zeros(1, 1, 4, 4).long(), 2), "^pictures: got torch.int64 of shape"),
    (lambda: combined(ONE[:0]), r"^releases: got shape \(0, 1, 4, 4\), wanted \(releases"),
    (lambda: combined(ONE, how="mode"), "^how: got 'mode', wanted 'median' or 'mean'"),
    (lambda: identified(ONE, ONE[..., :2]), "^candidates: got shapes"),
    (lambda: identified(ONE, ONE[:0]), r"^candidates: got shape \(0, 1, 4, 4\), wanted \(candidates, ...\), and none"),
    (lambda: restored(ONE, public=ONE, public_releases=ONE[..., :2]), "^releases, public, public_releases: got shapes"),
    (lambda: restored(ONE[..., :2], public=ONE, public_releases=ONE), "^releases, public, public_releases: got shapes"),
]
