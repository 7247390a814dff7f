"""Secure aggregation: exact sums, what the masks hide, what is refused, what is nowhere shown, and training with it."""

from __future__ import annotations

import base64
import dataclasses
import pickle
import sys
import traceback

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from gilearn import attacks, federated, metrics, models
from gilearn.defenses import utility
from gilearn.defenses.aggregation import SecureAggregation, fixed_point, masks, messages, primitives, shamir
from gilearn.defenses.aggregation.parties import STAGES, Client, Server
from gilearn.defenses.aggregation.secure import Wire
from gilearn.federated import LocalSteps

CLIENTS, THRESHOLD = 10, 7
LENET = sum(p.numel() for p in models.lenet().parameters()) + 1


def words(length=40, seed=0, clients=CLIENTS):
    generator = np.random.default_rng(seed)
    return {k: generator.integers(0, 2**32, length, dtype=np.uint32) for k in range(clients)}


def exact(inputs, clients):
    return np.array([int(sum(int(inputs[k][j]) for k in clients) % 2**32) for j in range(len(inputs[clients[0]]))])


class Run:
    """Ten clients and a server, stage by stage, so that a test can lie in between."""

    def __init__(self, *, n=CLIENTS, t=THRESHOLD, number=1, active=True, length=40, identities=None):
        self.inputs, self.active = words(length, clients=n), active
        self.pairs = identities or {k: primitives.signing_pair() for k in range(n)}
        known = {k: pair.public for k, pair in self.pairs.items()} if active else None
        self.clients = {
            k: Client(client=k, number=number, threshold=t, identity=self.pairs[k] if active else None,
                      identities=known) for k in range(n)
        }  # fmt: skip
        self.server = Server(number=number, threshold=t, length=length)

    def keys(self):
        self.advertised = [client.advertise() for client in self.clients.values()]
        self.directory = self.server.directory(self.advertised)
        return self

    def shares(self):
        self.keys()
        self.sent = [client.share(self.directory) for client in self.clients.values()]
        self.inbox = self.server.deliver(self.sent)
        return self

    def masked(self, late=()):
        self.shares()
        self.arrived = [self.clients[k].mask(self.inputs[k], self.inbox[k]) for k in self.clients if k not in late]
        self.survivors = self.server.survivors(self.arrived)
        return self

    def confirmed(self, late=()):
        self.masked(late)
        self.signed = [self.clients[k].confirm(self.survivors) for k in self.survivors.clients]
        self.confirmations = self.server.confirmations(self.signed)
        return self

    def unmasked(self, late=()):
        self.confirmed(late)
        self.revealed = [self.clients[k].unmask(self.survivors, self.confirmations) for k in self.survivors.clients]
        return self


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize(
    "dropouts",
    [
        {},
        {"masked input": (3,)},
        {"masked input": (0, 4, 9)},
        {"keys": (2,), "shares": (5,), "masked input": (7,)},
        {"unmasking": (1, 2, 3)},
        {"shares": (8,), "masked input": (0,), "unmasking": (6,)},
    ],
)
def test_the_sum_is_exact_for_an_update_of_lenets_size(dropouts, active):
    """Ten clients, threshold seven, none to three gone at every kind of stage."""
    inputs = words(LENET)
    total, there = SecureAggregation(dropouts=dropouts, active=active).total(inputs, number=1)
    gone = {k for stage in STAGES[:3] for k in dropouts.get(stage, ())}
    assert there == tuple(k for k in range(CLIENTS) if k not in gone)
    assert np.array_equal(total, np.sum([inputs[k] for k in there], axis=0, dtype=np.uint32))
    assert np.array_equal(total[:50], exact({k: own[:50] for k, own in inputs.items()}, there))


@pytest.mark.parametrize("stage", STAGES)
def test_too_few_clients_abort_the_round(stage):
    gone = SecureAggregation(dropouts={stage: (0, 4, 5, 9)})
    with pytest.raises(ValueError, match=f"{stage}: got 6 clients, wanted at least 7: the round is aborted"):
        gone.total(words(), number=1)


def test_what_the_server_receives_is_uniform_and_tells_nothing_of_the_input():
    """Of an update in fixed point, small numbers with one sign bit: bytes of the masked words, and the correlation."""
    update = 0.01 * torch.randn(LENET - 1, generator=torch.Generator().manual_seed(0))
    plain = fixed_point.encode((update,), 4, clients=CLIENTS)
    pairs = {k: primitives.agreement_pair(bytes([k + 1]) * 32) for k in range(CLIENTS)}
    others = {k: pair.public for k, pair in pairs.items() if k}
    sent = masks.masked(plain, b"s" * 32, pairs[0], others, 1, 0)
    for number, shift in enumerate((0, 8, 16, 24)):
        assert chisquare(np.bincount((sent >> shift) & 255, minlength=256)).pvalue > 1e-3, number
    assert chisquare(np.bincount(plain >> 24, minlength=256)).pvalue < 1e-9
    assert abs(np.corrcoef(plain.view(np.int32), sent.view(np.int32))[0, 1]) < 0.1
    for one in Run(length=5000).masked().arrived:  # fresh keys: the bound that a test in a thousand fails is too tight
        assert chisquare(np.bincount(np.frombuffer(one.words, np.uint8), minlength=256)).pvalue > 1e-9


def test_pair_masks_cancel_and_are_another_round_s_others():
    pairs = {k: primitives.agreement_pair() for k in range(4)}
    zero = np.zeros(30, dtype=np.uint32)
    total = zero
    for k, own in pairs.items():
        others = {j: pair.public for j, pair in pairs.items() if j != k}
        alone = masks.masked(zero, b"s" * 32, own, others, 3, k) - masks.self_mask(b"s" * 32, 3, k, 30)
        assert len(set(alone.tolist())) > 20
        total = total + alone
    assert not total.any()
    made = [masks.pair_mask(pairs[0], pairs[1].public, number, 0, 1, 30) for number in (1, 2)]
    assert not np.array_equal(*made)
    seeds = [masks.self_mask(b"s" * 32, *who, 30) for who in ((1, 0), (2, 0), (1, 1))]
    assert len({own.tobytes() for own in seeds}) == 3


def test_a_round_number_used_twice_leaks_the_difference_of_two_inputs():
    """With keys that stay, the number of the round is what makes masks fresh."""
    pairs, inputs = {k: primitives.agreement_pair() for k in range(3)}, words(clients=2)
    others = {k: pairs[k].public for k in (1, 2)}
    first, second, fresh = (
        masks.masked(inputs[which], b"s" * 32, pairs[0], others, number, 0)
        for which, number in ((0, 5), (1, 5), (1, 6))
    )
    assert np.array_equal(first - second, inputs[0] - inputs[1])
    assert not np.array_equal(first - fresh, inputs[0] - inputs[1])
    run = Run().masked()
    with pytest.raises(ValueError, match="stage: got 'masked input' after .*, wanted every stage once, in order"):
        run.clients[0].mask(run.inputs[1], run.inbox[0])


def test_a_slow_clients_masked_input_stays_hidden():
    """Its mask key was put together, its input arrives then: pair masks alone would not hide it, the self mask does."""
    run = Run().unmasked(late=(3,))
    total = run.server.total(run.revealed)
    there = [k for k in range(CLIENTS) if k != 3]
    assert np.array_equal(total, exact(run.inputs, there))
    late = run.clients[3].mask(run.inputs[3], run.inbox[3])
    shares = {one.client + 1: dict(one.keys)[3] for one in run.revealed}
    own = primitives.agreement_pair(shamir.join(shares, THRESHOLD))
    assert own.public == run.advertised[3].mask
    others = {k: run.advertised[k].mask for k in there}
    pair_masks = sum(masks.pair_mask(own, public, 1, 3, k, 40) for k, public in others.items())
    single = run.inputs[3] + pair_masks
    assert np.array_equal(single - pair_masks, run.inputs[3])
    left = np.frombuffer(late.words, "<u4") - pair_masks
    assert not np.array_equal(left, run.inputs[3])
    assert np.array_equal(left - masks.self_mask(run.clients[3]._seed, 1, 3, 40), run.inputs[3])
    with pytest.raises(ValueError, match="stage: got 'masked input'"):
        run.server.survivors([late])


def test_both_shares_of_one_client_are_refused():
    """In a message, and by a client that is asked a second time, with another list."""
    with pytest.raises(ValueError, match=r"seeds, keys: got both for clients \[2\], wanted one kind"):
        messages.Unmasking(number=1, client=0, seeds=((1, b""), (2, b"")), keys=((2, b""),))
    run = Run(active=False).masked()
    client = run.clients[0]
    client.unmask(run.survivors)
    with pytest.raises(ValueError, match="stage: got 'unmasking' after .*'unmasking'"):
        client.unmask(dataclasses.replace(run.survivors, clients=tuple(range(9))))


def test_a_lying_server_unmasks_a_client_where_the_threshold_is_low_and_not_where_lists_are_signed():
    """Four clients, threshold two: two are told that client 0 is there, the other two that it is not."""
    run = Run(n=4, t=2, active=False).masked()
    told = {k: (0, 1, 2, 3) if k < 2 else (1, 2, 3) for k in range(4)}
    revealed = [run.clients[k].unmask(messages.Survivors(number=1, clients=who)) for k, who in told.items()]
    seed = shamir.join({one.client + 1: dict(one.seeds)[0] for one in revealed[:2]}, 2)
    own = primitives.agreement_pair(shamir.join({one.client + 1: dict(one.keys)[0] for one in revealed[2:]}, 2))
    found = np.frombuffer(run.arrived[0].words, "<u4") - masks.self_mask(seed, 1, 0, 40)
    for k in (1, 2, 3):
        found = found - masks.pair_mask(own, run.advertised[k].mask, 1, 0, k, 40)
    assert np.array_equal(found, run.inputs[0])

    run = Run(n=4, t=3).masked()
    lists = {k: messages.Survivors(number=1, clients=who) for k, who in told.items()}
    signed = [run.clients[k].confirm(own) for k, own in lists.items()]
    for k, of_both in enumerate((signed, signed, signed[2:], signed[2:])):
        confirmations = messages.Confirmations(number=1, confirmations=tuple(one.to_bytes() for one in of_both))
        with pytest.raises(ValueError, match="not of this list of survivors|confirmation: got 2 clients"):
            run.clients[k].unmask(lists[k], confirmations)


@pytest.mark.parametrize(("kind", "message"), [
    ("seeds", "seeds: got shares that do not give the seed that client 2 committed to"),
    ("keys", "keys: got shares that do not give the key that client 3 advertised"),
])  # fmt: skip
def test_a_wrong_share_is_noticed(kind, message):
    run = Run().unmasked(late=(3,))
    of, share = dict(getattr(run.revealed[0], kind)), 3 if kind == "keys" else 2
    of[share] = bytes([0, *of[share][1:-1], of[share][-1] ^ 1])
    run.revealed[0] = dataclasses.replace(run.revealed[0], **{kind: tuple(of.items())})
    with pytest.raises(ValueError, match=f"{message}|shares of no secret of 32 bytes"):
        run.server.total(run.revealed)


def test_altered_keys_are_noticed():
    """By whose they are in any case; by the others where keys are signed."""
    strange = primitives.agreement_pair().public
    for active, who, message in (
        (True, 5, "signature: got keys of client 2 that it did not sign"),
        (False, 2, "directory: got other keys or none for client 2"),
    ):
        run = Run(active=active).keys()
        altered = list(run.advertised)
        altered[2] = dataclasses.replace(altered[2], mask=strange)
        lies = messages.Directory(number=1, advertisements=tuple(one.to_bytes() for one in altered))
        with pytest.raises(ValueError, match=message):
            run.clients[who].share(lies)
    run = Run(active=False).keys()
    for changed, message in (
        (run.advertised[1:] + run.advertised[1:2], "directory: got a client or a key twice"),
        ([*run.advertised[:2], dataclasses.replace(run.advertised[2], channel=run.advertised[1].channel)], "or a key"),
        (run.advertised[1:], "directory: got other keys or none for client 0"),
        (run.advertised[:6], "keys: got 6 clients, wanted at least 7"),
        (
            [*run.advertised[:6], dataclasses.replace(run.advertised[6], channel=bytes(32))],
            "public: got a key that X25",
        ),
    ):
        run = Run(active=False)
        own = run.clients[0].advertise()
        listed = [own if one.client == 0 else one for one in changed]
        with pytest.raises(ValueError, match=message):
            run.clients[0].share(messages.Directory(number=1, advertisements=tuple(one.to_bytes() for one in listed)))


def test_altered_ciphertexts_and_routes_are_noticed():
    def flip(data, at):
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    for change, message in (
        (lambda one: dataclasses.replace(one, ciphertext=flip(one.ciphertext, 30)), "does not open"),
        (lambda one: dataclasses.replace(one, ciphertext=flip(one.ciphertext, 0)), "does not open"),
        (lambda one: dataclasses.replace(one, ciphertext=b""), "does not open"),
        (lambda one: dataclasses.replace(one, receiver=1), "from 1 to 1, wanted those for client 0"),
        (lambda one: dataclasses.replace(one, sender=2), "does not open"),
        (lambda one: dataclasses.replace(one, number=2), "got a SealedShares of round 2, wanted one of round 1"),
    ):
        run = Run().shares()
        inbox = [change(run.inbox[0][0]), *run.inbox[0][1:]]
        with pytest.raises(ValueError, match=message):
            run.clients[0].mask(run.inputs[0], inbox)
    run = Run().shares()
    with pytest.raises(ValueError, match="from 1 to 0, wanted those for client 0, of each other once"):
        run.clients[0].mask(run.inputs[0], [*run.inbox[0], run.inbox[0][0]])
    with pytest.raises(ValueError, match="shares: got 3 clients, wanted at least 7"):
        run.clients[1].mask(run.inputs[1], run.inbox[1][:2])


@pytest.mark.parametrize(("clients", "message"), [
    (tuple(range(10)), "survivors: got .*, wanted the list that was signed"),
    ((0, 1, 2), "masked input: got 3 clients, wanted at least 7"),
    ((0, 0, 1, 2, 3, 4, 5, 6), "in ascending order"),
    ((1, 2, 3, 4, 5, 6, 7), "wanted client 0 and others"),
    ((0, 1, 2, 3, 4, 5, 6, 77), "whose shares it holds"),
])  # fmt: skip
def test_an_altered_list_of_survivors_is_noticed(clients, message):
    run = Run().confirmed(late=(9,))
    with pytest.raises(ValueError, match=message):
        run.clients[0].unmask(dataclasses.replace(run.survivors, clients=clients), run.confirmations)


def test_messages_of_an_old_round_are_refused():
    """As they are, because of their number; with another number, because of signature and associated data."""
    old = Run(number=1).confirmed()
    new = Run(number=2, identities=old.pairs).confirmed()

    def relabelled(message):
        return dataclasses.replace(message, number=2)

    fresh = Run(number=2, identities=old.pairs).keys()
    for one, message in (
        (old.advertised[1], "got a Advertisement of round 1, wanted one of round 2"),
        (relabelled(old.advertised[1]), "signature: got keys of client 1 that it did not sign"),
    ):
        listed = [one if own.client == 1 else own for own in fresh.advertised]
        directory = messages.Directory(number=2, advertisements=tuple(own.to_bytes() for own in listed))
        client = Client(client=0, number=2, threshold=7, identity=old.pairs[0],
                        identities={k: pair.public for k, pair in old.pairs.items()})  # fmt: skip
        client.advertise()
        with pytest.raises(ValueError, match=message):
            client.share(directory)
    fresh = Run(number=2, identities=old.pairs).shares()
    with pytest.raises(ValueError, match="does not open"):
        fresh.clients[0].mask(fresh.inputs[0], [relabelled(old.inbox[0][0]), *fresh.inbox[0][1:]])
    with pytest.raises(ValueError, match="got a MaskedInput of round 1, wanted one of round 2"):
        fresh.server.survivors(old.arrived)
    signatures = tuple(relabelled(one).to_bytes() for one in old.signed)
    with pytest.raises(ValueError, match="got one of client 0 that is not of this list"):
        new.clients[0].unmask(new.survivors, messages.Confirmations(number=2, confirmations=signatures))


def test_the_server_refuses_what_does_not_fit():
    run = Run().shares()
    with pytest.raises(ValueError, match="words: got 39 of client 0, wanted 40"):
        run.server.survivors([messages.MaskedInput(number=1, client=0, words=bytes(4 * 39))])
    run = Run().keys()
    sent = [run.clients[k].share(run.directory) for k in range(CLIENTS)]
    with pytest.raises(ValueError, match="sent: got shares of client 0, wanted one pair for each of the others"):
        run.server.deliver([(sent[0][0][1:], sent[0][1]), *sent[1:]])
    run = Run().unmasked(late=(3,))
    with pytest.raises(ValueError, match="messages: got those of clients .*, wanted one each of clients"):
        run.server.total([*run.revealed, run.revealed[0]])
    run = Run().unmasked(late=(3,))
    run.revealed[1] = dataclasses.replace(run.revealed[1], keys=())
    with pytest.raises(ValueError, match="unmaskings: client 1 sends shares of others"):
        run.server.total(run.revealed)


def test_fewer_shares_than_the_threshold_fit_every_secret():
    """For six of ten shares and any other secret there is a seventh share with which it comes out."""
    secret, points = bytes(range(32)), range(1, 11)
    shares = shamir.split(secret, 7, points)
    for chosen in (list(points)[:7], list(points)[3:], [9, 2, 4, 1, 7, 5, 3], list(points)):
        assert shamir.join({k: shares[k] for k in chosen}, 7) == secret
    held = {k: shares[k] for k in (1, 3, 4, 6, 8, 9)}
    for other in (bytes(32), b"\xff" * 32, b"any other secret of thirty-two b"):
        through = {0: int.from_bytes(other, "big"), **{k: int.from_bytes(v, "big") for k, v in held.items()}}
        seventh = sum(
            value * np.prod([(10 - j) * pow(k - j, -1, shamir.PRIME) for j in through if j != k], dtype=object)
            for k, value in through.items()
        ) % shamir.PRIME  # fmt: skip
        assert shamir.join({**held, 10: int(seventh).to_bytes(33, "big")}, 7) == other
    with pytest.raises(ValueError, match="shares: got 6, wanted at least 7, the threshold"):
        shamir.join(held, 7)
    assert shamir.split(secret, 1, [4]) == {4: b"\0" + secret}
    firsts = np.array([shamir.split(secret, 2, [1, 2])[1][1] for _ in range(5000)])
    assert chisquare(np.bincount(firsts, minlength=256)).pvalue > 1e-9


def test_the_field_is_prime_and_larger_than_a_key():
    gmpy2 = pytest.importorskip("gmpy2")
    assert gmpy2.next_prime(2**256) == shamir.PRIME


def test_the_keystream_is_chacha20_in_little_endian_words():
    """RFC 8439, appendix A.1, first vector."""
    pytest.importorskip("cryptography")
    assert primitives.keystream(bytes(32), 3).tobytes().hex() == "76b8e0ada0f13d90405d6ae5"


def test_both_sides_derive_one_key_for_each_purpose_and_nobody_else_s():
    one, other, third = (primitives.agreement_pair() for _ in range(3))
    info = primitives.context("pair mask", 3, 0, 1)
    key = primitives.agree(one, other.public, info)
    assert key == primitives.agree(other, one.public, info)
    assert key != primitives.agree(third, one.public, info)
    for changed in (("shares", 3, 0, 1), ("pair mask", 4, 0, 1), ("pair mask", 3, 1, 0), ("pair mask", 3, 0, 1, 0)):
        assert key != primitives.agree(one, other.public, primitives.context(*changed))


@pytest.mark.parametrize("scale_bits", [16, 20])
def test_fixed_point_is_off_by_half_a_step_for_each_client(scale_bits):
    generator = torch.Generator().manual_seed(1)
    shared = [(torch.randn(500, generator=generator, dtype=torch.float64), None) for _ in range(CLIENTS)]
    counts = [1] * CLIENTS
    total = sum(
        fixed_point.encode(own, count, clients=CLIENTS, scale_bits=scale_bits)
        for own, count in zip(shared, counts, strict=True)
    )
    (mean, none), examples = fixed_point.decode(total, shared[0], scale_bits=scale_bits)
    off = (mean * examples - sum(own[0] for own in shared)).abs().max()
    assert (examples, none) == (CLIENTS, None)
    assert 0.1 * CLIENTS / 2 ** (scale_bits + 1) < float(off) <= CLIENTS / 2 ** (scale_bits + 1)


def test_fixed_point_takes_what_fits_and_refuses_the_rest():
    most = (2**31 - 1) // 3 / 2**16
    edge = (torch.tensor([most, -most], dtype=torch.float64),)
    total = sum(fixed_point.encode(edge, 1, clients=3) for _ in range(3))
    assert torch.equal(fixed_point.decode(total, edge)[0][0], edge[0])
    for value, count, message in (
        (1.001 * most, 1, "shared, count: got an entry that overflows the ring, wanted count x entry within 10922.7"),
        (most, 2, "overflows the ring"),
        (0.0, 2**31, "overflows the ring"),
        (float("nan"), 1, "NaN or infinite"),
        (0.5, 0, "count: got 0"),
        (0.5, 1.5, "count: got 1.5, wanted a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            fixed_point.encode((torch.tensor([value], dtype=torch.float64),), count, clients=3)
    with pytest.raises(ValueError, match="total: got 3 words, wanted 1 entries and a positive number"):
        fixed_point.decode(total, (torch.zeros(1),))


def test_messages_travel_as_bytes_and_damaged_ones_are_refused():
    run = Run().unmasked(late=(3,))
    everything = [run.advertised[0], run.directory, run.inbox[0][0], run.sent[0][1], run.arrived[0], run.survivors,
                  run.signed[0], run.confirmations, run.revealed[0]]  # fmt: skip
    for message in everything:
        data = message.to_bytes()
        assert type(message).from_bytes(data) == message
        for damaged in (data[:-1], data + b"n", b"", b"x" + data[1:], b"n" + data[1:5]):
            with pytest.raises(ValueError, match=f"bytes that are no {type(message).__name__}, wanted a whole one"):
                type(message).from_bytes(damaged)
    with pytest.raises(ValueError, match="that are no Survivors"):
        messages.Survivors.from_bytes(run.advertised[0].to_bytes())


def packed(*values):
    """Return what a liar puts together: any values under the message format's tags."""

    def one(value):
        if isinstance(value, int):
            return b"n" + value.to_bytes(4, "little")
        tag, body = (b"b", value) if isinstance(value, bytes) else (b"t", b"".join(map(one, value)))
        return tag + len(value).to_bytes(4, "little") + body

    return one(values)


@pytest.mark.parametrize(("kind", "data"), [
    (messages.Survivors, packed(1, (b"x", b"y"))),  # numbers are wanted, and they are sorted
    (messages.Survivors, packed(1, (0, (1,)))),
    (messages.Directory, packed(1, (5, 6))),  # bytes are wanted, and they are decoded
    (messages.Confirmations, packed(1, ((b"x",),))),
    (messages.Unmasking, packed(1, 0, ((1, 7),), ())),  # the share a number
    (messages.Unmasking, packed(1, 0, ((b"1", b"share"),), ())),
    (messages.Unmasking, packed(1, 0, ((1, b"share", b"more"),), ())),
    (messages.Unmasking, packed(1, 0, (1, b"share"), ())),
    (messages.MaskedInput, packed(1, b"0", b"words")),
    (messages.Advertisement, packed(1, 0, bytes(31), bytes(33), b"")),  # 64 bytes in all, as what is signed
    (messages.Advertisement, packed(1, 0, bytes(32), bytes(32))),
    (messages.Survivors, b"t\x02\0\0\0" + b"t\x01\0\0\0" * 20_000),  # a value in a value in a value
    (messages.Survivors, packed(1)[:-5] + b"n\x01\0\0\0t\xff\xff\xff\xff"),  # four thousand million that do not come
    (messages.MaskedInput, packed(1, 0)[:1] + b"\x03" + packed(1, 0)[2:] + b"b\xff\xff\xff\xff"),
    (messages.Survivors, "text"),
    (messages.Survivors, None),
], ids=range(16))  # fmt: skip
def test_whatever_a_liar_sends_as_bytes_is_refused_by_the_name_of_the_message(kind, data):
    with pytest.raises(ValueError, match=f"^data: got .* that are no {kind.__name__}, wanted a whole one"):
        kind.from_bytes(data)


def test_a_long_message_is_read_in_time():
    """Every value copied the rest of the message: a list of 200,000 took minutes."""
    survivors = messages.Survivors(number=1, clients=tuple(range(200_000)))
    assert messages.Survivors.from_bytes(survivors.to_bytes()) == survivors


@pytest.mark.parametrize(("make", "message"), [
    (lambda: messages.Survivors(number=1, clients=[0, 1]), "clients: got what is no field of Survivors, wanted tuple"),
    (lambda: messages.Survivors(number=1, clients=(0, -1)), "clients: got what is no field of Survivors"),
    (lambda: messages.Survivors(number=2**32, clients=()), "number: got what is no field of Survivors, wanted int"),
    (lambda: messages.Survivors(number=True, clients=()), "number: got what is no field of Survivors"),
    (lambda: messages.Survivors(number="1", clients=()), "number: got what is no field of Survivors"),
    (lambda: messages.MaskedInput(number=1, client=0, words="secret"), "words: got what is no field of MaskedInput"),
    (lambda: messages.Unmasking(number=1, client=0, seeds=((1, 5),), keys=()), "seeds: got what is no field"),
    (lambda: messages.Advertisement(number=1, client=0, channel=bytes(31), mask=bytes(33)), "channel: got 31 bytes"),
])  # fmt: skip
def test_a_message_that_cannot_travel_is_not_made(make, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        make()
    assert "secret" not in str(caught.value)


def test_keys_that_are_cut_elsewhere_do_not_pass_for_signed_ones():
    """What is signed is one key behind the other: one of 31 bytes and one of 33 would have the same signature."""
    run = Run().keys()
    one = run.advertised[2]
    both = one.channel + one.mask
    lie = packed(1, 2, both[:31], both[31:], one.signature)
    listed = [own.to_bytes() for own in run.advertised]
    listed[2] = lie
    with pytest.raises(ValueError, match="that are no Advertisement"):
        run.clients[0].share(messages.Directory(number=1, advertisements=tuple(listed)))


def test_who_has_refused_takes_no_further_part():
    """A client whose masked input never left gives out no shares, and a server that got too few inputs adds none."""
    run = Run(active=False).shares()
    tampered = dataclasses.replace(run.inbox[0][-1], ciphertext=b"")
    with pytest.raises(ValueError, match="does not open"):
        run.clients[0].mask(run.inputs[0], [*run.inbox[0][:-1], tampered])
    with pytest.raises(ValueError, match="stage: got 'unmasking' after .*'a refusal'"):
        run.clients[0].unmask(messages.Survivors(number=1, clients=tuple(range(9))))
    inputs = [run.clients[k].mask(run.inputs[k], run.inbox[k]) for k in range(1, 7)]
    with pytest.raises(ValueError, match="masked input: got 6 clients, wanted at least 7"):
        run.server.survivors(inputs)
    with pytest.raises(ValueError, match="stage: got 'unmasking' after .*'a refusal'"):
        run.server.total([])


@pytest.mark.parametrize("inputs", [
    {}, None, [1], {0: [1, 2], 1: [3, 4]}, {0: np.zeros(3), 1: np.zeros(3)}, {0: np.zeros(3, np.int64)},
    {0: np.zeros((2, 2), np.uint32)}, {0: np.zeros(0, np.uint32)},
    {0: np.zeros(3, np.uint32), 1: np.zeros(2, np.uint32)}, {-1: np.zeros(3, np.uint32)}, {"a": np.zeros(3, np.uint32)},
], ids=range(11))  # fmt: skip
def test_inputs_are_words(inputs):
    with pytest.raises(ValueError, match="^inputs"):
        SecureAggregation().total(inputs, number=1)


def secrets_of(client):
    yield from (client._channel.private, client._mask.private, client._seed)
    yield from (share for pair in client._held.values() for share in pair)
    yield from ([] if client._identity is None else [client._identity.private])


def shown(secret, text):
    forms = (repr(secret)[2:-1], secret.hex(), base64.b64encode(secret).decode(), str(int.from_bytes(secret, "big")))
    return any(form in text for form in forms)


def test_no_secret_is_shown_anywhere():
    """In what is printed of every party, message and key, in whole tracebacks, and in the bytes of what is public."""
    run = Run().unmasked(late=(3,))
    total = run.server.total(run.revealed)
    secret = [one for client in run.clients.values() for one in secrets_of(client)]
    assert len(secret) == 4 * CLIENTS + 2 * (9 * CLIENTS + 1)  # the late one opened nothing but its own
    objects = [*run.clients.values(), run.server, *run.advertised, run.directory, *run.sent, run.inbox, *run.arrived,
               run.survivors, *run.signed, run.confirmations, *run.revealed, *run.pairs.values(),
               run.clients[0]._mask, SecureAggregation()]  # fmt: skip
    texts = [text for one in objects for text in (repr(one), str(one), f"{one!a}")]
    for act in (
        lambda: run.clients[0].mask(run.inputs[0], run.inbox[0]),
        lambda: run.clients[0].unmask(run.survivors, run.confirmations),
        lambda: Run().unmasked().server.total(run.revealed),
        lambda: primitives.agree(run.clients[0]._mask, bytes(32), b""),
        lambda: shamir.join({1: run.clients[0]._held[1][0]}, 2),
        lambda: shamir.split(run.clients[0]._seed + b"x", 1, [1]),
        lambda: pickle.dumps(run.clients[0]),
        lambda: pickle.dumps(run.server),
        lambda: pickle.dumps(run.clients[0]._mask),
        lambda: Run().masked().clients[0].mask(run.inputs[0], []),
    ):
        with pytest.raises((ValueError, TypeError)) as caught:
            act()
        texts.append("".join(traceback.format_exception(caught.value)))
    assert not [text for text in texts for one in secret if shown(one, text)]
    public = [*run.advertised, run.directory, *run.sent, run.inbox, *run.arrived, run.survivors, run.confirmations]
    data = pickle.dumps([public, total])
    assert not [one for one in secret if one in data]


def test_what_training_leaves_behind_holds_no_secret(digits, tmp_path, monkeypatch):
    """Every secret that was made in a round is looked for in the round, in its aggregate, and in the saved file."""
    made = []
    original = primitives.secrets.token_bytes
    monkeypatch.setattr(primitives.secrets, "token_bytes", lambda n: made.append(original(n)) or made[-1])
    clients = [(digits[0][k : k + 2].double(), digits[1][k : k + 2]) for k in (0, 2, 4)]
    options = {"num_rounds": 1, "aggregation": SecureAggregation(dropouts={"masked input": (1,)}, threshold=2)}
    (only,) = federated.fedavg(models.mlp(64, (8,)).double(), clients, LocalSteps(steps=1, lr=0.1), **options)
    keys = [one for one in made if len(one) == 32]
    assert len(keys) >= 3 * 4  # two agreement keys, a seed and an identity of each
    only.aggregate().save(tmp_path / "seen.pt")
    data = (tmp_path / "seen.pt").read_bytes() + b"".join(t.numpy().tobytes() for t in only.shared)
    assert not [key for key in keys if key in data]
    texts = repr(only) + repr(only.cost) + repr(only.aggregate()) + repr(vars(only))
    assert not [key for key in keys if shown(key, texts)]


def test_training_ends_where_plain_averaging_does(digits):
    """Clients of different sizes, one of them late: to the rounding of fixed point, in every round from one model."""
    x, y = digits[0].double(), digits[1]
    clients = [(x[a:b], y[a:b]) for a, b in ((0, 9), (9, 12), (12, 30), (30, 34))]
    start, local = models.mlp(64, (8,)).double(), LocalSteps(steps=3, lr=0.2)
    late = SecureAggregation(dropouts={"masked input": (1,)})
    for protected, plain in ((SecureAggregation(), clients), (late, [clients[k] for k in (0, 2, 3)])):
        *_, ours = federated.fedavg(start, clients, local, num_rounds=3, aggregation=protected)
        (first,) = federated.fedavg(start, clients, local, num_rounds=1, aggregation=protected)
        *_, theirs = federated.fedavg(start, plain, local, num_rounds=3)
        (once,) = federated.fedavg(start, plain, local, num_rounds=1)
        examples = sum(len(own) for own, _ in plain)
        for a, b in zip(first.shared, once.shared, strict=True):
            assert 0 < float((a - b).abs().max()) <= len(plain) / 2**17 / examples
        for a, b in zip(ours.after.parameters(), theirs.after.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_the_aggregate_is_what_an_attack_gets(digits):
    """Of one client it is the client's own update; of several the mean over those who are in, without the late one."""
    x, y = digits[0].double(), digits[1]
    clients = [(x[k : k + 1], y[k : k + 1]) for k in range(4)]
    local, start = LocalSteps(steps=1, lr=1.0), models.mlp(64, (16,)).double()
    (alone,) = federated.fedavg(start, clients[:1], local, num_rounds=1, aggregation=SecureAggregation())
    assert metrics.psnr(attacks.PPDL_AHE(alone.aggregate()).inputs, x[:1]) > 50
    late = SecureAggregation(dropouts={"masked input": (2,)}, threshold=3)
    (only,) = federated.fedavg(start, clients, local, num_rounds=1, aggregation=late, declare=["labels"])
    seen = only.aggregate()
    assert (only.participants, seen.counts) == ((0, 1, 3), (1, 1, 1))
    assert seen.known("labels").tolist() == y[[0, 1, 3]].tolist()
    for got, wanted in zip(seen.shared, seen.simulate(x[[0, 1, 3]], y[[0, 1, 3]], create_graph=False), strict=True):
        torch.testing.assert_close(got, wanted, atol=1 / 2**17, rtol=0)
    kept = federated.AggregatedRounds.of([only], declare=["participation"], window=1)
    assert kept.known("participation").tolist() == [[1, 1, 0, 1]]


def test_buffers_are_masked_with_the_update(photos):
    start = models.convnet(widths=(2,), strides=(4,), batch_norm=True)
    clients = [(photos[0][:4], photos[1][:4]), (photos[0][4:8], photos[1][4:8])]
    options = {"num_rounds": 1}
    (ours,) = federated.fedavg(start, clients, LocalSteps(steps=2, lr=0.1), aggregation=SecureAggregation(), **options)
    (theirs,) = federated.fedavg(start, clients, LocalSteps(steps=2, lr=0.1), **options)
    for a, b in zip(ours.after.buffers(), theirs.after.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert sum(theirs.cost.up.values()) < sum(ours.cost.up.values())


def test_accuracy_is_that_of_plain_averaging():
    task = utility.TASKS["digits"].replace(rounds=2)
    plain, ours = (
        utility.measure(task, aggregation=how, seeds=[0]) for how in ("mean", SecureAggregation(active=False))
    )
    assert float((plain["accuracy"] - ours["accuracy"]).abs().max()) < 0.01
    assert float(plain["megabytes"][0]) < float(ours["megabytes"][0]) < 1.1 * float(plain["megabytes"][0])


def test_bytes_are_those_of_the_messages():
    wire = Wire()
    SecureAggregation(dropouts={"unmasking": (9,)}).total(words(1000), number=1, wire=wire)
    cost = wire.cost()
    assert sum(cost.up.values()) + sum(cost.down.values()) == sum(cost.messages.values())
    assert 4000 < cost.messages["MaskedInput"] / CLIENTS < 4030
    assert cost.up[9] == cost.up[8] - len(Run().unmasked().revealed[8].to_bytes())
    assert set(cost.messages) == {"Advertisement", "Directory", "SealedShares", "Committed", "MaskedInput",
                                  "Survivors", "Confirmation", "Confirmations", "Unmasking"}  # fmt: skip
    assert all(seconds > 0 for seconds in cost.seconds.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold: got 0, wanted at least 1"),
        ({"threshold": 2.5}, "threshold: got 2.5, wanted a whole number"),
        ({"scale_bits": 0}, "scale_bits: got 0"),
        ({"dropouts": {"lunch": (1,)}}, "dropouts: got 'lunch', wanted one of keys, shares"),
        ({"dropouts": [1]}, r"dropouts: got \[1\], wanted stages with their clients"),
        ({"dropouts": {"keys": (-1,)}}, r"dropouts\['keys'\]: got -1"),
        ({"threshold": 2}, "threshold: got 2, wanted more than half of the 4 clients"),
        ({"threshold": 5}, "threshold: got 5, wanted more than half of the 4 clients, and not more than all"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        SecureAggregation(**options).total(words(clients=4), number=1)


def test_refusals_of_parties():
    pair = primitives.signing_pair()
    for make, message in (
        (lambda: Client(client=-1, number=1, threshold=2), "client: got -1"),
        (lambda: Client(client=0, number=1, threshold=2, identity=pair), "identity, identities: got one of them"),
        (lambda: Server(number=1, threshold=0, length=3), "threshold: got 0"),
        (lambda: Client(client=2**32, number=1, threshold=2), "client: got 4294967296, wanted below 2.32"),
        (lambda: Client(client=0, number=2**32, threshold=2), "number: got 4294967296, wanted below 2.32"),
        (lambda: primitives.agreement_pair(b"short"), "private: got 5 bytes, wanted 32 bytes"),
        (lambda: primitives.keystream(b"short", 3), "key: got 5 bytes, wanted 32 bytes"),
        (lambda: masks.masked(np.zeros(3), b"s" * 32, pair, {}, 1, 0), "words: got float64 of shape .3,., wanted uin"),
        (lambda: fixed_point.decode(np.array([1.5, 1.0]), (torch.ones(1),)), "total: got float64 of shape"),
        (lambda: fixed_point.decode([1, 1], (torch.ones(1),)), "total: got a list, wanted uint32"),
        (lambda: fixed_point.encode((torch.ones(1),), 1, clients=2, scale_bits=2000), "scale_bits: got 2000, wanted"),
        (lambda: fixed_point.encode((torch.ones(1),), 2**2000, clients=2), "overflows the ring"),
        (lambda: SecureAggregation(scale_bits=31), "scale_bits: got 31, wanted 30 at most"),
        (lambda: SecureAggregation(dropouts={"keys": "0"}), "dropouts.'keys'.: got '0', wanted clients by position"),
        (lambda: SecureAggregation(dropouts={"keys": 0}), "dropouts.'keys'.: got 0, wanted clients by position"),
        (lambda: shamir.split(bytes(32), 1, [shamir.PRIME]), "points: got a point from the prime on"),
        (lambda: shamir.split("x" * 32, 1, [1]), "secret: got a str, wanted 32 bytes"),
        (lambda: shamir.join({0: bytes(33), 1: bytes(33)}, 2), "shares: got 0, wanted at least 1"),
        (lambda: shamir.join({1: bytes(33), 1 + shamir.PRIME: bytes(33)}, 2), "shares: got a point from the prime on"),
        (lambda: shamir.join({1: 5}, 1), "shares: got one that is no element of the field"),
        (lambda: Server(number=1, threshold=1, length=0), "length: got 0"),
        (lambda: shamir.split(bytes(32), 3, [1, 2]), "points: got .1, 2., wanted at least 3"),
        (lambda: shamir.split(bytes(32), 2, [1, 1]), "points: got .1, 1."),
        (lambda: shamir.split(bytes(32), 2, [0, 1]), "points: got 0"),
        (lambda: shamir.split(bytes(31), 1, [1]), "secret: got 31 bytes"),
        (lambda: shamir.join({1: b"\xff" * 33}, 1), "no element of the field"),
        (lambda: shamir.join({1: bytes(32)}, 1), "no element of the field"),
        (lambda: shamir.join({1: (2**256).to_bytes(33, "big")}, 1), "shares of no secret"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    different = {0: (torch.zeros(2),), 1: (torch.zeros(3),)}
    with pytest.raises(ValueError, match="shared: the clients' tensors differ in shape"):
        SecureAggregation().aggregate(different, {0: 1, 1: 1}, number=1)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.x25519", None)
    with pytest.raises(ImportError, match=r"pip install 'gilearn\[defenses\]'"):
        SecureAggregation().total(words(clients=2), number=1)
