"""Which connections a change of policy lets go of.

Compares what the old and the new plane say of each endpoint's connections. Closes
nothing itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from meshclient.transport.proxy import parse_proxy
from meshclient.transport.tls_context import RotatingContext
from meshclient.transport.tls_policy import context_of, fixed_name

if TYPE_CHECKING:
    from meshclient.balancing import EndpointState
    from meshclient.cluster_state import ClusterState
    from meshclient.plane import Plane
    from meshclient.transport.interface import Target

#: Address, port, options and limits; the policy's TLS context, server name (empty: the
#: request's host) and proxy.
Place = tuple[Any, ...]


def places_of(plane: Plane) -> set[Place]:
    """Where and how the plane's calls connect."""
    places: set[Place] = set()
    for cluster in plane.clusters.values():
        places |= places_of_endpoints(cluster, cluster.states)
    return places


def places_of_endpoints(cluster: ClusterState, states: Iterable[EndpointState]) -> set[Place]:
    """Where and how calls of ``cluster`` connect to some of its endpoints."""
    places: set[Place] = set()
    *terms, proxy = _terms(cluster)
    lanes = [cluster.shared.get("connections")]
    if "connections" in cluster.high.shared:
        lanes.append(cluster.high.shared["connections"])
    for state in states:
        address, port = state.endpoint.address, state.endpoint.port
        # A unix socket is on this machine, and needs no proxy.
        via = None if address.startswith("unix:") else proxy
        for slots in lanes:
            places.add((address, port, terms[0], slots, *terms[1:], via))
    return places


def _terms(cluster: ClusterState) -> tuple[Any, ...]:
    policy = cluster.cluster.policy
    tls, context, name = policy.tls, None, ""
    if tls is not None and tls.mode != "disable":
        context, name = context_of(cluster.cluster), fixed_name(cluster.cluster, tls)
    proxy = parse_proxy(policy.proxy) if policy.proxy else None
    return policy.connection, context, name, proxy


def lets_go(target: Target, gone: Collection[Place], kept: Collection[Place]) -> bool:
    """Whether no call dials ``target`` any more.

    What a target says of its server name and proxy may be the policy's word or the
    caller's; the policy's comes first.
    """
    exact, *loose = _readings(target)
    if exact in gone:
        return True
    return exact not in kept and any(place in gone for place in loose)


def _readings(target: Target) -> list[Place]:
    """How the target may have come about, the policy's own words first."""
    tls, proxy = target.tls, target.proxy
    context, name = None, ""
    if tls is not None and isinstance(tls.context, RotatingContext):
        context, name = tls.context, tls.server_hostname
    base = (target.address, target.port, target.options, target.connections, context)
    return [(*base, n, p) for p in dict.fromkeys((proxy, None)) for n in dict.fromkeys((name, ""))]


__all__ = ["Place", "lets_go", "places_of", "places_of_endpoints"]
