"""The cryptography that a protocol is put together from, all of it from the library ``cryptography``, bytes in and out.

Every key is derived for one purpose, one round and one ordered or unordered pair, which :func:`context` names; a
secret is in no message of an error.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gilearn.defenses._extra import library

Words = NDArray[np.uint32]
"""Elements of the ring of whole numbers modulo 2^32."""

KEY_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A key pair: the private half stays with who made it, and is not shown.

    Args:
        private: 32 bytes.
        public: 32 bytes.

    Chapter: secure-aggregation.
    """

    private: bytes = field(repr=False)
    public: bytes

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a key pair is written to no file: it holds a secret")


def agreement_pair(private: bytes | None = None) -> Pair:
    """Return a key pair of X25519, fresh from the operating system's randomness, or that of a private key."""
    x25519 = library("cryptography.hazmat.primitives.asymmetric.x25519")
    private = secrets.token_bytes(KEY_BYTES) if private is None else private
    check_bytes("private", private)
    public = x25519.X25519PrivateKey.from_private_bytes(private).public_key()
    return Pair(private=private, public=public.public_bytes_raw())


def signing_pair() -> Pair:
    """Return a fresh key pair of Ed25519."""
    ed25519 = library("cryptography.hazmat.primitives.asymmetric.ed25519")
    private = secrets.token_bytes(KEY_BYTES)
    public = ed25519.Ed25519PrivateKey.from_private_bytes(private).public_key()
    return Pair(private=private, public=public.public_bytes_raw())


def check_words(argument: str, words: Any) -> None:
    """Raise a ``ValueError`` unless these are elements of the ring, in one row, and at least one."""
    if not isinstance(words, np.ndarray) or words.dtype != np.uint32 or words.ndim != 1 or not words.size:
        got = f"{words.dtype} of shape {words.shape}" if isinstance(words, np.ndarray) else f"a {type(words).__name__}"
        raise ValueError(f"{argument}: got {got}, wanted uint32, (n,), not empty")


def check_bytes(argument: str, value: Any, length: int = KEY_BYTES) -> None:
    """Raise a ``ValueError`` unless a value is so many bytes; the value is not shown."""
    if not isinstance(value, bytes) or len(value) != length:
        got = f"{len(value)} bytes" if isinstance(value, bytes) else f"a {type(value).__name__}"
        raise ValueError(f"{argument}: got {got}, wanted {length} bytes")


def context(purpose: str, number: int, *clients: int) -> bytes:
    """Return what a derived key, a ciphertext or a signature is bound to: purpose, round and clients, unambiguously."""
    name = f"gilearn secure aggregation 1: {purpose}".encode()
    return b"".join([len(name).to_bytes(2, "little"), name, *(k.to_bytes(8, "little") for k in (number, *clients))])


def agree(own: Pair, public: bytes, info: bytes) -> bytes:
    """Return the key of 32 bytes that two parties derive from one's private and the other's public key (X25519, HKDF).

    Args:
        own: One's own pair.
        public: The other's public key.
        info: The key's :func:`context`; it has to be the same on both sides.

    Raises:
        ValueError: The public key is none, or one of the few with which every secret is the same.
    """
    x25519 = library("cryptography.hazmat.primitives.asymmetric.x25519")
    try:
        other = x25519.X25519PublicKey.from_public_bytes(public)
        shared = x25519.X25519PrivateKey.from_private_bytes(own.private).exchange(other)
    except ValueError:
        raise ValueError("public: got a key that X25519 does not take, wanted another client's of 32 bytes") from None
    return derive(shared, info)


def derive(secret: bytes, info: bytes) -> bytes:
    """Return a key of 32 bytes that HKDF-SHA256 derives of a secret for one context."""
    hashes = library("cryptography.hazmat.primitives.hashes")
    hkdf = library("cryptography.hazmat.primitives.kdf.hkdf")
    derived: bytes = hkdf.HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)
    return derived


class Keystream:
    """The keystream of ChaCha20 under a key of 32 bytes, which serves one stream only: the nonce is zero.

    Args:
        key: 32 bytes, used for this stream alone.

    Raises:
        ValueError: The key is none.

    Chapter: secure-aggregation. Source: RFC 8439.
    """

    def __init__(self, key: bytes) -> None:
        ciphers = library("cryptography.hazmat.primitives.ciphers")
        check_bytes("key", key)
        self._cipher: Any = ciphers.Cipher(ciphers.algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(f"a {type(self).__name__} is written to no file: it holds a secret")

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        taken: bytes = self._cipher.update(bytes(length))
        return taken


def keystream(key: bytes, length: int) -> Words:
    """Return the first ``length`` words, little-endian, of the :class:`Keystream` under a key that is used once."""
    return np.frombuffer(Keystream(key).take(4 * length), dtype="<u4").astype(np.uint32, copy=False)


def seal(key: bytes, content: bytes, bound: bytes) -> bytes:
    """Return nonce and ciphertext of ChaCha20-Poly1305, bound to a :func:`context` as associated data."""
    aead = library("cryptography.hazmat.primitives.ciphers.aead")
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed: bytes = aead.ChaCha20Poly1305(key).encrypt(nonce, content, bound)
    return nonce + sealed


def unseal(key: bytes, ciphertext: bytes, bound: bytes) -> bytes | None:
    """Return what was sealed; ``None`` if it was not sealed with this key for this context, or not arrived whole."""
    aead = library("cryptography.hazmat.primitives.ciphers.aead")
    exceptions = library("cryptography.exceptions")
    try:
        content: bytes = aead.ChaCha20Poly1305(key).decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], bound)
    except (exceptions.InvalidTag, ValueError):
        return None
    return content


def sign(own: Pair, content: bytes) -> bytes:
    """Return the Ed25519 signature of 64 bytes."""
    ed25519 = library("cryptography.hazmat.primitives.asymmetric.ed25519")
    signature: bytes = ed25519.Ed25519PrivateKey.from_private_bytes(own.private).sign(content)
    return signature


def verified(public: bytes, signature: bytes, content: bytes) -> bool:
    """Return whether it is the signature of this content by the owner of this key."""
    ed25519 = library("cryptography.hazmat.primitives.asymmetric.ed25519")
    exceptions = library("cryptography.exceptions")
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (exceptions.InvalidSignature, ValueError):
        return False
    return True
