"""Secure aggregation (Bonawitz et al., 2017): the server learns the sum of the clients' updates, and no single one.

``parties`` has the two state machines and ``messages`` what they send; ``masks``, ``shamir`` and ``primitives`` are
what they compute with, and ``fixed_point`` makes whole numbers of updates. Here all parties run in one process, and
whatever passes from one to another does so as bytes, which are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

from gilearn.defenses.aggregation.fixed_point import MOST_SCALE_BITS, decode, encode
from gilearn.defenses.aggregation.messages import Message, Unmasking
from gilearn.defenses.aggregation.parties import STAGES, Client, Server
from gilearn.defenses.aggregation.primitives import Words, check_words, signing_pair
from gilearn.defenses.aggregation.tally import Tally
from gilearn.federated import Aggregated, Aggregation, Cost, Gradients
from gilearn.federated.aggregation import check_contributions
from gilearn.federated.checks import check_name, check_whole

_Sent = TypeVar("_Sent", bound=Message)


@dataclass(frozen=True, kw_only=True)
class SecureAggregation(Aggregation):
    """Let the server learn the weighted mean over clients, and no client's own update.

    A client's update times its number of examples, in fixed point, with that number behind it, is masked twice: for
    every other client by a mask that the other one takes off again, and by one of its own. The server unmasks the sum
    with shares of secrets that the clients hold of each other. Keys are fresh in every round.

    Args:
        threshold: How many clients have to stay to the end, more than half; ``None``: the least number above two thirds
            of those chosen, which the paper asks for against a server that lies.
        active: Against a server that lies: keys and the list of survivors are signed. The identity keys, which a
            deployment gives out beforehand, are made anew for every round.
        dropouts: For simulation: by the name of a stage, the clients that send nothing at it or later. Stages are
            those of ``parties.STAGES``; who drops out before ``"masked input"`` has sent it is not in the sum.
        scale_bits: Bits after the binary point: the sum is off by half of 2^-scale_bits for each client at most.

    Raises:
        ValueError: A number is out of range, or a stage unknown. In a round: the threshold does not fit the number of
            clients, fewer than the threshold are left, or an update could overflow the ring.
        ImportError: The extra ``defenses`` is not installed.

    Chapter: secure-aggregation. Source: bonawitz2017; survey, section 3.3.
    """

    threshold: int | None = None
    active: bool = True
    dropouts: Mapping[str, Sequence[int]] = field(default_factory=dict, hash=False)
    scale_bits: int = 16

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_whole("threshold", self.threshold)
        check_whole("scale_bits", self.scale_bits)
        if self.scale_bits > MOST_SCALE_BITS:
            raise ValueError(f"scale_bits: got {self.scale_bits}, wanted {MOST_SCALE_BITS} at most")
        if not isinstance(self.dropouts, Mapping):
            raise ValueError(f"dropouts: got {self.dropouts!r}, wanted stages with their clients: {{'keys': (0,)}}")
        for stage, clients in self.dropouts.items():
            check_name("dropouts", stage, STAGES)
            if isinstance(clients, (str, bytes)) or not isinstance(clients, Iterable):
                raise ValueError(f"dropouts[{stage!r}]: got {clients!r}, wanted clients by position: (0, 3)")
            for client in clients:
                check_whole(f"dropouts[{stage!r}]", client, 0)
        object.__setattr__(self, "dropouts", {stage: tuple(clients) for stage, clients in self.dropouts.items()})

    def aggregate(self, shared: Mapping[int, Gradients], counts: Mapping[int, int], *, number: int) -> Aggregated:
        """Return the weighted mean over those whose masked inputs arrived, in fixed point."""
        counts = check_contributions(shared, counts)
        wire = Wire()
        with wire.timed("clients"):
            options = {"clients": len(shared), "scale_bits": self.scale_bits}
            inputs = {k: encode(own, counts[k], **options) for k, own in shared.items()}
        total, clients = self.total(inputs, number=number, wire=wire)
        with wire.timed("server"):
            mean, _ = decode(total, next(iter(shared.values())), scale_bits=self.scale_bits)
        return Aggregated(mean=mean, clients=clients, cost=wire.cost())

    def total(
        self, inputs: Mapping[int, Words], *, number: int, wire: Wire | None = None
    ) -> tuple[Words, tuple[int, ...]]:
        """Run the protocol on words; return their sum modulo 2^32, and whose inputs are in it.

        Args:
            inputs: Of every client, by position, as many words each.
            number: Number of the round.
            wire: What the messages go over, which counts them.

        Raises:
            ValueError: There are no inputs, one is no row of words, they are not of the same length, or as said of the
                class.
        """
        if not isinstance(inputs, Mapping) or not inputs:
            raise ValueError(f"inputs: got a {type(inputs).__name__}, wanted the words of each client, one at least")
        for client, words in inputs.items():
            check_whole("inputs: a client's position", client, 0)
            check_words(f"inputs[{client}]", words)
        if len({len(words) for words in inputs.values()}) > 1:
            raise ValueError(
                f"inputs: got {[len(own) for own in inputs.values()]} words, wanted as many of each client"
            )
        wire = Wire() if wire is None else wire
        everybody = sorted(inputs)
        threshold = 2 * len(everybody) // 3 + 1 if self.threshold is None else self.threshold
        if not len(everybody) < 2 * threshold <= 2 * len(everybody):
            wanted = f"more than half of the {len(everybody)} clients, and not more than all"
            raise ValueError(f"threshold: got {threshold}, wanted {wanted}")
        pairs = {k: signing_pair() for k in everybody} if self.active else {}
        identities = {k: pair.public for k, pair in pairs.items()}
        server = Server(number=number, threshold=threshold, length=len(inputs[everybody[0]]))
        with wire.timed("clients"):
            clients = {
                k: Client(
                    client=k,
                    number=number,
                    threshold=threshold,
                    identity=pairs.get(k),
                    identities=identities if self.active else None,
                )
                for k in everybody
            }
        return self._rounds(clients, server, inputs, wire)

    def _rounds(
        self, clients: Mapping[int, Client], server: Server, inputs: Mapping[int, Words], wire: Wire
    ) -> tuple[Words, tuple[int, ...]]:
        there = self._there("keys", clients)
        with wire.timed("clients"):
            advertised = [wire.up(k, clients[k].advertise()) for k in there]
        with wire.timed("server"):
            directory = server.directory(advertised)
        there = self._there("shares", there)
        with wire.timed("clients"):
            shared = {k: clients[k].share(wire.down(k, directory)) for k in there}
            sent = [([wire.up(k, one) for one in own], wire.up(k, committed)) for k, (own, committed) in shared.items()]
        with wire.timed("server"):
            inbox = server.deliver(sent)
        there = self._there("masked input", there)
        with wire.timed("clients"):
            masked = [wire.up(k, clients[k].mask(inputs[k], [wire.down(k, one) for one in inbox[k]])) for k in there]
        with wire.timed("server"):
            survivors = server.survivors(masked)
        confirmations = None
        if self.active:
            there = self._there("confirmation", there)
            with wire.timed("clients"):
                signed = [wire.up(k, clients[k].confirm(wire.down(k, survivors))) for k in there]
            with wire.timed("server"):
                confirmations = server.confirmations(signed)
        there = self._there("unmasking", there)
        unmaskings: list[Unmasking] = []
        with wire.timed("clients"):
            for k in there:
                list_ = survivors if self.active else wire.down(k, survivors)
                signatures = None if confirmations is None else wire.down(k, confirmations)
                unmaskings.append(wire.up(k, clients[k].unmask(list_, signatures)))
        with wire.timed("server"):
            return server.total(unmaskings), survivors.clients

    def _there(self, stage: str, clients: Mapping[int, Client] | Sequence[int]) -> list[int]:
        gone = {k for name in STAGES[: STAGES.index(stage) + 1] for k in self.dropouts.get(name, ())}
        return [k for k in clients if k not in gone]


class Wire:
    """What messages go over, as bytes: it counts them, and the parties' seconds of processor time.

    Chapter: secure-aggregation.
    """

    def __init__(self) -> None:
        self._tally = Tally()

    def up(self, client: int, message: _Sent) -> _Sent:
        """Carry a message from a client to the server."""
        data = message.to_bytes()
        self._tally.sent(client, type(message).__name__, len(data))
        return type(message).from_bytes(data)

    def down(self, client: int, message: _Sent) -> _Sent:
        """Carry a message from the server to a client."""
        data = message.to_bytes()
        self._tally.received(type(message).__name__, len(data), [client])
        return type(message).from_bytes(data)

    def timed(self, party: str) -> AbstractContextManager[None]:
        """Count the seconds of what is inside."""
        return self._tally.timed(party)

    def cost(self) -> Cost:
        """Return what went over it so far."""
        return self._tally.cost()
