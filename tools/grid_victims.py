"""The networks and pictures of the grid: every attack of Table 1 on a network of the kind that its row names.

Each network has three forms. ``plain`` is the attack's own. ``deficient`` has more parameters than an example has
values, and a gradient that still leaves directions of it open. ``few`` has fewer parameters than an example has values.
For most attacks the other two forms are the same networks of two or three narrow convolutions; a perceptron cannot
have fewer parameters than inputs. R-GAP's deficient form on photographs is the paper's CNN6-d, whose system of the
second layer is deficient while the gradient as a whole is not. On digits that system is not, and COPA's is taken.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gilearn import data, generators, models

Form = Literal["plain", "deficient", "few"]
SHAPES = {"digits": (1, 8), "photos": (3, 32), "gray": (1, 32), "faces": (1, 25)}
"""Channels and side of each kind of picture."""


def pictures(kind: str, fold: int) -> tuple[Tensor, Tensor]:
    """Return a pool to draw private pictures from: digits and faces that no generator has seen, or photographs."""
    if kind == "digits":
        return generators.held_out("digits", 100, fold=fold)
    if kind == "faces":
        return generators.held_out("faces", fold=fold)
    photos, labels = data.photos(32, fold=fold)
    if kind == "photos":
        return photos, labels
    more, again = data.photos(32, fold=fold + 1000)  # GradDisagg's clients together have sixteen
    return torch.cat([photos, more]).mean(dim=1, keepdim=True), torch.cat([labels, again])


@functools.cache
def public(kind: str) -> tuple[Tensor, Tensor]:
    """Return pictures of the kind that are not attacked; of photographs other windows."""
    if kind in ("digits", "faces"):
        return generators.training(kind)
    parts = [pictures(kind, fold) for fold in range(100, 110)]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def guess(kind: str, label: int) -> Tensor:
    """Return the mean of public pictures, which an attacker has without a gradient; of the other nine photographs."""
    x, y = public(kind)
    return (x if kind in ("digits", "faces") else x[y != label]).mean(dim=0)


def small(kind: str, form: Form, seed: int, *, norm: bool = False) -> nn.Module:
    """Return a narrow network of two or three convolutions of stride 2: rank deficient, or with few parameters."""
    channels, size = SHAPES[kind]
    widths = {"deficient": (2, 2) if size == 8 else (6, 6), "few": (1, 1, 1) if size == 8 else (4, 4, 4)}[form]
    return models.convnet(
        channels, size=size, widths=widths, strides=(2,) * len(widths), activation="sigmoid", batch_norm=norm, seed=seed
    )


def lenet(kind: str, form: Form, seed: int) -> nn.Module:
    """DLG's LeNet, without strides on digits; on photographs one wide convolution, which a short search inverts."""
    if form != "plain":
        return small(kind, form, seed)
    channels, size = SHAPES[kind]
    if size == 8:
        return models.lenet(channels, size=size, strides=(1, 1, 1), seed=seed)
    return models.lenet(channels, size=size, strides=(2,), width=24, seed=seed)


@functools.cache
def normalized(kind: str, form: Form, seed: int) -> nn.Module:
    """A ConvNet whose normalizations normalize: public pictures have passed it."""
    channels, size = SHAPES[kind]
    if form == "plain":
        net: nn.Module = models.convnet(
            channels, size=size, widths=(16, 32), strides=(1, 2), batch_norm=True, seed=seed
        )
    else:
        net = small(kind, form, seed, norm=form == "deficient")
    with torch.no_grad():
        net.train()(public(kind)[0][:100])
    return net.eval()


def convolutional(kind: str, form: Form, seed: int) -> nn.Module:
    """A ConvNet without normalization."""
    if form != "plain":
        return small(kind, form, seed)
    channels, size = SHAPES[kind]
    return models.convnet(channels, size=size, widths=(16, 32), strides=(1, 2), seed=seed)


def single(kind: str, form: Form, seed: int) -> nn.Module:
    """One convolution, a fully connected layer on top: PPDL-SPN reads the first layer alone."""
    if form != "plain":
        return small(kind, form, seed)
    channels, size = SHAPES[kind]
    return models.convnet(channels, size=size, widths=(16,), strides=(2,), activation="sigmoid", seed=seed)


def perceptron(kind: str, form: Form, seed: int) -> nn.Module:
    """A hidden layer of 32 neurons."""
    if form != "plain":
        return small(kind, form, seed)
    channels, size = SHAPES[kind]
    return models.mlp(channels * size * size, (32,), seed=seed)


def loop_net(kind: str, form: Form, seed: int) -> nn.Module:
    """CAFE's vertical network of four parties; narrower ones for the other forms."""
    channels, size = SHAPES[kind]
    widths, hidden = {"plain": ((24,), (16, 8)), "deficient": ((2,), (4, 4)), "few": ((1,), (2, 2))}[form]
    return models.loop_net((channels, size, size), widths=widths, hidden=hidden, seed=seed)


def cnn6(kind: str, form: Form, seed: int) -> nn.Module:
    """R-GAP's network; its deficient form is the paper's CNN6-d, the third a chain of three narrow convolutions."""
    channels, size = SHAPES[kind]
    if form == "few":
        return chain(channels, (1, 1, 1) if size == 8 else (4, 4, 4), (2, 2, 2), size, seed)
    widths = (12, 36, 36, 36, 64, 128) if form == "plain" else (12, 20, 36, 36, 64, 128)
    return models.cnn6(channels, 10, size=size, widths=widths, seed=seed)


def wanting(kind: str, form: Form, seed: int) -> nn.Module:
    """Two convolutions, of which the second has too few filters: COPA's case; its other forms have fewer in both."""
    channels, size = SHAPES[kind]
    if form == "few":
        return chain(channels, (1, 1, 1) if size == 8 else (4, 4, 4), (2, 2, 2), size, seed)
    if form == "deficient":
        return chain(channels, (2, 2), (2, 2), size, seed)
    return chain(channels, *(((12, 6), (1, 2)) if size == 8 else ((12, 9), (2, 1))), size, seed)


def chain(channels: int, widths: Sequence[int], strides: Sequence[int], size: int, seed: int) -> nn.Module:
    """Convolutions without bias, each followed by a leaky ReLU, and a classifier: what a recursion can walk back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers: list[nn.Module] = []
        for width, stride in zip(widths, strides, strict=True):
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.LeakyReLU(0.2)]
            channels, size = width, -(-size // stride)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 10, bias=False))
