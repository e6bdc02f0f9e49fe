"""The data plane that calls read: one snapshot, compiled, with its run-time state.

Built on the control thread, swapped by one reference, never changed afterwards
except for the counters inside the cluster states, which outlive an update. No
clock, no I/O, no client library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from meshclient.breakers import BreakerStates
from meshclient.cluster_state import Building, ClusterState, DialledClusterState
from meshclient.filters import FilterStates
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import OriginalDestination
from meshclient.model.routes import RouteConfiguration
from meshclient.model.snapshot import ANY_PORT, Snapshot
from meshclient.resilience import RetryLimiter, ServiceBudget, shared_as
from meshclient.routing import CompiledHost, RouteTable

#: Name of the cluster of hosts that no policy knows, as Istio calls it.
PASSTHROUGH = "PassthroughCluster"


class Plane:
    """Everything a call reads. Immutable once built; safe to share by threads."""

    __slots__ = (
        "any_port",
        "breakers",
        "budgets",
        "clusters",
        "filters",
        "passthrough",
        "snapshot",
        "source_ip",
        "tables",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        tables: Mapping[int, RouteTable],
        clusters: Mapping[str, ClusterState],
        passthrough: ClusterState,
        filters: FilterStates,
    ) -> None:
        self.snapshot = snapshot
        self.tables = tables
        self.any_port = tables.get(ANY_PORT)
        self.clusters = clusters
        self.passthrough = passthrough
        self.filters = filters
        #: The circuit breakers of clusters, endpoints and routes; set when it is built.
        self.breakers = BreakerStates()
        #: The retry budgets that clusters of a service share; set when it is built.
        self.budgets: dict[ServiceBudget, RetryLimiter] = {}
        #: The caller's own address, for routes that hash it; put here by the mesh.
        self.source_ip = ""

    def find_host(self, port: int, authority: str) -> CompiledHost | None:
        """The virtual host for what was dialled, or None if no policy knows it."""
        table = self.tables.get(port, self.any_port)
        return None if table is None else table.find_host(authority)

    def tended(self) -> list[ClusterState]:
        """The clusters that need to be looked after from time to time."""
        return [state for state in self.clusters.values() if state.due_at is not None]

    @property
    def hashes_source(self) -> bool:
        """Whether a route hashes the caller's own address."""
        return any(
            policy.kind == "source_ip"
            for table in self.tables.values()
            for host in table.hosts
            for compiled in host.routes
            for policy in compiled.forward.hash_policy
        )

    def __repr__(self) -> str:
        return f"<Plane of {self.snapshot!r}>"


def build_plane(
    snapshot: Snapshot,
    previous: Plane | None,
    seed: Callable[[], int],
    wall_clock: Callable[[], float] | None = None,
    *,
    building: Building | None = None,
) -> Plane:
    """Compile ``snapshot``, taking over from ``previous`` whatever still holds.

    Route tables are reused where the configuration is the same object (one that
    is merely equal may stand on other lines); endpoint states (in-flight
    counts) where address and cluster policy compare equal. ``seed`` gives a fresh
    unsigned 64-bit number per call, ``wall_clock`` Unix seconds for header values that
    name the time. ``building`` says more, where there is more to say.
    """
    building = building or Building(seed, locality=snapshot.node.locality)
    tables = {
        port: _table(port, configuration, previous, wall_clock)
        for port, configuration in snapshot.route_configurations.items()
    }
    old = previous.clusters if previous else {}
    clusters = {
        name: _cluster_state(cluster, building, old.get(name))
        for name, cluster in snapshot.clusters.items()
    }
    _tell_local(clusters, building.now)
    passthrough = previous.passthrough if previous else _passthrough(building)
    filters = _filters(tables, previous.filters if previous else None)
    plane = Plane(snapshot, tables, clusters, passthrough, filters)
    plane.budgets = _share_budgets(clusters, previous.budgets if previous else {})
    plane.breakers = _breakers(plane, building, previous.breakers if previous else None)
    return plane


def forked_plane(
    plane: Plane,
    seed: Callable[[], int],
    *,
    building: Building | None = None,
) -> Plane:
    """``plane`` for the child of a fork: same tables, no request in flight, new locks."""
    building = building or Building(seed, locality=plane.snapshot.node.locality)
    clusters = {
        name: _cluster_state(state.cluster, building, None)
        for name, state in plane.clusters.items()
    }
    _tell_local(clusters, building.now)
    filters = _filters(plane.tables, None)
    child = Plane(plane.snapshot, plane.tables, clusters, _passthrough(building), filters)
    child.source_ip = plane.source_ip
    child.budgets = _share_budgets(clusters, {})
    child.breakers = _breakers(child, building, None)
    return child


def _share_budgets(
    clusters: Mapping[str, ClusterState], old: Mapping[ServiceBudget, RetryLimiter]
) -> dict[ServiceBudget, RetryLimiter]:
    """Give the clusters of each service the one limiter of its budget, where it has such one."""
    found: dict[ServiceBudget, RetryLimiter] = {}
    for state in clusters.values():
        cluster = state.cluster
        for lane in (state.lane, state.high):
            key = shared_as(cluster.service or cluster.name, cluster.port, lane.limits)
            if key is not None:
                lane.use(found.setdefault(key, old.get(key, lane.limiter)))
    return found


def _breakers(plane: Plane, building: Building, previous: BreakerStates | None) -> BreakerStates:
    breakers = BreakerStates(previous, building.tell, building.circuits)
    for state in plane.clusters.values():
        breakers.attach(state)
    for table in plane.tables.values():
        breakers.install(table)
    breakers.seal()
    return breakers


def _filters(tables: Mapping[int, RouteTable], previous: FilterStates | None) -> FilterStates:
    filters = FilterStates(previous)
    for table in tables.values():
        filters.install(table)
    filters.seal()
    return filters


def _tell_local(clusters: Mapping[str, ClusterState], now: float) -> None:
    """Give zone-aware clusters the endpoints of the caller's own service."""
    comparing: dict[int, list[ClusterState]] = {}
    for state in clusters.values():
        own = state.cluster.policy.topology.local_service
        if own:
            local = _cluster_of(own, clusters)
            state.set_local(None if local is None else local.states, now)
            if local is not None and local is not state:
                comparing.setdefault(id(local), []).append(state)
    for state in clusters.values():
        state.compared_by = comparing.get(id(state), ())


def _cluster_of(service: str, clusters: Mapping[str, ClusterState]) -> ClusterState | None:
    for state in clusters.values():
        if service in (state.cluster.name, state.cluster.service) and not state.cluster.subset:
            return state
    return None


def _table(
    port: int,
    configuration: RouteConfiguration,
    previous: Plane | None,
    wall_clock: Callable[[], float] | None,
) -> RouteTable:
    configurations = previous.snapshot.route_configurations if previous else {}
    if previous is not None and configurations.get(port) is configuration:
        return previous.tables[port]
    return RouteTable(configuration, wall_clock)


def _cluster_state(
    cluster: Cluster, building: Building, previous: ClusterState | None
) -> ClusterState:
    if previous is not None and previous.cluster is cluster:
        return previous
    if isinstance(cluster.discovery, OriginalDestination):
        return DialledClusterState(cluster, building, previous)
    return ClusterState(cluster, building, previous)


def _passthrough(building: Building) -> ClusterState:
    cluster = Cluster(name=PASSTHROUGH, discovery=OriginalDestination())
    return DialledClusterState(cluster, building, None)
