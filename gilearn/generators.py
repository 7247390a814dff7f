"""Generators that an attacker brings along: small decoders, trained on digits or faces that no chapter attacks.

Each set of pictures is split once. Three quarters train the generator (:func:`training`); the others are never shown to
it, and are what the chapters attack (:func:`held_out`), in another order for every fold.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from gilearn import data
from gilearn.federated.checks import check_name
from gilearn.models import _check_positive, _seeded

PICTURES: Mapping[str, Callable[[], tuple[Tensor, Tensor]]] = MappingProxyType(
    {"digits": data.digits, "faces": data.faces}
)
"""The sets of pictures that there is a generator of, by name: digits of 8x8 pixels, faces of 25x25."""


def decoder(latent: int = 16, *, size: int = 8, channels: int = 1, width: int = 32, seed: int = 0) -> nn.Sequential:
    """Return an untrained generator: a fully connected layer, then twice as many pixels, twice, and 3x3 convolutions.

    It maps (batch, latent) to pictures (batch, channels, size, size) in [0, 1], by a sigmoid at its end.

    Args:
        latent: Values of one picture's latent vector.
        size: Height and width of the pictures.
        channels: Of the pictures.
        width: Channels of the first two levels; the last has half as many.
        seed: Seeds PyTorch's default initialization.

    Raises:
        ValueError: A size is not positive.

    Chapter: generative-priors.
    """
    _check_positive(latent=latent, size=size, channels=channels, width=width)
    quarter, half = -(-size // 4), -(-size // 2)
    last = -(-width // 2)
    with _seeded(seed):
        return nn.Sequential(
            nn.Linear(latent, width * quarter * quarter),
            nn.Unflatten(1, (width, quarter, quarter)),
            nn.LeakyReLU(0.2),
            nn.Upsample(size=(half, half), mode="bilinear"),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Upsample(size=(size, size), mode="bilinear"),
            nn.Conv2d(width, last, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(last, channels, 3, padding=1),
            nn.Sigmoid(),
        )


TRAINED: Mapping[str, Callable[[], nn.Sequential]] = MappingProxyType(
    {"digits": lambda: decoder(16, size=8), "faces": lambda: decoder(32, size=25)}
)
"""Trained generators by the name of their pictures: the untrained decoder of each."""


def trained(name: str) -> nn.Sequential:
    """Return a generator with the weights that the book trained: latent vectors are drawn from N(0, 1).

    Args:
        name: A key of :data:`TRAINED`: ``"digits"`` has 16 latent values, ``"faces"`` 32.

    Raises:
        ValueError: The name is unknown.
        FileNotFoundError: The package is installed without the repository, whose ``data/weights`` holds the weights.

    Chapter: generative-priors. Source of the weights: ``data/weights/index.json``, with checksum and command.
    """
    check_name("name", name, TRAINED)
    path = Path(__file__).resolve().parents[1] / "data" / "weights" / f"generator-{name}.pt"
    if not path.is_file():
        raise FileNotFoundError(f"name: no weights of a generator of {name!r}; they are in data/weights")
    generator = TRAINED[name]()
    generator.load_state_dict(torch.load(path, weights_only=True))
    return generator.eval()


def training(name: str) -> tuple[Tensor, Tensor]:
    """Return the pictures that a generator is trained on, (n, 1, size, size), with their labels (n,).

    Args:
        name: A key of :data:`PICTURES`.

    Raises:
        ValueError: The name is unknown.

    Chapter: generative-priors.
    """
    return _split(name)[0]


def held_out(name: str, n: int | None = None, *, fold: int = 0) -> tuple[Tensor, Tensor]:
    """Return pictures that no generator of the book was trained on, whatever the fold.

    Args:
        name: A key of :data:`PICTURES`.
        n: The first how many, 1 to 450 digits or 25 faces; ``None`` for all.
        fold: 0, or the number of another order, in which every picture has a label that the one before it had.

    Returns:
        Pictures (n, 1, size, size) in [0, 1] and labels (n,).

    Raises:
        ValueError: The name is unknown, or ``n`` or ``fold`` is out of range.

    Chapter: generative-priors.
    """
    pictures, labels = _split(name)[1]
    return data._first(pictures[data._order(labels, fold)], labels, n)


def nearest(
    generator: nn.Module, pictures: Tensor, shape: tuple[int, ...], *, starts: int = 4, steps: int = 300, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return what a generator draws that is nearest to pictures: the floor of an attack that searches its latents.

    It looks at the private pictures, so it is no attack: it says how far one could come. The squared difference is
    minimized over the latent vectors, by Adam from several starts; what it finds is a bound, and no proof.

    Args:
        generator: Maps (batch, *shape) to pictures.
        pictures: (n, channels, height, width).
        shape: Of one latent vector.
        starts: Draws from N(0, 1) for every picture, from 1.
        steps: Of Adam at a rate that falls from 0.1 to zero, from 1.
        seed: Seeds the starts.

    Returns:
        The nearest pictures found, in the pictures' shape, and their latent vectors (n, *shape).

    Raises:
        ValueError: A number is below 1, or the generator takes other latents, or draws pictures of another shape.

    Chapter: generative-priors.
    """
    _check_positive(starts=starts, steps=steps)
    generator = copy.deepcopy(generator).requires_grad_(False)
    drawn = torch.randn(starts, len(pictures), *shape, generator=torch.Generator().manual_seed(seed))
    latent = drawn.flatten(0, 1).to(pictures).requires_grad_()
    wanted = pictures.repeat(starts, *[1] * (pictures.ndim - 1))
    try:
        got = generator(latent).shape
    except RuntimeError as error:
        raise ValueError(f"shape: the generator does not take latents of shape {tuple(shape)} ({error})") from error
    if got != wanted.shape:
        raise ValueError(f"generator: got pictures of shape {tuple(got[1:])}, wanted {tuple(pictures.shape[1:])}")
    optimizer = torch.optim.Adam([latent], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (generator(latent) - wanted).square().sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        errors = (generator(latent) - wanted).square().flatten(1).sum(1).view(starts, -1)
        best = latent.detach().view(drawn.shape)[errors.argmin(0), torch.arange(len(pictures))]
        return generator(best), best


def _split(name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    check_name("name", name, PICTURES)
    pictures, labels = PICTURES[name]()
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    known, others = order.tensor_split([int(0.75 * len(order))])
    return (pictures[known], labels[known]), (pictures[others], labels[others])
