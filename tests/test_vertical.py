"""CAFE: rounds over a known pool, two linear steps, a search; each against the same from scratch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from gilearn import attacks, data, defenses, federated, metrics, models
from gilearn.attacks import CAFE, GradientMatching, RankWarning, initialization, labels, optimizers, spaces
from gilearn.attacks.iteration.vertical import Inner, InnerFeatures, LinearSteps, PoolLabels, inner_layers
from gilearn.federated import LocalSteps, Several, vertical_rounds
from gilearn.notebook import playgrounds


def victim(seed=0):
    return models.loop_net((1, 8, 8), widths=(24,), hidden=(16, 8), seed=seed).double()


def several(x, y, *, rounds, batch, model=None, declare=("rows",), **options):
    parts = tuple(
        vertical_rounds(model or victim(), x, y, batch_size=batch, num_rounds=rounds, declare=declare, **options)
    )
    return Several(parts=parts, size=len(x))


def from_scratch(model, x, y):
    """Return every example's own delta and features at every party's first fully connected layer, one by one."""
    found = {}
    for party, name in enumerate(inner_layers(model)):
        layer, network = model.get_submodule(name), model.parties[party]
        place = list(network).index(layer)
        deltas, features = [], []
        for k in range(len(x)):
            outputs = [p(v) for p, v in zip(model.parties, models.divided(x[k : k + 1], 4), strict=True)]
            features.append(network[:place](models.divided(x[k : k + 1], 4)[party]).detach()[0])
            z = layer(features[-1][None]).detach().requires_grad_()
            outputs[party] = network[place + 1 :](z)
            loss = nn.functional.cross_entropy(model.head(torch.cat(outputs, dim=1)), y[k : k + 1])
            deltas.append(torch.autograd.grad(loss, z)[0][0])
        found[name] = torch.stack(deltas), torch.stack(features)
    return found


@pytest.fixture(scope="module")
def pool():
    """Twelve digits, batches of four, 15 rounds."""
    x, y = data.digits(12)
    x = x.double()
    return x, y, several(x, y, rounds=15, batch=4)


# The network


def test_parts_are_quadrants_row_by_row_and_columns():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert [part.flatten().tolist() for part in models.divided(x, 4)] == [
        [0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15],
    ]  # fmt: skip
    assert [tuple(part.shape[2:]) for part in models.divided(torch.zeros(1, 1, 25, 25), 4)] == [
        (13, 13), (13, 12), (12, 13), (12, 12),
    ]  # fmt: skip
    assert [part.shape[1] for part in models.divided(torch.zeros(1, 13), 4)] == [4, 3, 3, 3]
    assert [tuple(part.shape[2:]) for part in models.divided(torch.zeros(1, 1, 4, 4), 2)] == [(4, 2), (4, 2)]


def test_loop_net_has_the_sizes_of_the_released_code():
    net = models.loop_net()
    linear = [m for m in net.parties[0] if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(2048, 256), (256, 64), (64, 10)]
    assert (net.head.in_features, net.head.out_features) == (40, 10)
    assert len(net.parties) == 4
    assert models.loop_net((3, 9, 7), 5)(torch.zeros(2, 3, 9, 7)).shape == (2, 5)


def test_a_party_s_output_depends_on_its_part_alone():
    net, x = victim(), torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    changed = x.clone()
    changed[..., :4, 4:] = 0
    before, after = ([p(v) for p, v in zip(net.parties, models.divided(z, 4), strict=True)] for z in (x, changed))
    assert [bool(torch.equal(a, b)) for a, b in zip(before, after, strict=True)] == [True, False, True, True]


# The rounds


def test_every_round_is_the_gradient_of_its_batch(pool):
    x, y, seen = pool
    assert len(seen.parts) == 15
    for part, rows in zip(seen.parts[:3], seen.rows, strict=False):
        assert len(set(rows)) == 4
        alone = federated.observe(victim(), x[list(rows)], y[list(rows)])
        assert all(map(torch.equal, part.shared, alone.shared))
    assert len(set(seen.rows)) == 15
    assert seen.parts[0].known("rows").tolist() == list(seen.rows[0])


def test_the_model_moves_by_the_rate(pool):
    x, y, _ = pool
    first, second = vertical_rounds(victim(), x, y, batch_size=4, num_rounds=2, lr=0.3)
    for before, after, gradient in zip(first.model.parameters(), second.model.parameters(), first.shared, strict=True):
        torch.testing.assert_close(after, before - 0.3 * gradient)
    first, second = vertical_rounds(victim(), x, y, batch_size=4, num_rounds=2)
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))


def test_rows_are_declared_by_name(pool):
    x, y, _ = pool
    (part,) = vertical_rounds(victim(), x, y, batch_size=4, num_rounds=1)
    assert dict(part.knowledge) == {}
    with pytest.raises(ValueError, match="rows: the observation does not declare it"):
        Several(parts=(part,))
    for call in (
        lambda: federated.observe(victim(), x, y, declare=["rows"]),
        lambda: next(federated.fedavg(victim(), [(x, y)], LocalSteps(steps=1, lr=1), num_rounds=1, declare=["rows"])),
    ):
        with pytest.raises(ValueError, match="declare: got 'rows', and this batch comes from no pool"):
            call()
    with pytest.raises(ValueError, match="rows: got tensor.*wanted 4 numbers of examples"):
        part.replace(knowledge={"rows": torch.tensor([0, 1])})


def test_rows_are_saved_and_moved(pool, tmp_path):
    _, _, seen = pool
    seen.parts[0].save(tmp_path / "round.pt")
    again = federated.Observation.load(tmp_path / "round.pt", victim())
    assert torch.equal(again.known("rows"), seen.parts[0].known("rows"))
    assert seen.to(dtype=torch.float32).rows == seen.rows


def test_size_and_drawn(pool):
    x, y, seen = pool
    few = Several(parts=seen.parts[:1], size=12)
    assert few.batch_size == 12
    assert Several(parts=seen.parts[:1]).batch_size == 1 + max(seen.rows[0])
    drawn = seen.drawn(3, torch.Generator().manual_seed(0))
    places = [seen.rows.index(rows) for rows in drawn.rows]
    assert len(set(places)) == 3
    assert all(drawn.parts[k] is seen.parts[place] for k, place in enumerate(places))
    assert drawn.batch_size == 12
    torch.testing.assert_close(tuple(g.detach() for g in drawn.simulate(x, y)), drawn.shared)


# The linear steps


def test_both_steps_are_exact_where_the_index_matrix_has_full_rank(pool):
    x, y, seen = pool
    found = LinearSteps()(seen)
    assert [one.layer for one in found] == [f"parties.{k}.4" for k in range(4)]
    for one in found:
        deltas, features = from_scratch(victim(), x, y)[one.layer]
        assert one.rank == 12
        assert bool(one.determined.all())
        assert float((one.deltas - deltas).square().mean()) < 1e-25
        assert float((one.features - features).square().mean()) < 1e-25


def test_fewer_rounds_than_examples_are_reported(pool):
    """Rank 9 of 12: the steps warn, and their answer is far off."""
    x, y, seen = pool
    few = Several(parts=seen.parts[:9], size=12)
    with pytest.warns(RankWarning, match="index matrix of 9 rounds has rank 9 for 12 examples"):
        found = LinearSteps()(few)
    for one in found:
        _, features = from_scratch(victim(), x, y)[one.layer]
        assert one.rank == 9
        assert not bool(one.determined.all())
        assert float((one.features - features).square().mean()) > 1e-4


def test_examples_that_some_rounds_single_out_are_told_from_the_others(pool):
    """Examples 2 and 3 are always together: their mean is known, and neither of them; 0 and 1 are exact."""
    x, y, _ = pool
    rows = ((0, 1), (0, 2, 3), (1, 2, 3), (0, 1, 2, 3))
    parts = tuple(federated.observe(victim(), x[list(r)], y[list(r)]) for r in rows)
    with pytest.warns(RankWarning, match="rank 3 for 4 examples: it determines 2 of them"):
        found = LinearSteps()(Several(parts=parts, rows=rows))
    for one in found:
        deltas, features = from_scratch(victim(), x[:4], y[:4])[one.layer]
        assert one.determined.tolist() == [True, True, False, False]
        torch.testing.assert_close(one.features[:2], features[:2], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.deltas[2] + one.deltas[3], deltas[2] + deltas[3], rtol=1e-9, atol=1e-12)
        assert float((one.features[2:] - features[2:]).square().mean()) > 1e-4


def test_an_example_that_a_party_does_not_react_to_is_not_determined():
    """All ReLUs of the layer above are off: no gradient, and nothing to divide by."""
    x, y = data.table("iris")
    x, y = x[::25].double(), y[::25]
    net = models.loop_net((4,), 3, hidden=(8,)).double()
    with torch.no_grad():
        net.parties[1][1].bias.fill_(-100.0)
    found = LinearSteps()(several(x, y, rounds=20, batch=2, model=net))
    assert [int(one.determined.sum()) for one in found] == [6, 0, 6, 6]


def test_the_paper_s_optimization_arrives_at_the_closed_form():
    """SGD with rate 1 / (2 x batch) projects onto one round at a time (Kaczmarz); Adam's rate has to fall."""
    x, y = data.digits(5)
    seen = several(x.double(), y, rounds=30, batch=2)
    falling = optimizers.Adam(lr=0.03, schedule=optimizers.WarmupCosine(warmup=10))
    descent = LinearSteps(first=optimizers.SGD(lr=0.25), second=falling, iterations=1000)
    for one, exact in zip(descent(seen), LinearSteps()(seen), strict=True):
        torch.testing.assert_close(one.deltas, exact.deltas, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.features, exact.features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("table", ["iris", "wine", "breast_cancer"])
def test_columns_of_a_table_are_the_features(table):
    """The parties' first layer takes the columns: 24 rows of each table, to the last digits."""
    x, y = data.table(table)
    pick = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:24]
    x, y = x[pick].double(), y[pick]
    net = models.loop_net((x.shape[1],), int(y.max()) + 1, hidden=(16, 8), activation="tanh").double()
    seen = several(x, y, rounds=30, batch=6, model=net)
    found = torch.cat([one.features for one in LinearSteps()(seen)], dim=1)
    assert float((found - x).square().mean()) < 1e-12
    assert torch.equal(PoolLabels()(seen), y)


def test_labels_of_the_pool(pool):
    _, y, seen = pool
    assert torch.equal(PoolLabels()(seen), y)


def test_a_model_without_parties_has_one_layer():
    assert inner_layers(models.mlp(4, (3,), 2)) == ("1",)
    assert inner_layers(models.loop_net((4,), 3, parties=2)) == ("parties.0.1", "parties.1.1")


# The search


def short(**changes):
    adam = optimizers.Adam(lr=0.1, schedule=optimizers.WarmupCosine(warmup=10))
    return CAFE.matching.replace(**({"iterations": 150, "optimizer": adam} | changes))


def test_the_pool_is_recovered_and_not_without_the_features(pool):
    x, _, seen = pool
    whole = CAFE.replace(matching=short())(seen)
    blind = CAFE.replace(matching=short(), weight=0.0)(seen)
    decibels = -10 * (whole.inputs - x).square().flatten(1).mean(1).log10()
    assert float(decibels.mean()) > 30
    assert metrics.psnr(blind.inputs, x) < float(decibels.mean()) - 6
    assert [one.rank for one in whole.details["inner"]] == [12] * 4
    assert blind.details["inner"] == ()


def test_the_playground():
    """Two rows of pictures; without enough rounds it says nothing and draws what it finds."""
    assert len(playgrounds.vertical(pool=3, batch=2, rounds=2).axes) == 6
    assert len(playgrounds.vertical(pool=2, batch=1, rounds=4, features=False).axes) == 4
    for wrong, message in (
        ({"pool": 0}, "pool: got 0, wanted at least 1"),
        ({"batch": 13}, "batch_size: got 13, wanted 1 to the number of examples, 12"),
        ({"rounds": 0}, "num_rounds: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            playgrounds.vertical(**wrong)


def test_a_search_of_parts_returns_the_last_iterate(pool):
    """The returned inputs are those of the last value in the history, though an earlier one was smaller."""
    _, y, seen = pool
    attack = GradientMatching(
        initialization=initialization.Uniform(),
        labels=labels.Fixed(y),
        optimizer=optimizers.Adam(lr=0.3),
        iterations=7,
        parts=15,
    )
    whole = attack(seen, seed=1)
    simulated = seen.simulate(whole.inputs, y, create_graph=False)
    distance = sum(float((a - b).square().sum()) for a, b in zip(simulated, seen.shared, strict=True))
    assert whole.history[-1] == pytest.approx(distance, rel=1e-9)
    assert whole.restarts[0]["distance"] == pytest.approx(distance, rel=1e-9)
    assert float(whole.history.min()) < 0.99 * distance
    best = attack.replace(parts=None)(seen, seed=1)
    torch.testing.assert_close(best.history, whole.history, rtol=1e-9, atol=0)
    assert best.restarts[0]["distance"] == pytest.approx(float(best.history.min()), rel=1e-9)


def test_an_iteration_looks_at_the_drawn_rounds_alone(pool):
    _, y, seen = pool
    looked = []

    def term(candidates):
        looked.append((candidates.rows.tolist(), tuple(candidates.inputs.shape), tuple(candidates.targets.shape)))
        return candidates.inputs.flatten(1).sum(1) * 0

    attack = short(labels=labels.Fixed(y), regularizers=(term,), iterations=5, parts=1)
    result = attack(seen)
    assert all(tuple(rows) in {tuple(sorted(r)) for r in seen.rows} for rows, _, _ in looked)
    assert len({tuple(rows) for rows, _, _ in looked}) > 1
    assert {shape for _, shape, _ in looked} == {(1, 4, 1, 8, 8)}
    assert {shape for _, _, shape in looked} == {(1, 4)}
    assert torch.equal(result.inputs, attack(seen).inputs)
    two = short(labels=labels.Fixed(y), regularizers=(), iterations=3, restarts=2, parallel=2, explained=0.0)(seen)
    assert len(two.restarts) == 2


def test_features_regularizer_is_differentiable(pool):
    x, y, seen = pool
    term = InnerFeatures(weight=0.7, inner=LinearSteps()(seen))
    candidates = attacks.regularizers.Candidates(seen=seen, inputs=x[None], targets=y[None])
    assert float(term(candidates).detach()) < 1e-20
    start = torch.rand(1, 12, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def value(one):
        inputs = torch.cat([start[:, :3], one[None, None], start[:, 4:]], dim=1)
        return term(attacks.regularizers.Candidates(seen=seen, inputs=inputs, targets=y[None]))

    assert torch.autograd.gradcheck(value, (start[0, 3].clone().requires_grad_(),), eps=1e-7, atol=1e-5)


# Refusals


def withheld(seen, name):
    names = [own for own, _ in seen.model.named_parameters()]
    parts = [
        part.replace(shared=tuple(None if own == name else g for own, g in zip(names, part.shared, strict=True)))
        for part in seen.parts
    ]
    return seen.replace(parts=tuple(parts))


def unbiased():
    net = models.loop_net((4,), 3, hidden=(5,))
    net.parties[2][1].bias = None
    return net


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, x, y: LinearSteps()(s.parts[0]), "seen: got a Observation, wanted rounds of one pool"),
        (lambda s, x, y: LinearSteps()(withheld(s, "parties.1.4.bias")), "'parties.1.4.bias' is withheld"),
        (lambda s, x, y: PoolLabels()(withheld(s, "head.bias")), "'head.bias' is withheld"),
        (lambda s, x, y: PoolLabels()(s.replace(parts=s.parts[:9], rows=s.rows[:9])), "wanted more rounds"),
        (lambda s, x, y: LinearSteps(iterations=0), "iterations: got 0, wanted at least 1"),
        (lambda s, x, y: LinearSteps(first=optimizers.SGD), "first: got the class SGD, wanted a value"),
        (lambda s, x, y: LinearSteps(second=3), "second: got 3, wanted a value"),
        (lambda s, x, y: CAFE.replace(weight=-1.0), "weight: got -1.0, wanted 0 or more"),
        (lambda s, x, y: inner_layers(unbiased()), "party 2 has no fully connected layer with a bias"),
        (
            lambda s, x, y: LinearSteps()(
                Several(
                    parts=(federated.observe(victim(), x, y, local=LocalSteps(steps=1, lr=1.0)),), rows=(range(12),)
                )
            ),
            "seen: got updates of local steps, wanted gradients",
        ),
        (lambda s, x, y: s.replace(size=3), "size: got 3, and the rows name example 11, wanted at least 12"),
        (lambda s, x, y: models.loop_net((4,), 3, parties=5), "parties: got 5 for examples of shape"),
        (lambda s, x, y: models.loop_net((1, 2, 2), 3, parties=6), "parties: got 6 for examples of shape"),
        (lambda s, x, y: models.loop_net((4,), 3, hidden=()), "hidden: got none"),
        (lambda s, x, y: models.loop_net((4,), 3, hidden=(0,)), r"hidden: got \(0,\), wanted positive"),
        (
            lambda s, x, y: several(x, y, rounds=1, batch=13),
            "batch_size: got 13, wanted 1 to the number of examples, 12",
        ),
        (lambda s, x, y: several(x, y, rounds=0, batch=4), "num_rounds: got 0"),
        (lambda s, x, y: several(x, y, rounds=1, batch=4, lr=-1.0), "lr: got -1.0, wanted 0 or more"),
        (
            lambda s, x, y: several(x, y, rounds=1, batch=4, declare=["indices"]),
            "declare: got 'indices', wanted one of",
        ),
        (lambda s, x, y: short(parts=0), "parts: got 0, wanted at least 1"),
        (lambda s, x, y: short(optimizer=optimizers.LBFGS(patience=None)), "parts: got 1 with optimizer=LBFGS"),
        (lambda s, x, y: short(optimizer=optimizers.Adam(patience=3)), "parts: got 1 with optimizer=Adam"),
        (lambda s, x, y: short(tolerance=1e-3), "parts: got 1 with tolerance=0.001"),
        (lambda s, x, y: short(compiled=True), "parts: got 1 with compiled=True"),
        (lambda s, x, y: short(labels=labels.Joint())(s.parts[0]), "parts: got 1 for a Observation, wanted"),
        (lambda s, x, y: short(parts=16, labels=labels.Joint())(s), "parts: got 16 for Several of 15 parts"),
        (lambda s, x, y: attacks.regularizers.TotalVariation(weight=1.0, above=-1.0), "above: got -1.0, wanted 0 or"),
        (lambda s, x, y: CAFE.replace(matching=None), "matching: got None, wanted a GradientMatching"),
        (lambda s, x, y: CAFE.replace(linear=optimizers.SGD(lr=1.0)), "linear: got SGD.*, wanted a LinearSteps"),
        (lambda s, x, y: models.divided(x, 0), "parties: got 0, wanted positive sizes"),
        (lambda s, x, y: defenses.FakeGradients(std=0.0), "std: got 0.0, wanted a positive number, or None"),
        (lambda s, x, y: defenses.FakeGradients(candidates=0), "candidates: got 0, wanted at least 1"),
    ],
)
def test_refusals(pool, call, message):
    x, y, seen = pool
    with pytest.raises(ValueError, match=message):
        call(seen, x, y)


# The countermeasure


def test_fake_gradients_keep_the_order_alone_and_break_the_linear_steps(pool):
    x, y, _ = pool
    fake = several(x, y, rounds=15, batch=4, defense=defenses.FakeGradients())
    honest = several(x, y, rounds=15, batch=4)
    for a, b in itertools.islice(zip(fake.shared, honest.shared, strict=True), 8):
        assert torch.equal(a.flatten()[b.flatten().argsort(stable=True)], a.flatten().sort().values)
    one = LinearSteps()(fake)[0]
    _, features = from_scratch(victim(), x, y)[one.layer]
    assert float((one.features - features).square().mean()) > 0.1 * float(features.square().mean())


def test_an_example_in_every_batch_hides_the_whole_pool(pool):
    """B times its column of the index matrix is the sum of all: one combination is open, and everybody is in it."""
    x, y, _ = pool
    generator = torch.Generator().manual_seed(0)
    rows = tuple((0, *(1 + torch.randperm(11, generator=generator)[:3]).tolist()) for _ in range(30))
    parts = tuple(federated.observe(victim(), x[list(r)], y[list(r)]) for r in rows)
    with pytest.warns(RankWarning, match="has rank 11 for 12 examples: it determines 0 of them"):
        LinearSteps()(Several(parts=parts, rows=rows))


def test_values_compare_and_show(pool):
    _, _, seen = pool
    assert "LinearSteps(first=None" in repr(CAFE)
    assert isinstance(LinearSteps()(seen)[0], Inner)
    assert CAFE.matching.space == spaces.Pixels(bounds=(0.0, 1.0))
