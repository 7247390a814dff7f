"""Gradient disaggregation: exact participation, every client's gradient, pictures out of sums, and what is refused."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
import torch

from gilearn import attacks, federated, metrics, models
from gilearn.attacks import distances, labels, optimizers
from gilearn.attacks.disaggregation import disaggregate, left_null_space, participation
from gilearn.federated import AggregatedRounds, LocalSteps, Observation


def draw(clients, rounds, share, seed, noise=0.0, numbers=300):
    generator = np.random.default_rng(seed)
    who = (generator.random((rounds, clients)) < share).astype(int)
    gradients = generator.normal(size=(clients, numbers))
    sums = np.stack([row @ (gradients + noise * generator.normal(size=gradients.shape)) for row in who])
    return who, gradients, sums


def counted(who, window=10):
    return np.stack([who[begin : begin + window].sum(0) for begin in range(0, len(who), window)])


def off(found, true):
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


@pytest.mark.parametrize(
    ("clients", "rounds", "share", "seed"), [(10, 40, 0.5, 1), (20, 80, 0.5, 0), (20, 60, 0.2, 0), (20, 60, 0.2, 1)]
)
def test_exact_sums(clients, rounds, share, seed):
    """Hamming distance 0, gradients to rounding."""
    who, gradients, sums = draw(clients, rounds, share, seed)
    found, misfit, groups = participation(sums, counted(who), 10)
    assert np.abs(found - who).sum() == 0
    assert groups == ()
    assert misfit.max() < 1e-12
    assert off(disaggregate(sums, found)[0], gradients) < 1e-12


@pytest.mark.parametrize(("clients", "rounds", "share", "seed"), [(10, 40, 0.5, 1), (12, 48, 0.2, 0)])
def test_noisy_sums(clients, rounds, share, seed):
    """Gradients that move by 5 % from round to round: participation exact, gradients to less than 10 %."""
    who, gradients, sums = draw(clients, rounds, share, seed, noise=0.05, numbers=3000)
    found, misfit, _ = participation(sums, counted(who), 10)
    assert np.abs(found - who).sum() == 0
    assert 1e-6 < misfit.max() < 0.1
    assert 0.01 < off(disaggregate(sums, found)[0], gradients) < 0.1


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_null_space_has_the_right_rank(noise):
    """With one round more than clients one equation is left. Keeping one direction too many leaves none.

    The released code keeps the directions up to and including the one that it means to drop.
    """
    who, _, sums = draw(5, 6, 0.5, 3, noise, numbers=3000)
    null, values = left_null_space(sums, 5)
    assert null.shape == (1, 6)
    assert np.abs(null @ who).max() < (1e-12 if noise == 0 else 0.05)
    assert values[5] < (1e-13 if noise == 0 else 0.05) * values[4]
    kept = np.linalg.svd(sums, full_matrices=False)[0][:, : 5 + 1]
    assert np.abs(np.eye(6) - kept @ kept.T).max() < 1e-12  # what is orthogonal to six of six directions: nothing
    assert np.abs(null).sum(1).min() > 1


def test_a_null_space_of_more_rounds_than_numbers():
    who, _, sums = draw(4, 30, 0.5, 0, numbers=6)
    null, values = left_null_space(sums, 4)
    assert null.shape == (26, 30)
    assert values.shape == (30,)
    assert np.abs(null @ who).max() < 1e-12


def trained(model, clients, **options):
    defaults = {"num_rounds": 16, "per_round": 3, "server_lr": 0.0, "seed": 2}
    return list(federated.fedavg(model, clients, LocalSteps(steps=1, lr=1.0), **(defaults | options)))


def who_of(rounds, clients):
    who = torch.zeros(len(rounds), clients, dtype=torch.int64)
    for row, one in zip(who, rounds, strict=True):
        row[list(one.participants)] = 1
    return who


@pytest.mark.parametrize("aggregation", ["mean", "sum"])
@pytest.mark.parametrize("local", [LocalSteps(steps=1, lr=1.0), LocalSteps(steps=3, lr=0.1, batch_size=2)])
def test_what_comes_out_is_what_each_client_would_have_shared(digits, aggregation, local):
    """Clients of different sizes; the server is told no size but the rounds' totals."""
    x, y, ends = digits[0].double(), digits[1], (0, 2, 3, 7, 12, 15, 23)
    clients = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(ends)]
    model = models.mlp(64, (8,)).double()
    options = {"num_rounds": 16, "per_round": 3, "server_lr": 0.0, "aggregation": aggregation, "seed": 2}
    rounds = list(federated.fedavg(model, clients, local, **options))
    seen = AggregatedRounds.of(rounds, declare=["participation"], window=4)
    found = attacks.GradDisagg(seen)
    assert torch.equal(found.participation, who_of(rounds, 6))
    assert found.residual < 1e-12
    assert [one.batch_size for one in found.observations] == [2, 1, 4, 5, 3, 8]
    for one, client in zip(found.observations, clients, strict=True):
        assert type(one) is Observation
        assert dict(one.knowledge) == {}
        for got, wanted in zip(one.shared, federated.observe(model, *client, local=local).shared, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)


def test_windows_of_one_round_say_who_took_part(digits):
    """Where the server knows whose sum it is, as it may behind secure aggregation, the program has nothing to find."""
    clients = [(digits[0][k : k + 1].double(), digits[1][k : k + 1]) for k in range(4)]
    rounds = trained(models.mlp(64, (8,)).double(), clients, num_rounds=9, per_round=2)
    seen = AggregatedRounds.of(rounds, declare=["participation"], window=1)
    assert torch.equal(seen.known("participation"), who_of(rounds, 4))
    assert torch.equal(attacks.GradDisagg(seen).participation, who_of(rounds, 4))


def test_a_picture_out_of_the_sums_of_ten_clients(photos):
    """By a recursion and by a search, from what the server sees of rounds behind secure aggregation; not from one."""
    x, y = photos[0].double(), photos[1]
    model = models.mlp(3072, (16,)).double()
    rounds = trained(model, [(x[k : k + 1], y[k : k + 1]) for k in range(10)], num_rounds=40, per_round=5)
    seen = AggregatedRounds.of(rounds, declare=["participation"])
    found = attacks.GradDisagg(seen)
    assert torch.equal(found.participation, who_of(rounds, 10))
    search = attacks.InvGrad.replace(
        distance=distances.Manhattan(),
        regularizers=(),
        labels=labels.IDLG(),
        optimizer=optimizers.Adam(lr=0.03, schedule=optimizers.StepDecay()),
        iterations=200,
    )
    for attack, bound in ((attacks.PPDL_AHE, 1e-20), (search, 1e-3)):
        picture = attack(found.observations[4]).inputs
        assert metrics.mse(picture, x[4:5]) < bound
    mixed = attacks.PPDL_AHE(seen.parts[0])
    assert min(metrics.mse(mixed.inputs, x[k : k + 1]) for k in rounds[0].participants) > 0.01


def test_a_trend_follows_a_model_that_moves(digits):
    """With gradients that drift in a line, the middle round's are exact; a constant misses them."""
    who, start, _ = draw(4, 24, 0.5, 0)
    _, slope, _ = draw(4, 24, 0.5, 1)
    sums = np.stack([row @ (start + (t - 12) / 24 * slope) for t, row in enumerate(who)])
    assert off(disaggregate(sums, who, trend=1, at=12)[0], start) < 1e-12
    assert off(disaggregate(sums, who)[0], start) > 0.03
    clients = [(digits[0][k : k + 2].double(), digits[1][k : k + 2]) for k in range(0, 8, 2)]
    rounds = trained(models.mlp(64, (8,)).double(), clients, num_rounds=24, per_round=2, server_lr=1e-3)
    seen = AggregatedRounds.of(rounds, declare=["participation"], window=4)
    errors = []
    for trend in (0, 1):
        found = attacks.GradDisagg.replace(trend=trend)(seen)
        assert torch.equal(found.participation, who_of(rounds, 4))
        pairs = zip(found.observations, clients, strict=True)
        errors.append(max(metrics.relative_error(one.shared[0], truth(one, c).shared[0]) for one, c in pairs))
    assert errors[1] < errors[0] / 3


def truth(one, client):
    return federated.observe(one.model, *client, local=one.local)


def test_clients_with_the_same_counts_may_be_exchanged():
    who, gradients, sums = draw(10, 40, 0.5, 0)
    assert (counted(who)[:, 5] == counted(who)[:, 9]).all()
    with pytest.warns(UserWarning, match=r"clients \(\(5, 9\),\) have the same counts"):
        found, _, groups = participation(sums, counted(who), 10)
    assert groups == ((5, 9),)
    assert sorted(map(tuple, found.T)) == sorted(map(tuple, who.T))
    order = [0, 1, 2, 3, 4, *((5, 6, 7, 8, 9) if (found == who).all() else (9, 6, 7, 8, 5))]
    assert off(disaggregate(sums, found[:, order])[0], gradients) < 1e-12


def test_refusals():
    who, _, sums = draw(5, 20, 0.5, 2)
    counts = counted(who, 5)
    twins = who[:, [0, 0, 2, 3, 4]]
    never = np.hstack([counts[:, :4], 0 * counts[:, :1]])
    generator = np.random.default_rng(0)
    twin_sums = twins @ generator.normal(size=(5, 300))
    for arguments, message in (
        ((sums[:5], counts[:1], 5), "sums: got 5 rounds of 5 clients, wanted more rounds than clients"),
        ((twin_sums, counted(twins, 5), 5), "sums: got rank 4, wanted 5, the number of clients: two took part in"),
        ((sums[:, :3], counts, 5), "sums: got rank 3, wanted 5"),
        ((sums, never, 5), r"participation: clients \[4\] never took part"),
        ((sums, counts[:-1], 5), r"participation: got int64 of shape \(3, 5\), wanted whole numbers of shape \(4, c"),
        ((sums, counts + 0.5, 5), "participation: got float64"),
        ((sums, counts, 0), r"window, participation: got 0 and shape \(4, 5\), wanted 1 or more and 2 axes"),
        ((sums, counts[0], 5), r"window, participation: got 5 and shape \(5,\)"),
        ((sums[0], counts, 5), r"sums: got shape \(300,\), wanted finite numbers with a row for every round"),
        ((np.where(sums == sums[3, 3], np.nan, sums), counts, 5), r"sums: got shape \(20, 300\), wanted finite"),
        ((sums, counts + 6, 5), "participation: got 7 to 10 rounds a window, wanted 0 to 5"),
        ((sums, counts - 9, 5), "participation: got -8 to"),
        ((sums, np.roll(counts, 1, axis=1) * [0, 1, 1, 1, 1] + [1, 0, 0, 0, 0], 5), "no rounds fit the counts"),
        ((sums[:7], counted(who[:7], 7), 7), "it is not unique, .* wanted smaller windows or more rounds"),
        ((twin_sums + generator.normal(size=sums.shape) / 10, counted(twins, 5), 5), r"clients \[0, 1\] two took part"),
    ):
        with pytest.raises(ValueError, match=message):
            participation(*arguments)
    with pytest.raises(ValueError, match="trend: got -1"):
        attacks.GradDisagg.replace(trend=-1)
    with pytest.raises(ValueError, match="sums: got 20 rounds of 0 clients"):
        left_null_space(sums, 0)
    for arguments, message in (
        ((sums, who[:5], 0), "participation, trend: got 5 rounds for 20 sums and 0"),
        ((sums, who, -1), "participation, trend: got 20 rounds for 20 sums and -1"),
    ):
        with pytest.raises(ValueError, match=message):
            disaggregate(*arguments[:2], trend=arguments[2])


def test_a_time_limit_that_runs_out_is_an_error():
    """Zeros of another layout are what the released code returns."""
    who, _, sums = draw(30, 80, 0.5, 0)
    with pytest.raises(TimeoutError, match="time_limit: it ran out at the participation of clients"):
        participation(sums, counted(who), 10, time_limit=0.05)


def test_refusals_of_rounds(digits):
    clients = [(digits[0][k : k + 1].double(), digits[1][k : k + 1]) for k in range(3)]
    rounds = trained(models.mlp(64, (8,)).double(), clients, num_rounds=5, per_round=2)
    silent = AggregatedRounds.of(rounds)
    with pytest.raises(
        ValueError, match=r"participation: these rounds do not declare it .*declare=\['participation'\]"
    ):
        attacks.GradDisagg(silent)
    with pytest.raises(ValueError, match="seen: got a Observation, wanted federated.AggregatedRounds"):
        attacks.GradDisagg(silent.parts[0])
    with pytest.raises(ValueError, match="declare: got 'labels', wanted one of participation"):
        AggregatedRounds.of(rounds, declare=["labels"])
    with pytest.raises(ValueError, match="name: got 'labels'"):
        silent.known("labels")
    for changes, message in (
        ({"parts": ()}, "parts, window: got 0 and 10"),
        ({"window": 0}, "parts, window: got 5 and 0"),
        ({"aggregation": "median"}, "aggregation: got 'median'"),
        ({"knowledge": {"who": torch.ones(1, 3)}}, "knowledge: got 'who'"),
        ({"parts": (*silent.parts, federated.observe(models.mlp(64), *clients[0]))}, "parts: they differ in local"),
    ):
        with pytest.raises(ValueError, match=message):
            silent.replace(**changes)
    mean = AggregatedRounds.of(rounds, declare=["participation"], window=1)
    shares = [part.replace(batch_size=part.batch_size + t) for t, part in enumerate(mean.parts)]
    with pytest.raises(ValueError, match="seen: the rounds' examples give clients of"):
        attacks.GradDisagg(mean.replace(parts=tuple(shares), aggregation="sum"))
    for wrong, message in (
        ({"num_clients": 2}, "num_clients: got 2, and client 2 took part, wanted at least 3"),
        ({"rounds": [*rounds, clients]}, "rounds: got a list among them, wanted what fedavg yields"),
    ):
        with pytest.raises(ValueError, match=message):
            AggregatedRounds.of(**{"rounds": rounds} | wrong)
    with pytest.raises(ValueError, match=r"clients \[3\] never took part"):
        attacks.GradDisagg(AggregatedRounds.of(rounds, declare=["participation"], num_clients=4))


def test_the_attack_holds_nothing_private(digits):
    """What is overwritten after the rounds changes nothing; the rounds hold neither who took part nor client sizes."""
    results = []
    for spoil in (False, True):
        x, y = digits[0][:6].double().clone(), digits[1][:6].clone()
        clients = [(x[a:b], y[a:b]) for a, b in ((0, 1), (1, 3), (3, 6))]
        model = models.mlp(64, (8,)).double()
        rounds = trained(model, clients, num_rounds=8, per_round=2, declare=["labels", "targets"])
        seen = AggregatedRounds.of(rounds, declare=["participation"], window=2)
        if spoil:
            with torch.no_grad():
                x.fill_(0.1)
                y.fill_(0)
                for tensor in (*model.parameters(), *(p for r in rounds for p in r.model.parameters())):
                    tensor.fill_(1)
        results.append(attacks.GradDisagg(seen))
        assert all(type(part) is Observation and not part.knowledge for part in seen.parts)
    for one, other in zip(results[0].observations, results[1].observations, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.shared, other.shared, strict=True))
    assert list(inspect.signature(attacks.GradDisagg).parameters) == ["seen", "time_limit"]
