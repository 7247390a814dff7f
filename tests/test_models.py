"""The victims: shapes, determinism, the published parameter counts, refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import gilearn
from gilearn import models

BUILDERS = {
    "mlp": (lambda seed: models.mlp(192, (16,), seed=seed), (3, 8, 8)),
    "lenet": (lambda seed: models.lenet(seed=seed), (3, 32, 32)),
    "lenet of faces": (lambda seed: models.lenet(1, size=25, seed=seed), (1, 25, 25)),
    "lenet of stride 1": (lambda seed: models.lenet(1, size=8, strides=(1, 1, 1), seed=seed), (1, 8, 8)),
    "convnet": (lambda seed: models.convnet(seed=seed), (3, 32, 32)),
    "convnet with batch norm": (lambda seed: models.convnet(batch_norm=True, seed=seed), (3, 32, 32)),
    "loop-net": (lambda seed: models.loop_net((3, 9, 8), widths=(4,), hidden=(8, 4), seed=seed), (3, 9, 8)),
    "resnet18": (lambda seed: models.resnet18(seed=seed), (3, 32, 32)),
    "resnet18 of 224": (lambda seed: models.resnet18(size=224, seed=seed), (3, 224, 224)),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_shape_and_determinism(name):
    build, shape = BUILDERS[name]
    model, same, other = build(3), build(3).state_dict(), build(4).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in model.state_dict().items())
    assert any(not torch.equal(value, other[key]) for key, value in model.state_dict().items())
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


def test_cnn6_is_the_published_one():
    assert sum(p.numel() for p in models.cnn6(num_classes=10, bias=False).parameters()) == 154_256
    model = models.cnn6()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 1)
    assert model[-1].in_features == 3200
    assert all(not name.endswith("bias") for name, _ in model.named_parameters())


def test_lenet_is_the_published_one():
    model = models.lenet(3, 100)
    assert model[-1].in_features == 768
    assert models.lenet(1, 10, size=28)[-1].in_features == 588
    values = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert values.abs().max() <= 0.5
    assert abs(values.std() - 1 / 12**0.5) < 0.01
    assert models.lenet(spread=None)[0].weight.abs().max() < 0.2


def test_resnet_has_no_relu_left():
    kinds = {type(m).__name__ for m in models.resnet18(activation="sigmoid").modules()}
    assert "Sigmoid" in kinds
    assert "ReLU" not in kinds


def test_normalized():
    inner = torch.nn.Flatten()
    model = models.Normalized(inner, (0.5, 0.25), (0.5, 2.0))
    x = torch.tensor([[[[1.0]], [[2.25]]]])
    assert model(x).tolist() == [[1.0, 1.0]]
    assert "mean" in dict(model.named_buffers())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.mlp(0), "in_features: got 0"),
        (lambda: models.mlp(4, (3, -1)), "widths: got"),
        (lambda: models.lenet(activation="swoosh"), "activation: got 'swoosh', wanted one of sigmoid"),
        (lambda: models.convnet(widths=(8, 8), strides=(1,)), "strides: got 1 of them, wanted one for each of the 2"),
        (lambda: models.cnn6(widths=(1, 2)), "widths: got 2, wanted six"),
        (lambda: models.Normalized(torch.nn.Flatten(), (0.0,), (0.0,)), "std: got"),
        (lambda: models.Normalized(torch.nn.Flatten(), (0.0, 1.0), (1.0,)), "std: got"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_device(monkeypatch):
    """CUDA or the CPU; MPS has no float64, so that attacks would fail where the package sent them."""
    assert gilearn.device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert gilearn.device().type == "cpu"


def test_no_generator_of_another_device_is_seeded(monkeypatch):
    seeded = []
    for module in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(module, name, lambda *arguments: seeded.append(arguments), raising=False)
    models.lenet()
    models.resnet18()
    assert seeded == []


def test_weights_are_what_pytorch_s_seed_gives():
    """Stored weights and figures depend on it: the draws are those that follow ``torch.manual_seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = [torch.nn.Linear(192, 16), torch.nn.Linear(16, 10)]
        torch.manual_seed(4)
        convolution = torch.nn.Conv2d(3, 12, 4, stride=2, padding=2, bias=False)
    model = models.mlp(192, (16,), seed=3)
    assert torch.equal(model[1].weight, layers[0].weight)
    assert torch.equal(model[3].bias, layers[1].bias)
    assert torch.equal(models.cnn6(seed=4)[0].weight, convolution.weight)


def test_weights_do_not_depend_on_the_default_device():
    with torch.device("meta"):
        model = models.mlp(192, (16,), seed=3)
    assert torch.equal(model[1].weight, models.mlp(192, (16,), seed=3)[1].weight)


def test_the_state_is_put_back_where_a_builder_fails():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), models._seeded(5):
        raise RuntimeError
    assert torch.equal(before, torch.get_rng_state())


def test_torchvision_without_its_operators():
    """The guard declares the operators' schemas where the compiled library does not load, and only there."""
    script = """
import torch
def refuse(path): raise OSError("built for another torch")
torch.ops.load_library = refuse
from gilearn._torchvision import operators_load, torchvision
assert not operators_load()
from torchvision import datasets, models, transforms
assert models.resnet18()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_torchvision_with_its_operators(monkeypatch):
    """Where they load, nothing is declared in their place."""
    from gilearn import _torchvision

    assert (_torchvision._declared is None) == _torchvision.operators_load()
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    assert _torchvision.operators_load()


@pytest.mark.parametrize("name", models.TRAINED)
def test_trained_victims_are_the_recorded_ones(name):
    """The stored weights have the recorded checksum and accuracy, and loading them draws nothing."""
    import hashlib
    import json
    from pathlib import Path

    folder = Path(models.__file__).parents[1] / "data" / "weights"
    record = json.loads((folder / "index.json").read_text())[name]
    assert hashlib.sha256((folder / f"{name}.pt").read_bytes()).hexdigest() == record["sha256"]
    assert record["accuracy"] > 0.9
    model = models.trained(name)
    untrained = models.TRAINED[name][0]()
    assert [p.shape for p in model.parameters()] == [p.shape for p in untrained.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), untrained.parameters(), strict=True))


def test_unknown_trained_victim():
    with pytest.raises(ValueError, match="name: got 'vgg'"):
        models.trained("vgg")
