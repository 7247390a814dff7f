"""Rounds: federated averaging, exact weights, what a round hands out, aggregates and pools."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gilearn import defenses, federated, models
from gilearn.defenses import aggregation as protected
from gilearn.federated import Aggregate, Aggregated, AggregatedRounds, Aggregation, Cost, LocalSteps, Several
from gilearn.federated.aggregation import weighted_mean


def test_rounds_with_one_step_are_gradient_descent(digits):
    """FedSGD over equal clients is plain gradient descent on all data."""
    x, y = digits[0].double(), digits[1]
    start = models.mlp(64, (8,)).double()
    clients = [(x[k : k + 16], y[k : k + 16]) for k in range(0, 64, 16)]
    *_, last = federated.fedavg(start, clients, LocalSteps(steps=1, lr=0.5), num_rounds=3)
    plain = copy.deepcopy(start)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimizer.step()
    for a, b in zip(last.after.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert last.number == 3
    assert last.participants == (0, 1, 2, 3)


def test_rounds_weigh_clients_by_their_data(digits):
    x, y = digits[0].double(), digits[1]
    start = models.mlp(64, (8,)).double()
    clients = [(x[:48], y[:48]), (x[48:], y[48:])]
    (only,) = federated.fedavg(start, clients, LocalSteps(steps=1, lr=0.5), num_rounds=1)
    gradient = federated.client_gradient(start, x, y)
    for before, after, g in zip(start.parameters(), only.after.parameters(), gradient, strict=True):
        torch.testing.assert_close(after, before - 0.5 * g)


def test_rounds_average_batch_norm_statistics(photos):
    start = models.convnet(batch_norm=True)
    clients = [(photos[0][:4], photos[1][:4]), (photos[0][4:8], photos[1][4:8])]
    (only,) = federated.fedavg(start, clients, LocalSteps(steps=1, lr=0.1), num_rounds=1)
    means = [start[0](x).mean((0, 2, 3)) for x, _ in clients]
    torch.testing.assert_close(only.after[1].running_mean, 0.1 * (means[0] + means[1]) / 2)
    assert start[1].running_mean.abs().max() == 0


def test_rounds_choose_clients_by_seed(digits):
    clients = [(digits[0][k : k + 8], digits[1][k : k + 8]) for k in range(0, 64, 8)]
    run = lambda seed: [  # noqa: E731
        list(r.participants)
        for r in federated.fedavg(
            models.mlp(64), clients, LocalSteps(steps=1, lr=0.1), num_rounds=4, per_round=2, seed=seed
        )
    ]
    assert run(0) == run(0)
    assert run(0) != run(1)
    assert all(len(chosen) == 2 for chosen in run(0))
    for options, message in (
        ({"num_rounds": 0}, "num_rounds: got 0"),
        ({"num_rounds": 1, "per_round": 9}, "per_round: got 9"),
    ):
        with pytest.raises(ValueError, match=message):
            next(federated.fedavg(models.mlp(64), clients, LocalSteps(steps=1, lr=0.1), **options))


@pytest.mark.parametrize("clients", [1, 3, 7, 25, 100, 1000])
def test_the_mean_over_clients_is_exact(clients):
    """Against rational numbers: powers of two would hide what a float32 weight rounds away (3e-8)."""
    generator = torch.Generator().manual_seed(clients)
    shared = [(torch.randn(11, generator=generator, dtype=torch.float64),) for _ in range(clients)]
    counts = torch.randint(1, 60, (clients,), generator=generator).tolist()
    (mean,) = weighted_mean(shared, counts)
    exact = [
        sum(count * Fraction(float(update[0][k])) for count, update in zip(counts, shared, strict=True)) / sum(counts)
        for k in range(11)
    ]
    off = [abs(Fraction(float(value)) - wanted) for value, wanted in zip(mean, exact, strict=True)]
    assert float(sum(error**2 for error in off)) ** 0.5 < 1e-15 * float(sum(wanted**2 for wanted in exact)) ** 0.5


def test_three_equal_clients_average_exactly(digits):
    """The model moves by the third of the sum: float32 weights of a third were off by 3e-8."""
    x, y = digits[0][:12].double(), digits[1][:12]
    start = models.mlp(64, (8,)).double()
    clients = [(x[k : k + 4], y[k : k + 4]) for k in (0, 4, 8)]
    (only,) = federated.fedavg(start, clients, LocalSteps(steps=2, lr=0.5), num_rounds=1)
    for k, mean in enumerate(only.shared):
        exact = sum(seen.shared[k] for seen in only.observations.values()) / 3
        assert float((mean - exact).norm() / exact.norm()) < 1e-15


@pytest.mark.parametrize("number", [25, 29, 31])
def test_a_counter_of_batches_is_not_truncated(photos, number):
    """Weights of 1 / 25 in floating point add up to less than one, and one batch became none."""
    start = models.convnet(widths=(2,), strides=(4,), batch_norm=True)
    clients = [(photos[0][k % 5 : k % 5 + 2], photos[1][:2]) for k in range(number)]
    (only,) = federated.fedavg(start, clients, LocalSteps(steps=1, lr=0.1), num_rounds=1)
    assert int(only.after[1].num_batches_tracked) == 1


def test_a_round_keeps_the_model_that_went_out(digits):
    """What a client shares is an update of the model before: the attacker needs that one, not the one after."""
    clients = [(digits[0][k : k + 4], digits[1][k : k + 4]) for k in (0, 4)]
    start = models.mlp(64, (8,))
    first, second = federated.fedavg(start, clients, LocalSteps(steps=2, lr=0.5), num_rounds=2, declare=["labels"])
    for a, b, c, d in zip(
        start.parameters(), first.model.parameters(), first.after.parameters(), second.model.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert torch.equal(c, d)
        assert not torch.equal(a, c)
    for seen, client in zip(second.observations.values(), clients, strict=True):
        torch.testing.assert_close(seen.simulate(*client, create_graph=False), seen.shared)
        assert torch.equal(seen.known("labels"), client[1])


def test_the_server_moves_its_model_by_a_share_of_the_mean(digits):
    """With a share of 0 the same model goes out again, with 1 it is FedAvg."""
    start, clients = models.mlp(64, (8,)).double(), [(digits[0][:4].double(), digits[1][:4])]
    moved = {}
    for share in (0.0, 0.5, 1.0):
        (only,) = federated.fedavg(start, clients, LocalSteps(steps=1, lr=0.5), num_rounds=1, server_lr=share)
        moved[share] = [a - b for a, b in zip(start.parameters(), only.after.parameters(), strict=True)]
    torch.testing.assert_close(moved[0.5], [move / 2 for move in moved[1.0]])
    assert not any(bool(move.any()) for move in moved[0.0])
    for share in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="server_lr: got"):
            next(federated.fedavg(start, clients, LocalSteps(steps=1, lr=1), num_rounds=1, server_lr=share))


@pytest.mark.parametrize("aggregation", ["mean", "sum"])
@pytest.mark.parametrize("functional", [False, True])
def test_an_aggregate_simulates_all_its_clients(digits, aggregation, functional):
    x, y = digits[0][:9].double(), digits[1][:9]
    clients = [(x[:2], y[:2]), (x[2:3], y[2:3]), (x[3:], y[3:])]
    local = LocalSteps(steps=3, lr=0.2, batch_size=2)
    options = {"num_rounds": 1, "declare": ["labels"], "defense": defenses.BatchClipping(norm=0.1)}
    options["declare"] = ["labels", "defense"]
    (only,) = federated.fedavg(models.mlp(64, (8,)).double(), clients, local, aggregation=aggregation, **options)
    seen = only.aggregate()
    assert seen.counts == (2, 1, 6)
    assert seen.weights == ((2 / 9, 1 / 9, 6 / 9) if aggregation == "mean" else (1.0, 1.0, 1.0))
    assert torch.equal(seen.known("labels"), y)
    for a, b in zip(seen.simulate(x, y, functional=functional), seen.shared, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=1e-12, atol=1e-15)
    total = sum(part.shared[0] for part in only.observations.values())
    if aggregation == "sum":
        torch.testing.assert_close(seen.shared[0], total, rtol=1e-12, atol=1e-15)


def test_a_pool_of_several_rounds(digits):
    """Batches with known rows: the pool is one batch, its shared tensors are those of all rounds."""
    x, y = digits[0][:5].double(), digits[1][:5]
    model, rows = models.mlp(64, (8,)).double(), ((0, 1, 2), (4, 2, 3))
    parts = tuple(federated.observe(model, x[list(r)], y[list(r)], declare=["labels"]) for r in rows)
    pool = Several(parts=parts, rows=rows)
    assert isinstance(pool, federated.Observed)
    assert pool.batch_size == 5
    assert torch.equal(pool.known("labels"), y)
    assert len(pool.shared) == 8
    torch.testing.assert_close(tuple(g.detach() for g in pool.simulate(x, y)), pool.shared)
    assert pool.to(dtype=torch.float32).dtype == torch.float32
    partial = Several(parts=parts[:1], rows=((0, 1, 4),))
    with pytest.raises(ValueError, match="labels: not every part declares it for all of the pool"):
        partial.known("labels")
    for changes, message in (
        ({"rows": rows[:1]}, "rows: got 1 for 2 parts"),
        ({"rows": ((0, 1), (2, 3, 4))}, r"rows: got \(0, 1\), wanted 3 numbers"),
        ({"parts": (parts[0], federated.observe(models.mlp(64), x[:3].float(), y[:3]))}, "parts: they differ in dtype"),
    ):
        with pytest.raises(ValueError, match=message):
            pool.replace(**changes)


def test_a_vertical_party_is_a_model_that_splits_its_input(digits):
    """Two parties with half of the columns each, and gradients of the one that looks withheld: no class of its own."""

    class Joint(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = models.mlp(32, (6,), 5), models.mlp(32, (6,), 5, seed=1)
            self.top = models.mlp(10, (), 10)

        def forward(self, x):
            halves = x.flatten(1).split(32, dim=1)
            return self.top(torch.cat([self.left(halves[0]), self.right(halves[1])], dim=1))

    seen = federated.observe(Joint(), digits[0][:3], digits[1][:3])
    blind = seen.replace(shared=tuple(None if k < 4 else g for k, g in enumerate(seen.shared)))
    assert isinstance(blind, federated.Observed)
    simulated = blind.simulate(digits[0][:3], digits[1][:3], create_graph=False)
    torch.testing.assert_close(simulated[4:], seen.shared[4:])


def test_clients_of_a_round_draw_on_their_own(digits):
    """Noise differs between clients and between rounds, and returns with the seed."""
    clients = [(digits[0][:2], digits[1][:2])] * 2
    run = lambda seed: [  # noqa: E731
        seen.shared[0]
        for r in federated.fedavg(
            models.mlp(64), clients, LocalSteps(steps=1, lr=1e-9), num_rounds=2, seed=seed,
            defense=defenses.GaussianNoise(std=1.0),
        )
        for seen in r.observations.values()
    ]  # fmt: skip
    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    everything = [*first, *other]
    assert all(not torch.allclose(a, b, atol=0.1) for k, a in enumerate(everything) for b in everything[:k])


def test_refusals_of_aggregates(digits):
    seen = federated.observe(models.mlp(64), digits[0][:4], digits[1][:4])
    fields = {f.name: getattr(seen, f.name) for f in dataclasses.fields(seen)}
    for changes, message in (
        ({"counts": ()}, r"counts: got \(\), wanted positive numbers that add up to 4"),
        ({"counts": (1, 2)}, r"counts: got \(1, 2\)"),
        ({"counts": (4, 0)}, r"counts: got \(4, 0\)"),
        ({"counts": (1, 3), "weights": (1.0,)}, "weights: got 1, wanted one for each of 2 clients"),
    ):
        with pytest.raises(ValueError, match=message):
            Aggregate(**fields, **changes)
    with pytest.raises(ValueError, match="shared: the clients' tensors differ in shape, or in which are withheld"):
        weighted_mean([(None,), (torch.ones(2),)], [1, 1])
    for counts, message in (
        ([0], "0, wanted at least 1"),
        ([1.5], "1.5, wanted a whole number"),
        ([1, 1], r"\[1, 1\] for 1"),
    ):
        with pytest.raises(ValueError, match=f"^counts: got {message}"):
            weighted_mean([(torch.ones(2),)], counts)
    with pytest.raises(ValueError, match="aggregation: got 'median'"):
        next(federated.fedavg(models.mlp(64), [digits], LocalSteps(steps=1, lr=1), num_rounds=1, aggregation="median"))
    for aggregation, message in (
        (None, "aggregation: got a NoneType, wanted 'mean', 'sum' or a gilearn.federated.Aggregation"),
        (Halves, r"aggregation: got the class Halves, wanted a value: Halves\(...\)"),
    ):
        with pytest.raises(ValueError, match=message):
            next(federated.fedavg(models.mlp(64), [digits], LocalSteps(steps=1, lr=1), num_rounds=1,
                                  aggregation=aggregation))  # fmt: skip


TWO = {0: (torch.ones(3), None), 1: (torch.ones(3), None)}
ONES = {0: 1, 1: 1}
EVERY = (
    federated.InTheClear(),
    protected.SecureAggregation(),
    protected.AdditiveSharing(),
    protected.AdditiveSharing(rule=protected.Mean(products=True)),
    protected.SAFELearn(rule=protected.ClippedMean(norm=1.0)),
    protected.Paillier(key_bits=256),
    protected.BatchCrypt(key_bits=512),
    protected.CKKS(),
)


def of_both(tensor, other=None):
    return {0: (tensor,), 1: (tensor if other is None else other,)}


@pytest.mark.parametrize("how", EVERY, ids=lambda how: type(how).__name__)
@pytest.mark.parametrize(("shared", "counts", "message"), [
    ({}, {}, "shared: got no clients"),
    ([(torch.ones(3),)], ONES, "shared: got a list, wanted the tensors of each client, by its position"),
    (None, ONES, "shared: got a NoneType"),
    ({"a": (torch.ones(3),)}, {"a": 1}, "shared: a client's position: got 'a', wanted a whole number"),
    ({-1: (torch.ones(3),)}, {-1: 1}, "shared: a client's position: got -1"),
    (TWO, {0: 1}, r"counts: got those of \[0\], wanted the number of examples of each client of \[0, 1\]"),
    (TWO, [1, 1], "counts: got a list"),
    (TWO, {0: 0, 1: 1}, r"counts\[0\]: got 0, wanted at least 1"),
    (TWO, {0: 1, 1: -1}, r"counts\[1\]: got -1, wanted at least 1"),
    (TWO, {0: 1.5, 1: 1}, r"counts\[0\]: got 1.5, wanted a whole number"),
    (TWO, {0: "1", 1: 1}, r"counts\[0\]: got '1', wanted a whole number"),
    (TWO, {0: True, 1: 1}, r"counts\[0\]: got True, wanted a whole number"),
    (TWO, {0: 2**70, 1: 1}, r"counts\[0\]: got 1180591620717411303424, wanted below 2\^53"),
    ({0: "ab", 1: "cd"}, ONES, r"shared\[0\]: got a str, wanted a tuple of tensors"),
    ({0: torch.ones(2), 1: torch.ones(2)}, ONES, r"shared\[0\]: got a Tensor, wanted a tuple of tensors"),
    (of_both([1.0]), ONES, r"shared\[0\]: got a list, wanted tensors"),
    (of_both(torch.ones(2), torch.ones(2).to_sparse()), ONES, r"shared\[1\]: got a tensor of layout torch.sparse_coo"),
    (of_both(torch.ones(2), torch.ones(2, device="meta")), ONES, r"shared\[1\]: got a tensor without entries"),
    (of_both(torch.ones(2, dtype=torch.int64)), ONES, r"shared\[0\]: got torch.int64, wanted floating-point numbers"),
    (of_both(torch.ones(2, dtype=torch.bool)), ONES, r"shared\[0\]: got torch.bool"),
    (of_both(torch.ones(2) + 1j), ONES, r"shared\[0\]: got torch.complex64"),
    (of_both(torch.ones(1), torch.tensor([torch.nan])), ONES, r"shared\[1\]: got NaN or infinite values"),
    (of_both(torch.tensor([-torch.inf])), ONES, r"shared\[0\]: got NaN or infinite values"),
    (of_both(torch.ones(2), torch.ones(3)), ONES, "shared: the clients' tensors differ in shape"),
    ({0: (torch.ones(2),), 1: (torch.ones(2), torch.ones(2))}, ONES, "shared: the clients' tensors differ in shape"),
    ({0: (torch.ones(2), None), 1: (torch.ones(2),)}, ONES, "shared: the clients' tensors differ in shape, or in"),
    (of_both(None), ONES, "shared: got no tensor with entries from any client"),
    ({0: (), 1: ()}, ONES, "shared: got no tensor with entries from any client"),
    (of_both(torch.ones(0)), ONES, "shared: got no tensor with entries from any client"),
])  # fmt: skip
def test_no_aggregation_takes_what_cannot_be_averaged(how, shared, counts, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        how.aggregate(shared, counts, number=1)


@pytest.mark.parametrize("how", EVERY, ids=lambda how: type(how).__name__)
def test_every_aggregation_takes_numpy_s_numbers_one_client_and_empty_tensors(how):
    """Counts and positions from an array, an empty tensor beside others, counts of clients who were not chosen."""
    own = (torch.zeros(0), torch.tensor([0.25, -0.5], dtype=torch.bfloat16), None)
    shared = {np.int64(1): own, np.int64(4): own}
    for chosen in (shared, {4: own}):
        empty, mean, none = how.aggregate(chosen, {1: np.int64(2), 4: np.int64(3), 5: 9}, number=1).mean
        assert (tuple(empty.shape), none) == ((0,), None)
        torch.testing.assert_close(mean, own[1], atol=1e-3, rtol=2e-2)


@pytest.mark.parametrize(("changes", "message"), [
    ({"clients": []}, "clients: got none, wanted a list"),
    ({"clients": None}, "clients: got a NoneType"),
    ({"clients": [torch.ones(2, 64)]}, r"clients\[0\]: got a Tensor, wanted a pair of inputs and labels"),
    ({"clients": [(torch.ones(2, 64),)]}, r"clients\[0\]: got a tuple, wanted a pair"),
    ({"local": None}, r"local: got a NoneType, wanted LocalSteps\(steps=..., lr=...\)"),
    ({"num_rounds": "2"}, "num_rounds: got '2', wanted a whole number"),
    ({"num_rounds": 1.5}, "num_rounds: got 1.5, wanted a whole number"),
    ({"per_round": 1.0}, "per_round: got 1.0, wanted a whole number"),
    ({"per_round": 0}, "per_round: got 0, wanted at least 1"),
    ({"server_lr": "1"}, "server_lr: got '1', wanted a finite number, 0 or more"),
    ({"seed": -1}, "seed: got -1, wanted at least 0"),
    ({"seed": None}, "seed: got None, wanted a whole number"),
])  # fmt: skip
def test_refusals_of_rounds(digits, changes, message):
    options = {"clients": [(digits[0][:2], digits[1][:2])], "local": LocalSteps(steps=1, lr=0.1), "num_rounds": 1}
    with pytest.raises(ValueError, match=f"^{message}"):
        next(federated.fedavg(models.mlp(64), **(options | changes)))


@dataclass(frozen=True, kw_only=True)
class Returns(Aggregation):
    """Return what a careless author returns."""

    what: object

    def aggregate(self, shared, counts, *, number):
        return self.what


@pytest.mark.parametrize(("what", "message"), [
    (None, "aggregation: returned a NoneType, wanted an Aggregated"),
    (Aggregated(mean=(torch.ones(2),), clients=(0,)), "aggregation: returned 1 tensors, wanted 4, as clients contri"),
    (Aggregated(mean=3, clients=(0,)), "aggregation: returned a mean of something else, wanted a tuple of tensors"),
    (Aggregated(mean=(None, 1.0, None, None), clients=(0,)), "aggregation: returned a mean of something else"),
    (Aggregated(mean=(torch.ones(3), None, None, None), clients=(0,)),
     r"aggregation: returned a tensor of shape \(3,\), wanted \(8, 64\), as clients contribute"),
    (Aggregated(mean=(None,) * 4, clients=0), r"aggregation: returned clients 0, wanted some of \(0,\)"),
    (Aggregated(mean=(None,) * 4, clients=()), r"aggregation: returned clients \(\), wanted some of \(0,\)"),
    (Aggregated(mean=(None,) * 4, clients=(0, 3)), r"aggregation: returned clients \(0, 3\), wanted some of"),
])  # fmt: skip
def test_what_an_aggregation_returns_has_to_fit(digits, what, message):
    """Without clients the round would have named everybody."""
    clients = [(digits[0][:2], digits[1][:2])]
    with pytest.raises(ValueError, match=f"^{message}"):
        next(federated.fedavg(models.mlp(64, (8,)), clients, LocalSteps(steps=1, lr=0.1), num_rounds=1,
                              aggregation=Returns(what=what)))  # fmt: skip


def test_a_cost_is_made_of_mappings():
    with pytest.raises(ValueError, match="up: got a int, wanted a mapping to numbers"):
        Cost(up=5)


@dataclass(frozen=True, kw_only=True)
class Halves(Aggregation):
    """Leave out the clients named, and round what is left to halves."""

    late: tuple[int, ...] = ()

    def aggregate(self, shared, counts, *, number):
        there = [k for k in shared if k not in self.late]
        mean = weighted_mean([shared[k] for k in there], [counts[k] for k in there])
        rounded = tuple(None if t is None else (2 * t).round() / 2 for t in mean)
        return Aggregated(mean=rounded, clients=tuple(there), cost=Cost(up=dict.fromkeys(shared, number)))


def test_a_users_aggregation_is_what_moves_the_model_and_what_the_server_sees(digits):
    """A client that dropped out is in neither; the aggregate's tensors are those that the aggregation handed out."""
    x, y = digits[0][:9].double(), digits[1][:9]
    clients = [(x[:2], y[:2]), (x[2:3], y[2:3]), (x[3:], y[3:])]
    start, local = models.mlp(64, (8,)).double(), LocalSteps(steps=1, lr=20.0)
    rounds = list(
        federated.fedavg(start, clients, local, num_rounds=2, declare=["labels"], aggregation=Halves(late=(1,)))
    )
    first, second = rounds
    seen = first.aggregate()
    assert first.participants == first.clients == (0, 2)
    assert tuple(first.observations) == (0, 1, 2)
    assert (seen.counts, seen.batch_size) == ((2, 6), 8)
    assert torch.equal(seen.known("labels"), torch.cat([y[:2], y[3:]]))
    pairs = zip(first.observations[0].shared, first.observations[2].shared, strict=True)
    for got, (one, other) in zip(seen.shared, pairs, strict=True):
        torch.testing.assert_close(got, (2 * (2 * one + 6 * other) / 8).round() / 2)
    assert any(bool(t.any()) for t in seen.shared)
    for a, b, move in zip(start.parameters(), first.after.parameters(), seen.shared, strict=True):
        torch.testing.assert_close(a - b, move)
    assert dict(second.cost.up) == {0: 2, 1: 2, 2: 2}
    kept = AggregatedRounds.of(rounds, declare=["participation"], window=1, num_clients=3)
    assert kept.known("participation").tolist() == [[1, 0, 1]] * 2
    assert kept.aggregation == "mean"
    with pytest.raises(ValueError, match=r"clients: got \[5\], wanted some of \(0, 1, 2\)"):
        dataclasses.replace(first, clients=(0, 5))


def test_buffers_go_through_the_aggregation(photos):
    """Running statistics of a client that dropped out do not reach the server's model, and the rounding does."""
    start = models.convnet(widths=(2,), strides=(4,), batch_norm=True)
    start.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    clients = [(photos[0][:4], photos[1][:4]), (5 * photos[0][4:8], photos[1][4:8])]
    (only,) = federated.fedavg(
        start, clients, LocalSteps(steps=3, lr=1e-9), num_rounds=1, aggregation=Halves(late=(1,))
    )
    (alone,) = federated.fedavg(start, clients[:1], LocalSteps(steps=3, lr=1e-9), num_rounds=1)
    wanted = 1 - (2 * (1 - alone.after[1].running_var)).round() / 2
    torch.testing.assert_close(only.after[1].running_var, wanted)
    assert int(only.after[1].num_batches_tracked) == 3
    assert only.after.mask.tolist() == [0.0, -float("inf")]


def test_the_cost_of_aggregating_in_the_clear(digits):
    """Four bytes an entry, from every client, and one kind of message."""
    clients = [(digits[0][k : k + 2], digits[1][k : k + 2]) for k in (0, 2)]
    (only,) = federated.fedavg(models.mlp(64, (8,)), clients, LocalSteps(steps=1, lr=0.1), num_rounds=1)
    size = 4 * sum(p.numel() for p in only.model.parameters())
    assert (dict(only.cost.up), dict(only.cost.messages)) == ({0: size, 1: size}, {"update": 2 * size})
