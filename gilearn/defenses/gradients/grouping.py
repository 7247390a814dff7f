"""H-FL's groups: which clients go to which mediator, so that every group looks like all clients together."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor


def grouped(histograms: Tensor, groups: int) -> tuple[tuple[int, ...], ...]:
    """Deal clients to groups whose labels are distributed like those of all clients: greedily, one after the other.

    The groups take turns; the one whose turn it is takes the client that brings its labels nearest to all clients', in
    Kullback and Leibler's divergence. The histograms are private data too: a client that sends its own has told how
    many examples of each class it has.

    Args:
        histograms: How many examples of each class every client has (clients, classes), at least one a client.
        groups: How many, from 1 to the number of clients; their sizes differ by at most one.

    Returns:
        Of every group the clients' positions, sorted.

    Raises:
        ValueError: The histograms are none, or there are fewer clients than groups.

    Chapter: differential-privacy. Source: yang2021, reduced: its order of dealing is not known to us.
    """
    counts = _checked(histograms)
    if not _whole(groups) or not 1 <= groups <= len(counts):
        raise ValueError(
            f"groups: got {groups!r}, wanted a whole number from 1 to the number of clients, {len(counts)}"
        )
    everyone, left = counts.sum(0), list(range(len(counts)))
    members: list[list[int]] = [[] for _ in range(groups)]
    sums = np.zeros((groups, counts.shape[1]))
    while left:
        for group in range(min(groups, len(left))):
            nearest = min(left, key=lambda client: _divergence(sums[group] + counts[client], everyone))
            left.remove(nearest)
            members[group].append(nearest)
            sums[group] += counts[nearest]
    return tuple(tuple(sorted(own)) for own in members)


def divergence(histograms: Tensor, members: tuple[tuple[int, ...], ...]) -> float:
    """Return how far groups' labels are from all clients': KL(group || all), in nats, its mean over the groups.

    Args:
        histograms: As in :func:`grouped`.
        members: Of every group the clients' positions, at least one.

    Raises:
        ValueError: The histograms are none, a group is empty, or a position is none of a client.

    Chapter: differential-privacy. Source: yang2021.
    """
    counts = _checked(histograms)
    if not isinstance(members, tuple | list):
        raise ValueError(f"members: got {members!r}, wanted of every group the clients' positions")
    for own in members:
        if not isinstance(own, tuple | list) or not all(_whole(one) for one in own):
            raise ValueError(f"members: got the group {own!r}, wanted a tuple of whole numbers")
        if not own or min(own) < 0 or max(own) >= len(counts):
            raise ValueError(
                f"members: got the group {own}, wanted positions from 0 to {len(counts) - 1}, at least one"
            )
    if not members:
        raise ValueError("members: got no group, wanted at least one")
    return float(np.mean([_divergence(counts[list(own)].sum(0), counts.sum(0)) for own in members]))


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _divergence(counts: np.ndarray[Any, Any], everyone: np.ndarray[Any, Any]) -> float:
    from scipy.special import rel_entr

    return float(rel_entr(counts / counts.sum(), everyone / everyone.sum()).sum())


def _checked(histograms: Tensor) -> np.ndarray[Any, Any]:
    if not isinstance(histograms, Tensor) or histograms.ndim != 2 or 0 in histograms.shape:
        came = tuple(histograms.shape) if isinstance(histograms, Tensor) else type(histograms).__name__
        raise ValueError(f"histograms: got {came}, wanted a tensor (clients, classes)")
    counts: np.ndarray[Any, Any] = torch.as_tensor(histograms).detach().cpu().double().numpy()
    if not np.isfinite(counts).all() or counts.min() < 0 or counts.sum(1).min() <= 0:
        raise ValueError("histograms: got a row that is negative, not finite or empty, wanted counts of each class")
    return counts
