"""What aggregations under encryption have in common: whole-number weights, and keys for one round."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gilearn.defenses.aggregation.tally import Tally
from gilearn.defenses.aggregation.vectors import Layers, layers, tensors
from gilearn.federated import Aggregated, Aggregation, Gradients
from gilearn.federated.aggregation import check_contributions


@dataclass(frozen=True, kw_only=True)
class Encrypted(Aggregation):
    """The base of aggregations under encryption.

    Weights are whole numbers, the clients' numbers of examples divided by what they have in common: the server adds
    multiples of what it cannot read, and clients divide what they decrypt by the sum of the weights.

    Args:
        weighted: Clients weigh as much as they have data, which is ``"mean"``; otherwise all the same, ``"sum"``.

    Chapter: homomorphic-encryption. Source: survey, section 3.3.
    """

    weighted: bool = True

    @property
    def kind(self) -> str:
        """``"mean"`` or ``"sum"``."""
        return "mean" if self.weighted else "sum"

    def aggregate(self, shared: Mapping[int, Gradients], counts: Mapping[int, int], *, number: int) -> Aggregated:
        """Return the mean that clients decrypt. Keys are made anew for every round, and not kept.

        The arguments are those of :meth:`gilearn.federated.Aggregation.aggregate`.

        Raises:
            ValueError: As :func:`gilearn.federated.aggregation.check_contributions`, or what clients share does not fit
                the encoding.
            ImportError: The extra ``defenses`` is not installed.
        """
        counts = check_contributions(shared, counts)
        weights = whole_weights(counts if self.weighted else dict.fromkeys(counts, 1), shared)
        tally, over = Tally(shared), sum(weights.values())
        sums = self.total({k: layers(own) for k, own in shared.items()}, weights, tally)
        mean = tensors([layer / over for layer in sums], next(iter(shared.values())))
        return Aggregated(mean=mean, clients=tuple(shared), cost=tally.cost())

    @abstractmethod
    def total(self, vectors: Mapping[int, Layers], weights: Mapping[int, int], tally: Tally) -> Layers:
        """Return the sum over clients of weight times layer, for every layer, as clients decrypt it.

        Args:
            vectors: What every client contributes.
            weights: Of every client, from 1.
            tally: Keeps the account.
        """


def whole_weights(counts: Mapping[int, int], clients: Iterable[int]) -> dict[int, int]:
    """Return the clients' counts divided by their greatest common divisor: (300, 300, 600) becomes (1, 1, 2)."""
    common = math.gcd(*(counts[k] for k in clients))
    return {k: counts[k] // common for k in clients}
