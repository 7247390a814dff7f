"""FedSGD and FedAvg on the digits: rounds until 85 % of the test digits are right, each at several learning rates.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python -m tools.record_fedavg

Ten clients of 100 digits each, dealt evenly or sorted by label, so that a client holds one or two classes; a sigmoid
perceptron of 32 hidden neurons; tests on the other 797 digits. Ten cases: other weights, and other digits in training
and test. A run ends at 85 %, or after 120 rounds. Minutes on one core. Cases that the file already holds are kept;
remove the file to measure all of them again.
"""

from __future__ import annotations

import functools
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from gilearn import data, models
from tools.recording import resume

COMMAND = "python -m tools.record_fedavg"
CASES, CLIENTS, TRAINING, ROUNDS, GOAL = range(10), 10, 1000, 120, 0.85
STEPS, RATES = (1, 20), (1.0, 2.0, 4.0, 8.0)


def rounds(case: int, split: str, steps: int, lr: float) -> dict[str, int | None]:
    """Return after how many rounds the goal is reached; ``None`` if it is not."""
    x, y = data.digits(fold=case)
    x, test_x, y, test_y = x[:TRAINING], x[TRAINING:], y[:TRAINING], y[TRAINING:]
    order = torch.argsort(y, stable=True) if split == "sorted" else torch.arange(TRAINING)
    x, y = (t[order].unflatten(0, (CLIENTS, -1)) for t in (x, y))
    model = models.mlp(64, (32,), seed=1000 * case)

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (x,)), y)

    gradients = vmap(grad(loss))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    for number in range(1, ROUNDS + 1):
        local = {name: weight.expand(CLIENTS, *weight.shape) for name, weight in weights.items()}
        for _ in range(steps):
            slopes = gradients(local, x, y)
            local = {name: weight - lr * slopes[name] for name, weight in local.items()}
        weights = {name: weight.mean(0) for name, weight in local.items()}
        right = functional_call(model, weights, (test_x,)).argmax(1) == test_y
        if float(right.double().mean()) >= GOAL:
            return {"rounds": number}
    return {"rounds": None}


def main() -> None:
    plan = [
        ({"case": case, "split": split, "steps": steps, "lr": lr}, functools.partial(rounds, case, split, steps, lr))
        for case, split, steps, lr in itertools.product(CASES, ("even", "sorted"), STEPS, RATES)
        if split == "even" or steps > 1  # one step a round is gradient descent on the union, however it is dealt
    ]
    resume("fedavg", COMMAND, plan)


if __name__ == "__main__":
    main()
