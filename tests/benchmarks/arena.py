"""What workers save, and what survives being killed, with real processes.

    python -m tests.benchmarks.arena

Seconds of a grid with one worker over those with two, in turns in one run, with and without the workers' start; the
same grid on two Dask processes; and a grid on two workers whose main process is killed ten times at random.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import joblib
import pandas as pd
from joblib.externals.loky import get_reusable_executor

from gilearn import arena, attacks, data, models
from gilearn.attacks import labels

VICTIMS = {"convnet": partial(models.convnet, size=16)}
DATA = {"photos": partial(data.photos, 16, fold=0)}
ATTACK = attacks.InvGrad.replace(iterations=60, labels=labels.IDLG())
LONG = arena.Grid(attacks={"InvGrad": ATTACK}, victims=VICTIMS, data=DATA, seeds=range(24))
SHORT = LONG.replace(attacks={"InvGrad": ATTACK.replace(iterations=2)}, seeds=range(200))


def main() -> None:
    print("one worker / two, seconds (bar 1.6)")
    arena.run(LONG.replace(seeds=(0,)))  # pictures are read before
    cold, warm = [], []
    for _ in range(3):
        get_reusable_executor().shutdown()
        alone, first = seconds(1), seconds(2)
        second = seconds(2)
        cold.append(alone / first)
        warm.append(alone / second)
        print(f"  {alone:.1f} s / {first:.1f} s with start / {second:.1f} s without", flush=True)
    print(f"  with start {statistics.median(cold):.2f}, without {statistics.median(warm):.2f}", flush=True)
    print("two Dask processes: same table", same(dask(), arena.run(LONG)), flush=True)
    print("killed ten times on two workers:", killed(), flush=True)


def seconds(workers: int) -> float:
    began = time.perf_counter()
    arena.run(LONG, workers=workers)
    return time.perf_counter() - began


def dask() -> pd.DataFrame:
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster), joblib.parallel_config(backend="dask"):
        return arena.run(LONG)


def same(table: pd.DataFrame, other: pd.DataFrame) -> bool:
    return table.drop(columns="seconds").equals(other.drop(columns="seconds"))


def killed() -> str:
    """Kill the main process ten times; say what was finished then, whether it was touched again, and what came out."""
    chance = random.Random(0)
    counts = []
    with tempfile.TemporaryDirectory() as folder:
        kept: dict[Path, int] = {}
        for _ in range(10):
            enough = len(kept) + chance.randint(1, 10)
            process = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.arena", folder])
            while len(list(Path(folder).glob("*.json"))) < enough:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kept |= {path: path.stat().st_mtime_ns for path in Path(folder).glob("*.json") if path not in kept}
            counts.append(len(kept))
        found = arena.run(SHORT, folder=folder, workers=2)
        untouched = all(path.stat().st_mtime_ns == when for path, when in kept.items())
        whole = same(found, arena.run(SHORT))
        left = [path.name for path in Path(folder).iterdir() if path.suffix != ".json"]
    return f"{counts} of {len(found)} finished, none written again {untouched}, same table {whole}, left over {left}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        arena.run(SHORT, folder=sys.argv[1], workers=2)
    else:
        main()
