"""Label extraction: exact where the theory says so, refused where a rule cannot work."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gilearn import federated, models
from gilearn.attacks import labels


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
def test_idlg_is_right_200_times(activation):
    generator = torch.Generator().manual_seed(0)
    right = 0
    for k in range(200):
        x = torch.rand(1, 1, 8, 8, generator=generator)
        y = torch.randint(10, (1,), generator=generator)
        if k % 2:
            model = models.mlp(64, (32,), activation=activation, seed=k)
        else:
            model = models.lenet(
                1, 10, size=8, activation=activation, seed=k, spread=0.5 if activation == "sigmoid" else None
            )
        right += int(labels.IDLG()(federated.observe(model, x, y))) == int(y)
    assert right == 200


def test_the_row_sum_shortcut_is_not_what_we_do():
    """The public shortcut, the smallest row sum, needs features of one sign: with tanh it errs, the rule does not."""
    generator = torch.Generator().manual_seed(0)
    shortcut = 0
    for k in range(100):
        x, y = torch.rand(1, 1, 8, 8, generator=generator), torch.randint(10, (1,), generator=generator)
        seen = federated.observe(models.mlp(64, (32,), activation="tanh", seed=k), x, y)
        shortcut += int(seen.shared[-2].sum(1).argmin()) == int(y)
        assert int(labels.IDLG()(seen)) == int(y)
    assert shortcut < 80


def test_two_classes_need_the_bias(digits):
    x, y = digits[0][:1], torch.tensor([1])
    assert int(labels.IDLG()(federated.observe(models.mlp(64, num_classes=2), x, y))) == 1
    with pytest.raises(ValueError, match="2 classes fit|bias gradient"):
        labels.IDLG()(federated.observe(models.mlp(64, num_classes=2, bias=False), x, y))


@pytest.mark.parametrize("y", [0, 1])
def test_one_logit(digits, y):
    seen = federated.observe(models.mlp(64, num_classes=1), digits[0][:1], torch.tensor([y]), loss="logistic")
    assert labels.IDLG()(seen).tolist() == [y]


def test_without_biases_the_inner_products_suffice(digits):
    for k in range(10):
        seen = federated.observe(models.mlp(64, bias=False, seed=k), digits[0][k : k + 1], digits[1][k : k + 1])
        assert int(labels.IDLG()(seen)) == int(digits[1][k])


def test_refusals(digits):
    seen = federated.observe(models.mlp(64), digits[0][:2], digits[1][:2])
    with pytest.raises(ValueError, match="got a batch of 2; iDLG's rule is for one example"):
        labels.IDLG()(seen)
    with pytest.raises(ValueError, match="labels: the observation does not declare it"):
        labels.Declared()(seen)
    soft = federated.observe(models.mlp(64), digits[0][:1], torch.full((1, 10), 0.1))
    with pytest.raises(ValueError, match="classes fit iDLG's rule"):
        labels.IDLG()(soft)
    seen = federated.observe(models.mlp(64), digits[0][:1], digits[1][:1])
    with pytest.raises(ValueError, match="weight gradient of the last layer is withheld"):
        labels.IDLG()(dataclasses.replace(seen, shared=(*seen.shared[:2], None, seen.shared[3])))
    with pytest.raises(ValueError, match="0 classes fit"):
        labels.IDLG()(dataclasses.replace(seen, shared=tuple(torch.zeros_like(g) for g in seen.shared)))
    headless = models.convnet(1, size=8, widths=(10,), strides=(8,))[:-1]
    headless = federated.observe(headless, digits[0][:1], digits[1][:1])
    with pytest.raises(ValueError, match=r"last layer is no nn.Linear with 10 outputs"):
        labels.IDLG()(headless)


def test_rules_print_themselves():
    assert repr(labels.IDLG()) == "IDLG()"
    assert repr(labels.Declared()) == "Declared()"
