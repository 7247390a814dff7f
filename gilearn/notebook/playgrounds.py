"""The plain functions behind the book's live playgrounds: a few choices in, a figure out."""

from __future__ import annotations

from matplotlib.figure import Figure

from gilearn import attacks, data, federated, models, plotting

PICTURES = ("face", "digit", *data.PHOTOS)
"""What :func:`deep_leakage` can attack."""


def deep_leakage(picture: str = "face", seed: int = 0, iterations: int = 20) -> Figure:
    """Run DLG against a sigmoid LeNet on one picture and draw what leaks.

    Args:
        picture: One of :data:`PICTURES`. Photographs have 32 pixels a side, the face 25, the digit 8.
        seed: Seeds the attack.
        iterations: Steps of L-BFGS, each of up to 20 evaluations; 20 are enough for the face and the digit.

    Returns:
        Original, reconstruction, difference.

    Raises:
        ValueError: The picture is unknown, or ``iterations`` not positive.

    Chapter: deep-leakage.
    """
    if picture not in PICTURES:
        raise ValueError(f"picture: got {picture!r}, wanted one of {', '.join(PICTURES)}")
    if picture == "digit":
        x, y = data.digits(1)
        model = models.lenet(1, size=8, strides=(1, 1, 1))
    elif picture == "face":
        x, y = data.faces(92)
        x, y, model = x[91:], y[91:], models.lenet(1, size=25)
    else:
        x, y = data.photos(32, names=[picture])
        model = models.lenet(3)
    attack = attacks.DLG.replace(iterations=iterations, restarts=1)
    return plotting.leak(x, attack(federated.observe(model, x, y), seed=seed).inputs)
