"""What clients and server send each other, round by round of the protocol: frozen values that become bytes and return.

A whole number takes 4 bytes; byte strings and tuples come after their length, of 4 bytes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

_Self = TypeVar("_Self", bound="Message")


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message of one round of training; the others add fields: whole numbers, bytes, and tuples of these.

    Args:
        number: Number of the round of training, from 0 to below 2^32. Who gets a message of another round refuses it.

    Chapter: secure-aggregation.
    """

    number: int

    def to_bytes(self) -> bytes:
        """Return the message as it travels."""
        return _encoded(tuple(getattr(self, own.name) for own in dataclasses.fields(self)))

    @classmethod
    def from_bytes(cls: type[_Self], data: bytes) -> _Self:
        """Return the message of which these are the bytes.

        Raises:
            ValueError: They are those of another kind of message, cut off, or too many.
        """
        names = {own.name: str(own.type).partition("[")[0] for own in dataclasses.fields(cls)}
        try:
            values, rest = _decoded(data)
            if rest or [type(value).__name__ for value in values] != list(names.values()):
                raise ValueError
            return cls(**dict(zip(names, values, strict=True)))
        except (ValueError, TypeError):
            raise ValueError(f"data: got {len(data)} bytes that are no {cls.__name__}, wanted a whole one") from None


@dataclass(frozen=True, kw_only=True)
class Advertisement(Message):
    """Stage 1, client to server: the client's public keys.

    Args:
        client: Who sends it.
        channel: Public key for the encryption of shares, c in the paper.
        mask: Public key for the masks of pairs, s in the paper.
        signature: In the active model, of all this under the identity key; else empty.
    """

    client: int
    channel: bytes
    mask: bytes
    signature: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Directory(Message):
    """Stage 1, server to client: everybody's advertisement, as bytes."""

    advertisements: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class SealedShares(Message):
    """Stage 2, client to client by way of the server: a share of each of the sender's two secrets, for one receiver.

    Args:
        sender: Whose secrets they are.
        receiver: Who can open them.
        ciphertext: Nonce, encrypted shares, and tag.
    """

    sender: int
    receiver: int
    ciphertext: bytes


@dataclass(frozen=True, kw_only=True)
class Committed(Message):
    """Stage 2, client to server: what tells later whether the seed of the self mask was put together right.

    Args:
        client: Who sends it.
        commitment: 32 bytes; this is not in the paper, where a wrong share of a seed gives a wrong sum.
    """

    client: int
    commitment: bytes


@dataclass(frozen=True, kw_only=True)
class MaskedInput(Message):
    """Stage 3, client to server: the input with all its masks.

    Args:
        client: Who sends it.
        words: 4 bytes an entry, little-endian.
    """

    client: int
    words: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Survivors(Message):
    """Stages 3 and 4, server to client: whose masked inputs arrived, in ascending order."""

    clients: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Confirmation(Message):
    """Stage 4, of the active model alone: a client's signature of the list of survivors that it was shown.

    Args:
        client: Who signed.
        signature: Of round and list, under the identity key.
    """

    client: int
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class Confirmations(Message):
    """Stage 5, of the active model alone, server to client: the confirmations, as bytes."""

    confirmations: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Unmasking(Message):
    """Stage 5, client to server: of every other client one share, of the one secret or of the other.

    These shares are what the server is meant to learn, and no more than it needs: they are shown nowhere.

    Args:
        client: Who sends it.
        seeds: Pairs (survivor, share of its self mask's seed).
        keys: Pairs (dropped client, share of its private mask key).

    Raises:
        ValueError: A client is in both.
    """

    client: int
    seeds: tuple[tuple[int, bytes], ...] = field(repr=False)
    keys: tuple[tuple[int, bytes], ...] = field(repr=False)

    def __post_init__(self) -> None:
        if both := sorted({k for k, _ in self.seeds} & {k for k, _ in self.keys}):
            raise ValueError(f"seeds, keys: got both for clients {both}, wanted one kind of share for each client")


def _encoded(value: Any) -> bytes:
    if isinstance(value, int):
        return b"n" + value.to_bytes(4, "little")
    if isinstance(value, bytes):
        return b"b" + len(value).to_bytes(4, "little") + value
    return b"t" + len(value).to_bytes(4, "little") + b"".join(map(_encoded, value))


def _decoded(data: bytes) -> tuple[Any, bytes]:
    kind, number, rest = data[:1], int.from_bytes(data[1:5], "little"), data[5:]
    if len(data) < 5 or kind not in (b"n", b"b", b"t"):
        raise ValueError("data: got no value")
    if kind == b"n":
        return number, rest
    if kind == b"b":
        if len(rest) < number:
            raise ValueError("data: got a value that is cut off")
        return rest[:number], rest[number:]
    values = []
    for _ in range(number):
        value, rest = _decoded(rest)
        values.append(value)
    return tuple(values), rest
