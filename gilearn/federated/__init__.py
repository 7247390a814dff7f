"""The client's side of federated learning, and the one thing that leaves it: an ``Observation``.

A client computes with its private batch and shares the result. The server keeps what :func:`observe` returns, and every
attack takes that and nothing else: the threat model is a type. What an attack may know beyond what was shared is
declared by name when the observation is made, and is absent otherwise.

``task`` is what a client computes, and an attacker who simulates one; ``defense`` says where a defense can act,
and in which order rows are visited; ``client`` runs one, ``inside`` lets somebody look into it; ``observation`` holds
what leaves it, ``aggregate`` what leaves several; ``aggregation`` is how the server puts contributions together,
``rounds`` its loop, ``vertical`` the one over parties that hold parts of the same examples, ``analytics`` what the
server keeps behind secure aggregation; ``explicit`` makes dropout masks and tokens arguments; ``checks`` refuses what
does not fit.
"""

from gilearn.federated.aggregate import Aggregate, Several
from gilearn.federated.aggregation import AGGREGATIONS, Aggregated, Aggregation, Cost, InTheClear
from gilearn.federated.analytics import ROUNDS_KNOWLEDGE, AggregatedRounds
from gilearn.federated.client import observe
from gilearn.federated.defense import Client, Composition, Defense, Gradients, Visits
from gilearn.federated.inside import observe_inside
from gilearn.federated.observation import KNOWLEDGE, Observation
from gilearn.federated.protocol import Observed
from gilearn.federated.rounds import Round, fedavg
from gilearn.federated.task import LOSSES, LocalSteps, client_gradient, client_update
from gilearn.federated.vertical import vertical_rounds

__all__ = [
    "AGGREGATIONS",
    "KNOWLEDGE",
    "LOSSES",
    "ROUNDS_KNOWLEDGE",
    "Aggregate",
    "Aggregated",
    "AggregatedRounds",
    "Aggregation",
    "Client",
    "Composition",
    "Cost",
    "Defense",
    "Gradients",
    "InTheClear",
    "LocalSteps",
    "Observation",
    "Observed",
    "Round",
    "Several",
    "Visits",
    "client_gradient",
    "client_update",
    "fedavg",
    "observe",
    "observe_inside",
    "vertical_rounds",
]
