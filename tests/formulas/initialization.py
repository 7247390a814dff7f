"""Where the search starts: draws of the generator, moved by hand."""

from __future__ import annotations

from functools import partial

import torch

from formulas.rows import rand, randn, rows
from gilearn.attacks.iteration.initialization import Constant, FromImage, Gaussian, Tiled, Uniform

MODULES = ["gilearn.attacks.iteration.initialization"]
NO_FORMULA = {"Initialization"}
SHAPES = [(1, 1, 4, 4), (2, 3, 5, 8), (3, 3, 9, 6)]


def compute(start, shape, seed):
    return start(shape, torch.Generator().manual_seed(seed))


def moved(shape, seed, *, draw, by, times):
    numbers = draw(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.tensor([by + times * number for number in numbers.flatten().tolist()], dtype=torch.float64).view(shape)


def constant(shape, seed, *, per_channel):
    wanted = torch.empty(shape, dtype=torch.float64)
    for channel in range(shape[1]):
        wanted[:, channel] = per_channel[channel % len(per_channel)]
    return wanted


def tiled(shape, seed, *, parts):
    batch, channels, height, width = shape
    sides = [next(side for side in range(1, 99) if side * parts >= whole) for whole in (height, width)]
    tile = rand(batch, channels, *sides, generator=torch.Generator().manual_seed(seed))
    wanted = torch.empty(shape, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            wanted[:, :, row, column] = tile[:, :, row % sides[0], column % sides[1]]
    return wanted


def case(shape, generator):
    return shape, int(torch.randint(100, (), generator=generator))


CASES = [partial(case, shape) for shape in SHAPES]
COLOURED = CASES[1:]
PICTURES = [torch.linspace(0, 1, 2 * 3 * 5 * 8).view(2, 3, 5, 8).sin(), torch.linspace(0, 1, 3 * 5 * 8).view(3, 5, 8)]
ROWS = [
    *rows(
        compute,
        CASES,
        [
            (Gaussian(), partial(moved, draw=randn, by=0.0, times=1.0)),
            (Gaussian(mean=0.4, std=0.0), partial(moved, draw=randn, by=0.4, times=0.0)),
            (Gaussian(mean=-0.5, std=0.3), partial(moved, draw=randn, by=-0.5, times=0.3)),
            (Uniform(), partial(moved, draw=rand, by=0.0, times=1.0)),
            (Uniform(low=2.0, high=2.0), partial(moved, draw=rand, by=2.0, times=0.0)),
            (Uniform(low=-1.0, high=3.0), partial(moved, draw=rand, by=-1.0, times=4.0)),
            (Constant(), partial(constant, per_channel=[0.5])),
            (Constant(value=0.2), partial(constant, per_channel=[0.2])),
            (Tiled(), partial(tiled, parts=2)),
            (Tiled(parts=1), partial(tiled, parts=1)),
            (Tiled(parts=4), partial(tiled, parts=4)),
        ],
    ),
    *rows(compute, COLOURED, [(Constant(value=(0.1, 0.2, 0.9)), partial(constant, per_channel=[0.1, 0.2, 0.9]))]),
    *rows(
        compute,
        [partial(case, (3, 2))],
        [
            (Constant(value=(0.3, 0.7)), partial(constant, per_channel=[0.3, 0.7])),
            (Uniform(), partial(moved, draw=rand, by=0.0, times=1.0)),
        ],
    ),
    *rows(
        compute,
        [COLOURED[0]],
        [
            (FromImage(picture=PICTURES[0]), lambda shape, seed: PICTURES[0].double()),
            (FromImage(picture=PICTURES[1]), lambda shape, seed: torch.stack([PICTURES[1].double()] * 2)),
        ],
    ),
]
REFUSALS = [
    (lambda: Gaussian(std=-1.0), "std: got -1.0, wanted 0 or more"),
    (lambda: Uniform(low=1.0, high=0.0), "high: got 0.0, wanted at least low, 1.0"),
    (lambda: Tiled(parts=0), "parts: got 0, wanted at least 1"),
    (lambda: Tiled()((2, 5), torch.Generator()), r"shape: got \(2, 5\), wanted"),
    (
        lambda: Constant(value=(0.1, 0.2))((1, 3, 4, 4), torch.Generator()),
        "value: got 2 values, wanted one per channel",
    ),
    (lambda: Constant(value=(0.1,))((4,), torch.Generator()), "value: got 1 values, wanted one per channel"),
    (
        lambda: FromImage(picture=PICTURES[1])((2, 1, 5, 8), torch.Generator()),
        r"picture: got shape \(3, 5, 8\), wanted \(1, 5, 8\) or \(2, 1, 5, 8\)",
    ),
]
