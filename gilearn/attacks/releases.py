"""Attacks on pictures that were released with noise: what repeated releases, public pictures and a suspicion add.

Everything here works on releases alone; what made them, its cells and its noise, is public.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from gilearn.federated.checks import check_number, check_tensor


def combined(releases: Tensor, *, how: Literal["median", "mean"] = "median") -> Tensor:
    """Return one picture from several releases of it, with independent noise.

    The median is the most likely value under Laplace noise. Clipping releases to [0, 1] does not move it, as long as
    the truth is in there; it moves the mean towards gray.

    Args:
        releases: Of the same pictures (releases, n, channels, height, width), at least one.
        how: ``"median"``, of an even number the mean of the two in the middle; or ``"mean"``.

    Raises:
        ValueError: There are no releases, or ``how`` is unknown.

    Chapter: pixelization.
    """
    if how not in ("median", "mean"):
        raise ValueError(f"how: got {how!r}, wanted 'median' or 'mean'")
    check_tensor("releases", releases, "(releases, ...), at least one")
    if how == "mean":
        return releases.mean(0)
    ordered = releases.sort(dim=0).values
    return (ordered[(len(releases) - 1) // 2] + ordered[len(releases) // 2]) / 2


def restored(
    releases: Tensor, *, public: Tensor, public_releases: Tensor, penalties: Sequence[float] = (0.1, 1.0, 10.0, 100.0)
) -> Tensor:
    """Return what releases look like undone by a linear map that was fitted to releases of public pictures.

    The attacker makes those releases: the mechanism is public. Ridge regression with the penalty of the least
    leave-one-out error; the result is clipped to [0, 1].

    Args:
        releases: To be undone (n, channels, height, width).
        public: Other pictures (public, channels, height, width); several releases of one are several rows.
        public_releases: A release of each.
        penalties: What to choose the penalty from, positive.

    Raises:
        ValueError: The shapes do not fit, there are fewer than two public pictures, or a penalty is not positive.

    Chapter: pixelization. Component: ``sklearn.linear_model.RidgeCV``.
    """
    from sklearn.linear_model import RidgeCV

    for name, given in (("releases", releases), ("public", public), ("public_releases", public_releases)):
        check_tensor(name, given)
    if not isinstance(penalties, Sequence) or not penalties:
        raise ValueError(f"penalties: got {penalties!r}, wanted several positive numbers")
    for penalty in penalties:
        check_number("penalties", penalty, lambda penalty: 0 < penalty < math.inf, "positive numbers")
    shapes = [tuple(t.shape) for t in (releases, public, public_releases)]
    if shapes[1] != shapes[2] or shapes[0][1:] != shapes[1][1:]:
        raise ValueError(f"releases, public, public_releases: got shapes {shapes}, wanted those of the same pictures")
    if len(public) < 2:
        raise ValueError("public: got 1 picture, wanted at least 2 to fit a map to")
    inputs, outputs, known = (t.detach().cpu().double().flatten(1).numpy() for t in (public_releases, public, releases))
    found = RidgeCV(alphas=list(penalties)).fit(inputs, outputs).predict(known)
    return torch.from_numpy(found).to(releases).view_as(releases).clamp(0, 1)


def identified(releases: Tensor, candidates: Tensor) -> Tensor:
    """Return which candidate each release was made of: the nearest, in absolute values added up.

    With Laplace noise of one scale, and before clipping, that is the most likely one.

    Args:
        releases: Released pictures (n, channels, height, width).
        candidates: What each of the suspects looks like without noise (candidates, channels, height, width).

    Returns:
        Positions among the candidates (n,).

    Raises:
        ValueError: The shapes do not fit.

    Chapter: pixelization.
    """
    check_tensor("releases", releases)
    check_tensor("candidates", candidates, "(candidates, ...)")
    if releases.shape[1:] != candidates.shape[1:]:
        shapes = f"{tuple(releases.shape)} and {tuple(candidates.shape)}"
        raise ValueError(f"candidates: got shapes {shapes}, wanted (n, ...) and (candidates, ...), with the same rest")
    return torch.cdist(releases.flatten(1), candidates.to(releases).flatten(1), p=1).argmin(dim=1)
