"""What a network does to an attack: depth and width, activation, training, shortcuts and normalization; ten cases each.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_networks

A case is a photograph, or a window of one, of 12x12 pixels (8x8 for trained networks), a network and a Gaussian start
with seeds of their own; labels are declared, there is no prior. A few minutes on one core. What the file already holds
is kept; remove the file to measure all of it again.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from gilearn import attacks, data, federated, metrics, models
from gilearn.attacks import distances, optimizers
from tools.recording import resume

COMMAND = "python -m tools.record_networks"
CASES = range(10)
DISTANCES = {"cosine": distances.Cosine(), "l1": distances.Manhattan()}


def psnr(found: Tensor, x: Tensor) -> float:
    return round(float(metrics.psnr(found.view_as(x), x)), 1)


def decibels(
    net: nn.Module, x: Tensor, y: Tensor, *, seed: int, iterations: int, rate: float = 0.1, distance: str = "l1"
) -> float:
    attack = attacks.InvGrad.replace(
        iterations=iterations,
        regularizers=(),
        distance=DISTANCES[distance],
        optimizer=optimizers.Adam(lr=rate, schedule=optimizers.StepDecay()),
    )
    return psnr(attack(federated.observe(net, x, y, declare=["labels"]), seed=seed).inputs, x)


def picture(case: int) -> tuple[Tensor, Tensor]:
    x, y = data.photos(12, fold=case // 10)
    return x[case % 10 : case % 10 + 1], y[case % 10 : case % 10 + 1]


def chain(depth: int, width: int, seed: int) -> nn.Module:
    """As many convolutions as wanted; the first has stride 2, so that all of them end with the same 6x6 positions."""
    return models.convnet(size=12, widths=(width,) * depth, strides=(2,) + (1,) * (depth - 1), seed=seed)


def by_shape(depth: int, width: int, iterations: int, rate: float, case: int) -> dict[str, float]:
    return {"psnr": decibels(chain(depth, width, case), *picture(case), seed=case, iterations=iterations, rate=rate)}


def by_activation(activation: str, distance: str, iterations: int, rate: float, case: int) -> dict[str, float]:
    net = models.convnet(size=12, activation=activation, seed=case)
    return {"psnr": decibels(net, *picture(case), seed=case, iterations=iterations, rate=rate, distance=distance)}


class Block(nn.Module):
    """Two convolutions and a shortcut, each convolution with a batch normalization."""

    def __init__(self, before: int, after: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = (
            nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)) if shortcut else None
        )

    def forward(self, x: Tensor) -> Tensor:
        body: Tensor = self.body(x)
        return F.relu(body if self.shortcut is None else body + self.shortcut(x))


def resnet(shortcut: bool, seed: int) -> nn.Module:
    """A small ResNet of three blocks that averages over positions, as ResNets do; or the same without shortcuts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, 1, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            *(Block(a, b, s, shortcut) for a, b, s in ((32, 32, 1), (32, 64, 2), (64, 64, 1))),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )


def by_shortcut(shortcut: bool, mode: str, distance: str, rate: float, case: int) -> dict[str, float]:
    """In mode "inference" the statistics are those of all photographs; in "training" those of the private picture."""
    net = resnet(shortcut, case)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(data.photos(12)[0])
    net.train(mode == "training")
    return {"psnr": decibels(net, *picture(case), seed=case, iterations=200, rate=rate, distance=distance)}


def windows(size: int, fold: int) -> tuple[Tensor, Tensor]:
    """Twenty windows of each photograph of 24 pixels."""
    photos, _ = data.photos(24, fold=fold)
    places = torch.randint(24 - size + 1, (200, 2), generator=torch.Generator().manual_seed(fold)).tolist()
    cut = [photos[k // 20, :, i : i + size, j : j + size] for k, (i, j) in enumerate(places)]
    return torch.stack(cut), torch.arange(200) // 20


@functools.cache
def trained(activation: str, seed: int) -> dict[int, nn.Module]:
    """One network at several ages, in epochs of training on 16 windows of each photograph."""
    x, y = windows(8, 0)
    x, y = (values[torch.arange(200) % 20 < 16] for values in (x, y))
    net = models.convnet(size=8, widths=(16, 32, 32), activation=activation, seed=seed)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(seed)
    ages = {0: copy.deepcopy(net)}
    for epoch in range(1, 33):
        for rows in torch.randperm(160, generator=generator).split(16):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
        if epoch in (8, 32):
            ages[epoch] = copy.deepcopy(net)
    return ages


def gradient_map(net: nn.Module, shape: Any, y: Tensor) -> Callable[[Tensor], Tensor]:
    net = copy.deepcopy(net).double()
    weights = {name: parameter.detach() for name, parameter in net.named_parameters()}

    def loss(weights: Any, x: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, weights, (x,)), y)

    return lambda flat: torch.cat([g.flatten() for g in grad(loss)(weights, flat.view(shape)).values()])


def levenberg(shared: Callable[[Tensor], Tensor], target: Tensor, x: Tensor, steps: int = 25) -> tuple[Tensor, float]:
    """Levenberg-Marquardt: the damped Gauss-Newton method, whose pace no condition number limits."""
    damping, r = 1e-2, shared(x) - target
    for _ in range(steps):
        turned = vmap(lambda v: jvp(shared, (x,), (v,))[1], chunk_size=64)(torch.eye(len(x), dtype=x.dtype))  # noqa: B023
        gram, slope = turned @ turned.T, turned @ r
        before = float(r @ r)
        scale = gram.diagonal().mean() * torch.eye(len(x), dtype=x.dtype)
        for _ in range(12):
            step = torch.linalg.solve(gram + damping * scale, -slope)
            new = shared(x + step) - target
            if float(new @ new) < before:
                break
            damping *= 4
        else:
            break
        x, r, damping = x + step, new, damping / 10
        if float(r @ r) < 1e-24 * float(target @ target) or float(r @ r) > 0.9999 * before:
            break
    return x, float((r @ r) / (target @ target)) ** 0.5


def by_training(activation: str, epochs: int, case: int) -> dict[str, float]:
    """l1 with Adam from a Gaussian start; Levenberg-Marquardt from 40 dB and from 80 dB; and the network's state."""
    x, y = windows(8, 0)
    tested = (torch.arange(200) % 20 >= 16).nonzero().flatten()
    net = trained(activation, case // 2)[epochs]
    accuracy = float((net(x[tested]).argmax(1) == y[tested]).float().mean())
    k = int(tested[(7 * case + 3) % 40])
    x, y = x[k : k + 1], y[k : k + 1]
    shared, flat = gradient_map(net, x.shape, y), x.double().flatten()
    target = shared(flat)
    values = vmap(lambda v: jvp(shared, (flat,), (v,))[1], chunk_size=64)(torch.eye(len(flat), dtype=flat.dtype))
    singular = torch.linalg.eigvalsh(values @ values.T).clamp_min(0).sqrt()
    result = {
        "psnr": decibels(net, x, y, seed=case, iterations=200),
        "accuracy": round(accuracy, 3),
        "condition": round(float(singular[-1] / singular[0]), 1),
        "length": round(float(target.norm()), 4),
    }
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(case), dtype=torch.float64)
    for near in (40, 80):
        found, residual = levenberg(shared, target, flat + 10 ** (-near / 20) * noise)
        result |= {f"from {near}": psnr(found, x.double()), f"residual {near}": float(f"{residual:.1e}")}
    return result


def plan() -> Iterator[tuple[Callable[..., dict[str, float]], dict[str, Any]]]:
    for case in CASES:
        for mode, name in (("inference", "cosine"), ("inference", "l1"), ("training", "cosine")):
            yield by_shortcut, {"shortcut": True, "mode": mode, "distance": name} | {"rate": 0.1, "case": case}
    for case in CASES:
        rest: dict[str, Any] = {"rate": 0.1, "case": case}
        for activation in ("relu", "gelu"):
            for epochs in (0, 32):
                yield by_training, {"activation": activation, "epochs": epochs, "case": case}
        for depth, width, iterations in ((2, 8, 400), (2, 32, 400), (8, 8, 400), (8, 32, 400), (8, 64, 400)):
            yield by_shape, {"depth": depth, "width": width, "iterations": iterations} | rest
        for name in DISTANCES:
            yield by_activation, {"activation": "sigmoid", "distance": name, "iterations": 400} | rest
    yield from tuning(10)


def tuning(case: int) -> Iterator[tuple[Callable[..., dict[str, float]], dict[str, Any]]]:
    """Other rates, on a case of their own; everything else has 0.1."""
    for rate in (0.03, 0.1, 0.3):
        rest: dict[str, Any] = {"rate": rate, "case": case}
        for depth in (2, 8):
            yield by_shape, {"depth": depth, "width": 32, "iterations": 400} | rest
        for name in DISTANCES:
            yield by_activation, {"activation": "sigmoid", "distance": name, "iterations": 400} | rest
            yield by_shortcut, {"shortcut": True, "mode": "inference", "distance": name} | rest


def main() -> None:
    resume("networks", COMMAND, (({"part": run.__name__} | key, functools.partial(run, **key)) for run, key in plan()))


if __name__ == "__main__":
    main()
