"""From a cluster's load-balancing settings to the policy that serves them."""

from __future__ import annotations

from collections.abc import Sequence

from meshclient.balancing.base import Balancer
from meshclient.balancing.client_side_weighted import reweigh
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.memory import WHOLE, Memory
from meshclient.balancing.parts import Parts
from meshclient.balancing.random_subset import random_subset
from meshclient.balancing.slow_start import has_slow_start, note_first_health, slow_start_of
from meshclient.balancing.standing import Standing
from meshclient.balancing.state import EndpointState
from meshclient.balancing.subset import Subsets
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import NO_LOCALITY, Locality


def make_balancer(
    cluster: Cluster,
    states: Sequence[EndpointState],
    seed: int,
    previous: Balancer | None = None,
    now: float = 0.0,
    local: Sequence[EndpointState] | None = None,
    node: Locality = NO_LOCALITY,
) -> Balancer:
    """The balancer of ``cluster`` over ``states`` (see ``carry_over``).

    ``seed`` is one unsigned 64-bit number; it sets where rotations start.
    ``previous`` is the balancer of the version before, given only when its
    policy compares equal: its positions, schedules and statistics go on.
    ``now`` is monotonic seconds. ``local`` are the endpoints of the caller's own service
    and ``node`` is the caller's place, for zone-aware routing. Policies that nobody
    serves (passthrough) are served as least_request, Istio's default. Called on the
    control thread whenever endpoints, weights or flags changed; never in a call.
    """
    settings = cluster.policy.load_balancing
    before = _memory_of(previous, seed)
    everything = tuple(states)
    states = random_subset(everything, settings.subset_size, before.seed)
    if settings.policy == "client_side_weighted_round_robin":
        reweigh(states, settings.orca, now)
    waiting: frozenset[EndpointState] = frozenset()
    if has_slow_start(settings):
        waiting = note_first_health(states, before.known, before.waiting, now)
    slow_start = slow_start_of(settings, states, now)

    def serve(members: Sequence[EndpointState], last: Balancer | None) -> Balancer:
        standing = Standing(cluster, members, node, local, slow_start, now)
        return Parts(standing, _memory_of(last, before.seed), seed).balancer()

    standing = Standing(cluster, states, node, local, slow_start, now)
    standing.all_states = everything
    balancer: Balancer
    if settings.subsets is None:
        balancer = Parts(standing, before, seed).balancer()
    else:
        eligibility = Eligibility(states, None, standing)
        turns = before.turns_of(WHOLE)
        balancer = Subsets(eligibility, turns, settings.subsets, serve, previous)
        balancer.memory = before.successor()
        balancer.salt = before.seed
    if balancer.memory is not None and has_slow_start(settings):
        balancer.memory.known, balancer.memory.waiting = frozenset(states), waiting
    return balancer


def _memory_of(previous: Balancer | None, seed: int) -> Memory:
    if previous is None:
        return Memory(seed)
    return previous.memory or Memory(previous.salt or seed, previous.turns)


__all__ = ["make_balancer"]
