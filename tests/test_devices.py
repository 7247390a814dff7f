"""What the model is on, everything is on: attacks, labels, metrics, recursion and rounds, device by device.

On a device without float64 (MPS) the package computes nothing: ``gilearn.device()`` does not return it.
"""

from __future__ import annotations

import warnings

import pytest
import torch

from gilearn import attacks, defenses, federated, metrics, models, ranks
from gilearn.attacks import distances, initialization, labels, optimizers, regularizers, spaces
from gilearn.federated import LocalSteps

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def no_generator_of_a_device_moves(device):
    """No attack may advance the generator of any device; TF32 would round a float32 product to three digits."""
    states = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    assert not torch.backends.cuda.matmul.allow_tf32
    yield
    for before in states:
        assert torch.equal(before, torch.cuda.get_rng_state(device))


TV = regularizers.TotalVariation(weight=1e-4)
SEARCHES = {
    "DLG": attacks.DLG.replace(iterations=3, restarts=1),
    "iDLG": attacks.iDLG.replace(iterations=3, restarts=1),
    "CPL": attacks.CPL.replace(iterations=3, restarts=1),
    "InvGrad": attacks.InvGrad.replace(iterations=3),
    "SAPAG": attacks.SAPAG.replace(iterations=3),
    "GradInversion": attacks.GradInversion.replace(iterations=3, restarts=2, parallel=2),
    "several together, with Langevin noise": attacks.InvGrad.replace(
        iterations=3, restarts=2, parallel=2, optimizer=optimizers.Adam(lr=0.1, noise=0.2), regularizers=(TV,)
    ),
    "coarse": attacks.InvGrad.replace(iterations=3, space=spaces.Coarse(factor=2)),
    "from a picture": attacks.InvGrad.replace(
        iterations=3, initialization=initialization.FromImage(picture=torch.full((3, 16, 16), 0.5))
    ),
    "orthogonality": attacks.InvGrad.replace(
        iterations=3, distance=distances.Manhattan(), regularizers=(regularizers.Orthogonality(weight=0.1),)
    ),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_searches(name, device, photos):
    """Three steps from the same start: on every device nearly the same place, and on this device."""
    x = torch.nn.functional.interpolate(photos[0][:1], size=(16, 16), mode="area")
    victim = lambda: models.convnet(size=16, batch_norm=True, activation="sigmoid", widths=(8, 8), strides=(1, 2))  # noqa: E731
    results = {}
    for where in ("cpu", device):
        seen = federated.observe(victim().to(where), x, photos[1][:1], declare=["labels", "batch_norm"])
        results[str(where)] = SEARCHES[name](seen, seed=3)
    found = results[str(device)]
    assert found.inputs.device.type == device.type
    off = float((found.inputs.cpu() - results["cpu"].inputs).norm() / results["cpu"].inputs.norm())
    assert off < 5e-2
    assert found.labels.cpu().tolist() == results["cpu"].labels.tolist()


def test_the_same_seed_gives_the_same_bits(device, digits):
    model = models.lenet(1, size=8, strides=(1, 1)).to(device)
    seen = federated.observe(model, digits[0][:2], digits[1][:2])
    attack = SEARCHES["DLG"]
    assert torch.equal(attack(seen, seed=1).inputs, attack(seen, seed=1).inputs)


RULES = [labels.RowMinimum(), labels.LLG(), labels.LLGStar(rounds=2), labels.ILRG(), labels.RLG()]


@pytest.mark.parametrize("rule", RULES)
def test_label_rules(rule, device, digits):
    x, y = digits[0][:4], torch.tensor([3, 1, 7, 9])
    seen = federated.observe(models.mlp(64, (32,), activation="relu").to(device), x, y)
    assert rule(seen).tolist() == [1, 3, 7, 9]


def test_the_label_of_one_example(device, digits):
    seen = federated.observe(models.lenet(1, size=8).to(device), digits[0][:1], torch.tensor([6]))
    assert labels.IDLG()(seen).tolist() == [6]


@pytest.mark.parametrize("name", ["PPDL_AHE", "PPDL_SPN", "RGAP", "COPA"])
def test_recursions(name, device, digits):
    x, y = digits[0][:1], digits[1][:1]
    flat = name in ("PPDL_AHE", "PPDL_SPN")
    victim = models.mlp(64, (32,)) if flat else models.lenet(1, size=8, width=12, strides=(1,))
    seen = federated.observe(victim.to(device), x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = getattr(attacks, name)(seen, seed=0)
    assert result.inputs.device.type == device.type
    assert metrics.psnr(result.inputs, x) > 80
    assert isinstance(metrics.ssim(result.inputs, x.to(device)), float)


def test_defenses_and_rounds(device, digits):
    """Data comes from where it is; noise is the same on every device."""
    clients = [(digits[0][:3], digits[1][:3]), (digits[0][3:5], digits[1][3:5])]
    defense = (defenses.ExampleClipping(norm=0.1), defenses.GaussianNoise(std=0.01), defenses.Pruning(share=0.5))
    shared = {}
    for where in ("cpu", device):
        *_, last = federated.fedavg(
            models.mlp(64, (16,)).to(where), clients, LocalSteps(steps=2, lr=0.1), num_rounds=2, defense=defense
        )
        assert last.shared[0].device.type == torch.device(where).type
        assert last.aggregate().simulate(*(torch.cat(part).to(where) for part in zip(*clients, strict=True)))
        shared[str(where)] = last.shared[0].cpu()
    torch.testing.assert_close(shared[str(device)], shared["cpu"], rtol=1e-4, atol=1e-5)


def test_ranks(device, digits):
    model = models.lenet(1, size=8, strides=(1, 2)).to(device)
    values = ranks.gradient_spectrum(model, digits[0][:1], digits[1][:1])
    assert len(values) == 64
    assert list(ranks.rank_report(model, (1, 8, 8))["deficiency"]) is not None
