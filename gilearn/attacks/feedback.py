"""Against error feedback: what a compressor left out of one upload it sends in the next ones, and a server adds up."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gilearn.federated import Observation


def accumulated(uploads: Sequence[Observation]) -> Observation:
    """Return the observation of the mean of one client's uploads, as if it had shared that.

    With error feedback the uploads of rounds 1 to T add up to the gradients of these rounds less what the client still
    keeps: sum C(p_t) = sum g_t - e_T. Where the batch is the same every time, and the same model went out, their mean
    is the gradient less e_T / T. Where the model moved in between, it is the mean of the gradients along the way, less
    the same, in which a fully connected first layer's entries still divide to the input of a single example.

    Args:
        uploads: Of one client, from the first round on, in order.

    Returns:
        The first observation, with the mean in the place of what was shared, and no declared defense.

    Raises:
        ValueError: There are no uploads, one is no observation, or they differ in shape or in what is withheld.

    Chapter: compression. Source: karimireddy2019, for the sum.
    """
    if not isinstance(uploads, Sequence) or not uploads:
        raise ValueError(f"uploads: got {uploads!r}, wanted at least one Observation")
    for upload in uploads:
        if not isinstance(upload, Observation):
            raise ValueError(f"uploads: got a {type(upload).__name__}, wanted an Observation each")
    shapes = [[None if g is None else tuple(g.shape) for g in upload.shared] for upload in uploads]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("uploads: they differ in shape or in what is withheld, wanted those of one client")
    means = tuple(
        None if given[0] is None else torch.stack([g.double() for g in given if g is not None]).mean(0).to(given[0])
        for given in zip(*(upload.shared for upload in uploads), strict=True)
    )
    first = uploads[0]
    known = {name: value for name, value in first.knowledge.items() if name != "defense"}
    return first.replace(shared=means, knowledge=known)
