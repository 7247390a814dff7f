"""The client's side of federated learning, and the one thing that leaves it: an ``Observation``.

A client computes with its private batch and shares the result. The server keeps what :func:`observe` returns, and every
attack takes that and nothing else: the threat model is a type. What an attack may know beyond the shared gradients is
declared by name when the observation is made, and is absent otherwise.

``client`` computes (one gradient, or several local steps), ``observation`` holds what leaves, ``rounds`` is the
server's loop, ``checks`` refuses what does not fit.
"""

from gilearn.federated.client import LOSSES, LocalSteps, client_gradient, client_update
from gilearn.federated.observation import KNOWLEDGE, Observation, from_gradients, load, observe
from gilearn.federated.rounds import Round, rounds

__all__ = [
    "KNOWLEDGE",
    "LOSSES",
    "LocalSteps",
    "Observation",
    "Round",
    "client_gradient",
    "client_update",
    "from_gradients",
    "load",
    "observe",
    "rounds",
]
