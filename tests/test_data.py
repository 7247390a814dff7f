"""Every loader: shapes, ranges, determinism, and torchvision's files in their real formats, whole and damaged."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image

from gilearn import data
from gilearn._torchvision import torchvision


@pytest.mark.parametrize("size", [32, 64, 128, 224])
def test_photos(size):
    x, y = data.photos(size)
    assert x.shape == (10, 3, size, size)
    assert x.dtype == torch.float32
    assert y.tolist() == list(range(10))
    assert x.min() >= 0
    assert x.max() <= 1
    assert (x.flatten(1).std(dim=1) > 0.05).all()


def test_photos_by_name_keep_their_label():
    x, y = data.photos(32, names=["retina", "astronaut"])
    assert y.tolist() == [4, 0]
    assert torch.equal(x[1], data.photos(32)[0][0])


def test_photo_shrinks_by_averaging():
    fine, coarse = data.photos(224, names=["retina"])[0], data.photos(32, names=["retina"])[0]
    averaged = torch.nn.functional.avg_pool2d(fine, 7)
    assert (averaged - coarse).abs().mean() < 0.02


def test_random_crops_are_seeded():
    x, y = data.photos(32, names=["chelsea", "coffee"], crops=3, seed=7)
    assert y.tolist() == [1, 1, 1, 2, 2, 2]
    assert torch.equal(x, data.photos(32, names=["chelsea", "coffee"], crops=3, seed=7)[0])
    assert not torch.equal(x, data.photos(32, names=["chelsea", "coffee"], crops=3, seed=8)[0])
    assert not torch.equal(x[0], x[1])


def test_faces_and_digits():
    faces, labels = data.faces()
    assert faces.shape == (100, 1, 25, 25)
    assert labels.tolist() == [1] * 100
    assert data.faces(negatives=True)[1].tolist() == [1] * 100 + [0] * 100
    digits, labels = data.digits(5)
    assert digits.shape == (5, 1, 8, 8)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert digits.max() == 1
    assert data.digits(2, size=32)[0].shape == (2, 1, 32, 32)


@pytest.mark.parametrize("load", [data.photos, data.faces, data.digits])
def test_folds(load):
    """Another fold has the same labels in the same order, and other pictures; always the same ones."""
    (first, labels), (x, y), (again, _), (other, _) = (load(fold=fold) for fold in (0, 1, 1, 2))
    assert torch.equal(first, load()[0])
    assert torch.equal(y, labels)
    assert torch.equal(x, again)
    for a, b in ((first, x), (x, other), (first, other)):
        assert a.shape == b.shape
        assert (a != b).flatten(1).any(dim=1).float().mean() > 0.95
    if load is not data.photos:  # the same pictures, in another order
        assert torch.equal(x.flatten(1).sum(1).sort().values, first.flatten(1).sum(1).sort().values)
    for fold in (-1, 0.5, None):
        with pytest.raises(ValueError, match="fold: got .*, wanted a whole number from 0"):
            load(fold=fold)


def test_a_photograph_of_a_fold_is_the_same_beside_others():
    alone, all_ = data.photos(32, names=["coffee"], fold=4)[0], data.photos(32, fold=4)[0]
    assert torch.equal(alone[0], all_[2])
    crops = [data.photos(32, names=["coffee"], crops=2, fold=fold)[0] for fold in (0, 4, 4)]
    assert torch.equal(crops[1], crops[2])
    assert not torch.equal(crops[0], crops[1])


@pytest.mark.parametrize("name", data.TABLES)
def test_tables(name):
    x, y = data.table(name)
    assert x.dtype == torch.float32
    assert y.dtype == (torch.float32 if name == "diabetes" else torch.int64)
    assert len(x) == len(y)
    torch.testing.assert_close(x.double().mean(0), torch.zeros(x.shape[1], dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(x.shape[1]))
    assert not torch.allclose(data.table(name, standardize=False)[0], x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.photos(4), "size: got 4"),
        (lambda: data.photos(names=["lena"]), "names: got .*lena.*wanted.*astronaut"),
        (lambda: data.photos(names=[]), "names: got"),
        (lambda: data.photos(crops=0), "crops: got 0"),
        (lambda: data.faces(101), "n: got 101, wanted 1 to 100"),
        (lambda: data.digits(0), "n: got 0"),
        (lambda: data.table("titanic"), "name: got 'titanic', wanted one of iris"),
        (lambda: data.dataset("ImageNet"), "name: got 'ImageNet', wanted one of MNIST"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def write_mnist(folder, name, n=6):
    """Write the four files of the MNIST format: big-endian headers, then bytes."""
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    labels = np.arange(n, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + labels.tobytes())
    return pixels, labels


def write_cifar(folder, name, monkeypatch, n=4):
    """Write CIFAR's pickled batches, and tell torchvision their checksums in place of the real ones."""
    kind = getattr(torchvision.datasets, name)
    base = folder / kind.base_folder
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = []

    def write(file, content):
        (base / file).write_bytes(pickle.dumps(content))
        return [file, hashlib.md5((base / file).read_bytes()).hexdigest()]

    key = "labels" if name == "CIFAR10" else "fine_labels"
    lists = {"train_list": [], "test_list": []}
    for which, files in lists.items():
        for file, _ in getattr(kind, which):
            batch = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
            pixels += [batch] if which == "train_list" else []
            files.append(write(file, {"data": batch, key: list(range(n))}))
    names = write(kind.meta["filename"], {kind.meta["key"]: [str(k) for k in range(100)]})
    for which, files in lists.items():
        monkeypatch.setattr(kind, which, files)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": names[1]})
    return np.concatenate(pixels).reshape(-1, 3, 32, 32)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist_format(tmp_path, name):
    pixels, labels = write_mnist(tmp_path, name)
    x, y = data.dataset(name, root=tmp_path, download=False)
    assert x.shape == (6, 1, 28, 28)
    torch.testing.assert_close(x[:, 0], torch.from_numpy(pixels) / 255)
    assert y.tolist() == labels.tolist()
    x, y = data.dataset(name, root=tmp_path, train=False, n=2, size=32)
    assert x.shape == (2, 1, 32, 32)
    assert y.dtype == torch.int64


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_format(tmp_path, monkeypatch, name):
    pixels = write_cifar(tmp_path, name, monkeypatch)
    x, y = data.dataset(name, root=tmp_path, download=False)
    assert x.shape == pixels.shape
    torch.testing.assert_close(x, torch.from_numpy(pixels) / 255)
    assert y[:4].tolist() == [0, 1, 2, 3]


def test_environment_names_the_folder(tmp_path, monkeypatch):
    write_mnist(tmp_path, "MNIST")
    monkeypatch.setenv("GILEARN_DATASETS", str(tmp_path))
    assert len(data.dataset("MNIST", download=False)[0]) == 6


def test_absent_without_download(tmp_path):
    with pytest.raises(FileNotFoundError, match="MNIST: no files in .*download=False"):
        data.dataset("MNIST", root=tmp_path, download=False)


def test_absent_without_network(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(FileNotFoundError, match="CIFAR10: not in .*download failed.*data.photos"):
        data.dataset("CIFAR10", root=tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing half-downloaded stays"


def test_download_arrives_whole_or_not_at_all(tmp_path, monkeypatch):
    def half(self):
        (tmp_path_of(self) / "raw").mkdir(parents=True)
        raise RuntimeError("connection lost")

    def tmp_path_of(self):
        return type(tmp_path)(self.root) / "MNIST"

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", half)
    with pytest.raises(FileNotFoundError, match="connection lost"):
        data.dataset("MNIST", root=tmp_path)
    assert list(tmp_path.iterdir()) == []

    def whole(self):
        write_mnist(type(tmp_path)(self.root), "MNIST")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", whole)
    assert len(data.dataset("MNIST", root=tmp_path)[0]) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


def test_half_downloaded_mnist(tmp_path):
    write_mnist(tmp_path, "MNIST")
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(ValueError, match="MNIST in .*damaged or half-downloaded"):
        data.dataset("MNIST", root=tmp_path, download=False)


def test_half_downloaded_cifar(tmp_path, monkeypatch):
    write_cifar(tmp_path, "CIFAR10", monkeypatch)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-100])
    with pytest.raises(ValueError, match="CIFAR10 in .*damaged or half-downloaded"):
        data.dataset("CIFAR10", root=tmp_path, download=False)


def test_compressed_file_in_place_of_the_raw_one(tmp_path):
    write_mnist(tmp_path, "MNIST")
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(gzip.compress(images.read_bytes()))
    with pytest.raises(ValueError, match="damaged"):
        data.dataset("MNIST", root=tmp_path, download=False)


def test_image_folder(tmp_path):
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (40, 60), (100 * k, 50 * i, 7)).save(tmp_path / name / f"{i}.png")
    x, y = data.image_folder(tmp_path, size=16)
    assert x.shape == (6, 3, 16, 16)
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(x[4, :, 3, 3], torch.tensor([100, 50, 7]) / 255)
    x, y = data.image_folder(tmp_path, size=16, n=2, seed=3)
    assert torch.equal(x, data.image_folder(tmp_path, size=16, n=2, seed=3)[0])


def test_image_folder_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match="root: .* is no folder"):
        data.image_folder(tmp_path / "none", size=16)
    with pytest.raises(FileNotFoundError):
        data.image_folder(tmp_path, size=16)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "torn.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match=r"torn.png: damaged"):
        data.image_folder(tmp_path, size=16)
