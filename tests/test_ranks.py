"""What a client can ask before it shares: the spectrum of the gradient's Jacobian, and its refusals."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from gilearn import federated, models, ranks


def jacobian_by_differences(model, x, y, *, loss="cross_entropy", step=1e-6):
    """Central differences of what the client really sends, one entry of ``x`` at a time."""
    rows = []
    for k in range(x.numel()):
        ends = []
        for sign in (1, -1):
            moved = x.clone().flatten()
            moved[k] += sign * step
            seen = federated.observe(model, moved.view_as(x), y, loss=loss)
            ends.append(torch.cat([g.flatten() for g in seen.shared]))
        rows.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "model",
    [
        models.mlp(64, (8,)),
        models.lenet(1, 10, size=8, width=2),
        models.convnet(1, 10, size=8, widths=(3, 4), strides=(2, 1), batch_norm=True, activation="tanh"),
    ],
    ids=["mlp", "lenet", "convnet with batch normalization"],
)
@pytest.mark.parametrize("training", [False, True])
def test_the_spectrum_is_that_of_the_gradients_the_client_sends(digits, model, training):
    model = model.double().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = digits[0][:2].double(), digits[1][:2]
    values = ranks.gradient_spectrum(model, x, y, chunk=50)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    expected = torch.linalg.svdvals(jacobian_by_differences(model, x, y))
    assert values.shape == (128,)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-6 * float(expected[0]))


def test_modes_are_the_directions_of_the_spectrum(digits):
    model = models.mlp(64, (4,)).double()
    x, y = digits[0][:1].double(), digits[1][:1]
    values, directions = ranks.gradient_modes(model, x, y)
    torch.testing.assert_close(values, ranks.gradient_spectrum(model, x, y), rtol=1e-6, atol=1e-7 * float(values[0]))
    torch.testing.assert_close(directions.T @ directions, torch.eye(64, dtype=torch.float64))
    moved = (jacobian_by_differences(model, x, y).T @ directions).norm(dim=0)
    torch.testing.assert_close(moved, values, rtol=1e-4, atol=1e-6 * float(values[0]))


def test_a_batch_of_twins_hides_half_of_its_directions(digits):
    """Moving one of two equal inputs against the other changes nothing to first order."""
    model = models.lenet(1, 10, size=8, strides=(1, 1, 1))
    values = ranks.gradient_spectrum(model, digits[0][[7, 7]], digits[1][[7, 7]])
    assert int((values > 1e-7 * values[0]).sum()) == 64


def test_other_losses_and_soft_labels(digits):
    x = digits[0][:1].double()
    model = models.mlp(64, (4,), num_classes=1).double()
    y = torch.tensor([1])
    expected = torch.linalg.svdvals(jacobian_by_differences(model, x, y, loss="logistic"))
    found = ranks.gradient_spectrum(model, x, y, loss="logistic")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk": 0}, "chunk: got 0"),
        ({"loss": "hinge"}, "loss: .*hinge"),
        ({"y": torch.tensor([99])}, "y: "),
        ({"y": torch.tensor([1, 2])}, "y: "),
        ({"x": torch.full((1, 1, 8, 8), float("nan"))}, "x: "),
    ],
)
def test_refusals(digits, change, message):
    given = {"x": digits[0][:1], "y": digits[1][:1], **change}
    x, y = given.pop("x"), given.pop("y")
    with pytest.raises(ValueError, match=message):
        ranks.gradient_spectrum(models.mlp(64), x, y, **given)


def test_the_rank_report_measures_and_bounds_alike():
    for widths in ((12, 36, 36, 36, 64, 128), (12, 20, 36, 36, 64, 128), (4, 4, 4, 4, 4, 4)):
        model = models.cnn6(size=10, widths=widths)
        measured = ranks.rank_report(model, (3, 10, 10), exact_rank_up_to=2000)
        bounds = ranks.rank_report(model, (3, 10, 10), exact_rank_up_to=0)
        assert measured["measured"].all()
        assert list(measured["rank"]) == list(bounds["rank"])
        assert (measured["deficiency"] == measured["unknowns"] - measured["rank"]).all()
    assert measured["deficiency"].sum() > 0


def test_the_rank_report_takes_any_network():
    report = ranks.rank_report(models.resnet18(), (3, 32, 32), exact_rank_up_to=0)
    assert len(report) == 21
    assert report.loc["layer2.0.downsample.0", "deficiency"] > 0
    with pytest.raises(ValueError, match="no convolution"):
        ranks.rank_report(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(64)), (1, 8, 8))
    with pytest.raises(ValueError, match="input_shape"):
        ranks.rank_report(models.lenet(), (1, 32, 32))


def test_architectures_by_what_they_hide():
    """The four networks whose Jacobians have rank 22, 46, 64 and 64, and a perceptron, which hides nothing."""
    nets = {
        f"{width} channels": models.convnet(
            1, 4, size=8, widths=(width, width), strides=(2, 2), activation="sigmoid", seed=width
        )
        for width in (8, 1, 4, 2)
    }
    table = ranks.compare_architectures(nets | {"perceptron": models.mlp(64, (1,), 4)}, (1, 8, 8))
    assert list(table.index[:2]) == ["1 channels", "2 channels"]
    assert table.loc["1 channels"].tolist() == [40, 64, 22, 42, 44, 2]
    assert table.loc["2 channels"].tolist() == [94, 64, 46, 18, 18, 1]
    assert table.loc["4 channels"].tolist() == [256, 64, 64, 0, 0, 0]
    assert table.loc["8 channels"].tolist() == [796, 64, 64, 0, 0, 0]
    assert table.loc["perceptron", ["rank", "deficiency"]].tolist() == [64, 0]
    assert bool((table["rank"] <= table[["parameters", "unknowns"]].min(axis=1)).all())


def test_architectures_are_ranked_by_rank_and_then_by_deficiency(monkeypatch):
    """And what the counts are of: a random input that the seed draws, and the loss."""
    nets = {name: models.mlp(3, (), 2) for name in "abc"}
    spectra = iter([[1e3, 1.0, 1e-5], [1e-9, 1e-9, 0], [5.0, 0, 0]])
    deficiencies = iter([0, 5, 3])
    asked = []

    def spectrum(model, x, y, *, loss):
        asked.append((x, loss))
        return torch.tensor(next(spectra))

    def report(model, shape, *, seed):
        asked.append(seed)
        return pd.DataFrame({"deficiency": [next(deficiencies)]})

    monkeypatch.setattr(ranks, "gradient_spectrum", spectrum)
    monkeypatch.setattr(ranks, "rank_report", report)
    table = ranks.compare_architectures(nets, (3,), loss="logistic", seed=4)
    assert table["hidden"].to_dict() == {"c": 2, "b": 1, "a": 1}
    assert list(table.index) == ["c", "b", "a"]
    wanted = torch.rand(1, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert asked[::2] == [4, 4, 4]
    assert all(torch.equal(x, wanted) and loss == "logistic" for x, loss in asked[1::2])


def test_an_architecture_with_one_logit_has_the_logistic_loss():
    """With a softmax over one class there would be no gradient at all."""
    table = ranks.compare_architectures({"one": models.convnet(1, 1, size=8, widths=(8,), strides=(1,))}, (1, 8, 8))
    assert table.loc["one", "rank"] == 64
    with pytest.raises(ValueError, match="models: got none"):
        ranks.compare_architectures({}, (1, 8, 8))
