"""Gradient disaggregation (Lam et al., 2021): every client's own gradient out of sums over unknown clients.

Write S = P G: a row of S for the sum of a round, a row of G for the gradient of a client, P (rounds, clients) zeros and
ones: who took part. Columns of P lie in the column space of S, and device analytics say how many ones each has in every
window of rounds. An integer program a client finds the column, least squares then give G. All of it in float64.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import qr
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from gilearn.federated import AggregatedRounds, Observation
from gilearn.linear import RANK_TOLERANCE, float64
from gilearn.values import Value

EXACT = 1e-9
"""Sums count as exact where the first singular value that should be zero is below this share of the last that should
not. Otherwise the participation that fits best is wanted."""

MARGIN = 2.0
"""A participation is accepted where no other fits all equations up to this many times its own largest mismatch."""

SLACK = 1e-6
"""The largest mismatch that exact sums may leave: ten times the solver's own tolerance, to leave room for rounding."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Disaggregated:
    """What was hidden in the sums.

    Args:
        participation: Who took part, zeros and ones, int64, shape (rounds, clients).
        observations: Of every client an ordinary observation for any attack: its own gradient or update, its number of
            examples, the model of the middle round.
        interchangeable: Groups of clients whose counts agree in every window: their gradients are right, and which of
            them belongs to which client is open.
        misfit: Of every client the largest mismatch of its column, shape (clients,).
        residual: Norm of what the gradients leave unexplained of the sums, over the norm of the sums.
        seconds: Wall-clock time.

    Chapter: disaggregation.
    """

    participation: Tensor = field(repr=False)
    observations: tuple[Observation, ...] = field(repr=False)
    interchangeable: tuple[tuple[int, ...], ...]
    misfit: Tensor = field(repr=False)
    residual: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Disaggregation(Value):
    """Recover every client's gradient from rounds behind secure aggregation that declare participation counts.

    Args:
        trend: Degree of the polynomial in the number of the round that a client's gradient follows while the model
            moves; 0 for one that stays, as in the paper. It takes at least (trend + 1) x clients rounds.

    Raises:
        ValueError: ``trend`` is negative.

    Chapter: disaggregation. Source: lam2021; survey section 2.1.4.
    """

    trend: int = 0

    def __post_init__(self) -> None:
        if not self.trend >= 0:
            raise ValueError(f"trend: got {self.trend}, wanted 0 or more")

    def __call__(self, seen: AggregatedRounds, *, time_limit: float | None = None) -> Disaggregated:
        """Run the attack.

        Args:
            seen: The rounds; they have to declare ``participation``.
            time_limit: Seconds for the participation of all clients together; ``None`` for no limit.

        Raises:
            ValueError: Participation is not declared or not determined, see :func:`participation`; or what the rounds'
                numbers of examples give for the clients' is not near whole numbers.
            TimeoutError: The time limit ran out; there is no result then.
        """
        if not isinstance(seen, AggregatedRounds):
            raise ValueError(f"seen: got a {type(seen).__name__}, wanted federated.AggregatedRounds.of(rounds, ...)")
        began = time.perf_counter()
        counts, parts, middle = seen.known("participation"), seen.parts, len(seen.parts) // 2
        examples = np.array([[float(part.batch_size)] for part in parts])
        sums = np.stack([_flat(part) for part in parts]) * (examples if seen.aggregation == "mean" else 1.0)
        who, misfit, groups = participation(sums, counts, seen.window, time_limit=time_limit)
        gradients, residual = disaggregate(sums, who, trend=self.trend, at=middle)
        sizes, _ = disaggregate(examples, who)
        if sizes.min() < 0.5 or np.abs(sizes - np.rint(sizes)).max() > 0.01:
            raise ValueError(f"seen: the rounds' examples give clients of {sizes[:, 0].round(2).tolist()} examples")
        if seen.aggregation == "mean":
            gradients = gradients / np.rint(sizes)
        return Disaggregated(
            participation=torch.from_numpy(who),
            observations=tuple(
                _unflat(parts[middle], g, round(n)) for g, n in zip(gradients, sizes[:, 0], strict=True)
            ),
            interchangeable=groups,
            misfit=torch.from_numpy(misfit),
            residual=residual,
            seconds=time.perf_counter() - began,
        )


GradDisagg = Disaggregation()
"""Gradient disaggregation (Lam et al., 2021) as the survey's Table 1 names it.

Survey: Gaussian, 32x32, MLP, batch 32 (128), l2 distance, L-BFGS, participation. The released code disaggregates only,
by a quadratic program in a commercial solver; it keeps one singular value too many, and returns zeros when its time is
over. Ours solves linear programs with HiGHS, keeps as many as there are clients, proves that no other participation
fits or raises, and hands out observations: the survey's search is ``attacks.iDLG(found.observations[k])``.

Chapter: disaggregation. Source: lam2021.
"""


def participation(
    sums: Any, counts: Any, window: int, *, time_limit: float | None = None
) -> tuple[NDArray[np.int64], Matrix, tuple[tuple[int, ...], ...]]:
    """Find who took part in which round: the columns of zeros and ones that the sums and the counts allow.

    Args:
        sums: A row a round, (rounds, parameters): the sum over the clients that took part.
        counts: How often each client took part in each window, whole numbers (windows, clients).
        window: Rounds in a window; the last may be shorter.
        time_limit: Seconds for all clients together; ``None`` for no limit.

    Returns:
        Participation (rounds, clients); the largest mismatch |N p| of every column, (clients,); and the groups of
        clients with the same counts, among whom columns may be exchanged.

    Raises:
        ValueError: As :func:`left_null_space`; counts do not fit the rounds, a client never took part, two took part in
            the same rounds, or no column fits, or more than one.
        TimeoutError: The time limit ran out.

    Warns:
        UserWarning: Clients are interchangeable.

    Chapter: disaggregation. Source: survey, Eq. (3); lam2021.
    """
    sums, counts = _rows("sums", sums), np.asarray(counts)
    if window < 1 or counts.ndim != 2:
        raise ValueError(f"window, participation: got {window} and shape {counts.shape}, wanted 1 or more and 2 axes")
    rounds, clients = len(sums), counts.shape[1]
    windows = np.equal.outer(np.arange(math.ceil(rounds / window)), np.arange(rounds) // window)
    if counts.shape != (len(windows), clients) or counts.dtype.kind not in "iu":
        wanted = f"whole numbers of shape ({len(windows)}, clients): {rounds} rounds in windows of {window}"
        raise ValueError(f"participation: got {counts.dtype} of shape {counts.shape}, wanted {wanted}")
    if (counts < 0).any() or (counts > windows.sum(1, keepdims=True)).any():
        raise ValueError(f"participation: got {counts.min()} to {counts.max()} rounds a window, wanted 0 to {window}")
    if absent := np.flatnonzero(counts.sum(0) == 0).tolist():
        raise ValueError(f"participation: clients {absent} never took part, wanted those alone who did")
    null, values = left_null_space(sums, clients)
    exact = bool(values[clients] <= EXACT * values[clients - 1])
    deadline = math.inf if time_limit is None else time.perf_counter() + time_limit
    groups: dict[tuple[int, ...], list[int]] = {}
    for client, column in enumerate(counts.T.tolist()):
        groups.setdefault(tuple(column), []).append(client)
    who = np.zeros((rounds, clients), dtype=np.int64)
    for column, group in groups.items():
        who[:, group] = _Program(null, windows.astype(float), np.array(column), group, deadline, exact).columns().T
    open_ = tuple(tuple(group) for group in groups.values() if len(group) > 1)
    if open_:
        warnings.warn(f"clients {open_} have the same counts: which column is whose is not known", stacklevel=2)
    return who, np.abs(null @ who).max(axis=0), open_


def left_null_space(sums: Any, clients: int) -> tuple[Matrix, Matrix]:
    """Return what annihilates the sums, as far as these come from so many clients.

    Args:
        sums: A row a round, (rounds, parameters).
        clients: Number of clients.

    Returns:
        N (rounds - clients, rounds), with N P = 0 for sums without noise: every row has a 1 in a round of its own, and
        other numbers in as many rounds as there are clients, which makes integer programs fast. And all singular values
        (rounds,), falling: as many leading directions as there are clients are kept out of N, not one more.

    Raises:
        ValueError: There are not more rounds than clients, or the sums have a smaller rank.

    Chapter: disaggregation. Source: survey, Eq. (3); lam2021.
    """
    sums = _rows("sums", sums)
    rounds = len(sums)
    if not 1 <= clients < rounds:
        raise ValueError(f"sums: got {rounds} rounds of {clients} clients, wanted more rounds than clients")
    columns, values, _ = np.linalg.svd(np.asarray(np.linalg.qr(sums.T, mode="r")).T)
    values = np.concatenate([values, np.zeros(rounds - len(values))])
    rank = int((values > RANK_TOLERANCE * values[0]).sum())
    if rank < clients:
        reasons = "two took part in the same rounds, or their gradients depend on each other"
        raise ValueError(f"sums: got rank {rank}, wanted {clients}, the number of clients: {reasons}")
    space = columns[:, :clients]
    order = qr(space.T, pivoting=True, mode="r")[1]
    null = np.zeros((rounds - clients, rounds))
    null[:, order[clients:]] = np.eye(rounds - clients)
    null[:, order[:clients]] = -np.linalg.solve(space[order[:clients]].T, space[order[clients:]].T).T
    return null, values


def disaggregate(sums: Any, who: Any, *, trend: int = 0, at: int = 0) -> tuple[Matrix, float]:
    """Return every client's gradient, the least-squares solution of sums = who gradients.

    Args:
        sums: A row a round, (rounds, parameters).
        who: Participation, (rounds, clients).
        trend: Degree of the polynomial that every gradient follows from round to round.
        at: The round, from 0, whose gradients are returned.

    Returns:
        The gradients (clients, parameters), and the norm of what they leave unexplained over that of the sums.

    Raises:
        ValueError: The rounds do not fit each other, ``trend`` is negative, or participation, with the trend's columns
            beside it, has no full column rank.

    Chapter: disaggregation. Source: lam2021.
    """
    sums, who = _rows("sums", sums), _rows("participation", who)
    if len(who) != len(sums) or trend < 0:
        raise ValueError(
            f"participation, trend: got {len(who)} rounds for {len(sums)} sums and {trend}, wanted 0 or more"
        )
    since = (np.arange(len(who)) - at)[:, None] / len(who)
    design = np.hstack([who * since**degree for degree in range(trend + 1)])
    solution, _, rank, _ = np.linalg.lstsq(design, sums, rcond=RANK_TOLERANCE)
    if rank < design.shape[1]:
        what = f"got rank {rank} of {design.shape[1]} columns over {len(who)} rounds"
        raise ValueError(f"participation: {what}, wanted full rank: more rounds, or a lower trend")
    return solution[: who.shape[1]], float(np.linalg.norm(sums - design @ solution) / np.linalg.norm(sums))


@dataclass(frozen=True, eq=False)
class _Program:
    """The columns of zeros and ones for a group of clients that have the same counts."""

    null: Matrix
    windows: Matrix
    counts: Matrix
    group: list[int]
    deadline: float
    exact: bool

    def columns(self) -> Matrix:
        """Return (clients, rounds). Noisy sums: the relaxed program first, whose result is often whole, and faster."""
        found: list[Matrix] = []
        for integral in (True,) if self.exact else (False, True):
            first = self._best(integral)
            if first is None or not np.array_equal(self.windows @ first, self.counts):
                continue
            bound = max(MARGIN * float(np.abs(self.null @ first).max()), SLACK)
            found = [first]
            while len(found) <= len(self.group) and (other := self._other(found, bound)) is not None:
                found.append(other)
            if len(found) == len(self.group):
                return np.stack(found)
        which = f"participation: of clients {self.group}"
        if not found:
            raise ValueError(f"{which} no rounds fit the counts, wanted counts of these rounds")
        if len(found) < len(self.group):
            raise ValueError(f"{which} two took part in the same rounds: their gradients come as a sum only")
        raise ValueError(
            f"{which} it is not unique, {len(found)} choices or more fit; wanted smaller windows or more rounds"
        )

    def _best(self, integral: bool) -> Matrix | None:
        """Return the column with the least sum of mismatches; of exact sums any without a mismatch."""
        rows, rounds = self.null.shape
        if self.exact:
            return self._solve(np.zeros(rounds), LinearConstraint(self.null, -SLACK, SLACK), integral)
        both = np.block([[self.null, -np.eye(rows)], [-self.null, -np.eye(rows)]])
        return self._solve(np.r_[np.zeros(rounds), np.ones(rows)], LinearConstraint(both, -np.inf, 0), integral)

    def _other(self, found: list[Matrix], bound: float) -> Matrix | None:
        """Return another column with no mismatch above the bound; ``None`` if it is proved that there is none."""
        away = np.stack([1 - 2 * column for column in found])  # with the same counts, columns differ in two rounds
        rows = np.vstack([self.null, away])
        low = np.r_[np.full(len(self.null), -bound), 2 - np.array([column.sum() for column in found])]
        high = np.r_[np.full(len(self.null), bound), np.full(len(found), np.inf)]
        return self._solve(np.zeros(self.null.shape[1]), LinearConstraint(rows, low, high), integral=True)

    def _solve(self, costs: Matrix, constraint: LinearConstraint, integral: bool) -> Matrix | None:
        """Return the rounds of one program's solution, ``None`` if there is none; what lies beyond them is slack."""
        rounds, extra = self.null.shape[1], len(costs) - self.null.shape[1]
        counted = np.hstack([self.windows, np.zeros((len(self.windows), extra))])
        result = milp(
            costs,
            constraints=[constraint, LinearConstraint(counted, self.counts, self.counts)],
            integrality=np.r_[np.full(rounds, int(integral)), np.zeros(extra)],
            bounds=Bounds(0, np.r_[np.ones(rounds), np.full(extra, np.inf)]),
            options={"time_limit": max(1e-3, self.deadline - time.perf_counter())},
        )
        if result.status == 1 or time.perf_counter() > self.deadline:
            raise TimeoutError(f"time_limit: it ran out at the participation of clients {self.group}")
        if result.status not in (0, 2):
            raise RuntimeError(f"the solver failed at the participation of clients {self.group}: {result.message}")
        return None if result.x is None else np.rint(result.x[:rounds])


def _rows(name: str, values: Any) -> Matrix:
    rows: Matrix = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"{name}: got shape {rows.shape}, wanted finite numbers with a row for every round")
    return rows


def _flat(part: Observation) -> Matrix:
    flat: Matrix = torch.cat([float64(tensor).flatten().cpu() for tensor in part.shared if tensor is not None]).numpy()
    return flat


def _unflat(part: Observation, row: Matrix, examples: int) -> Observation:
    given = iter(torch.split(torch.from_numpy(row), [t.numel() for t in part.shared if t is not None]))
    shared = tuple(None if tensor is None else next(given).view(tensor.shape) for tensor in part.shared)
    return part.replace(shared=shared, batch_size=examples)
