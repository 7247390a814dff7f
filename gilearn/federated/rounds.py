"""The server's loop: send the model out, collect updates, average them, repeat."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from gilearn.federated.client import LocalSteps, client_update


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of federated learning leaves on the server.

    Args:
        number: Number of the round, from 1.
        model: The global model after the round.
        updates: What each chosen client shared, by its position: one tensor per parameter, weights before minus after.
    """

    number: int
    model: nn.Module = field(repr=False)
    updates: Mapping[int, tuple[Tensor | None, ...]] = field(repr=False)


def rounds(
    model: nn.Module,
    clients: Sequence[tuple[Tensor, Tensor]],
    local: LocalSteps,
    *,
    number: int,
    per_round: int | None = None,
    loss: str = "cross_entropy",
    seed: int = 0,
) -> Iterator[Round]:
    """Train a model over clients by federated averaging, one round at a time.

    With ``LocalSteps(steps=1, lr=...)`` over all of a client's data, averaging updates is averaging gradients: FedSGD.

    Args:
        model: The model to start from. It is not changed.
        clients: Inputs and labels of each client.
        local: The schedule of local steps.
        number: How many rounds.
        per_round: How many clients take part in a round, drawn anew each time; ``None`` for all.
        loss: A key of :data:`gilearn.federated.LOSSES`.
        seed: Seeds the choice of clients.

    Yields:
        A :class:`Round` each. Clients weigh as much as they have data.

    Raises:
        ValueError: There are no clients, or ``number`` or ``per_round`` is out of range.

    Chapter: federated-learning. Source: mcmahan2017, algorithm 1.
    """
    per_round = len(clients) if per_round is None else per_round
    if not 1 <= per_round <= len(clients):
        raise ValueError(f"per_round: got {per_round}, wanted 1 to the number of clients, {len(clients)}")
    if number < 1:
        raise ValueError(f"number: got {number}, wanted at least 1")
    generator = np.random.default_rng(seed)
    model = copy.deepcopy(model)
    for current in range(1, number + 1):
        chosen = sorted(generator.permutation(len(clients))[:per_round].tolist())
        at_clients = {k: copy.deepcopy(model) for k in chosen}
        updates = {k: client_update(at_clients[k], clients[k][0], clients[k][1], local, loss=loss) for k in chosen}
        counts = torch.tensor([float(len(clients[k][0])) for k in chosen])
        model = _moved(model, updates, at_clients, dict(zip(chosen, (counts / counts.sum()).tolist(), strict=True)))
        yield Round(number=current, model=model, updates=updates)


@torch.no_grad()
def _moved(
    model: nn.Module,
    updates: Mapping[int, tuple[Tensor | None, ...]],
    at_clients: Mapping[int, nn.Module],
    shares: Mapping[int, float],
) -> nn.Module:
    model = copy.deepcopy(model)
    for k, update in updates.items():
        for parameter, change in zip(model.parameters(), update, strict=True):
            if change is not None:
                parameter.sub_(shares[k] * change)
    # Batch normalization's running statistics are no parameters; the server averages what the clients arrive at.
    for buffers in zip(model.buffers(), *(at_clients[k].buffers() for k in updates), strict=True):
        mean = sum(share * buffer.double() for share, buffer in zip(shares.values(), buffers[1:], strict=True))
        buffers[0].copy_(torch.as_tensor(mean))
    return model
