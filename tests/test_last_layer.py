"""The last layer is found by use, whatever the order of registration; what cannot be read is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gilearn import data, federated, metrics, models
from gilearn.attacks import labels


@pytest.fixture(autouse=True)
def layers_of_our_own():
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def many_digits():
    return data.digits()


class HeadFirst(nn.Module):
    """Declares its head before its body, and an auxiliary head, which the loss never sees, behind both."""

    def __init__(self, auxiliary=True):
        super().__init__()
        self.head = nn.Linear(32, 10)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
        self.auxiliary = nn.Linear(32, 10) if auxiliary else None
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        features = self.body(x)
        if self.auxiliary is not None:
            features = features + 0 * self.auxiliary(features).sum()
        return self.head(features)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_a_head_declared_before_its_body(digits, auxiliary):
    x, y = digits
    seen = federated.observe(HeadFirst(auxiliary), x[:1], y[:1])
    assert labels.IDLG()(seen).tolist() == y[:1].tolist()
    assert torch.equal(labels.last_layer(seen)[0], seen.shared[0])
    seen = federated.observe(HeadFirst(auxiliary), x[:5], y[:5])
    for rule in (labels.RowMinimum(), labels.LLGStar(rounds=3), labels.ILRG(), labels.RLG()):
        assert rule(seen).tolist() == sorted(y[:5].tolist()), rule


def test_traced_once_and_every_mode_is_left_as_it_was(digits):
    seen = federated.observe(HeadFirst(), digits[0][:4], digits[1][:4])
    before = len(seen.network.modes)
    for rule in (labels.RowMinimum(), labels.LLG(), labels.ILRG()):
        rule(seen)
    assert seen.network.modes[before:] == [False]
    assert all(module.training for module in seen.network.modules())


def behind(*more):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10), *more)


class Scaled(nn.Module):
    def forward(self, x):
        return x.mul_(2.0)


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.ReLU(), nn.ReLU(inplace=True), Scaled(), nn.Linear(10, 10)])
def test_what_comes_behind_the_layer_hides_it(digits, last):
    seen = federated.observe(behind(last), digits[0][:1], digits[1][:1])
    if isinstance(last, nn.Linear):
        assert labels.last_linear(seen) is seen.network[4]
        return
    with pytest.raises(ValueError, match=r"last layer is no nn.Linear with 10 outputs.*unchanged"):
        labels.IDLG()(seen)


@pytest.mark.parametrize("last", [nn.Identity(), nn.Dropout(0.5).eval(), nn.Unflatten(1, (2, 5)), nn.Flatten()])
def test_views_do_not(digits, last):
    model = behind(last, nn.Flatten())
    assert labels.IDLG()(federated.observe(model, digits[0][:1], digits[1][:1])).tolist() == digits[1][:1].tolist()


def test_another_number_of_outputs(digits):
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 20)

        def forward(self, x):
            return self.layer(x.flatten(1))[:, :10]

    with pytest.raises(ValueError, match="last layer is no nn.Linear with 10 outputs"):
        labels.IDLG()(federated.observe(Cut(), digits[0][:1], digits[1][:1]))


class Recurrent(nn.Module):
    """One square layer, used twice: its gradient is a sum over both uses."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Linear(64, 10), nn.Linear(10, 10)

    def forward(self, x):
        return self.shared(self.shared(self.first(x.flatten(1))).relu())


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self, tie=True, vocabulary=50, width=16):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, vocabulary)
        if tie:
            self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.embedding(x).relu())


def test_tied_weights_are_refused_by_name(digits):
    seen = federated.observe(Recurrent(), digits[0][:1], digits[1][:1])
    with pytest.raises(ValueError, match=r"last layer, 'shared.weight', is used 2 times"):
        labels.IDLG()(seen)
    tokens = torch.tensor([[4, 7, 1]])
    with pytest.raises(ValueError, match=r"'head.weight', tied to embedding.weight, is used 2 times"):
        labels.RLG()(federated.observe(Tied(), tokens, tokens))


def test_a_weight_that_is_computed_is_refused(digits):
    model = behind()
    nn.utils.parametrizations.weight_norm(model[-1])
    with pytest.raises(ValueError, match="'3', is computed from other parameters"):
        labels.IDLG()(federated.observe(model, digits[0][:1], digits[1][:1]))


def test_labels_of_sequences():
    """The gradient's row space tells which tokens are targets; counts are over batch and length."""
    tokens = torch.tensor([[4, 7, 1, 30], [2, 9, 11, 5]])
    targets = torch.tensor([[7, 1, 30, 8], [9, 9, 5, 0]])
    seen = federated.observe(Tied(tie=False), tokens, targets)
    assert labels.RLG().present(seen).tolist() == sorted(set(targets.flatten().tolist()))
    for rule in (labels.RLG(), labels.ILRG()):
        assert rule(seen).tolist() == sorted(targets.flatten().tolist()), rule
    with pytest.raises(ValueError, match=r"labels: got \[.*\], wanted \(2, 4\) labels"):
        labels.RLG().build(seen)  # a bag of words has no order
    assert labels.Fixed(targets).build(seen).targets.shape == (2, 4)
    logits = labels.Joint().begin(seen, None, torch.Generator())["logits"]
    assert logits.shape == (2, 4, 50)
    with pytest.raises(ValueError, match="a model of tokens, and this rule draws pictures"):
        labels.LLGStar()(seen)
    own = labels.LLGPlus(examples=torch.arange(200).view(50, 4) % 50, labels=torch.arange(50), rounds=1)
    assert own(seen).shape == (8,)


def test_withheld_and_frozen_layers(digits):
    model = models.mlp(64)
    model[-1].weight.requires_grad_(False)
    seen = federated.observe(model, digits[0][:1], digits[1][:1])
    assert labels.last_layer(seen)[0] is None
    with pytest.raises(ValueError, match="withheld"):
        labels.IDLG()(seen)


def test_several_observations_are_refused(digits):
    seen = federated.observe(models.mlp(64), digits[0][:2], digits[1][:2])
    pool = federated.Several(parts=(seen, seen), rows=((0, 1), (2, 3)))
    with pytest.raises(ValueError, match="seen: several observations share several gradients"):
        labels.RowMinimum()(pool)
    assert labels.Joint().build(pool).begin(pool, None, torch.Generator())["logits"].shape == (4, 10)


def test_dropout_and_batch_norm_leave_no_trace(many_digits):
    """LLG* runs the model in its own mode: masks from its seed, no running statistics, nothing global."""
    x, y = many_digits
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10)
    )
    seen = federated.observe(model, x[:32], y[:32])
    before = {name: value.clone() for name, value in seen.model.state_dict().items()}
    found = labels.LLGStar(rounds=2)(seen)
    assert torch.equal(found, labels.LLGStar(rounds=2)(seen))
    assert metrics.label_accuracy(found, y[:32]) > 0.8
    assert all(torch.equal(value, before[name]) for name, value in seen.model.state_dict().items())
