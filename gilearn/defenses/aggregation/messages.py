"""What clients and server send each other, round by round of the protocol: frozen values that become bytes and return.

A whole number takes 4 bytes; byte strings and tuples come after their length, of 4 bytes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_type_hints

from gilearn.defenses.aggregation.primitives import KEY_BYTES
from gilearn.federated.checks import check_whole

_Self = TypeVar("_Self", bound="Message")

LIMIT = 2**32
"""Whole numbers in messages, and lengths, are below this: they take 4 bytes."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message of one round of training; the others add fields: whole numbers, bytes, and tuples of these.

    Args:
        number: Number of the round of training, from 0 to below 2^32. Who gets a message of another round refuses it.

    Raises:
        ValueError: A field has another type, or a number does not fit 4 bytes.

    Chapter: secure-aggregation.
    """

    number: int

    def __post_init__(self) -> None:
        for name, kind in _kinds(cast(Any, type(self))).items():
            if not _fits(getattr(self, name), kind):  # what it is can be a secret
                wanted = f"{getattr(kind, '__name__', kind) if not get_args(kind) else kind}, numbers from 0 below 2^32"
                raise ValueError(f"{name}: got what is no field of {type(self).__name__}, wanted {wanted}")

    def to_bytes(self) -> bytes:
        """Return the message as it travels."""
        return _encoded(tuple(getattr(self, own.name) for own in dataclasses.fields(self)))

    @classmethod
    def from_bytes(cls: type[_Self], data: bytes) -> _Self:
        """Return the message of which these are the bytes.

        Raises:
            ValueError: They are those of another kind of message, cut off, or too many.
        """
        try:
            view, fields, at = memoryview(data), _kinds(cast(Any, cls)), 0
            if view.nbytes < 5 or bytes(view[:5]) != b"t" + len(fields).to_bytes(4, "little"):
                raise ValueError
            at, values = 5, {}
            for name, kind in fields.items():
                values[name], at = _decoded(view, at, kind)
            if at != view.nbytes:
                raise ValueError
            return cls(**values)
        except (ValueError, TypeError):
            length = f"{len(data)} bytes" if isinstance(data, bytes) else f"a {type(data).__name__}"
            raise ValueError(f"data: got {length} that are no {cls.__name__}, wanted a whole one") from None


@dataclass(frozen=True, kw_only=True)
class Advertisement(Message):
    """Stage 1, client to server: the client's public keys.

    Args:
        client: Who sends it.
        channel: Public key for the encryption of shares, c in the paper.
        mask: Public key for the masks of pairs, s in the paper.
        signature: In the active model, of all this under the identity key; else empty.

    Raises:
        ValueError: As :class:`Message`, or a key has another length.
    """

    client: int
    channel: bytes
    mask: bytes
    signature: bytes = b""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channel", "mask"):  # what is signed is the one behind the other
            if len(getattr(self, name)) != KEY_BYTES:
                raise ValueError(f"{name}: got {len(getattr(self, name))} bytes, wanted {KEY_BYTES}")


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
        ValueError: As :class:`Message`, or a client is in both.
    """

    client: int
    seeds: tuple[tuple[int, bytes], ...] = field(repr=False)
    keys: tuple[tuple[int, bytes], ...] = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if both := sorted({k for k, _ in self.seeds} & {k for k, _ in self.keys}):
            raise ValueError(f"seeds, keys: got both for clients {both}, wanted one kind of share for each client")


def check_position(argument: str, value: Any) -> None:
    """Raise a ``ValueError`` unless a value is a whole number that messages have room for: a client's, or a round's."""
    check_whole(argument, value, 0)
    if value >= LIMIT:
        raise ValueError(f"{argument}: got {value}, wanted below 2^32, which is what messages have room for")


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {own.name: hints[own.name] for own in dataclasses.fields(cls)}


def _fits(value: Any, kind: Any) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value < LIMIT
    if kind is bytes:
        return type(value) is bytes and len(value) < LIMIT
    parts = get_args(kind)
    if type(value) is not tuple or (parts[-1] is not Ellipsis and len(value) != len(parts)):
        return False
    return all(_fits(one, parts[0] if parts[-1] is Ellipsis else parts[k]) for k, one in enumerate(value))


def _encoded(value: Any) -> bytes:
    if isinstance(value, int):
        return b"n" + value.to_bytes(4, "little")
    if isinstance(value, bytes):
        return b"b" + len(value).to_bytes(4, "little") + value
    return b"t" + len(value).to_bytes(4, "little") + b"".join(map(_encoded, value))


def _decoded(data: memoryview, at: int, kind: Any) -> tuple[Any, int]:
    """Return the value of this type that begins at a byte, and where it ends."""
    parts = get_args(kind)
    tag = b"n" if kind is int else b"b" if kind is bytes else b"t"
    number, start = int.from_bytes(data[at + 1 : at + 5], "little"), at + 5
    if start > data.nbytes or data[at : at + 1] != tag:
        raise ValueError("data: got another value or none")
    if kind is int:
        return number, start
    if kind is bytes:
        if start + number > data.nbytes:
            raise ValueError("data: got a value that is cut off")
        return bytes(data[start : start + number]), start + number
    if parts[-1] is not Ellipsis and number != len(parts):
        raise ValueError("data: got another number of values")
    values, at = [], start
    for k in range(number):
        value, at = _decoded(data, at, parts[0] if parts[-1] is Ellipsis else parts[k])
        values.append(value)
    return tuple(values), at
