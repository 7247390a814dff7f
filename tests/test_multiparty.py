"""Aggregation by several servers: exact sums, shares that tell nothing, products, signs and clipping on shares."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import pickle
import re
import sys
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from scipy import stats

from gilearn import models
from gilearn.defenses.aggregation import (
    AdditiveSharing,
    ClippedMean,
    Mean,
    SAFELearn,
    arithmetic,
    clipping,
    multiparty,
    sharing,
)
from gilearn.defenses.aggregation.arithmetic import Dealer, Servers, as_bits, shifted
from gilearn.defenses.aggregation.sharing import FixedPoint, Share, Shared, Stream, collected, known, split
from gilearn.federated import LocalSteps, fedavg

UNIT = 2.0**-16


def ring(values):
    return np.asarray(values).astype(np.int64).view(np.uint64)


def signed(numbers):
    return np.asarray(numbers).view(np.int64)


def held(values, servers=2):
    """Return whole numbers as servers hold them."""
    numbers = ring(values)
    return Shared(np.stack([one.grown().reshape(numbers.shape) for one in split(numbers, servers=servers)]))


def updates(clients=4, size=30, scale=0.3, seed=0):
    return scale * torch.randn(clients, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def contributions(rows):
    """Return rows as clients' tensors: two of them, and one withheld between."""
    return {3 * k: (row[:12].view(3, 4).float(), None, row[12:].float()) for k, row in enumerate(rows)}


def flat(mean):
    return torch.cat([tensor.flatten().double() for tensor in mean if tensor is not None])


def is_uniform(draw, attempts=3):
    """Whether the bytes of what ``draw`` returns look uniform; secrets have no seed, and a test one chance in 1e9."""
    for _ in range(attempts):
        data = np.frombuffer(np.ascontiguousarray(draw()).tobytes(), dtype=np.uint8)
        if stats.chisquare(np.bincount(data, minlength=256)).pvalue > 1e-3:
            return True
    return False


@pytest.mark.parametrize("bits", [0, 8, 16, 40])
def test_fixed_point_is_the_nearest_multiple(bits):
    numbers, values = FixedPoint(bits=bits), updates(scale=30)
    encoded = numbers.encode(values)
    assert encoded.dtype == np.uint64
    assert np.array_equal(signed(encoded), np.rint(values.numpy() * 2.0**bits).astype(np.int64))
    assert float((numbers.decode(encoded) - values).abs().max()) <= 2.0 ** -(bits + 1)


@pytest.mark.parametrize("seeds", [True, False])
@pytest.mark.parametrize("servers", [2, 3, 5])
def test_shares_add_up_in_the_ring(servers, seeds):
    numbers = ring([[-(2**63), 2**63 - 1, -1], [0, 1, 12345]])
    shares = split(numbers, servers=servers, seeds=seeds)
    assert [share.server for share in shares] == list(range(servers))
    total = sum((share.grown().astype(object) for share in shares), start=np.zeros(6, dtype=object))
    assert (total % 2**64 == numbers.reshape(-1).astype(object)).all()
    drawn, last = shares[:-1], shares[-1]
    assert all((share.seed is not None) is seeds for share in drawn)
    assert [share.bytes for share in drawn] == [32 if seeds else 48] * (servers - 1)
    assert last.bytes == 48


def test_a_stream_is_the_keystream_of_chacha20():
    """RFC 8439, appendix A.1, test vector 1, goes on where it stopped, and serves as a seed's share."""
    block = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    stream, whole = Stream(bytes(32)), Stream(bytes(32)).numbers(20)
    assert whole[:4].tobytes() == block
    assert np.array_equal(np.concatenate([stream.numbers(7), stream.numbers(13)]), whole)
    assert np.array_equal(Share(server=0, size=20, seed=bytes(32)).grown(), whole)


@pytest.mark.parametrize("seeds", [True, False])
def test_any_servers_but_all_see_uniform_numbers(seeds):
    """Also sums over several of them; the input is the same number 50,000 times."""
    numbers = ring(np.full(50_000, 7))
    for chosen in [c for k in (1, 2) for c in itertools.combinations(range(3), k)]:

        def draw(chosen=chosen):
            shares = split(numbers, servers=3, seeds=seeds)
            return np.add.reduce([shares[k].grown() for k in chosen])

        assert is_uniform(draw)
    assert not is_uniform(lambda: np.add.reduce([share.grown() for share in split(numbers, servers=3, seeds=seeds)]))


def test_every_message_and_every_mask_is_fresh():
    """No key and no draw comes twice: two tensors, clients or rounds that share one would tell their difference."""
    zeros, parties = ring(np.zeros(100)), Servers()
    seeds = [share.seed for _ in range(20) for share in split(zeros, servers=3)[:2]]
    assert len(set(seeds)) == 40
    drawn = np.stack([known(parties.dealer.random((100,))) for _ in range(20)])
    whole = np.stack([split(zeros, seeds=False)[1].grown() for _ in range(20)])
    assert len(np.unique(drawn)) == len(np.unique(whole)) == 2000
    assert len(np.unique([parties.masked(held(np.zeros(100))).public for _ in range(20)])) == 2000


def test_all_shares_but_one_are_consistent_with_every_input():
    """For any other update there is a last share that makes it the one that was shared."""
    first, second, third = split(ring([5, -9, 2**40]), servers=3)
    for other in ([0, 0, 0], [-1, 77, -(2**62)]):
        forged = Share(server=1, size=3, numbers=ring(other) - first.grown() - third.grown())
        assert np.array_equal(known(collected({0: (first, forged, third)}, servers=3))[0], ring(other))
    assert np.array_equal(known(collected({0: (third, first, second)}, servers=3))[0], ring([5, -9, 2**40]))


@pytest.mark.parametrize("servers", [2, 3])
def test_products_and_squares_are_exact(servers):
    x, y = (np.random.default_rng(k).integers(-(2**30), 2**30, (4, 6)) for k in (0, 1))
    weights = np.array([[3], [1], [0], [-2]])
    parties = Servers(servers)
    masked = parties.masked(held(x, servers))
    assert np.array_equal(signed(known(parties.product(masked, parties.masked(held(y, servers))))), x * y)
    assert np.array_equal(signed(known(parties.product(masked, parties.masked(held(weights, servers))))), x * weights)
    assert np.array_equal(signed(known(parties.squares(masked))), (x * x).sum(-1))
    assert np.array_equal(
        signed(known(-(held(x, servers) * 3 - 5)[:, 1] + held(y, servers)[:, 0])), -3 * x[:, 1] + 5 + y[:, 0]
    )


@pytest.mark.parametrize("servers", [2, 3])
@pytest.mark.parametrize("bits", [1, 16, 62])
def test_truncation_is_one_of_the_two_neighbours_always(servers, bits):
    values = np.random.default_rng(bits).integers(-(2**62) + 1, 2**62 - 1, 20_000)
    off = signed(known(Servers(servers).truncated(held(values, servers), bits))) - (values >> bits)
    assert set(np.unique(off)) <= {0, 1}
    exact = np.full(20_000, 3 * 2 ** (bits - 2)) if bits > 1 else np.ones(20_000, dtype=np.int64)
    mean = float(signed(known(Servers(servers).truncated(held(exact, servers), bits))).mean())
    assert abs(mean - (0.75 if bits > 1 else 0.5)) < 0.03  # right on average


@pytest.mark.parametrize("power", [40, 58, 60])
def test_shifting_locally_fails_with_the_stated_probability(power):
    values = np.full(100_000, 2**power)
    off = np.abs(signed(known(shifted(held(values), 16))) - (values >> 16))
    wrong, wanted = int((off > 1).sum()), 2.0 ** (power - 64)
    assert stats.binomtest(wrong, len(values), wanted).pvalue > 1e-9  # secrets have no seed
    assert set(np.unique(off[off > 1])) <= {2**48 - 1, 2**48, 2**48 + 1}


@pytest.mark.parametrize("servers", [2, 3])
def test_signs_at_the_edges_and_with_several_limits(servers):
    values = np.array([0, -1, 1, 5, -(2**63), 2**63 - 1, -(2**40), 2**62])
    parties = Servers(servers)
    masked = parties.masked(held(values, servers), bits=True)
    assert signed(known(parties.negative(masked))).tolist() == (values < 0).astype(int).tolist()
    limits = np.array([[-2], [0], [3]])
    small = values[[0, 1, 2, 3, 6]]
    found = parties.negative(parties.masked(held(small, servers), bits=True), ring(limits))
    assert np.array_equal(signed(known(found)), (small[None] + limits < 0).astype(int))
    assert as_bits(ring([5, -1])).sum(-1).tolist() == [2, 64]


@pytest.mark.parametrize("bound", [0.02, 1.0, 37.5])
def test_factors_are_those_of_clipping(bound):
    norms = bound * np.array([0, 0.01, 0.5, 0.999, 1.001, 1.5, 2, 4, 10, 300, 4000])
    norms = norms[norms < 2**14]
    parties = Servers()
    got = clipping.factors(parties, held(np.rint((norms / UNIT) ** 2).astype(np.int64)), round(bound / UNIT))
    wanted = np.minimum(1, bound / np.maximum(norms, 1e-12))
    np.testing.assert_allclose(signed(known(got)) / 2**24, wanted, rtol=1e-3)
    too_long = clipping.factors(parties, held([4**30 + 1, 2**63 - 1]), round(bound / UNIT))
    assert signed(known(too_long)).tolist() == [0, 0]


def test_entries_out_of_range_are_found():
    values = np.zeros((6, 5), dtype=np.int64)
    values[0], values[1, 2], values[2, 2], values[3, 4], values[4, 0] = 7, 2**20, -(2**20), -(2**20) - 1, 2**62
    values[5] = 2**63 - 1
    parties = Servers()
    found = clipping.in_range(parties, parties.masked(held(values), bits=True), 2**20)
    assert signed(known(found)).tolist() == [1, 0, 1, 0, 0, 0]


SHARED = [
    AdditiveSharing(),
    AdditiveSharing(servers=4, seeds=False),
    AdditiveSharing(servers=3, rule=Mean(products=True)),
    AdditiveSharing(rule=Mean(by_counts=False)),
    SAFELearn(rule=Mean(products=True), numbers=FixedPoint(bits=20)),
]


@pytest.mark.parametrize("aggregation", SHARED)
def test_means_are_exact_to_quantization(aggregation):
    rows, counts = updates(), {0: 5, 3: 1, 6: 2, 9: 9}
    got = aggregation.aggregate(contributions(rows), counts, number=1)
    weights = torch.tensor([counts[k] if aggregation.kind == "mean" else 1 for k in counts], dtype=torch.float64)
    wanted = (weights[:, None] * rows).sum(0) / weights.sum()
    assert got.mean[1] is None
    assert [tuple(t.shape) for t in got.mean if t is not None] == [(3, 4), (18,)]
    assert got.mean[0].dtype == torch.float32
    assert got.clients == (0, 3, 6, 9)
    error = float((flat(got.mean) - wanted).abs().max())
    assert error <= 2.0 ** -(aggregation.numbers.bits + 1) + 1e-7  # float32 tensors


def test_the_sum_is_exact_in_the_ring():
    how, rows, counts = AdditiveSharing(servers=3), updates(scale=1000), [5, 1, 2, 9]
    sent = {k: how.shares(row, n, counts) for k, (row, n) in enumerate(zip(rows, counts, strict=True))}
    whole = sum(np.rint((row * n / UNIT).numpy()).astype(np.int64) for row, n in zip(rows, counts, strict=True))
    assert torch.equal(how.result(sent), torch.from_numpy(whole).double() * UNIT / 17)


@pytest.mark.parametrize("servers", [2, 3])
def test_clipping_is_that_of_the_clear_within_a_thousandth(servers):
    rows = updates(clients=6, size=40) * torch.tensor([0.1, 0.5, 1.0, 3.0, 30.0, 0.0], dtype=torch.float64)[:, None]
    how = AdditiveSharing(servers=servers, rule=ClippedMean(norm=1.2))
    got = how.aggregate(contributions(rows), dict.fromkeys(range(0, 18, 3), 1), number=1)
    norms = rows.norm(dim=1, keepdim=True)
    clipped = rows * (1.2 / norms.clamp_min(1e-9)).clamp_max(1)
    assert 2 <= int((norms > 1.2).sum()) <= 4
    error = float((flat(got.mean) - clipped.mean(0)).norm())
    assert error < 1e-3 * 1.2
    assert how.kind == "sum"


def test_an_update_that_wraps_around_escapes_clipping_unless_checked():
    """Two entries of 2^32 units have a squared norm of 2^65, which is 0 modulo 2^64."""
    rows = updates(clients=3)
    rows[0] = 0
    rows[0, :2] = 2.0**32 * UNIT
    counts, honest = {0: 1, 3: 1, 6: 1}, rows[1:]
    clipped = honest * (1 / honest.norm(dim=1, keepdim=True)).clamp_max(1)
    open_door = SAFELearn(rule=ClippedMean(norm=1.0, checked=False)).aggregate(contributions(rows), counts, number=1)
    shut = SAFELearn(rule=ClippedMean(norm=1.0)).aggregate(contributions(rows), counts, number=1)
    assert float(flat(open_door.mean).abs().max()) > 20_000
    assert float((flat(shut.mean) - clipped.sum(0) / 3).norm()) < 1e-3


class Watched(Servers):
    """Servers of whom the test sees all that they send each other."""

    def __init__(self, number=2):
        super().__init__(number)
        self.seen = []

    def opened(self, shared, what):
        found = super().opened(shared, what)
        if what != "result":
            self.seen.append(found.tobytes())
        return found

    def opened_bits(self, rows, what):
        found = super().opened_bits(rows, what)
        self.seen.append(np.packbits(found).tobytes())
        return found


@pytest.mark.parametrize("rule", [ClippedMean(norm=1.0), Mean(products=True)])
def test_what_servers_open_to_each_other_is_uniform(rule):
    """Every update is a constant, and yet no byte that is opened before the result says so."""
    how = SAFELearn(rule=rule)
    update = torch.full((4000,), 0.05, dtype=torch.float64)

    def draw():
        watched = Watched()
        how.result({k: how.shares(update, 3, [3, 3]) for k in range(2)}, watched)
        return np.frombuffer(b"".join(watched.seen), dtype=np.uint8)

    assert len(draw()) > 50_000
    assert is_uniform(draw)


def test_a_dealer_who_colludes_with_one_server_sees_the_update():
    """The assumption that products, signs and truncation make, and sums do not."""
    parties, secret = Servers(), ring([12, -5])
    masked = parties.masked(held([12, -5]))
    assert np.array_equal(masked.public + known(masked.mask), secret)


def test_what_is_opened_costs_what_it_says():
    """Bytes of a product, a truncation and a sign, by hand: 3 servers send 6 messages each time."""
    parties = Servers(3)
    x = parties.masked(held(np.arange(10), 3), bits=True)
    assert dict(parties.sent) == {"masked numbers": 6 * 80}
    before = parties.dealer.sent
    parties.product(x, x)
    assert (parties.openings, parties.dealer.sent - before) == (1, 80)
    parties.truncated(held(np.arange(10), 3), 4)
    parties.negative(x)
    carries = sum(-(-10 * 3 * pairs // 8) for pairs in (32, 16, 8, 4, 2, 1))
    assert dict(parties.sent) == {
        "masked numbers": 480, "truncation": 480, "carries": 6 * carries, "bits": 6 * 2,
    }  # fmt: skip
    assert parties.openings == 1 + 1 + 6 + 1


@pytest.mark.parametrize(("servers", "seeds", "length"), [(2, False, 16), (2, True, 8), (5, False, 40), (5, True, 8)])
def test_the_cost_is_that_of_so_many_servers(servers, seeds, length):
    """Bytes of a client: 8 for each entry and server; a seed is 32, whatever the size."""
    rows = updates(clients=2, size=5000)
    how = AdditiveSharing(servers=servers, seeds=seeds)
    cost = how.aggregate(contributions(rows), {0: 1, 3: 1}, number=1).cost
    assert dict(cost.up) == dict.fromkeys((0, 3), length * 5001 + (32 * (servers - 1) if seeds else 0))
    assert cost.messages["share"] == sum(cost.up.values())
    assert dict(cost.messages) == {"share": sum(cost.up.values()), "result": servers * (servers - 1) * 8 * 5001}
    assert set(cost.seconds) == {"clients", "servers"}


@pytest.mark.parametrize("rule", [Mean(), Mean(products=True), ClippedMean(norm=1.0)])
def test_clients_have_two_rounds_whatever_the_servers_compute(rule):
    got = SAFELearn(rule=rule).aggregate(contributions(updates()), {0: 1, 3: 2, 6: 1, 9: 1}, number=1)
    assert got.rounds == 2
    ways = [(m.sender, m.receiver) for m in got.messages]
    assert ways[:4] == [("client", "server")] * 4
    assert ways[-4:] == [("server", "client")] * 4
    assert all("client" not in way for way in ways[4:-4])
    assert got.openings == {Mean: 1 + 2 * getattr(rule, "products", 0), ClippedMean: 53}[type(rule)]


@pytest.mark.parametrize("aggregation", [AdditiveSharing(), SAFELearn(rule=Mean(products=True))])
def test_a_training_ends_where_the_plain_one_does(digits, aggregation):
    x, y = digits
    clients = [(x[14 * k : 14 * k + 10 + 3 * k], y[14 * k : 14 * k + 10 + 3 * k]) for k in range(4)]
    runs = [
        list(fedavg(models.mlp(64, (8,), seed=1), clients, LocalSteps(steps=3, lr=0.3), num_rounds=5, aggregation=how))
        for how in ("mean", aggregation)
    ]
    for plain, shared in zip(runs[0][-1].after.parameters(), runs[1][-1].after.parameters(), strict=True):
        assert float((plain - shared).detach().abs().max()) < 5 * UNIT
    assert runs[1][-1].cost.up[0] > 8 * sum(p.numel() for p in runs[1][-1].model.parameters())
    assert runs[1][-1].aggregate().counts == (10, 13, 16, 19)


def test_a_changed_share_changes_the_sum_and_nobody_notices():
    how, rows = AdditiveSharing(), updates(clients=2)
    sent = {k: how.shares(row, 1, [1, 1]) for k, row in enumerate(rows)}
    numbers = sent[1][1].grown().copy()
    numbers[4] += np.uint64(2**16 * 50)
    wrong = how.result({0: sent[0], 1: (sent[1][0], sent[1][1].replace(numbers=numbers))})
    off = wrong - how.result(sent)
    assert off[4] == 25
    assert int((off != 0).sum()) == 1


def refused(messages=None, **options):
    given = {0: split(ring([1, 2])), 1: split(ring([3, 4]))}
    return collected(given if messages is None else messages(given), servers=options.get("servers", 2))


def aggregated(shared, how=AdditiveSharing(), counts=None):  # noqa: B008
    return how.aggregate(shared, counts or dict.fromkeys(shared, 1), number=1)


TWO = contributions(updates(clients=2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FixedPoint(bits=41), "^bits: got 41, wanted 0 to 40"),
        (lambda: FixedPoint(bits=1.5), "^bits: got 1.5, wanted a whole number"),
        (lambda: FixedPoint().encode([1.0]), "^values: got a list, wanted a tensor"),
        (lambda: FixedPoint().encode(torch.tensor([1.0, math.nan])), "^values: got NaN or infinite"),
        (lambda: FixedPoint().encode(torch.tensor([2.0**47])), "^values: got one that is too large, wanted magnitudes"),
        (lambda: FixedPoint().encode(torch.tensor([2.0**45]), terms=4), "a sum of 4 has to fit in 64 bits"),
        (lambda: FixedPoint().encode(torch.ones(2), terms=0), "^terms: got 0, wanted at least 1"),
        (lambda: split(ring([1]), servers=1), "^servers: got 1, wanted at least 2"),
        (lambda: split(np.array([1])), "^numbers: got int64 of shape"),
        (lambda: split(ring([])), r"^numbers: got uint64 of shape \(0,\)"),
        (lambda: Share(server=0, size=2), "^numbers: got both numbers and a seed, or neither"),
        (lambda: Share(server=0, size=2, seed=b"short"), "^seed: got 5 bytes, wanted 32 bytes"),
        (lambda: Share(server=0, size=2, numbers=ring([1])), r"^numbers: got uint64 of shape \(1,\), wanted uint64 of"),
        (lambda: Share(server=-1, size=2, seed=bytes(32)), "^server: got -1, wanted at least 0"),
        (lambda: refused(lambda m: {}), "^messages: got none"),
        (lambda: refused(lambda m: {0: m[0], 1: m[1][:1]}), r"^messages: got shares of client 1 at the servers \[0\]"),
        (lambda: refused(lambda m: {0: (m[0][0], m[0][0])}), r"^messages: got shares of client 0 at .* \[0, 0\]"),
        (lambda: refused(lambda m: {**m, 2: split(ring([1]))}), r"^messages: got sizes \[1, 2\], wanted one"),
        (lambda: refused(servers=3), "wanted one for each of the servers 0 to 2"),
        (lambda: collected([1], servers=2), "^messages: got a list, wanted the shares of at least one client"),
        (lambda: refused(lambda m: {0: "ab"}), "^messages: got no shares of client 0, wanted a Share for each server"),
        (lambda: refused(lambda m: {0: (1, 2)}), "^messages: got no shares of client 0"),
        (lambda: held([4, 8]) * 0.5, "^public: got a float, wanted whole numbers: the ring has no fractions"),
        (lambda: held([4, 8]) + np.array([0.5, 0.5]), "^public: got float64, wanted whole numbers"),
        (lambda: held([4, 8]) - [1, 2], "^public: got a list, wanted whole numbers"),
        (lambda: Shared(np.ones((2, 3))), r"^rows: got float64 of shape \(2, 3\), wanted uint64"),
        (lambda: Shared(np.array(1, dtype=np.uint64)), "^rows: got one number, wanted"),
        (lambda: FixedPoint().decode(np.ones(2, dtype=np.uint32)), r"^numbers: got uint32 of shape \(2,\)"),
        (lambda: FixedPoint().encode(torch.ones(2) + 1j), "^values: got torch.complex64"),
        (lambda: FixedPoint().encode(torch.ones(2).to_sparse()), "^values: got .*, wanted a dense tensor"),
        (lambda: split([1, 2]), "^numbers: got a list, wanted uint64"),
        (lambda: Stream(b"short"), "^key: got 5 bytes, wanted 32 bytes"),
        (lambda: AdditiveSharing().shares([1.0], 1, [1]), "^update: got a list, wanted a tensor"),
        (lambda: AdditiveSharing().shares(torch.ones(2), -1, [1]), "^count: got -1, wanted at least 1"),
        (lambda: AdditiveSharing().shares(torch.ones(2), 1, [1, 0]), "^counts: got 0, wanted at least 1"),
        (lambda: Servers(1), "^number: got 1, wanted at least 2"),
        (lambda: Dealer(1), "^servers: got 1, wanted at least 2"),
        (lambda: Servers().negative(Servers().masked(held([1]))), "^x: got a masked number without bits"),
        (lambda: shifted(held([1], 3), 16), "^shared: got the shares of 3 servers, wanted 2"),
        (lambda: shifted(held([1]), 63), "^bits: got 63, wanted 1 to 62"),
        (lambda: Servers().truncated(held([1]), 0), "^bits: got 0, wanted at least 1"),
        (lambda: clipping.factors(Servers(), held([1]), 2**30), "^bound: got 1073741824, wanted 1 to below"),
        (lambda: ClippedMean(norm=0.0), "^norm: got 0.0, wanted a positive number"),
        (lambda: ClippedMean(norm=math.inf), "^norm: got inf, wanted a positive number"),
        (lambda: AdditiveSharing(servers=1), "^servers: got 1, wanted at least 2"),
        (lambda: AdditiveSharing(rule="mean"), "^rule: got 'mean', wanted a Rule, such as Mean"),
        (lambda: AdditiveSharing(numbers=16), "^numbers: got 16, wanted a FixedPoint"),
        (lambda: SAFELearn(servers=3), "^servers: got 3, wanted 2; AdditiveSharing takes more"),
        (lambda: aggregated({}), "^shared: got no clients"),
        (lambda: aggregated({0: (None,)}), "^shared: got no tensor with entries from any client"),
        (lambda: aggregated({0: TWO[0], 1: TWO[3][:2]}), "^shared: the clients' tensors differ in shape, or in which"),
        (lambda: aggregated({0: (torch.tensor([2.0**46]),), 1: (torch.ones(1),)}), "^values: got one that is too"),
        (lambda: aggregated(TWO, SAFELearn(rule=ClippedMean(norm=1e-6))), "^norm: got 1e-06, wanted 1.52588e-05 to"),
        (lambda: aggregated(TWO, SAFELearn(rule=ClippedMean(norm=2.0**14))), "^norm: got 16384.0, wanted"),
        (
            lambda: AdditiveSharing().result({0: split(ring([1, 0]))}),
            "^sent: the counts add up to no positive number",
        ),
    ],
)  # fmt: skip
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_public_factors_may_be_numpy_s_and_negative():
    for minus in (-3, np.int64(-3), np.array(-3), np.array([-3, -3])):
        assert signed(known(held([4, -8]) * minus)).tolist() == [-12, 24]
        assert signed(known(held([4, -8]) + minus)).tolist() == [1, -11]


def test_a_stream_is_written_to_no_file():
    for secret in (Stream(bytes(32)), Servers().dealer):
        with pytest.raises(TypeError, match="a Stream is written to no file: it holds a secret"):
            pickle.dumps(secret)


def reached(value):
    """Every value that can be reached from a result, by fields and members of containers."""
    yield value
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        value = tuple(value.values())
    for part in value if isinstance(value, (tuple, list)) else ():
        yield from reached(part)


def test_no_secret_is_shown():
    """Not by a repr, nor by an error; and what a round returns holds no share, mask or key."""
    rows = updates(clients=2)
    drawn, parties = split(FixedPoint().encode(rows[0])), Servers()
    masked = parties.masked(held(signed(FixedPoint().encode(rows))), bits=True)
    result = SAFELearn(rule=ClippedMean(norm=1.0)).aggregate(contributions(rows), {0: 1, 3: 1}, number=1)
    values = [*drawn, parties, parties.dealer, masked, masked.mask, *reached(result), Stream(bytes(32))]
    shown = "\n".join(repr(value) for value in values if not isinstance(value, torch.Tensor))
    numbers = [int(n) for share in drawn for n in share.grown()] + [int(n) for n in known(masked.mask).reshape(-1)]
    assert drawn[0].seed.hex() not in shown
    assert repr(drawn[0].seed)[2:-1] not in shown
    assert not any(str(n) in shown or hex(n)[2:] in shown for n in numbers)
    assert not any(f"{float(value):.4f}" in shown for value in rows[0])
    allowed = {"Listed", "Cost", "Message", "Tensor", "tuple", "mappingproxy", "int", "float", "str", "NoneType"}
    assert {type(value).__name__ for value in reached(result)} <= allowed
    with pytest.raises(ValueError, match="too large") as error:
        AdditiveSharing().shares(rows[0] * 1e20, 1, [1, 1])
    assert not any(f"{float(value) * 1e20:.3g}"[:5] in str(error.value) for value in rows[0])


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    with pytest.raises(ImportError, match=r"pip install 'gilearn\[defenses\]'"):
        Stream(bytes(32))
    split(ring([1, 2]), seeds=False)  # draws from the operating system alone


def test_the_modules_import_no_library_of_the_extra():
    for module in (sharing, arithmetic, clipping, multiparty):
        assert not re.search(r"^\s*(from|import) (cryptography|Crypto|phe|tenseal)", inspect.getsource(module), re.M)
