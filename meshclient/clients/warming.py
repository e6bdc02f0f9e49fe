"""Which endpoints get connections before a call asks for one, in the plane's terms.

Knows clusters, hosts and health; opens nothing itself: that is the engines' business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from meshclient.model.health import UNHEALTHY
from meshclient.model.request import head_of
from meshclient.model.routes import ForwardAction
from meshclient.transport.preconnect import Neighbour, sibling

if TYPE_CHECKING:
    from meshclient.balancing import EndpointState
    from meshclient.clients.factory import Engines
    from meshclient.clients.runtime import Runtime
    from meshclient.cluster_state import ClusterState
    from meshclient.plane import Plane
    from meshclient.transport.interface import Target


#: Where a cluster's newest state is found by what belongs to an older one.
_CURRENT = "current state"

#: Most connections to one endpoint that can be asked for.
MAX_CONNECTIONS = 64


class ClusterNeighbours:
    """What an engine may ask about one endpoint. Thread-safe: it only reads."""

    __slots__ = ("_cluster", "_state")

    def __init__(self, cluster: ClusterState, state: EndpointState) -> None:
        self._cluster = cluster
        self._state = state

    def is_healthy(self) -> bool:
        """What discovery, checks and outlier detection say of it now."""
        return not self._state.flags & UNHEALTHY

    def targets(self, model: Target) -> list[Target]:
        """The cluster's endpoints that may get traffic, dialled as ``model`` is."""
        # A target may be older than the cluster's newest endpoints.
        current = self._cluster.shared.get(_CURRENT, self._cluster)
        return [sibling(model, *newcomer) for newcomer in newcomers(current)]


def newcomers(cluster: ClusterState, known: Iterable[tuple[str, int]] = ()) -> Iterator[Neighbour]:
    """The endpoints that may get traffic, but for those at the addresses ``known``."""
    skip = frozenset(known)
    for candidate in cluster.balancer.candidates():
        state = candidate.state
        if not candidate.excluded and (state.endpoint.address, state.endpoint.port) not in skip:
            yield state.endpoint, ClusterNeighbours(cluster, state)


def tell_of_newcomers(engines: Iterable[Any], previous: Plane, plane: Plane) -> None:
    """Have endpoints that joined a cluster in use kept warm where its others are."""
    for name, cluster in plane.clusters.items():
        options = cluster.cluster.policy.connection
        old = previous.clusters.get(name)
        if not options.warm_up or old is None or old is cluster or old.shared is not cluster.shared:
            continue
        cluster.shared[_CURRENT] = cluster
        slots = cluster.shared.get("connections")
        known = {(state.endpoint.address, state.endpoint.port) for state in old.states}
        joined = list(newcomers(cluster, known))
        places = frozenset((*address, options, slots) for address in known)
        for engine in engines if joined else ():
            if hasattr(engine, "join"):  # the engines for comparison keep nothing warm
                engine.join(places, joined)


def clusters_of(plane: Plane, host: str) -> list[ClusterState]:
    """The clusters that calls to ``host`` (``name`` or ``name:port``) may reach.

    Raises ValueError for a host that no policy knows.
    """
    head = head_of("GET", f"http://{host}/", None)
    found = plane.find_host(head.port, head.authority)
    if found is None:
        raise ValueError(f"no policy knows the host {host!r}")
    names = {
        weighted.cluster: None
        for route in found.virtual_host.routes
        if isinstance(route.action, ForwardAction)
        for weighted in route.action.clusters
    }
    states = (plane.clusters.get(name) for name in names)
    return [state for state in states if state is not None and not state.is_dialled]


def ready_targets(plane: Plane, host: str, connections: int | None) -> dict[int, list[Target]]:
    """What ``http://host/`` calls dial, by how many connections each is to have.

    ``connections`` None: as many as the policy's ``warm_up`` says, at least one.
    """
    from meshclient.clients.http_common import policy_target

    wanted: dict[int, list[Target]] = {}
    for cluster in clusters_of(plane, host):
        if cluster.refusal:
            continue
        count = connections or max(1, cluster.cluster.policy.connection.warm_up)
        make = partial(policy_target, cluster, host)
        for candidate in cluster.balancer.candidates():
            if not candidate.excluded:
                wanted.setdefault(count, []).append(make(candidate.state))
    return wanted


def warm_up(
    runtime: Runtime, engines: Engines, host: str, connections: int | None, timeout: float
) -> bool:
    """See ``Mesh.warm_up``."""
    _check(engines, connections, timeout)
    engine = engines.get("sync")
    limit = time.monotonic() + timeout
    found = True
    for count, targets in ready_targets(runtime.current(), host, connections).items():
        found = engine.warm(targets, count, max(0.0, limit - time.monotonic())) and found
    return found


async def async_warm_up(
    runtime: Runtime, engines: Engines, host: str, connections: int | None, timeout: float
) -> bool:
    """See ``Mesh.async_warm_up``."""
    _check(engines, connections, timeout)
    engine = engines.get("async")
    if asyncio._get_running_loop() is None:
        raise RuntimeError("connections are opened ahead of calls on asyncio loops only")
    found = True
    try:
        async with asyncio.timeout(timeout):
            for count, targets in ready_targets(runtime.current(), host, connections).items():
                found = await engine.warm(targets, count) and found
    except TimeoutError:
        return False
    return found


def _check(engines: Engines, connections: int | None, timeout: float) -> None:
    if connections is not None and not 1 <= connections <= MAX_CONNECTIONS:
        raise ValueError(f"connections is 1 to {MAX_CONNECTIONS}, not {connections!r}")
    if not timeout > 0:
        raise ValueError(f"timeout is a number of seconds above 0, not {timeout!r}")
    if engines.name != "meshclient":
        raise RuntimeError(f"the engine {engines.name!r} opens no connection ahead of calls")


__all__ = [
    "MAX_CONNECTIONS",
    "ClusterNeighbours",
    "async_warm_up",
    "clusters_of",
    "newcomers",
    "ready_targets",
    "tell_of_newcomers",
    "warm_up",
]
