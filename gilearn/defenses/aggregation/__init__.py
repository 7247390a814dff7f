"""Protocols that aggregate what clients share so that no server sees any of it (survey, section 3.3).

Each is a :class:`gilearn.federated.Aggregation`, a value of ``fedavg(..., aggregation=...)``. The libraries behind them
are the extra ``defenses``, loaded when a protocol runs.
"""

from gilearn.defenses.aggregation.multiparty import AdditiveSharing, ClippedMean, Mean, SAFELearn

__all__ = ["AdditiveSharing", "ClippedMean", "Mean", "SAFELearn"]
