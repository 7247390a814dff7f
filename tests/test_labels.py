"""Label extraction: exact where the theory says so, refused where a rule cannot work."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gilearn import data, federated, metrics, models
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


def test_rules_that_hold_tensors_are_told_apart_by_them():
    own, other = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    rule = labels.LLGPlus(examples=own, labels=torch.tensor([0, 1]))
    assert rule == labels.LLGPlus(examples=own.clone(), labels=torch.tensor([0, 1]))
    assert rule != rule.replace(examples=other)
    assert len({repr(rule), repr(rule.replace(examples=other)), repr(rule.replace(labels=torch.tensor([1, 1])))}) == 3
    assert labels.Fixed(torch.tensor([1])) == labels.Fixed(torch.tensor([1])) != labels.Fixed(torch.tensor([2]))
    assert "Fixed(targets=<(1,) int64" in repr(labels.Fixed(torch.tensor([1])))


def batch(digits, generator, size, *, distinct=False):
    x, y = digits
    if distinct:
        classes = torch.randperm(10, generator=generator)[:size]
        rows = torch.stack([(y == c).nonzero().flatten()[0] for c in classes])
    else:
        rows = torch.randint(len(x), (size,), generator=generator)
    return x[rows], y[rows]


RULES = {
    "row minimum": labels.RowMinimum(),
    "LLG": labels.LLG(),
    "LLG*": labels.LLGStar(rounds=3),
    "iLRG": labels.ILRG(),
    "RLG": labels.RLG(),
}


@pytest.fixture(scope="module")
def many_digits():
    return data.digits()


@pytest.mark.parametrize("rule", RULES)
def test_distinct_labels_of_an_untrained_relu_network(many_digits, rule):
    """Up to five distinct labels of ten classes: exact in 100 of 100 batches, MLP and ConvNet."""
    generator = torch.Generator().manual_seed(0)
    for k in range(100):
        x, y = batch(many_digits, generator, 1 + k % 5, distinct=True)
        if k % 4:
            model = models.mlp(64, (64,), activation="relu", seed=k)
        else:
            model = models.convnet(1, size=8, widths=(8,), strides=(1,), seed=k)
        assert RULES[rule](federated.observe(model, x, y)).tolist() == sorted(y.tolist()), k


def test_repeated_labels_of_an_untrained_relu_network(many_digits):
    """B = 32 of ten classes: LLG* and LLG+ find at least 95 %, and more than LLG."""
    x, y = many_digits
    plus = labels.LLGPlus(examples=x[1300:], labels=y[1300:], rounds=3)
    rules = {"LLG": labels.LLG(), "LLG*": labels.LLGStar(rounds=3), "LLG+": plus}
    generator, found = torch.Generator().manual_seed(1), dict.fromkeys(rules, 0.0)
    for k in range(20):
        x, y = batch((many_digits[0][:1300], many_digits[1][:1300]), generator, 32)
        seen = federated.observe(models.mlp(64, (64,), activation="relu", seed=k), x, y)
        for name, rule in rules.items():
            found[name] += metrics.label_accuracy(rule(seen), y) / 20
    assert found["LLG*"] >= 0.95
    assert found["LLG+"] >= 0.95
    assert found["LLG"] < found["LLG+"]


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_ilrg_counts_eight(many_digits, activation):
    generator, exact = torch.Generator().manual_seed(2), 0
    for k in range(40):
        x, y = batch(many_digits, generator, 8)
        seen = federated.observe(models.mlp(64, (64,), activation=activation, seed=k), x, y)
        exact += labels.ILRG()(seen).tolist() == sorted(y.tolist())
    assert exact >= 38


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("size", [4, 10, 40])
def test_rlg_finds_the_set(activation, size):
    """S up to 0.4 C at C = 100: exact in five of five."""
    generator = torch.Generator().manual_seed(0)
    for k in range(5):
        x, y = torch.rand(size, 1, 8, 8, generator=generator), torch.randint(100, (size,), generator=generator)
        seen = federated.observe(models.mlp(64, (256,), 100, activation=activation, seed=k), x, y)
        assert labels.RLG().present(seen).tolist() == sorted(set(y.tolist()))
        assert metrics.label_accuracy(labels.RLG()(seen), y) > 0.9


@pytest.mark.parametrize("seed", [1, 15, 20, 22])
def test_rlg_misses_nothing_where_probabilities_are_tiny(seed):
    """LeNet's go down to 1e-13; HiGHS drops entries below 1e-9, and called the program of a true label infeasible."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(100, (20,), generator=generator)
    x = torch.rand(20, 3, 32, 32, generator=generator)
    seen = federated.observe(models.lenet(3, 100, seed=seed).double(), x.double(), y)
    assert set(y.tolist()) <= set(labels.RLG(tolerance=1e-12).present(seen).tolist())


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_rlg_after_local_steps(steps):
    generator = torch.Generator().manual_seed(0)
    for k in range(5):
        number = 4 * steps
        x, y = torch.rand(number, 1, 8, 8, generator=generator), torch.randint(100, (number,), generator=generator)
        model = models.mlp(64, (256,), 100, activation="relu", seed=k)
        seen = federated.observe(model, x, y, local=federated.LocalSteps(steps=steps, lr=0.1, batch_size=4))
        assert labels.RLG().present(seen).tolist() == sorted(set(y.tolist()))


def test_what_the_rules_cannot_do(many_digits):
    x, y = many_digits
    relu, tanh = (models.mlp(64, (64,), activation=name) for name in ("relu", "tanh"))
    with pytest.raises(ValueError, match="20 examples of 10 classes"):
        labels.RowMinimum()(federated.observe(relu, x[:20], y[:20]))
    repeated = federated.observe(relu, x[:2], torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="repeated labels"):
        labels.RowMinimum()(repeated)
    assert 3 in labels.RowMinimum(strict=False)(repeated).tolist()
    with pytest.raises(ValueError, match="features of both signs"):
        labels.RowMinimum()(federated.observe(tanh, x[:2], y[:2]))
    with pytest.raises(ValueError, match="rank"):
        labels.RLG()(federated.observe(relu, x[:30], y[:30]))
    with pytest.raises(ValueError, match="bias gradient"):
        labels.ILRG()(federated.observe(models.mlp(64, (64,), bias=False), x[:4], y[:4]))
    logit = federated.observe(models.mlp(64, num_classes=1), x[:2], torch.tensor([0, 1]), loss="logistic")
    for rule in RULES.values():
        with pytest.raises(ValueError, match="cross_entropy"):
            rule(logit)
        withheld = dataclasses.replace(repeated, shared=(*repeated.shared[:-2], None, repeated.shared[-1]))
        with pytest.raises(ValueError, match="withheld"):
            rule(withheld)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: labels.LLGStar(rounds=0), "rounds"),
        (lambda: labels.RLG(tolerance=0.0), "tolerance"),
        (lambda: labels.LLGPlus(examples=torch.zeros(2, 1), labels=torch.tensor([1])), "examples"),
    ],
)
def test_refused_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_idlg_does_not_guess_when_rounding_leaves_one_row(digits):
    """A network that is certain: where the label's own row is rounded away, the rule refuses or is right."""
    x, y = digits
    answers = []
    for factor in (30, 100):
        sharp = models.trained("mlp-digits")
        with torch.no_grad():
            sharp[-1].weight *= factor
            sharp[-1].bias *= factor
        for k in range(64):
            try:
                answers.append(int(labels.IDLG()(federated.observe(sharp, x[k : k + 1], y[k : k + 1]))) == int(y[k]))
            except ValueError:
                continue
    assert answers
    assert all(answers)


def test_a_rule_becomes_a_fixed_factor(digits):
    """The labels of a search: nothing to begin with, the rule's labels as targets, on the observation's device."""
    x, y = digits
    seen = federated.observe(models.mlp(64), x[:2], y[:2], declare=["labels"])
    factor = labels.Declared().build(seen)
    assert factor.begin(seen, None, torch.Generator()) == {}
    assert torch.equal(factor.decode({})["targets"], y[:2])
    assert isinstance(factor, labels.Fixed)
    soft = torch.full((2, 10), 0.1, dtype=torch.float64)
    assert labels.Fixed(soft).build(seen).targets.dtype == seen.dtype
    assert labels.Declared().replace() == labels.Declared()
    with pytest.raises(NotImplementedError):
        labels.LabelRule()(seen)


def test_joint_labels_are_searched(digits):
    x, y = digits
    seen = federated.observe(models.mlp(64), x[:2], y[:2])
    factor = labels.Joint().build(seen)
    variables = factor.begin(seen, None, torch.Generator().manual_seed(5))
    wanted = torch.randn((2, 10), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert torch.equal(variables["logits"], wanted.float())
    assert torch.equal(factor.decode(variables)["targets"], wanted.float().softmax(dim=-1))
    factor.project(variables)
    assert torch.equal(variables["logits"], wanted.float())
    ones = labels.Joint(initialization=lambda shape, generator: torch.ones(shape))
    assert ones.begin(seen, None, torch.Generator())["logits"].tolist() == [[1.0] * 10] * 2
    logit = federated.observe(models.mlp(64, num_classes=1), x[:1], torch.tensor([1]), loss="logistic")
    with pytest.raises(
        ValueError, match=r"labels: Joint\(\) needs the loss cross_entropy, the observation has logistic"
    ):
        labels.Joint().build(logit)


def test_a_plain_function_is_a_rule(digits):
    seen = federated.observe(models.mlp(64), digits[0][:2], digits[1][:2])
    assert labels.as_factor(lambda seen: torch.tensor([3, 4]), seen).decode({})["targets"].tolist() == [3, 4]
    assert labels.as_factor(labels.Joint(), seen) == labels.Joint()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.tensor([3.7, 2.0]), r"labels: got class probabilities of shape \(2,\), wanted \(2, 10\)"),
        (torch.tensor([3]), r"labels: got \[3\], wanted 2 labels from 0 to 9"),
        (torch.tensor([3, 10]), r"labels: got \[3, 10\], wanted 2 labels from 0 to 9"),
        (torch.tensor([-1, 3]), r"labels: got \[-1, 3\], wanted 2 labels from 0 to 9"),
        (torch.tensor([True, False]), "labels: got tensor.* wanted integer labels"),
        (torch.tensor(3), "labels: got tensor.* wanted integer labels"),
        (torch.full((2, 9), 0.1), r"probabilities of shape \(2, 9\), wanted \(2, 10\)"),
        (torch.full((2, 10), torch.nan), "labels: got probabilities that are negative, NaN or infinite"),
        ([3, 4], "labels: got a list, wanted a tensor"),
    ],
)
def test_what_a_rule_returns_is_checked(digits, found, message):
    seen = federated.observe(models.mlp(64), digits[0][:2], digits[1][:2])
    with pytest.raises(ValueError, match=message):
        labels.as_factor(lambda seen: found, seen)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (labels.IDLG, r"labels: got the class IDLG, wanted a value: IDLG\(\)"),
        (torch.tensor([1]), "wanted a rule, Joint"),
        ("joint", "labels: got 'joint'"),
    ],
)
def test_what_is_no_rule(digits, given, message):
    seen = federated.observe(models.mlp(64), digits[0][:1], digits[1][:1])
    with pytest.raises(ValueError, match=message):
        labels.as_factor(given, seen)
