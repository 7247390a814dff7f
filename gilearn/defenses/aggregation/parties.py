"""The two parties of secure aggregation, as state machines that take and return messages, one call a stage.

A :class:`Client` holds its own secrets, and one share of everybody else's; a :class:`Server` holds none, until enough
clients send it shares. Both refuse what another round, another client or another stage sends, and who has refused
takes no further part.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from gilearn.defenses.aggregation import shamir
from gilearn.defenses.aggregation.masks import commitment, masked, pair_mask, self_mask
from gilearn.defenses.aggregation.messages import (
    Advertisement,
    Committed,
    Confirmation,
    Confirmations,
    Directory,
    MaskedInput,
    Message,
    SealedShares,
    Survivors,
    Unmasking,
    check_position,
)
from gilearn.defenses.aggregation.primitives import (
    KEY_BYTES,
    Pair,
    Words,
    agree,
    agreement_pair,
    context,
    seal,
    sign,
    unseal,
    verified,
)
from gilearn.federated.checks import check_whole

STAGES = ("keys", "shares", "masked input", "confirmation", "unmasking")
"""The stages of a round, in order; the active model alone has the fourth."""

_Given = ParamSpec("_Given")
_Sent = TypeVar("_Sent")


class _Party:
    """What both parties have: a round, a threshold, and stages that come once each, in order."""

    def __init__(self, number: int, threshold: int) -> None:
        check_position("number", number)
        check_whole("threshold", threshold)
        self.number, self.threshold = int(number), int(threshold)
        self._done: list[str] = []

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(f"a {type(self).__name__} is written to no file: it holds secrets")

    def _begin(self, stage: str, after: Iterable[str]) -> None:
        if self._done != list(after):
            raise ValueError(f"stage: got {stage!r} after {self._done}, wanted every stage once, in order")
        self._done.append(stage)

    def _check(self, message: Message) -> None:
        if message.number != self.number:
            name = type(message).__name__
            raise ValueError(f"number: got a {name} of round {message.number}, wanted one of round {self.number}")

    def _enough(self, stage: str, clients: Sequence[int]) -> None:
        if len(clients) < self.threshold:
            aborted = "the round is aborted, and no input is unmasked"
            raise ValueError(f"{stage}: got {len(clients)} clients, wanted at least {self.threshold}: {aborted}")


_Self = TypeVar("_Self", bound=_Party)


def _final(stage: Callable[Concatenate[_Self, _Given], _Sent]) -> Callable[Concatenate[_Self, _Given], _Sent]:
    """Make a refusal final: who has refused a message takes part in no later stage of the round."""

    @functools.wraps(stage)
    def once(self: _Self, /, *args: _Given.args, **options: _Given.kwargs) -> _Sent:
        try:
            return stage(self, *args, **options)
        except Exception:
            self._done.append("a refusal")
            raise

    return once


class Client(_Party):
    """A client in one round: the keys are made for it alone.

    Args:
        client: Its position, from 0.
        number: Number of the round.
        threshold: How many have to be there to the end, and how many shares give a secret back.
        identity: In the active model, its long-lived signing keys.
        identities: In the active model, everybody's public identity key, known beforehand.

    Raises:
        ValueError: A number is out of range, or one of ``identity`` and ``identities`` is missing.

    Chapter: secure-aggregation. Source: bonawitz2017, figure 4.
    """

    def __init__(
        self,
        *,
        client: int,
        number: int,
        threshold: int,
        identity: Pair | None = None,
        identities: Mapping[int, bytes] | None = None,
    ) -> None:
        super().__init__(number, threshold)
        check_position("client", client)
        if (identity is None) != (identities is None):
            raise ValueError("identity, identities: got one of them, wanted both, or none for an honest server")
        self.client = int(client)
        self._identity, self._identities = identity, dict(identities or {})
        self._channel, self._mask, self._seed = agreement_pair(), agreement_pair(), secrets.token_bytes(KEY_BYTES)
        self._others: dict[int, Advertisement] = {}
        self._held: dict[int, tuple[bytes, bytes]] = {}  # by whose they are: share of the mask key, share of the seed
        self._confirmed: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return f"Client(client={self.client}, number={self.number}, threshold={self.threshold})"

    def advertise(self) -> Advertisement:
        """Stage 1: return the public keys, signed in the active model."""
        self._begin("keys", [])
        number, channel, mask = self.number, self._channel.public, self._mask.public
        own = Advertisement(number=number, client=self.client, channel=channel, mask=mask)
        return own if self._identity is None else replace(own, signature=sign(self._identity, _keys_signed(own)))

    @_final
    def share(self, directory: Directory) -> tuple[list[SealedShares], Committed]:
        """Stage 2: return one sealed pair of shares for every other client, and the commitment to the seed.

        Raises:
            ValueError: The directory is another round's, too short, lacks or alters this client's keys, names a client
                or key twice, or holds a signature that is not its client's.
        """
        self._begin("shares", STAGES[:1])
        self._check(directory)
        listed = [Advertisement.from_bytes(data) for data in directory.advertisements]
        for one in listed:
            self._check(one)
            known = self._identities.get(one.client, b"")
            if self._identity is not None and not verified(known, one.signature, _keys_signed(one)):
                raise ValueError(f"signature: got keys of client {one.client} that it did not sign, wanted its own")
        keys = {key for one in listed for key in (one.channel, one.mask)}
        by_client = {one.client: one for one in listed}
        if len(by_client) < len(listed) or len(keys) < 2 * len(listed):
            raise ValueError("directory: got a client or a key twice, wanted every one once")
        own = by_client.pop(self.client, None)
        if own is None or (own.channel, own.mask) != (self._channel.public, self._mask.public):
            raise ValueError(f"directory: got other keys or none for client {self.client}, wanted those that it sent")
        self._enough("keys", list(range(len(listed))))
        self._others = by_client
        points = [client + 1 for client in (self.client, *by_client)]
        of_key = shamir.split(self._mask.private, self.threshold, points)
        of_seed = shamir.split(self._seed, self.threshold, points)
        self._held[self.client] = of_key[self.client + 1], of_seed[self.client + 1]
        messages = [self._sealed(other, of_key[other + 1] + of_seed[other + 1]) for other in by_client]
        committed = commitment(self._seed, self.number, self.client)
        return messages, Committed(number=self.number, client=self.client, commitment=committed)

    @_final
    def mask(self, words: Words, delivered: Sequence[SealedShares]) -> MaskedInput:
        """Stage 3: return the input with its self mask, and its masks with all whose shares arrived.

        Args:
            words: The input, modulo 2^32.
            delivered: What the others sealed for this client.

        Raises:
            ValueError: A message is another round's or another client's, comes twice, does not open, or too few came.
        """
        self._begin("masked input", STAGES[:2])
        for one in delivered:
            self._open(one)
        self._enough("shares", list(self._held))
        others = {k: self._others[k].mask for k in self._held if k != self.client}
        total = masked(words, self._seed, self._mask, others, self.number, self.client)
        return MaskedInput(number=self.number, client=self.client, words=total.astype("<u4").tobytes())

    @_final
    def confirm(self, survivors: Survivors) -> Confirmation:
        """Stage 4, of the active model: return a signature of the list of survivors, the only one that it gives."""
        self._begin("confirmation", STAGES[:3])
        if self._identity is None:
            raise ValueError("identity: got none, wanted the active model's keys: nothing can be signed")
        self._confirmed = self._checked(survivors)
        signature = sign(self._identity, _survivors_signed(survivors))
        return Confirmation(number=self.number, client=self.client, signature=signature)

    @_final
    def unmask(self, survivors: Survivors, confirmations: Confirmations | None = None) -> Unmasking:
        """Stage 5: return shares of the seeds of survivors and of the mask keys of those who dropped out, once.

        Args:
            survivors: Whose inputs are in the sum.
            confirmations: In the active model, the signatures of this very list by as many as the threshold says.

        Raises:
            ValueError: The list is another round's or does not fit, the client has unmasked already, the list differs
                from the one that it signed, or too few signatures are there, or a signature is of another list.
        """
        active = self._identity is not None
        self._begin("unmasking", STAGES[: 4 if active else 3])
        there = self._checked(survivors)
        if active:
            self._check_confirmations(survivors, confirmations)
        seeds = tuple((k, self._held[k][1]) for k in there)
        keys = tuple((k, self._held[k][0]) for k in sorted(self._held) if k not in there)
        return Unmasking(number=self.number, client=self.client, seeds=seeds, keys=keys)

    def _sealed(self, other: int, content: bytes) -> SealedShares:
        bound = context("shares", self.number, self.client, other)
        key = agree(self._channel, self._others[other].channel, bound)
        ciphertext = seal(key, content, bound)
        return SealedShares(number=self.number, sender=self.client, receiver=other, ciphertext=ciphertext)

    def _open(self, one: SealedShares) -> None:
        self._check(one)
        if one.receiver != self.client or one.sender not in self._others or one.sender in self._held:
            route = f"from {one.sender} to {one.receiver}"
            raise ValueError(
                f"delivered: got shares {route}, wanted those for client {self.client}, of each other once"
            )
        bound = context("shares", self.number, one.sender, self.client)
        key = agree(self._channel, self._others[one.sender].channel, bound)
        content = unseal(key, one.ciphertext, bound)
        if content is None or len(content) != 2 * shamir.SHARE_BYTES:
            raise ValueError(f"ciphertext: got one from client {one.sender} that does not open, wanted what it sealed")
        self._held[one.sender] = content[: shamir.SHARE_BYTES], content[shamir.SHARE_BYTES :]

    def _checked(self, survivors: Survivors) -> tuple[int, ...]:
        self._check(survivors)
        there = survivors.clients
        if list(there) != sorted(set(there) & set(self._held)) or self.client not in there:
            wanted = f"client {self.client} and others whose shares it holds, in ascending order"
            raise ValueError(f"survivors: got {there}, wanted {wanted}")
        self._enough("masked input", there)
        return there

    def _check_confirmations(self, survivors: Survivors, confirmations: Confirmations | None) -> None:
        if survivors.clients != self._confirmed:
            raise ValueError(f"survivors: got {survivors.clients}, wanted the list that was signed, {self._confirmed}")
        if confirmations is None:
            raise ValueError("confirmations: got none, wanted those of the active model")
        self._check(confirmations)
        signed = set()
        for one in map(Confirmation.from_bytes, confirmations.confirmations):
            self._check(one)
            known = self._identities.get(one.client, b"")
            if one.client not in survivors.clients or not verified(known, one.signature, _survivors_signed(survivors)):
                raise ValueError(f"confirmations: got one of client {one.client} that is not of this list of survivors")
            signed.add(one.client)
        self._enough("confirmation", sorted(signed))


class Server(_Party):
    """The server in one round: it forwards what it cannot open, and adds what it cannot read.

    Args:
        number: Number of the round.
        threshold: How many clients have to be there at every stage.
        length: Number of words of an input.

    Raises:
        ValueError: A number is out of range.

    Chapter: secure-aggregation. Source: bonawitz2017, figure 4.
    """

    def __init__(self, *, number: int, threshold: int, length: int) -> None:
        super().__init__(number, threshold)
        check_whole("length", length)
        self.length = length
        self._keys: dict[int, Advertisement] = {}
        self._commitments: dict[int, bytes] = {}
        self._survivors: tuple[int, ...] = ()
        self._total: Words = np.zeros(length, dtype=np.uint32)

    def __repr__(self) -> str:
        return f"Server(number={self.number}, threshold={self.threshold}, length={self.length})"

    @_final
    def directory(self, advertisements: Sequence[Advertisement]) -> Directory:
        """Stage 1: return all advertisements; they are the clients of the round."""
        self._begin("keys", [])
        self._keys = {one.client: one for one in self._each_once(advertisements)}
        self._enough("keys", list(self._keys))
        return Directory(number=self.number, advertisements=tuple(one.to_bytes() for one in self._keys.values()))

    @_final
    def deliver(self, sent: Sequence[tuple[Sequence[SealedShares], Committed]]) -> dict[int, list[SealedShares]]:
        """Stage 2: return what is to be forwarded to each client that has shared its own secrets.

        Args:
            sent: What :meth:`Client.share` returned, of the clients that are still there.
        """
        self._begin("shares", STAGES[:1])
        self._commitments = {
            one.client: one.commitment for one in self._each_once([own for _, own in sent], self._keys)
        }
        self._enough("shares", list(self._commitments))
        inbox: dict[int, list[SealedShares]] = {client: [] for client in self._commitments}
        for messages, own in sent:
            receivers = {message.receiver for message in messages if message.sender == own.client}
            if len(messages) != len(self._keys) - 1 or receivers != self._keys.keys() - {own.client}:
                raise ValueError(f"sent: got shares of client {own.client}, wanted one pair for each of the others")
            for message in messages:
                self._check(message)
                if message.receiver in inbox:
                    inbox[message.receiver].append(message)
        return inbox

    @_final
    def survivors(self, inputs: Sequence[MaskedInput]) -> Survivors:
        """Stage 3: add the masked inputs, and return whose they are."""
        self._begin("masked input", STAGES[:2])
        for one in self._each_once(inputs, among=self._commitments):
            if len(one.words) != 4 * self.length:
                raise ValueError(f"words: got {len(one.words) / 4:g} of client {one.client}, wanted {self.length}")
            self._total = self._total + np.frombuffer(one.words, dtype="<u4")
        self._survivors = tuple(sorted(one.client for one in inputs))
        self._enough("masked input", self._survivors)
        return Survivors(number=self.number, clients=self._survivors)

    @_final
    def confirmations(self, signed: Sequence[Confirmation]) -> Confirmations:
        """Stage 4, of the active model: return all signatures of the list of survivors."""
        self._begin("confirmation", STAGES[:3])
        found = self._each_once(signed, among=self._survivors)
        self._enough("confirmation", [one.client for one in found])
        return Confirmations(number=self.number, confirmations=tuple(one.to_bytes() for one in found))

    @_final
    def total(self, unmaskings: Sequence[Unmasking]) -> Words:
        """Stage 5: return the sum of the survivors' inputs, modulo 2^32.

        Raises:
            ValueError: Too few clients are there, one sends other shares than those that are wanted, or what comes of
                the shares is not the key that was advertised, or the seed that was committed to.
        """
        self._begin("unmasking", self._done if self._done in (list(STAGES[:3]), list(STAGES[:4])) else STAGES[:3])
        found = self._each_once(unmaskings, among=self._survivors)
        self._enough("unmasking", [one.client for one in found])
        dropped = tuple(sorted(self._commitments.keys() - set(self._survivors)))
        for one in found:
            if tuple(k for k, _ in one.seeds) != self._survivors or tuple(k for k, _ in one.keys) != dropped:
                wanted = f"of the seeds of {self._survivors} and of the keys of {dropped}"
                raise ValueError(f"unmaskings: client {one.client} sends shares of others, wanted shares {wanted}")
        total = self._total.copy()
        for client in self._survivors:
            seed = shamir.join({one.client + 1: dict(one.seeds)[client] for one in found}, self.threshold)
            if commitment(seed, self.number, client) != self._commitments[client]:
                raise ValueError(f"seeds: got shares that do not give the seed that client {client} committed to")
            total -= self_mask(seed, self.number, client, self.length)
        for client in dropped:
            private = shamir.join({one.client + 1: dict(one.keys)[client] for one in found}, self.threshold)
            own = agreement_pair(private)
            if own.public != self._keys[client].mask:
                raise ValueError(f"keys: got shares that do not give the key that client {client} advertised")
            for other in self._survivors:  # the survivors' masks with this client are left over
                public = self._keys[other].mask
                total += pair_mask(own, public, self.number, client, other, self.length)
        return total

    def _each_once(self, messages: Sequence[Any], among: Iterable[int] | None = None) -> Sequence[Any]:
        clients = [message.client for message in messages]
        for message in messages:
            self._check(message)
        if len(set(clients)) < len(clients) or (among is not None and not set(clients) <= set(among)):
            who = "one each" if among is None else f"one each of clients {sorted(among)} at most"
            raise ValueError(f"messages: got those of clients {clients}, wanted {who}")
        return messages


def _keys_signed(one: Advertisement) -> bytes:
    return context("keys", one.number, one.client) + one.channel + one.mask


def _survivors_signed(survivors: Survivors) -> bytes:
    return context("survivors", survivors.number, *survivors.clients)
