"""The account of a round: who sent and received how many bytes, and which party computed how long."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from gilearn.federated import Cost


class Tally:
    """What a round costs: bytes by client and kind, seconds of processor time by party.

    Args:
        clients: Who takes part, by position; who neither sends nor receives stands in the account with 0.
    """

    def __init__(self, clients: Iterable[int] = ()) -> None:
        self.clients = tuple(clients)
        self.up, self.down = (Counter(dict.fromkeys(self.clients, 0)) for _ in range(2))
        self.messages: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def sent(self, client: int, kind: str, size: int) -> None:
        """Count a message of a client."""
        self.up[client] += size
        self.messages[kind] += size

    def received(self, kind: str, size: int, clients: Iterable[int] | None = None) -> None:
        """Count a message to each of these clients, by default to all."""
        for client in self.clients if clients is None else clients:
            self.down[client] += size
            self.messages[kind] += size

    @contextmanager
    def timed(self, party: str, *, times: int = 1) -> Iterator[None]:
        """Count the time that the block takes; ``times``: as many clients do the same, and it is done once."""
        began = time.process_time()
        yield
        self.seconds[party] += times * (time.process_time() - began)

    def cost(self) -> Cost:
        """Return the account."""
        return Cost(up=self.up, down=self.down, messages=self.messages, seconds=self.seconds)
