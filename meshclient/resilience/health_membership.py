"""Active health where endpoints come and go: what new ones begin as, which of those that
discovery drops stay in use.

Changes flags of the states it is given; looks at nothing else, and keeps nothing.
Source: Envoy, ``BaseDynamicClusterImpl::updateDynamicHostList`` and
``EdsClusterImpl::reloadHealthyHostsHelper``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from meshclient.model.cluster import Cluster, ClusterPolicy
from meshclient.model.endpoint import Endpoint, StaticSource
from meshclient.model.health import (
    FAILED_ACTIVE_HC,
    FAILED_EDS_HEALTH,
    PENDING_ACTIVE_HC,
    PENDING_DYNAMIC_REMOVAL,
)
from meshclient.resilience.health_check import ACTIVE_FLAGS


class CheckedState(Protocol):
    """An endpoint's run-time state, as far as it matters here."""

    endpoint: Endpoint
    flags: int


S = TypeVar("S", bound=CheckedState)


def is_checked(policy: ClusterPolicy, endpoint: Endpoint) -> bool:
    """Whether active checks decide about the endpoint."""
    return bool(policy.health_checks) and endpoint.health_check


def initial_flags(policy: ClusterPolicy, endpoint: Endpoint) -> int:
    """What an endpoint begins with: failed, until its first check passes."""
    if not is_checked(policy, endpoint):
        return 0
    pending = PENDING_ACTIVE_HC if policy.ignore_new_hosts_until_first_hc else 0
    return FAILED_ACTIVE_HC | pending


def settle_membership(old: Sequence[S], states: tuple[S, ...], cluster: Cluster) -> tuple[S, ...]:
    """``states`` (those of ``cluster``'s endpoints) with flags set, and with the ones of
    ``old`` that stay although discovery dropped them.

    ``old`` is what the same policy had before; empty for a new cluster. Call it before the
    balancer is made; control thread only.
    """
    policy = cluster.policy
    if not policy.health_checks:
        return states
    known = {id(state) for state in old}
    for state in states:
        state.flags &= ~PENDING_DYNAMIC_REMOVAL
        if id(state) not in known or not state.endpoint.health_check:
            flags = initial_flags(policy, state.endpoint)
            state.flags = (state.flags & ~ACTIVE_FLAGS) | flags
    return (*states, *_staying(old, states, cluster))


def _staying(old: Sequence[S], states: tuple[S, ...], cluster: Cluster) -> list[S]:
    """A registry that loses endpoints must not take down what still passes its checks.

    What the documents themselves name is dropped with them.
    """
    if cluster.policy.ignore_health_on_host_removal or isinstance(cluster.discovery, StaticSource):
        return []
    listed = {id(state) for state in states}
    staying = []
    for state in old:
        if id(state) not in listed and is_stable(state):
            state.flags |= PENDING_DYNAMIC_REMOVAL
            staying.append(state)
    return staying


def is_stable(state: CheckedState) -> bool:
    """Whether an endpoint that discovery dropped may go on."""
    failed = state.flags & (FAILED_ACTIVE_HC | FAILED_EDS_HEALTH)
    return state.endpoint.health_check and not failed


def without_failed(states: tuple[S, ...]) -> tuple[S, ...]:
    """``states`` without those that were only waiting to fail; the same tuple if there are none."""
    gone = PENDING_DYNAMIC_REMOVAL
    if not any(state.flags & gone and not is_stable(state) for state in states):
        return states
    return tuple(state for state in states if not state.flags & gone or is_stable(state))


__all__ = ["initial_flags", "is_checked", "is_stable", "settle_membership", "without_failed"]
