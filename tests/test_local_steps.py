"""Attacks on updates of local steps: one gradient on the way, and a search for the order; who visits what."""

from __future__ import annotations

import itertools

import pytest
import torch

from gilearn import attacks, defenses, federated, metrics, models
from gilearn.attacks import labels, local_steps
from gilearn.federated import LocalSteps, Observation, Visits

ORDER = (2, 0, 3, 1, 0, 1, 2, 3)
LOCAL = LocalSteps(steps=4, lr=0.3, batch_size=2)


@pytest.fixture(scope="module")
def batch(digits):
    return digits[0][:4].double(), digits[1][:4]


@pytest.fixture(scope="module")
def model():
    return models.mlp(64, (32,), activation="sigmoid").double()


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def gradient(model, x, y, weights):
    """The gradient of the batch's mean loss at a flat vector of weights."""
    torch.nn.utils.vector_to_parameters(weights, model.parameters())
    return flat(torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), list(model.parameters())))


def walked(x, y, visits, lr):
    """Weights before, and after plain steps on these rows; by hand."""
    at = models.mlp(64, (32,), activation="sigmoid").double()
    weights = torch.nn.utils.parameters_to_vector(at.parameters()).detach()
    first = weights.clone()
    for rows in visits:
        weights = weights - lr * gradient(at, x[rows], y[rows], weights.clone())
    return at, first, weights


def test_visits_are_the_rows_of_the_steps(model, batch):
    x, y = batch
    _, first, last = walked(x, y, [[2, 0], [3, 1], [0, 1], [2, 3]], 0.3)
    seen = federated.observe(model, x, y, local=LOCAL, defense=Visits(rows=ORDER), declare=["defense"])
    torch.testing.assert_close(flat(seen.shared), first - last, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(flat(seen.simulate(x, y)), flat(seen.shared), rtol=1e-12, atol=1e-15)
    blind = federated.observe(model, x, y, local=LOCAL, defense=Visits(rows=ORDER))
    assert "defense" not in blind.knowledge
    assert repr(blind.local) == repr(LOCAL)


def test_visits_survive_the_file(model, batch, tmp_path):
    seen = federated.observe(model, *batch, local=LOCAL, defense=Visits(rows=ORDER), declare=["defense"])
    seen.save(tmp_path / "seen.pt")
    again = Observation.load(tmp_path / "seen.pt", model)
    assert again.known("defense").rows == ORDER
    assert torch.equal(flat(again.simulate(*batch)), flat(seen.simulate(*batch)))


def test_reshuffling_visits_every_row_once_an_epoch_in_an_order_that_only_the_client_has(model, batch):
    x, y = batch
    defense = defenses.Reshuffling(epochs=2)
    seen = federated.observe(model, x, y, local=LOCAL, defense=defense, declare=["labels", "defense"], seed=5)
    orders = [first + second for first, second in itertools.product(itertools.permutations(range(4)), repeat=2)]
    at, first, _ = walked(x, y, [], 0.3)
    explaining = []
    for order in orders:
        weights = first
        for rows in ([*order[k : k + 2]] for k in (0, 2, 4, 6)):
            weights = weights - 0.3 * gradient(at, x[rows], y[rows], weights.clone())
        if torch.allclose(flat(seen.shared), first - weights, rtol=1e-12, atol=1e-15):
            explaining.append(order)
    assert len(explaining) == 16  # two rows of a mini-batch may change places, in four mini-batches
    # an imagined client visits the data as they stand, which is not how this client did
    assert seen.known("defense") == defense
    plain = federated.observe(model, x, y, local=LOCAL)
    torch.testing.assert_close(flat(seen.simulate(x, y)), flat(plain.shared), rtol=1e-12, atol=1e-15)
    assert (0, 1, 2, 3, 0, 1, 2, 3) not in explaining
    others = [flat(federated.observe(model, x, y, local=LOCAL, defense=defense, seed=s).shared) for s in (5, 6)]
    assert torch.equal(others[0], flat(seen.shared))
    assert not torch.equal(*others)


def test_a_surrogate_is_the_gradient_at_a_model_on_the_line(model, batch):
    x, y = batch
    seen = federated.observe(
        model, x, y, local=LocalSteps(steps=5, lr=0.1), declare=["labels", "targets", "batch_norm"]
    )
    at, first, last = walked(x, y, [[0, 1, 2, 3]] * 5, 0.1)
    for share in (0.0, 0.4, 1.0):
        view = attacks.surrogate(seen, share=share)
        assert view.local is None
        assert set(view.knowledge) == {"labels", "targets"}
        torch.testing.assert_close(flat(view.shared), (first - last) / 0.5)
        wanted = gradient(at, x, y, first + share * (last - first))
        torch.testing.assert_close(flat(view.simulate(x, y, create_graph=False)), wanted)
    assert torch.equal(flat(seen.model.parameters()).detach(), first), "the observation's own model has moved"
    withheld = attacks.surrogate(seen.replace(shared=(None, *seen.shared[1:])), share=1.0)
    ends = zip(withheld.model.parameters(), attacks.surrogate(seen, share=1.0).model.parameters(), strict=True)
    assert [torch.equal(one, other) for one, other in ends] == [False, True, True, True]
    assert torch.equal(next(withheld.model.parameters()), next(seen.model.parameters()))


def test_the_midpoint_is_right_to_second_order(model, batch):
    """Ten times smaller steps: at share 0 the mismatch falls by 10, at (K - 1) / 2K by 100."""
    x, y = batch

    def mismatch(lr, share):
        seen = federated.observe(model, x, y, local=LocalSteps(steps=4, lr=lr))
        view = attacks.surrogate(seen, share=share)
        return float((flat(view.simulate(x, y, create_graph=False)) - flat(view.shared)).norm())

    assert mismatch(1e-2, 0.0) / mismatch(1e-3, 0.0) == pytest.approx(10, rel=0.1)
    assert mismatch(1e-2, 0.375) / mismatch(1e-3, 0.375) == pytest.approx(100, rel=0.1)


def test_an_unknown_order_is_found_with_the_inputs(model, batch):
    seen = federated.observe(model, *batch, local=LOCAL, defense=Visits(rows=ORDER), declare=["labels"])
    supposed = attacks.UnknownOrder().search(seen, seed=1)
    assert metrics.mse(supposed.inputs, batch[0]) > 1e-3
    found = attacks.UnknownOrder()(seen, seed=1)
    assert metrics.mse(found.inputs, batch[0]) < 1e-8
    assert found.verdict.explained
    # the order too, up to the names of the examples and the places within a mini-batch
    named = metrics.match(batch[0], found.inputs).tolist()
    rows = [named[row] for row in found.details["rows"]]
    assert [set(rows[k : k + 2]) for k in range(0, 8, 2)] == [set(ORDER[k : k + 2]) for k in range(0, 8, 2)]
    assert len(found.restarts) > 1
    assert found.restarts[-1]["rows"] == found.details["rows"]


def test_starts_are_by_turns_what_fits_one_gradient_and_a_random_order(model, batch, monkeypatch):
    """An update that ends within an epoch: its order is of whole epochs all the same."""
    shares = []

    def surrogate(seen, *, share):
        shares.append(share)
        return attacks.surrogate(seen, share=share)

    monkeypatch.setattr(local_steps, "surrogate", surrogate)
    local = LocalSteps(steps=3, lr=0.3, batch_size=2)
    seen = federated.observe(model, *batch, local=local, defense=Visits(rows=ORDER[:6]), declare=["labels"])
    attack = attacks.UnknownOrder(turns=1, starts=3)
    attack = attack.replace(search=attack.search.replace(iterations=2, explained=0.0))
    found = attack(seen, seed=3)
    assert shares == [pytest.approx(1 / 3)]
    assert found.seed == 3
    assert len(found.restarts) == 3
    assert found.residual == pytest.approx(min(one["residual"] for one in found.restarts))
    rows = [one["rows"] for one in found.restarts]
    assert all(sorted(order[part]) == [0, 1, 2, 3] for order in rows for part in (slice(4), slice(4, 8)))
    generator = torch.Generator().manual_seed(3)
    drawn = [tuple(torch.cat([torch.randperm(4, generator=generator) for _ in range(2)]).tolist()) for _ in range(3)]
    assert [one == other for one, other in zip(rows, drawn, strict=True)] == [False, True, False]


def test_an_unknown_order_before_a_known_defense(model, batch):
    clip = defenses.BatchClipping(norm=0.1)
    seen = federated.observe(model, *batch, local=LOCAL, defense=(Visits(rows=ORDER), clip), declare=["labels"])
    seen = seen.replace(knowledge={**seen.knowledge, "defense": clip})
    found = attacks.UnknownOrder(turns=1, starts=1)(seen)
    view = seen.replace(knowledge={**seen.knowledge, "defense": (Visits(rows=found.details["rows"]), clip)})
    again = flat(view.simulate(found.inputs, found.labels, create_graph=False))
    assert float(again.norm()) <= 0.1 + 1e-12
    assert float((again - flat(seen.shared)).norm() / flat(seen.shared).norm()) == pytest.approx(found.residual)


def test_a_time_limit_ends_it_within_the_first_search(model, batch):
    seen = federated.observe(model, *batch, local=LOCAL, defense=Visits(rows=ORDER), declare=["labels"])
    found = attacks.UnknownOrder()(seen, time_limit=0.01)
    assert len(found.restarts) <= 2
    assert found.inputs.shape == batch[0].shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda seen: attacks.surrogate(seen.replace(local=None)), "seen: got a single gradient"),
        (lambda seen: attacks.surrogate(seen, share=1.5), "share: got 1.5, wanted 0 to 1"),
        (lambda seen: attacks.UnknownOrder()(seen.replace(local=None)), "seen: got no local steps"),
        (lambda seen: attacks.UnknownOrder(starts=0), "starts: got 0"),
        (lambda seen: attacks.UnknownOrder(turns=0), "turns: got 0"),
        (lambda seen: attacks.UnknownOrder(search=labels.Declared()), "search: got .*, wanted a GradientMatching"),
        (lambda seen: Visits(rows=()), r"rows: got \(\), wanted at least one"),
        (lambda seen: Visits(rows=(0, -1)), r"rows: got \(0, -1\)"),
        (
            lambda seen: seen.replace(knowledge={"defense": Visits(rows=(4,))}).simulate(
                torch.zeros(4, 1, 8, 8).double(), torch.zeros(4, dtype=torch.long)
            ),
            "rows: got row 4, wanted one of 4 examples",
        ),
        (lambda seen: defenses.Reshuffling(epochs=0), "epochs: got 0"),
    ],
)
def test_refusals(model, batch, call, message):
    seen = federated.observe(model, *batch, local=LOCAL)
    with pytest.raises(ValueError, match=message):
        call(seen)
