"""Defenses of the aggregation (survey, section 3.3): the server learns a sum, or not even it, and no single share.

Each is a :class:`gilearn.federated.Aggregation`: ``fedavg(..., aggregation=SecureAggregation())`` runs it every round.
The libraries behind them are the extra ``defenses``; this package is imported by name, and loads none of them until a
protocol runs.
"""

from gilearn.defenses.aggregation.batchcrypt import BatchCrypt
from gilearn.defenses.aggregation.ckks import CKKS
from gilearn.defenses.aggregation.multiparty import AdditiveSharing, ClippedMean, Mean, SAFELearn
from gilearn.defenses.aggregation.paillier import Paillier
from gilearn.defenses.aggregation.secure import SecureAggregation

__all__ = ["CKKS", "AdditiveSharing", "BatchCrypt", "ClippedMean", "Mean", "Paillier", "SAFELearn", "SecureAggregation"]
