"""Aggregations that hide what single clients contribute (survey, section 3.3): a server learns the sum, or not even it.

Each is a :class:`gilearn.federated.Aggregation`: ``fedavg(..., aggregation=Paillier())`` runs it every round. Their
libraries are those of the extra ``defenses``, loaded when a round needs them.
"""

from gilearn.defenses.aggregation.batchcrypt import BatchCrypt
from gilearn.defenses.aggregation.ckks import CKKS
from gilearn.defenses.aggregation.paillier import Paillier

__all__ = ["CKKS", "BatchCrypt", "Paillier"]
