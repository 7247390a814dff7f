"""What leaves a client, and what does not."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gilearn import federated, models
from gilearn.federated import LocalSteps, Observation


@pytest.fixture
def batch(digits):
    return digits[0][:4], digits[1][:4]


@pytest.fixture
def model():
    return models.mlp(64, (16,))


def test_gradient_is_autograd_s(model, batch):
    x, y = batch
    seen = federated.observe(model, x, y)
    expected = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    for ours, theirs in zip(seen.shared, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert (seen.batch_size, seen.num_classes, seen.input_shape) == (4, 10, (1, 8, 8))


def test_soft_labels(model, batch):
    x, y = batch
    hard = federated.observe(model, x, y)
    soft = federated.observe(model, x, F.one_hot(y, 10).float())
    for a, b in zip(hard.shared, soft.shared, strict=True):
        torch.testing.assert_close(a, b)


def test_logistic_loss(batch):
    x, y = batch
    model = models.mlp(64, (16,), num_classes=1)
    seen = federated.observe(model, x, y % 2, loss="logistic")
    z = model(x).flatten()
    signs = 2.0 * (y % 2) - 1
    expected = torch.autograd.grad(F.softplus(-signs * z).mean(), list(model.parameters()))
    for ours, theirs in zip(seen.shared, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert seen.num_classes == 2


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_update_is_a_hand_written_loop(model, batch, batch_size):
    x, y = batch
    local = LocalSteps(steps=5, lr=0.1, batch_size=batch_size)
    seen = federated.observe(model, x, y, local=local)
    trained = copy.deepcopy(model)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    for step in range(5):
        size = batch_size or 4
        rows = [(step * size + k) % 4 for k in range(size)]
        optimizer.zero_grad()
        F.cross_entropy(trained(x[rows]), y[rows]).backward()
        optimizer.step()
    for ours, before, after in zip(seen.shared, model.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(ours, before - after)
    assert all(torch.equal(g, s / 0.5) for g, s in zip(seen.gradients, seen.shared, strict=True))


def test_one_local_step_shares_the_gradient(model, batch):
    model = model.double()
    x, y = batch[0].double(), batch[1]
    one = federated.observe(model, x, y, local=LocalSteps(steps=1, lr=0.01))
    gradient = federated.observe(model, x, y)
    for a, b in zip(one.gradients, gradient.gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("local", [None, LocalSteps(steps=3, lr=0.05, batch_size=2)])
def test_simulation_of_the_truth_is_what_was_shared(model, batch, local):
    x, y = batch
    seen = federated.observe(model, x, y, local=local)
    for simulated, shared in zip(seen.simulate(x, y, create_graph=True), seen.shared, strict=True):
        torch.testing.assert_close(simulated, shared, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("local", [None, LocalSteps(steps=2, lr=0.05, batch_size=1)])
def test_simulation_is_differentiable(local):
    model = models.mlp(4, (3,), num_classes=2).double()
    x = torch.rand(2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = federated.observe(model, x, torch.tensor([0, 1]), local=local)
    probabilities = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, p: torch.cat([g.flatten() for g in seen.simulate(x, p)]),
        (x.requires_grad_(), probabilities.requires_grad_()),
    )


def test_nothing_is_declared_by_default(model, batch):
    seen = federated.observe(model, *batch)
    assert dict(seen.knowledge) == {}
    for name in federated.KNOWLEDGE:
        with pytest.raises(ValueError, match=f"{name}: the observation does not declare it"):
            seen.known(name)


def test_what_leaves_has_no_other_field(model, batch):
    """The schema of what leaves the client: a new field here is a new leak to think about."""
    fields = {f.name for f in dataclasses.fields(federated.Observation)}
    assert fields == {
        "model", "shared", "input_shape", "batch_size", "num_classes", "loss", "local", "tokens", "knowledge",
    }  # fmt: skip


def test_declared_knowledge(photos):
    model = models.convnet(batch_norm=True)
    x, y = photos[0][:4], photos[1][:4]
    seen = federated.observe(model, x, y, declare=["labels", "batch_norm"])
    assert torch.equal(seen.known("labels"), y)
    first = model[0](x)
    mean, variance = seen.known("batch_norm")[0]
    torch.testing.assert_close(mean, first.mean((0, 2, 3)))
    torch.testing.assert_close(variance, first.var((0, 2, 3), correction=0))
    assert len(seen.known("batch_norm")) == 3


def test_observing_changes_neither_model_nor_batch(photos):
    model = models.convnet(batch_norm=True)
    x, y = photos[0][:2].clone(), photos[1][:2].clone()
    before = copy.deepcopy(model.state_dict())
    seen = federated.observe(model, x, y)
    seen.simulate(x, y)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in seen.model.state_dict().items())
    assert torch.equal(x, photos[0][:2])
    assert model.training
    assert seen.model.training


def test_an_observation_shares_no_memory(photos):
    model = models.convnet(batch_norm=True)
    x, y = photos[0][:2].clone(), photos[1][:2].clone()
    gradients = list(federated.client_gradient(copy.deepcopy(model), x, y))
    seen = federated.Observation.from_gradients(
        model, gradients, input_shape=x.shape[1:], batch_size=2, knowledge={"labels": y}
    )
    kept = [g.clone() for g in seen.shared], copy.deepcopy(seen.model.state_dict()), y.clone()
    with torch.no_grad():
        for tensor in (*gradients, *model.parameters(), x):
            tensor.zero_()
        y.zero_()
    assert all(torch.equal(a, b) for a, b in zip(seen.shared, kept[0], strict=True))
    assert all(torch.equal(value, kept[1][key]) for key, value in seen.model.state_dict().items())
    assert torch.equal(seen.known("labels"), kept[2])
    with pytest.raises(TypeError):
        seen.knowledge["labels"] = y
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.batch_size = 3


def test_batch_norm_in_both_modes(photos):
    """In train mode a layer uses its batch's statistics; in eval mode the server's."""
    x, y = photos[0][:2], photos[1][:2]
    model = models.convnet(batch_norm=True)
    train, evaluated = federated.observe(model, x, y), federated.observe(model.eval(), x, y)
    assert not torch.allclose(train.shared[0], evaluated.shared[0])
    assert not evaluated.model.training
    expected = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    torch.testing.assert_close(evaluated.shared[0], expected[0])


def test_parameters_that_are_not_trained_share_nothing(model, batch):
    model[1].weight.requires_grad_(False)
    seen = federated.observe(model, *batch)
    assert seen.shared[0] is None
    assert seen.shared[1] is not None
    assert seen.gradient_of(seen.model[1].weight) is None
    local = federated.observe(model, *batch, local=LocalSteps(steps=2, lr=0.1))
    assert local.shared[0] is None


@pytest.mark.parametrize("form", ["list of arrays", "by name", "by name, one missing", "nested lists"])
def test_gradients_from_elsewhere(model, batch, form):
    seen = federated.observe(model, *batch)
    named = {name: g.numpy() for (name, _), g in zip(model.named_parameters(), seen.shared, strict=True)}
    if form == "by name, one missing":
        del named["1.bias"]
    gradients = {
        "list of arrays": list(named.values()),
        "nested lists": [g.tolist() for g in named.values()],
    }.get(form, named)
    other = federated.Observation.from_gradients(model, gradients, input_shape=(1, 8, 8), batch_size=4)
    for a, b in zip(seen.shared, other.shared, strict=True):
        assert b is None or torch.equal(a, b)
    assert (other.shared[1] is None) == (form == "by name, one missing")
    assert other.num_classes == 10


def test_saving_and_loading(tmp_path, photos):
    model = models.convnet(batch_norm=True)
    seen = federated.observe(
        model, photos[0][:2], photos[1][:2], declare=["labels", "batch_norm"], local=LocalSteps(steps=2, lr=0.1)
    )
    seen = dataclasses.replace(seen, shared=(None, *seen.shared[1:]))
    seen.save(tmp_path / "seen.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["seen.pt"]
    again = federated.Observation.load(tmp_path / "seen.pt", models.convnet(batch_norm=True, seed=9).eval())
    assert again.shared[0] is None
    assert all(torch.equal(a, b) for a, b in zip(seen.shared[1:], again.shared[1:], strict=True))
    assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in seen.model.state_dict().items())
    assert again.model.training
    for name in ("input_shape", "batch_size", "num_classes", "loss", "local"):
        assert getattr(again, name) == getattr(seen, name)
    assert torch.equal(again.known("labels"), seen.known("labels"))
    assert torch.equal(again.known("batch_norm")[2][1], seen.known("batch_norm")[2][1])


def test_float64_survives_the_file(tmp_path, model, batch):
    seen = federated.observe(model.double(), batch[0].double(), batch[1])
    seen.save(tmp_path / "seen.pt")
    again = federated.Observation.load(tmp_path / "seen.pt", models.mlp(64, (16,)))
    assert again.dtype == torch.float64
    assert torch.equal(again.shared[0], seen.shared[0])


class Trap:
    def __reduce__(self):
        return print, ("code ran",)


def test_load_refuses(tmp_path, model, batch, capsys):
    path = tmp_path / "seen.pt"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        federated.Observation.load(path, model)
    federated.observe(model, *batch).save(path)
    with pytest.raises(ValueError, match="model: its architecture is not the one"):
        federated.Observation.load(path, models.mlp(64, (17,)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged, half-written"):
        federated.Observation.load(path, model)
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match="no saved observation of format 1"):
        federated.Observation.load(path, model)
    torch.save(Trap(), path)
    with pytest.raises(ValueError, match="damaged"):
        federated.Observation.load(path, model)
    assert "code ran" not in capsys.readouterr().out


def test_a_failed_save_leaves_the_old_file(tmp_path, model, batch, monkeypatch):
    seen = federated.observe(model, *batch)
    seen.save(tmp_path / "seen.pt")
    before = (tmp_path / "seen.pt").read_bytes()

    def full(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="disk full"):
        seen.save(tmp_path / "seen.pt")
    assert (tmp_path / "seen.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["seen.pt"]


def bad(seen, **changes):
    return lambda: dataclasses.replace(seen, **changes)


def test_refusals_of_shared_tensors(model, batch):
    seen = federated.observe(model, *batch)
    shared = seen.shared
    poisoned = shared[0].clone()
    poisoned[0, 0] = float("nan")
    for changed, message in (
        (shared[:-1], "gradients: got 3 tensors, wanted 4"),
        ((shared[0].T, *shared[1:]), r"gradients\['1.weight'\]: got shape \(64, 16\), wanted \(16, 64\)"),
        ((poisoned, *shared[1:]), r"gradients\['1.weight'\]: got NaN or infinite"),
        ((shared[0] / 0, *shared[1:]), r"gradients\['1.weight'\]: got NaN or infinite"),
        ((None,) * 4, "gradients: got none"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(seen, shared=changed)
    zeros = dataclasses.replace(seen, shared=tuple(torch.zeros_like(g) for g in shared))
    assert zeros.shared[0].abs().max() == 0, "zeros are an input, not an error"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"num_classes": 7}, "num_classes: the model's output has shape"),
        ({"input_shape": (1, 9, 9)}, r"input_shape: got \(1, 9, 9\), which the model does not take"),
        ({"loss": "hinge"}, "loss: got 'hinge', wanted one of cross_entropy"),
        ({"knowledge": {"true_logits": torch.zeros(4, 10)}}, "knowledge: got 'true_logits', wanted one of labels"),
        ({"knowledge": {"labels": torch.zeros(3, dtype=torch.int64)}}, "labels: got 3 for a batch of 4"),
    ],
)
def test_refusals_of_fields(model, batch, changes, message):
    seen = federated.observe(model, *batch)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(seen, **changes)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)), {}, "x: got shape .*at least one example"),
        ((torch.zeros(2, 1, 8, 8), torch.tensor([1])), {}, "y: got 1 labels for 2 inputs"),
        ((torch.zeros(1, 1, 8, 8), torch.tensor([10])), {}, r"y: got \[10\], wanted 1 labels from 0 to 9"),
        ((torch.zeros(1, 1, 8, 8), torch.tensor([-1])), {}, r"y: got \[-1\]"),
        ((torch.zeros(1, 1, 8, 8), torch.zeros(1, 3)), {}, "y: got class probabilities of shape"),
        ((torch.full((1, 1, 8, 8), torch.inf), torch.tensor([1])), {}, "x: got NaN or infinite"),
        ((torch.zeros(1, 1, 9, 9), torch.tensor([1])), {}, "input_shape: got"),
        ((torch.zeros(1, 1, 8, 8), torch.tensor([1])), {"declare": ["logits"]}, "declare: got 'logits'"),
        ((torch.zeros(1, 1, 8, 8), torch.tensor([1])), {"loss": "hinge"}, "loss: got 'hinge'"),
    ],
)
def test_observe_refuses(model, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        federated.observe(model, *arguments, **options)


def test_other_refusals(model, batch):
    with pytest.raises(ValueError, match="gradients: got 'nose', wanted one of 1.weight"):
        federated.Observation.from_gradients(model, {"nose": np.zeros(3)}, input_shape=(1, 8, 8), batch_size=1)
    with pytest.raises(ValueError, match="model: got a model without parameters"):
        federated.observe(nn.Flatten(), *batch)
    for options, message in (({"steps": 0, "lr": 1}, "steps: got 0"), ({"steps": 1, "lr": -1}, "lr: got -1")):
        with pytest.raises(ValueError, match=message):
            LocalSteps(**options)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
@pytest.mark.parametrize("training", [True, False])
def test_no_normalization_moves_under_simulation(norm, training, photos):
    """The observation's buffers are the server's; an instance normalization's used to move with every simulation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3, stride=4), norm(4, track_running_stats=True), nn.Flatten(), nn.Linear(256, 10)
        model = nn.Sequential(*layers)
    model.train(training)
    seen = federated.observe(model, photos[0][:2], photos[1][:2])
    before = copy.deepcopy(seen.model.state_dict())
    first = seen.simulate(photos[0][:2], photos[1][:2], create_graph=False)
    seen.network(photos[0][4:8])
    again = seen.simulate(photos[0][:2], photos[1][:2], create_graph=False)
    torch.testing.assert_close(first, seen.shared)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(value, before[key]) for key, value in seen.model.state_dict().items())
    assert "1.running_mean" in before


def test_the_gradient_of_a_foreign_parameter(model, batch):
    """``None`` means withheld; another model's parameter is a mistake, and used to read as withheld too."""
    seen = federated.observe(model, *batch)
    assert torch.equal(seen.gradient_of(seen.model[1].weight), seen.shared[0])
    assert torch.equal(seen.gradient_of(seen.network[1].weight), seen.shared[0])
    assert seen.gradient_of(None) is None
    with pytest.raises(ValueError, match=r"parameter: got one of shape \(16, 64\), wanted a parameter of seen.model"):
        seen.gradient_of(model[1].weight)
    update = federated.observe(model, *batch, local=LocalSteps(steps=2, lr=0.1))
    torch.testing.assert_close(update.gradient_of(update.model[1].weight), update.shared[0] / 0.2)


class Counting(nn.Module):
    """A model whose first state is an integer buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("counter", torch.tensor(7))
        self.body = models.mlp(64, (3,))

    def forward(self, x):
        return self.body(x)


def test_loading_a_model_that_begins_with_an_integer_buffer(tmp_path, batch):
    federated.observe(Counting().double(), *batch).save(tmp_path / "seen.pt")
    again = Observation.load(tmp_path / "seen.pt", Counting())
    assert again.dtype == torch.float64
    assert again.model.counter.dtype == torch.int64


def test_observations_compare_and_hash(model, batch):
    one, other = federated.observe(model, *batch), federated.observe(model, *batch)
    assert one == one
    assert one != other
    assert len({one, other}) == 2


@pytest.mark.parametrize(
    "y", [[3, 1, 4, 1], np.array([3, 1, 4, 1]), torch.tensor([3, 1, 4, 1], dtype=torch.int32)], ids=str
)
def test_labels_in_every_form(model, batch, y):
    wanted = federated.observe(model, batch[0], torch.tensor([3, 1, 4, 1]))
    for inputs in (batch[0], batch[0].numpy(), batch[0].double(), batch[0].tolist()):
        got = federated.observe(model, inputs, y, declare=["labels"])
        assert torch.equal(got.shared[0], wanted.shared[0])
        assert got.known("labels").dtype == torch.int64


def test_one_label_for_one_example(model, batch):
    wanted = federated.observe(model, batch[0][:1], torch.tensor([3]))
    assert torch.equal(federated.observe(model, batch[0][:1], 3).shared[0], wanted.shared[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, x, y: federated.observe(m, x, "three"), "y: got a str, wanted a tensor or an array"),
        (lambda m, x, y: federated.observe(m, x, y == 1), "y: got torch.bool, wanted integer labels"),
        (lambda m, x, y: federated.observe("net", x, y), "model: got a str, wanted a torch.nn.Module"),
        (lambda m, x, y: federated.observe(m, x > 0, y), "x: got torch.bool, wanted floating-point numbers"),
        (lambda m, x, y: federated.observe(m, (255 * x).to(torch.uint8), y), r"input_shape: got \(1, 8, 8\)"),
        (
            lambda m, x, y: federated.observe(m, x, y, declare="labels"),
            r"declare: got the text 'labels', wanted a list of names: \['labels'\]",
        ),
    ],
)
def test_what_is_no_batch_is_named(model, batch, make, message):
    with pytest.raises(ValueError, match=message):
        make(model, *batch)


def test_weights_are_no_gradients(photos):
    for net, x in ((models.mlp(64), (1, 8, 8)), (models.convnet(batch_norm=True), (3, 32, 32))):
        with pytest.raises(ValueError, match=r"gradients: got the model's own weights \(its state_dict\?\)"):
            Observation.from_gradients(net, net.state_dict(), input_shape=x, batch_size=1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([3.7]), r"labels: got class probabilities of shape \(1,\), wanted \(1, 10\)"),
        (torch.tensor([10]), r"labels: got \[10\], wanted 1 labels from 0 to 9"),
        (torch.tensor([1, 2]), "labels: got 2 for a batch of 1"),
    ],
)
def test_declared_labels_are_labels(model, batch, labels, message):
    gradients = federated.client_gradient(model, batch[0][:1], batch[1][:1])
    options = {"input_shape": (1, 8, 8), "batch_size": 1}
    with pytest.raises(ValueError, match=message):
        Observation.from_gradients(model, gradients, knowledge={"labels": labels}, **options)


def test_undeclared_knowledge_says_both_ways_to_declare_it(model, batch):
    with pytest.raises(ValueError, match=r"declare=\['labels'\]\).*knowledge=\{'labels': \.\.\.\}"):
        federated.observe(model, *batch).known("labels")
