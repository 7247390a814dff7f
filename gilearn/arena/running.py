"""Run the cells of a grid, each once, and put what came out in a table."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import os
import re
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import joblib
import torch
from filelock import FileLock, Timeout
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from tqdm import tqdm

from gilearn import federated, metrics
from gilearn.arena.grid import AXES, Cell, Grid, source

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = 1
RESULT = ("status", "reason", "psnr", "ssim", "labels", "residual", "seconds", "warnings")
"""The table's columns after the axes; ``ran``, ``source`` and ``cell`` follow."""

_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")} | {"OMP_WAIT_POLICY": "passive"}


def run(
    *grids: Grid, folder: str | os.PathLike[str] | None = None, workers: int | None = None, progress: bool = False
) -> pd.DataFrame:
    """Run every cell of the grids that is not in the folder yet; return the table of all of them.

    One that was refused or failed is there too: remove its file to run it again.

    Args:
        grids: What to run, one after the other.
        folder: Where every finished cell is kept; one that all workers can reach. ``None``: nowhere.
        workers: How many processes, each of one thread; -1 for one on every core. ``None``: what
            ``joblib.parallel_config`` says, Dask's workers for instance; without it this process alone.
        progress: Show a progress bar.

    Returns:
        What :func:`table` returns.

    Raises:
        ValueError: There is no grid, or ``workers`` is 0 or below -1.
    """
    if not grids or not all(isinstance(grid, Grid) for grid in grids):
        raise ValueError(f"grids: got {[type(grid).__name__ for grid in grids]}, wanted at least one arena.Grid")
    if workers is not None and not (workers == -1 or workers >= 1):
        raise ValueError(f"workers: got {workers}, wanted None, -1, or at least 1")
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as kept:
        path = Path(kept)
        path.mkdir(parents=True, exist_ok=True)
        planned = [cell for grid in grids for cell in grid.cells()]
        cells = {cell.digest: cell for cell in planned}
        left = [cell for cell in cells.values() if read(path, cell) is None]
        with tqdm(total=len(cells), disable=not progress, unit="cell") as bar, patch.dict(os.environ, _ONE_THREAD):
            for wait in (False, True):  # what another process is at is left to it, until nothing else is left
                bar.n = len(cells) - len(left)
                ended = _Parallel(bar, workers)(joblib.delayed(finish)(cell, path, wait) for cell in left)
                left = [cell for cell, done in zip(left, ended, strict=True) if not done]
        return _frame(planned, path)


def table(*grids: Grid, folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return a row for every cell of the grids, from what a folder has of it; nothing is run.

    Returns:
        A frame with the axes as columns, and: ``status``, of which ``"refused"`` is a cell that the package says cannot
        be, ``"failed"`` any other error, ``"missing"`` one that has not run; ``reason``; ``psnr`` in dB and ``ssim``,
        matched, of the batch on average; ``labels``, the share found; ``residual``; ``seconds`` of the attack;
        ``warnings``; ``ran``, the complete description; ``source``, a checksum of the package that ran; ``cell``, the
        file's name.

    Warns:
        UserWarning: Cells were run by another state of the package than this one.
    """
    return _frame([cell for grid in grids for cell in grid.cells()], Path(folder))


def _frame(cells: Sequence[Cell], folder: Path) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for cell in cells:
        found = read(folder, cell) or {"result": {"status": "missing"}, "source": None}
        ran = ", ".join(f"{axis}={text}" for axis, text in cell.texts.items())
        rows.append({**cell.names, **found["result"], "ran": ran, "source": found["source"], "cell": cell.digest})
    other = sum(row["source"] not in (None, source()) for row in rows)
    if other:
        warnings.warn(
            f"folder: {other} of {len(rows)} cells were run by another state of the package than this one; remove "
            "their files to run them again",
            stacklevel=3,
        )
    return pd.DataFrame(rows, columns=[*AXES, *RESULT, "ran", "source", "cell"])


def finish(cell: Cell, folder: Path, wait: bool) -> bool:
    """Run a cell and keep it, unless it is there; say whether it is there now. Another process may be at it."""
    if read(folder, cell) is not None:
        return True
    lock = folder / f".{cell.digest}.lock"  # the system unlocks it when its holder is killed
    try:
        with _alone, FileLock(lock, timeout=-1 if wait else 0):
            if read(folder, cell) is None:
                content = {"format": _FORMAT, "ran": dict(cell.texts), "result": _measured(cell), "source": source()}
                _write(folder / f"{cell.digest}.json", json.dumps(content, indent=1))
            with suppress(OSError):
                lock.unlink()  # whoever holds this file next finds the result first
    except Timeout:
        return False
    return True


def read(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """Return what the folder has of a cell: ``None`` if it has nothing, or no whole file."""
    try:
        content = json.loads((folder / f"{cell.digest}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(content, dict) and content.get("format") == _FORMAT and {"result", "source"} <= content.keys()
    return content if whole else None


def _write(path: Path, text: str) -> None:
    for abandoned in path.parent.glob(f".{path.stem}-*"):
        abandoned.unlink(missing_ok=True)
    where: dict[str, Any] = {"dir": path.parent, "prefix": f".{path.stem}-", "encoding": "utf-8"}
    with tempfile.NamedTemporaryFile("w", delete=False, **where) as unfinished:
        unfinished.write(text)
        unfinished.flush()
        os.fsync(unfinished.fileno())
    os.replace(unfinished.name, path)


_alone = threading.RLock()  # networks are initialized from a generator that all threads share


def _measured(cell: Cell) -> dict[str, Any]:
    """Run a cell; return its columns of the table."""
    row: dict[str, Any] = {"status": "done", "reason": None}
    with warnings.catch_warnings(record=True) as caught, threadpool_limits(1), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("always")
        torch.default_generator.manual_seed(cell.parts["seed"])  # for functions of your own that draw from it
        try:
            result, x, y = _attacked(**cell.parts)
            row |= {"residual": result.residual, "seconds": result.seconds}
            row |= _scored(result, x, y)
        except Exception as error:
            refused = "residual" not in row and _refuses(error, cell)
            row |= {"status": "refused" if refused else "failed"}
            row["reason"] = str(error) if refused else f"{type(error).__name__}: {error}"
    return row | {"warnings": "; ".join(dict.fromkeys(str(warning.message) for warning in caught)) or None}


def _attacked(
    attack: Callable[..., Any],
    defense: Any,
    victim: Any,
    knowledge: Any,
    client: Mapping[str, Any],
    data: Any,
    batch: int,
    seed: int,
) -> tuple[Any, Tensor, Tensor]:
    """Let a client share, attack what it shared, and return the result with the private batch."""
    options = {name: value for name, value in client.items() if name not in ("mode", "device", "observe")}
    model = copy.deepcopy(_built(victim, seed)).to(client.get("device", "cpu"))
    if "mode" in client:
        model.train(client["mode"] == "training")
    x, y = _built(data, seed)
    if batch > len(x):
        raise ValueError(f"batches: got {batch}, and the data have {len(x)} examples")
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed + 3_000_000))[:batch]
    x, y = x[rows], y[rows]
    own = defense(model) if isinstance(defense, functools.partial) or inspect.isroutine(defense) else defense
    declared = {"declare": tuple(knowledge), "defense": own, "seed": seed + 1_000_000}
    seen = client.get("observe", federated.observe)(model, x, y, **declared, **options)
    if not isinstance(seen, (federated.Observed, federated.AggregatedRounds)):
        wanted = "an Observation, Aggregate, AggregatedRounds or Several"
        raise ValueError(f"clients.observe: returned a {type(seen).__name__}, wanted {wanted}")
    return attack(seen, seed=seed + 2_000_000), x, y


def _built(build: Any, seed: int) -> Any:
    if isinstance(build, (nn.Module, tuple, list)):
        return build
    given = build.keywords if isinstance(build, functools.partial) else {}
    known = inspect.signature(build).parameters
    return build(**{name: seed for name in ("seed", "fold") if name in known and name not in given})


def _scored(result: Any, x: Tensor, y: Tensor) -> dict[str, float | None]:
    truth = y.argmax(dim=-1) if y.is_floating_point() else y
    pictures = x.ndim == 4 and min(x.shape[2:]) >= 7
    return {
        "psnr": float(metrics.psnr(result.inputs, x)) if x.is_floating_point() else None,
        "ssim": float(metrics.ssim(result.inputs, x)) if pictures else None,
        "labels": None if result.labels is None else metrics.label_accuracy(result.labels.flatten(), truth.flatten()),
    }


def _refuses(error: Exception, cell: Cell) -> bool:
    """Say whether an error is the package's, or an ingredient's own, word that this cell cannot be.

    By the rule of the house that is a ``ValueError`` that names its argument; numpy's, for instance, are failures.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    parts = (cell.parts["attack"], cell.parts["defense"], cell.parts["client"].get("observe"))
    ingredients = [part.func if isinstance(part, functools.partial) else part for part in parts]
    own = ["gilearn", *(str(getattr(ingredient, "__module__", "")) for ingredient in ingredients)]
    raised_in, *rooms = (name.partition(".")[0] for name in (str(frame.f_globals.get("__name__")), *own))
    said = isinstance(error, NotImplementedError) or re.match(r"[\w.,'\[\] ]+: ", str(error))
    return isinstance(error, (ValueError, NotImplementedError)) and bool(said) and raised_in in rooms


class _Parallel(joblib.Parallel):  # type: ignore[misc]
    """joblib's, with a progress bar."""

    def __init__(self, bar: tqdm[Any], workers: int | None) -> None:
        super().__init__(n_jobs=workers, batch_size=1)
        self.bar, self.before = bar, bar.n

    def print_progress(self) -> None:
        """Move the bar."""
        self.bar.update(self.before + self.n_completed_tasks - self.bar.n)
