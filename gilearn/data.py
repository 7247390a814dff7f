"""Data to leak: photographs, faces, digits and tables that need no network; torchvision's sets where there is one.

Every loader returns ``(x, y)``: images as float32 in [0, 1], shape (n, channels, height, width), and int64 labels,
shape (n,). Nothing is normalized here; that belongs to the model (:class:`gilearn.models.Normalized`).

A chapter is written on fold 0. Fold k of photographs, faces and digits has the same labels in the same order, and other
pictures: other crops of the photographs, another order of each class's faces or digits. What a chapter says has to hold
there too (``make replicate``).
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Each photograph is its own class. A box is (top, left, side) in the library's picture: the square that shows its
# subject.
_BOXES: dict[str, tuple[int, int, int]] = {
    "astronaut": (0, 112, 224),
    "chelsea": (0, 70, 300),
    "coffee": (10, 135, 380),
    "rocket": (60, 140, 360),
    "retina": (0, 0, 1411),
    "immunohistochemistry": (0, 0, 512),
    "stereo_motorcycle": (20, 120, 480),
    "hubble_deep_field": (200, 300, 400),
    "china": (0, 30, 427),
    "flower": (70, 145, 335),
}
PHOTOS: tuple[str, ...] = tuple(_BOXES)
"""Names of the photographs; the position of a name is its label. ``retina`` and ``immunohistochemistry`` are
medical."""

TABLES: tuple[str, ...] = ("iris", "wine", "breast_cancer", "diabetes")
"""Names of the tables."""

DATASETS: tuple[str, ...] = ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")
"""Names of the torchvision data sets that :func:`dataset` loads."""


def photos(
    size: int = 32, *, names: Sequence[str] = PHOTOS, crops: int | None = None, seed: int = 0, fold: int = 0
) -> tuple[Tensor, Tensor]:
    """Return square photographs, each of its own class.

    Args:
        size: Side in pixels, 8 to 1024. The book uses 32, 64, 128 and 224.
        names: Which photographs, and in which order; see :data:`PHOTOS`.
        crops: ``None`` for one crop per photograph, chosen to show its subject. A number for that many random crops of
            each, between 40 % and 100 % of the subject's side, one photograph after the other.
        seed: Seeds the random crops.
        fold: 0, or the number of another choice of crops: without ``crops`` one random crop of each photograph, between
            60 % and 90 % of the subject's side, whatever the other names are.

    Returns:
        Images (n, 3, size, size) in [0, 1] and labels (n,), the positions of the names in :data:`PHOTOS`.

    Raises:
        ValueError: A name is unknown, there is none, or ``size``, ``crops`` or ``fold`` is out of range.

    Chapter: setup. Source of the pictures: scikit-image and scikit-learn (data/README.md lists their licences).
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in _BOXES]
    if unknown or not names:
        raise ValueError(f"names: got {list(names)!r}, wanted at least one of {', '.join(PHOTOS)}")
    if crops is not None and crops < 1:
        raise ValueError(f"crops: got {crops}, wanted None or a number from 1")
    _check_fold(fold)
    generator = np.random.default_rng((seed, fold) if fold else seed)
    images, labels = [], []
    for name in names:
        boxes = [_box(name, fold)] if crops is None else [_random_box(_BOXES[name], generator) for _ in range(crops)]
        images += [_square(name, box, size) for box in boxes]
        labels += [PHOTOS.index(name)] * len(boxes)
    return torch.stack(images), torch.tensor(labels)


def faces(n: int | None = None, *, size: int = 25, negatives: bool = False, fold: int = 0) -> tuple[Tensor, Tensor]:
    """Return gray faces from the Labeled Faces in the Wild subset of scikit-image.

    Args:
        n: How many, 1 to 100 (200 with ``negatives``); ``None`` for all.
        size: Side in pixels, 8 to 1024; the originals have 25.
        negatives: Also the 100 pictures that are no faces, after the faces.
        fold: 0 for the order of the set, or the number of another order of the faces, and of the others.

    Returns:
        Images (n, 1, size, size) in [0, 1] and labels (n,): 1 for a face, 0 for none.

    Raises:
        ValueError: ``n``, ``size`` or ``fold`` is out of range.

    Chapter: perceptron.
    """
    from skimage.data import lfw_subset

    available = 200 if negatives else 100
    pictures = torch.from_numpy(lfw_subset()[:available]).float().unsqueeze(1)
    labels = torch.arange(available).lt(100).long()
    images, labels = _first(pictures[_order(labels, fold)], labels, n)
    return _resized(images, size), labels


def digits(n: int | None = None, *, size: int = 8, fold: int = 0) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's handwritten digits.

    Args:
        n: How many, 1 to 1797; ``None`` for all.
        size: Side in pixels, 8 to 1024; the originals have 8, the survey's victims want 28 or 32.
        fold: 0 for the order of the set, or the number of another order in which every digit has the same label.

    Returns:
        Images (n, 1, size, size) in [0, 1] and labels (n,), 0 to 9.

    Raises:
        ValueError: ``n``, ``size`` or ``fold`` is out of range.

    Chapter: deep-leakage.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pictures = torch.from_numpy(loaded.images / 16).float().unsqueeze(1)
    labels = torch.from_numpy(loaded.target).long()
    images, labels = _first(pictures[_order(labels, fold)], labels, n)
    return _resized(images, size), labels


def table(name: str, *, standardize: bool = True) -> tuple[Tensor, Tensor]:
    """Return one of scikit-learn's tables, for vertical federated learning.

    Args:
        name: One of :data:`TABLES`.
        standardize: Shift and scale every column to mean 0 and standard deviation 1.

    Returns:
        Rows (n, columns) as float32, and int64 labels (n,); for ``"diabetes"`` a float32 target (n,).

    Raises:
        ValueError: The name is unknown.

    Chapter: vertical.
    """
    if name not in TABLES:
        raise ValueError(f"name: got {name!r}, wanted one of {', '.join(TABLES)}")
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{name}")()
    rows = torch.from_numpy(loaded.data).double()
    if standardize:
        rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    target = torch.from_numpy(np.asarray(loaded.target))
    return rows.float(), target.float() if name == "diabetes" else target.long()


def dataset(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    train: bool = True,
    n: int | None = None,
    size: int | None = None,
    download: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return a torchvision data set as tensors, downloading it once where there is a network.

    Args:
        name: One of :data:`DATASETS`.
        root: Folder of the files; ``None`` for ``$GILEARN_DATASETS``, or else ``~/.cache/gilearn``.
        train: The training part, or the test part.
        n: The first how many; ``None`` for all.
        size: Side in pixels to resize to; ``None`` keeps 28 or 32.
        download: Fetch the files when they are absent.

    Returns:
        Images (n, 1 or 3, size, size) in [0, 1] and labels (n,).

    Raises:
        ValueError: The name is unknown, ``n`` or ``size`` is out of range, or the files are damaged or half-downloaded.
        FileNotFoundError: The files are absent and may not, or cannot, be downloaded.

    Chapter: setup.
    """
    if name not in DATASETS:
        raise ValueError(f"name: got {name!r}, wanted one of {', '.join(DATASETS)}")
    from gilearn._torchvision import torchvision

    folder = Path(root or os.environ.get("GILEARN_DATASETS") or Path.home() / ".cache" / "gilearn").expanduser()
    build = functools.partial(getattr(torchvision.datasets, name), train=train)
    if not _present(folder, name):
        if not download:
            raise FileNotFoundError(f"data set {name}: no files in {folder}, and download=False")
        _download(build, folder, name)
    loaded = _read(lambda: build(root=folder), f"data set {name} in {folder}")
    pictures = torch.as_tensor(np.asarray(loaded.data))
    pictures = pictures.unsqueeze(1) if pictures.ndim == 3 else pictures.permute(0, 3, 1, 2)
    pictures, labels = _first(pictures, torch.as_tensor(loaded.targets).long(), n)
    images = pictures.float().div(255)
    return (images if size is None else _resized(images, size)), labels


def image_folder(
    root: str | os.PathLike[str], *, size: int, n: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return pictures of your own: one folder per class, as torchvision's ``ImageFolder`` reads them.

    Args:
        root: A folder with one subfolder per class; the labels follow the alphabetical order of their names.
        size: Side in pixels; every picture is scaled on its shorter side and cropped at its centre.
        n: A random choice of that many; ``None`` for all.
        seed: Seeds the choice.

    Returns:
        Images (n, 3, size, size) in [0, 1] and labels (n,).

    Raises:
        FileNotFoundError: ``root`` is no folder, or holds no class folder with a picture.
        ValueError: ``n`` or ``size`` is out of range, or a file is no readable picture.

    Chapter: setup.
    """
    from gilearn._torchvision import torchvision

    _check_size(size)
    if not Path(root).is_dir():
        raise FileNotFoundError(f"root: {root} is no folder; wanted a folder with one subfolder per class")
    transforms = torchvision.transforms
    loaded = torchvision.datasets.ImageFolder(
        str(root), transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()])
    )
    n = len(loaded) if n is None else _check_count(n, len(loaded))
    chosen = range(n) if n == len(loaded) else np.random.default_rng(seed).permutation(len(loaded))[:n]
    pairs = [
        _read(functools.partial(loaded.__getitem__, i), f"picture {loaded.samples[i][0]}") for i in map(int, chosen)
    ]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def recorded(name: str) -> dict[str, Any]:
    """Return a result that was computed once because it takes too long for a chapter.

    Args:
        name: Of a file in the repository's ``data/recorded``, without its ending.

    Returns:
        ``command`` that made it, ``machine`` that ran it, and the ``result``.

    Raises:
        FileNotFoundError: There is no such record, or the package is installed without the repository.

    Chapter: deep-leakage.
    """
    path = Path(__file__).resolve().parents[1] / "data" / "recorded" / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"name: no record {name!r}; records are in data/recorded of the repository")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@functools.lru_cache(maxsize=len(_BOXES))
def _picture(name: str) -> np.ndarray[Any, Any]:
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image(f"{name}.jpg"))
    import skimage.data

    picture = getattr(skimage.data, name)()
    return np.asarray(picture[0] if name == "stereo_motorcycle" else picture)


@functools.lru_cache(maxsize=1024)
def _square(name: str, box: tuple[int, int, int], size: int) -> Tensor:
    """Return one crop; resizing takes most of the time of a call, and chapters ask for the same crops again."""
    top, left, side = box
    crop = _picture(name)[top : top + side, left : left + side] / 255
    return _resized(torch.from_numpy(crop).permute(2, 0, 1).unsqueeze(0), size)[0]


def _box(name: str, fold: int) -> tuple[int, int, int]:
    """Return the one crop of a photograph that a fold has."""
    if fold == 0:
        return _BOXES[name]
    return _random_box(_BOXES[name], np.random.default_rng((fold, PHOTOS.index(name))), least=0.6, most=0.9)


def _random_box(
    box: tuple[int, int, int], generator: np.random.Generator, *, least: float = 0.4, most: float = 1.0
) -> tuple[int, int, int]:
    top, left, side = box
    part = int(generator.integers(int(least * side), int(most * side), endpoint=True))
    return top + int(generator.integers(side - part + 1)), left + int(generator.integers(side - part + 1)), part


def _resized(images: Tensor, size: int) -> Tensor:
    from skimage.transform import resize

    _check_size(size)
    if images.shape[-2:] == (size, size):
        return images.float()
    shrinks = size < images.shape[-1]
    resized = resize(images.double().numpy(), (*images.shape[:2], size, size), anti_aliasing=shrinks)
    return torch.from_numpy(resized).float().clamp(0, 1)


def _order(labels: Tensor, fold: int) -> Tensor:
    """Return the order of the pictures in a fold: in every class, other pictures at the class's places."""
    _check_fold(fold)
    order = torch.arange(len(labels))
    if fold > 0:
        generator = np.random.default_rng(fold)
        for label in torch.unique(labels):
            rows = (labels == label).nonzero().flatten()
            order[rows] = rows[torch.from_numpy(generator.permutation(len(rows)))]
    return order


def _first(images: Tensor, labels: Tensor, n: int | None) -> tuple[Tensor, Tensor]:
    n = len(images) if n is None else _check_count(n, len(images))
    return images[:n], labels[:n]


def _check_count(n: int, available: int) -> int:
    if not 1 <= n <= available:
        raise ValueError(f"n: got {n}, wanted 1 to {available}")
    return n


def _check_fold(fold: int) -> None:
    if not hasattr(fold, "__index__") or fold < 0:
        raise ValueError(f"fold: got {fold!r}, wanted a whole number from 0")


def _check_size(size: int) -> None:
    if not 8 <= size <= 1024:
        raise ValueError(f"size: got {size}, wanted a side of 8 to 1024 pixels")


def _present(folder: Path, name: str) -> bool:
    inside = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}.get(name, f"{name}/raw")
    return (folder / inside).is_dir()


def _download(build: Callable[..., Any], folder: Path, name: str) -> None:
    """Download beside the folder and move into it only what has arrived whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as arriving:
        try:
            build(root=arriving, download=True)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"data set {name}: not in {folder}, and the download failed ({error}); put torchvision's files there, "
                "or use data.photos, data.faces or data.digits, which need no network"
            ) from error
        for path in Path(arriving).iterdir():
            if path.is_dir():
                shutil.move(path, folder / path.name)


def _read(read: Callable[[], Any], what: str) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, AssertionError, EOFError, ValueError, IndexError) as error:
        reason = f" ({error})" if str(error) else ""
        raise ValueError(f"{what}: damaged or half-downloaded{reason}; remove it and load again") from error
