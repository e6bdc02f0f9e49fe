"""From a cluster's load-balancing settings to the policy that serves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshclient.balancing.base import Balancer
from meshclient.balancing.client_side_weighted import reweigh
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.memory import WHOLE, Memory
from meshclient.balancing.parts import Parts
from meshclient.balancing.random_subset import random_subset
from meshclient.balancing.slow_start import note_first_health, slow_start_of
from meshclient.balancing.standing import Standing
from meshclient.balancing.state import EndpointState
from meshclient.balancing.subset import Subsets
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import NO_LOCALITY, Locality
from meshclient.model.load_balancing import SubsetSelection


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
    waiting = note_first_health(settings, states, before.known, before.waiting, now)
    slow_start = slow_start_of(settings, states, now)

    def stand(members: Sequence[EndpointState]) -> Standing:
        return Standing(cluster, members, node, local, slow_start, now)

    standing = stand(states)
    standing.all_states = everything
    if settings.subsets is None:
        balancer = Parts(standing, before, seed).balancer()
    else:
        balancer = _by_subsets(settings.subsets, standing, stand, before, seed, previous)
    if waiting is not None and balancer.memory is not None:
        balancer.memory.known, balancer.memory.waiting = frozenset(states), waiting
    return balancer


def _by_subsets(
    selection: SubsetSelection,
    standing: Standing,
    stand: Callable[[Sequence[EndpointState]], Standing],
    before: Memory,
    seed: int,
    previous: Balancer | None,
) -> Balancer:
    """Every subset has priorities, panic and places of its own, as in Envoy."""

    def serve(members: Sequence[EndpointState], last: Balancer | None) -> Balancer:
        return Parts(stand(members), _memory_of(last, before.seed), seed).balancer()

    eligibility = Eligibility(standing.states, None, standing)
    balancer = Subsets(eligibility, before.turns_of(WHOLE), selection, serve, previous)
    balancer.memory = before.successor()
    balancer.salt = before.seed
    return balancer


def _memory_of(previous: Balancer | None, seed: int) -> Memory:
    if previous is None:
        return Memory(seed)
    return previous.memory or Memory(previous.salt or seed, previous.turns)


__all__ = ["make_balancer"]
