"""Which endpoint takes the next call.

Pure arithmetic over the states of a cluster's endpoints: no clock, no source
of randomness (``rand`` is an argument), no sockets.
"""

from meshclient.balancing.base import Balancer, Candidate, PickRequest, Rand
from meshclient.balancing.make import make_balancer
from meshclient.balancing.state import EndpointState, carry_over

__all__ = [
    "Balancer",
    "Candidate",
    "EndpointState",
    "PickRequest",
    "Rand",
    "carry_over",
    "make_balancer",
]
