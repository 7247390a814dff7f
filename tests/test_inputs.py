"""Wrong inputs end in a ``ValueError`` that names the argument, what came, and what was wanted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gilearn import attacks, federated, models, ranks
from gilearn.attacks import instahide, masks, releases, spaces, unmixing
from gilearn.defenses import DPBlur, DPPix, InstaHide, MixUp, MixupInference, utility
from gilearn.defenses.data import pixelization
from gilearn.defenses.model import Dropout, Reshuffling
from gilearn.federated import Visits

PICTURES = torch.linspace(0, 1, 64).view(4, 1, 4, 4)
LABELS = torch.tensor([0, 1, 2, 3])
NAN = float("nan")
ONES = torch.ones(4, 3)
BYTES = (PICTURES * 255).to(torch.uint8)


def net(**options):
    return models.mlp(16, (8,), **options)


def dropping(between=False):
    with torch.random.fork_rng():
        layers = [nn.Linear(6, 6)] if between else []
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Dropout(0.5), nn.ReLU(), *layers, nn.Linear(6, 4))


def one(model=None):
    return federated.observe(net() if model is None else model, PICTURES[:1], LABELS[:1])


def inference(**options):
    given = {"samples": PICTURES, "labels": LABELS} | options
    return MixupInference(net(), given.pop("samples"), given.pop("labels"), **given)


def observe_logistic(defense):
    return federated.observe(models.mlp(16, (8,), 1), PICTURES, LABELS % 2, loss="logistic", defense=defense)


def restored(**options):
    return releases.restored(PICTURES, **({"public": PICTURES, "public_releases": PICTURES} | options))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MixUp(concentrations=1.0), "concentrations: got 1.0, wanted two or more positive numbers"),
        (lambda: MixUp(concentrations=(1.0, NAN)), r"concentrations: got \(1.0, nan\), wanted"),
        (lambda: MixUp(cap="0.7"), "cap: got '0.7', wanted above 1/2"),
        (lambda: observe_logistic(MixUp()), "loss: got 'logistic', wanted 'cross_entropy'"),
        (lambda: observe_logistic(InstaHide()), "loss: got 'logistic', wanted 'cross_entropy'"),
        (lambda: InstaHide(k=2.5), "k: got 2.5, wanted a whole number"),
        (lambda: InstaHide(center=NAN), "center: got nan, wanted a value of the pixels"),
        (lambda: InstaHide(public_images=BYTES), "public_images: got torch.uint8, wanted floating-point"),
        (lambda: InstaHide(public_images=PICTURES * NAN), "public_images: got NaN"),
        (lambda: InstaHide(public_images=[1, 2, 3]), "public_images: got a list, wanted a tensor"),
        (lambda: inference(draws=1.5), "draws: got 1.5, wanted a whole number"),
        (lambda: inference(labels=LABELS.double()), "labels: got .* wanted a tensor of classes"),
        (lambda: inference(samples=PICTURES * NAN), "samples: got NaN"),
        (lambda: inference()(PICTURES[:, :, :2]), r"inputs: got examples of shape \(1, 2, 4\), wanted \(1, 4, 4\)"),
        (lambda: inference()(PICTURES * NAN), "inputs: got NaN"),
        (lambda: DPPix(cell=2.5, m=1, epsilon=1.0), "cell: got 2.5, wanted a whole number"),
        (lambda: DPPix(cell=2, m=NAN, epsilon=1.0), "m: got nan, wanted a whole number"),
        (lambda: DPPix(cell=2, m=1, epsilon="1"), "epsilon: got '1', wanted a positive number"),
        (lambda: DPPix(cell=2, m=1, epsilon=1.0).release(PICTURES[:0]), "pictures: got shape"),
        (lambda: DPPix(cell=2, m=1, epsilon=1.0).scale(0), "channels: got 0, wanted at least 1"),
        (lambda: DPBlur(cell=2, m=1, epsilon=1.0, sigma=float("inf")), "sigma: got inf, wanted a positive number"),
        (lambda: pixelization.cells(PICTURES, 0), "cell: got 0, wanted at least 1"),
        (lambda: pixelization.blurred(PICTURES, 0), "sigma: got 0, wanted a positive number"),
        (lambda: pixelization.blurred(BYTES, 1.0), "pictures: got torch.uint8 of shape"),
        (lambda: Dropout(p="a"), "p: got 'a', wanted 0 to below 1"),
        (lambda: Dropout().insert("model"), "model: got a str, wanted a torch.nn.Module"),
        (lambda: Reshuffling(epochs=1.5), "epochs: got 1.5, wanted a whole number"),
        (lambda: Visits(rows=3), "rows: got 3, wanted a tuple of whole numbers"),
        (lambda: Visits(rows=(0.5, 1)), r"rows: got \(0.5, 1\), wanted a tuple of whole numbers"),
    ],
)
def test_defenses(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda task: task.replace(local=None), "local: got None, wanted a LocalSteps"),
        (lambda task: task.replace(load=None), "load: got None, wanted a function"),
        (lambda task: task.replace(rounds=NAN), "rounds: got nan, wanted a whole number"),
        (lambda task: task.spent(3), "local: got 3, wanted a LocalSteps"),
        (lambda task: utility.measure("digits"), "task: got 'digits', wanted a Training"),
        (lambda task: utility.measure(task, seeds=3), "seeds: got 3, wanted a list of whole numbers"),
        (lambda task: utility.measure(task, seeds=(-1,)), "seeds: got -1, wanted at least 0"),
        (lambda task: utility.measure(task, predict=3), "predict: got 3, wanted a function"),
        (
            lambda task: utility.measure(task, seeds=(0,), predict=lambda model, x: model(x).argmax(1)),
            "predict: got scores of shape",
        ),
        (lambda task: utility.tuned(task, rates=()), "rates: got none"),
    ],
)
def test_utility(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(utility.TASKS["digits"].replace(rounds=1, examples=30))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unmixing.mixed_labels("seen", PICTURES[:1]), "seen: got a str, wanted an Observation"),
        (
            lambda: unmixing.mixed_labels(federated.observe(net(), PICTURES, LABELS), PICTURES[:1]),
            "seen: got a gradient of 4 examples, wanted one of a single encoding",
        ),
        (lambda: unmixing.mixed_labels(one(), PICTURES), r"encoding: got shape \(4, 1, 4, 4\), wanted \(1, 1, 4, 4\)"),
        (lambda: unmixing.mixed_labels(one(), PICTURES[:1] * NAN), "encoding: got NaN"),
        (lambda: unmixing.partner(PICTURES, PICTURES), r"encoding: got 4, wanted one"),
        (lambda: unmixing.partner(PICTURES[:1], PICTURES * NAN), "candidates: got NaN"),
        (lambda: unmixing.partner(PICTURES[:1], PICTURES[:0]), "candidates: got shape"),
        (lambda: unmixing.partner(PICTURES[-1:] * 255, PICTURES), r"encoding: got values from .*, wanted \[0, 1\]"),
        (lambda: unmixing.unmix(PICTURES * NAN, torch.eye(4)), "encodings: got NaN"),
        (lambda: unmixing.unmix(PICTURES, torch.eye(4) * NAN), "coefficients: got NaN"),
        (lambda: unmixing.unmix(PICTURES, torch.ones(4)), r"coefficients: got shape \(4,\)"),
        (lambda: unmixing.unmix(PICTURES, torch.ones(4, 0)), r"coefficients: got shape \(4, 0\)"),
        (lambda: unmixing.factorize(PICTURES * NAN, 2), "encodings: got NaN"),
        (lambda: unmixing.factorize(PICTURES, 2.0), "number: got 2.0, wanted a whole number"),
        (lambda: unmixing.factorize(PICTURES, 2, labels=-ONES), "labels: got values from -1 to -1"),
        (lambda: unmixing.factorize(PICTURES, 2, iterations=0), "iterations: got 0, wanted at least 1"),
        (lambda: unmixing.factorize(PICTURES, 2, weight=NAN), "weight: got nan, wanted a positive number"),
        (lambda: instahide.solve(PICTURES, ONES, known=PICTURES[:, :, :2]), "known: got pictures of shape"),
        (lambda: instahide.solve(PICTURES, ONES, known=PICTURES[:3]), "known: got 3 pictures, wanted fewer than the 3"),
        (lambda: instahide.solve(PICTURES, ONES, known=PICTURES[:1] * NAN), "known: got NaN"),
        (lambda: instahide.solve(PICTURES, torch.eye(4), start=PICTURES[:2]), "start: got 2 pictures, wanted 4"),
        (lambda: instahide.solve(PICTURES, torch.eye(4), restarts=0), "restarts: got 0, wanted at least 1"),
        (lambda: instahide.solve(PICTURES, "a"), "coefficients: got a str, wanted a tensor"),
        (lambda: instahide.sparse_coefficients(PICTURES, 0), "pictures: got 0, wanted at least 1"),
        (lambda: instahide.sparse_coefficients(PICTURES, 1, totals=torch.ones(3)), "totals: got 3 for 4 encodings"),
        (lambda: instahide.labelled_coefficients(PICTURES, ONES, 0), "pictures: got 0, wanted at least 1"),
        (lambda: instahide.labelled_coefficients(PICTURES, ONES, 2, restarts=0), "restarts: got 0, wanted at least 1"),
        (lambda: instahide.labelled_coefficients(PICTURES, ONES, 2, rounds=0), "rounds: got 0, wanted at least 1"),
        (lambda: instahide.labelled_coefficients(PICTURES, ONES * 0, 2), "labels: got zeros alone"),
        (lambda: instahide.pixel_signs(PICTURES * NAN, PICTURES), "pictures: got NaN"),
        (lambda: instahide.pixel_signs(PICTURES, PICTURES[:0]), "reference: got shape"),
        (lambda: releases.combined(PICTURES * NAN), "releases: got NaN"),
        (lambda: releases.combined(BYTES), "releases: got torch.uint8, wanted floating-point"),
        (lambda: restored(penalties=()), r"penalties: got \(\), wanted several positive numbers"),
        (lambda: restored(penalties=(NAN,)), "penalties: got nan, wanted positive numbers"),
        (lambda: restored(public=PICTURES[:1], public_releases=PICTURES[:1]), "public: got 1 picture, wanted at least"),
        (lambda: releases.identified(PICTURES, PICTURES * NAN), "candidates: got NaN"),
        (lambda: attacks.surrogate("seen"), "seen: got 'seen', wanted a Observation"),
        (lambda: attacks.UnknownOrder(turns=1.5), "turns: got 1.5, wanted a whole number"),
        (lambda: masks.read("seen"), "seen: got a str, wanted an Observation"),
        (lambda: masks.read(one(dropping(between=True))), "seen: got a last dropout with layers between"),
        (lambda: spaces.Masks(known=3).build(one(dropping())), "known: got 3"),
        (lambda: spaces.Masks(known=("a",)).build(one(dropping())), "known: got a str, wanted a tensor"),
        (lambda: spaces.Masks(known=(torch.ones(1, 6) * NAN,)).build(one(dropping())), "known: got NaN"),
        (lambda: ranks.compare_architectures(net(), (1, 4, 4)), "models: got a Sequential, wanted networks by name"),
        (lambda: ranks.compare_architectures({"a": nn.Flatten()}, (16,)), r"models\['a'\]: got a Flatten"),
        (lambda: ranks.compare_architectures({"a": net()}, 16), "input_shape: got 16, wanted the shape"),
        (lambda: ranks.compare_architectures({"a": net()}, (-1, 4)), "input_shape: got -1, wanted at least 1"),
    ],
)
def test_attacks_and_ranks(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_a_mask_is_read_through_what_keeps_zeros():
    """A ReLU between dropout and classifier does not move a dropped feature."""
    assert len(masks.read(one(dropping()))) == 1


@pytest.mark.parametrize(
    "defense", [DPPix(cell=2, m=1, epsilon=9.0), InstaHide(k=2, cap=0.9), MixUp(), Reshuffling(epochs=1), Dropout()]
)
def test_what_is_declared_of_a_defense_holds_nothing_of_the_client(defense):
    """Other pictures, and another seed: the public part is the same, and nothing that was drawn is in it."""
    declared = [
        federated.observe(net(), pictures, LABELS, seed=seed, defense=defense, declare=["defense"]).known("defense")
        for pictures, seed in ((PICTURES, 1), (PICTURES.flip(0), 2))
    ]
    first, second = map(repr, declared)
    assert first == second
    assert not any(isinstance(value, torch.Tensor) for value in vars(declared[0]).values())
