"""Disaggregation: participation by trying every choice of rounds, gradients by the normal equations."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import torch

from formulas.rows import randn, rows
from gilearn.attacks.disaggregation import disaggregate, left_null_space, participation

MODULES = ["gilearn.attacks.disaggregation"]
NO_FORMULA = {"Disaggregated", "Disaggregation"}


def training(rounds, clients, window, generator):
    """Draw participation that is full rank, gradients, and what they make: sums, counts, window."""
    while True:
        who = torch.randint(2, (rounds, clients), generator=generator)
        if np.linalg.matrix_rank(who.numpy()) == clients:
            break
    sums = who.double() @ randn(clients, 12, generator=generator)
    counts = torch.stack([part.sum(0) for part in torch.split(who, window)])
    return sums.numpy(), counts.numpy(), window


def by_trying(sums, counts, window):
    """Return every client's columns of zeros and ones that lie in the column space and have its counts."""
    rounds, clients = len(sums), counts.shape[1]
    space = np.linalg.svd(sums)[0][:, :clients]
    found = []
    for client in range(clients):
        fitting = []
        for column in itertools.product((0, 1), repeat=rounds):
            starts = range(0, rounds, window)
            if [sum(column[s : s + window]) for s in starts] != counts[:, client].tolist():
                continue
            gap = np.array(column) - space @ (space.T @ np.array(column))
            if np.linalg.norm(gap) < 1e-9:
                fitting.append(column)
        found.append(fitting)
    unique = [tuple(map(tuple, counts.T)).count(tuple(column)) for column in counts.T]
    if any(len(columns) > number for columns, number in zip(found, unique, strict=True)):
        return "not unique"
    return sorted({column for columns in found for column in columns})


def by_program(function, sums, counts, window):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clients with the same counts
        try:
            found, _, _ = function(sums, counts, window)
        except ValueError as error:
            return "not unique" if "it is not unique" in str(error) else str(error)
    return sorted(tuple(column) for column in found.T.tolist())


def projector(function, sums, clients):
    """Return the projector onto the left null space, which does not depend on its basis, and singular values."""
    null, values = function(sums, clients)
    return null.T @ np.linalg.solve(null @ null.T, null), values


def projector_by_hand(sums, clients):
    squares, vectors = np.linalg.eigh(sums @ sums.T)
    rest = vectors[:, : len(sums) - clients]
    return rest @ rest.T, np.sqrt(squares[::-1])


def noisy(rounds, clients, generator):
    sums, _, _ = training(rounds, clients, rounds, generator)
    return sums + 0.01 * randn(*sums.shape, generator=generator).numpy(), clients


def drifting(rounds, clients, generator):
    who = (torch.randint(2, (rounds, clients), generator=generator)).numpy()
    return randn(rounds, 5, generator=generator).numpy(), who


def normal_equations(trend, at):
    def gradients(sums, who):
        rounds, clients = who.shape
        columns = [
            [who[t][k] * ((t - at) / rounds) ** degree for t in range(rounds)]
            for degree in range(trend + 1)
            for k in range(clients)
        ]
        design = np.array(columns, dtype=float).T
        solved = np.linalg.inv(design.T @ design) @ design.T @ sums
        left = sums - design @ solved
        return [solved[:clients], float(np.sqrt((left**2).sum() / (sums**2).sum()))]

    return gradients


SMALL = [lambda g, w=w: training(8, 4, w, g) for w in (8, 4, 3, 2, 1) for _ in range(3)]
ROWS = [
    *rows(by_program, SMALL, [(participation, by_trying)]),
    *rows(
        projector,
        [lambda g, n=n: noisy(n, 4, g) for n in (5, 6, 12)],
        [(left_null_space, projector_by_hand)],
        rtol=1e-6,
    ),
    *(
        row
        for trend, at in ((0, 0), (1, 0), (1, 7), (2, 3))
        for row in rows(
            lambda function, *given, trend=trend, at=at: list(function(*given, trend=trend, at=at)),
            [lambda g: drifting(20, 3, g)],
            [(disaggregate, normal_equations(trend, at))],
        )
    ),
]
EYE = np.eye(6)
REFUSALS = [
    (lambda: left_null_space(EYE[:3], 3), "^sums: got 3 rounds of 3 clients, wanted more rounds than clients"),
    (lambda: left_null_space(EYE[:, :2], 3), "^sums: got rank 2, wanted 3, the number of clients"),
    (lambda: disaggregate(EYE, EYE[:, [0, 0]]), "^participation: got rank 1 of 2 columns over 6 rounds"),
    (lambda: disaggregate(EYE, EYE[:, :4], trend=1), "^participation: got rank 4 of 8 columns over 6 rounds"),
]
