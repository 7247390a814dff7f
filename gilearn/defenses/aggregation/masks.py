"""The masks of secure aggregation: those of pairs cancel in the sum, and each client has one of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gilearn.defenses.aggregation.primitives import Pair, Words, agree, check_words, context, derive, keystream


def pair_mask(own: Pair, public: bytes, number: int, client: int, other: int, length: int) -> Words:
    """Return what a client adds to its words on account of another client, modulo 2^32.

    Both expand the key that they agree on; the one whose number is smaller adds it, and the other one subtracts it.

    Args:
        own: The client's mask keys.
        public: The other's.
        number: Number of the round: the mask of another round is another.
        client: The client.
        other: The other client.
        length: Number of words.

    Chapter: secure-aggregation. Source: bonawitz2017, section 4.
    """
    info = context("pair mask", number, min(client, other), max(client, other))
    stream = keystream(agree(own, public, info), length)
    return stream if client < other else np.negative(stream)


def self_mask(seed: bytes, number: int, client: int, length: int) -> Words:
    """Return what a client adds to its words on its own account: nobody else knows the seed of 32 bytes."""
    return keystream(derive(seed, context("self mask", number, client)), length)


def commitment(seed: bytes, number: int, client: int) -> bytes:
    """Return 32 bytes that tell whether a seed is the one that the self mask was made of, and nothing of the mask."""
    return derive(seed, context("commitment", number, client))


def masked(words: Words, seed: bytes, own: Pair, others: Mapping[int, bytes], number: int, client: int) -> Words:
    """Return a client's masked input: its words, its self mask and its pair masks, modulo 2^32.

    Args:
        words: The input.
        seed: Of the self mask.
        own: The client's mask keys.
        others: Public mask keys of the other clients.
        number: Number of the round.
        client: The client.

    Raises:
        ValueError: The input is no row of words.

    Chapter: secure-aggregation. Source: bonawitz2017, section 4.
    """
    check_words("words", words)
    total = words + self_mask(seed, number, client, len(words))
    for other, public in others.items():
        total += pair_mask(own, public, number, client, other, len(words))
    return total
