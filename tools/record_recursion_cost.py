"""What a recursion costs: dense least squares against the matrix-free solver, 16 to 224 pixels, and on R-GAP's CNN6.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=2 python -m tools.record_recursion_cost

Needs 8 GB. Every case runs in a process of its own, so that its peak memory is its own; ``before_mb`` is the peak
before the attack began: Python, PyTorch, the picture and its gradient. The label is the one that the network does not
predict, so that the walk has a single start and both solvers do the same work. ``seconds`` are on the clock,
``cpu_seconds`` on the processor, which other work on the machine disturbs less. Cases that the file already holds are
kept; remove the file to measure all of them again.
"""

from __future__ import annotations

import functools
import json
import resource
import subprocess
import sys
import time

COMMAND = "python -m tools.record_recursion_cost"
WIDTHS, STRIDES = (16, 72, 72), (2, 2, 1)  # enough that the outputs alone have as many rows as unknowns
CASES = [
    *(("ours", size) for size in (16, 24, 32, 64, 128, 224)),
    *(("dense", size) for size in (16, 24, 32)),
    ("ours", "cnn6"),
    ("dense", "cnn6"),
]


def network(size):
    """Three 3x3 convolutions without biases, LeakyReLUs, one logit, float64."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers, channels = [], 3
        for width, stride in zip(WIDTHS, STRIDES, strict=True):
            layers += [nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False), nn.LeakyReLU(0.2)]
            channels, size = width, -(-size // stride)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 1, bias=False)).double()


def dense_solver():
    """R-GAP with the matrix of every layer written out and handed to numpy.linalg.lstsq."""
    import numpy as np
    import torch

    from gilearn.attacks.recursion.rgap import Recursion
    from gilearn.linear import Solution

    class Dense(Recursion):
        def solve(self, link, system, value):
            scale = system.gradient_scale()
            matrix = system.dense().contiguous().numpy()
            matrix[system.num_outputs :] *= scale
            right = torch.cat([system.kept(value), scale * link.weight_gradient.flatten()]).numpy()
            x, _, rank, values = np.linalg.lstsq(matrix, right, rcond=None)
            left = float(np.linalg.norm(matrix @ x - right) / np.linalg.norm(right))
            return Solution(
                x=torch.from_numpy(x).view(system.input_shape),
                unknowns=system.shape[1],
                equations=system.shape[0],
                rank=int(rank),
                measured=True,
                condition=float(values[0] / values[rank - 1]),
                residual=left,
                iterations=0,
            )

    return Dense()


def run(solver: str, case: str) -> dict:
    import torch

    from gilearn import attacks, data, federated, metrics, models

    size = 32 if case == "cnn6" else int(case)
    x = data.photos(size, names=["astronaut"])[0].double()
    model = models.cnn6().double() if case == "cnn6" else network(size)
    unlikely = (model(x).detach()[:, 0] < 0).long()
    seen = federated.observe(model, x, unlikely, loss="logistic", declare=["labels"])
    attack = dense_solver() if solver == "dense" else attacks.Recursion(exact_rank_up_to=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, worked = time.perf_counter(), time.process_time()
    found = attack(seen)
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "solver": solver,
        "case": case,
        "pixels": size**2,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "before_mb": before // 1024,
        "peak_mb": peak // 1024,
        "psnr": round(float(metrics.psnr(found.inputs, x)), 1),
        "relative_error": float(f"{metrics.relative_error(found.inputs, x):.3g}"),
        "residual": float(f"{found.residual:.3g}"),
        "threads": torch.get_num_threads(),
    }


def measured(solver: str, case: str) -> dict:
    """The result of one case, run in a process of its own."""
    child = [sys.executable, "-m", "tools.record_recursion_cost", solver, case]
    output = subprocess.run(child, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(run(*sys.argv[1:])))
        return
    from tools.recording import resume

    plan = [
        ({"solver": solver, "case": str(case)}, functools.partial(measured, solver, str(case)))
        for solver, case in CASES
    ]
    resume("recursion-cost", COMMAND, plan)


if __name__ == "__main__":
    main()
