"""From a cluster's load-balancing settings to the policy that serves them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from meshclient.balancing.base import Balancer
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.least_request import LeastRequest, WeightedLeastRequest
from meshclient.balancing.random_pick import RandomPick
from meshclient.balancing.round_robin import RoundRobin, WeightedRoundRobin
from meshclient.balancing.single import Single
from meshclient.balancing.state import EndpointState
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import NO_LOCALITY, Locality


def make_balancer(
    cluster: Cluster,
    states: Sequence[EndpointState],
    seed: int,
    previous: Balancer | None = None,
    now: float = 0.0,  # noqa: ARG001
    local: Sequence[EndpointState] | None = None,  # noqa: ARG001
    node: Locality = NO_LOCALITY,  # noqa: ARG001
) -> Balancer:
    """The balancer of ``cluster`` over ``states`` (see ``carry_over``).

    ``seed`` is one unsigned 64-bit number; it sets where the rotation starts.
    ``previous`` is the balancer of the version before, given only when its
    policy compares equal: its round-robin position goes on. Policies that are
    not round_robin or random are served as least_request, Istio's default.
    """
    eligibility = Eligibility(states)
    turns = previous.turns if previous is not None else count(seed)
    settings = cluster.policy.load_balancing
    if len(eligibility.states) < 2:
        return Single(eligibility, turns, settings.policy)
    if settings.policy == "random":
        return RandomPick(eligibility, turns)
    weighted = not eligibility.equal_weights()
    if settings.policy == "round_robin":
        if weighted:
            return WeightedRoundRobin(eligibility, turns, seed, previous)
        return RoundRobin(eligibility, turns)
    if weighted:
        bias_milli = settings.active_request_bias_milli
        return WeightedLeastRequest(eligibility, turns, seed, bias_milli)
    return LeastRequest(eligibility, turns, settings.choice_count)


__all__ = ["make_balancer"]
