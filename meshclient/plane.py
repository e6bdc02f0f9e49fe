"""The data plane that calls read: one snapshot, compiled, with its run-time state.

Built on the control thread, swapped by one reference, never changed afterwards
except for the counters inside the cluster states, which outlive an update. No
clock, no I/O, no client library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import Endpoint, OriginalDestination
from meshclient.model.routes import RouteConfiguration
from meshclient.model.snapshot import ANY_PORT, Snapshot
from meshclient.resilience import RequestLimit, RetryLimiter, request_limit
from meshclient.routing import CompiledHost, RouteTable

#: Name of the cluster of hosts that no policy knows, as Istio calls it.
PASSTHROUGH = "PassthroughCluster"

#: Endpoints remembered per pass-through cluster; idle ones make room for new ones.
MAX_DIALLED_ENDPOINTS = 1024


class ClusterState:
    """A cluster of one snapshot with the state its calls share.

    ``refusal`` is set when calls must not be made at all (security settings
    that cannot be honoured). ``requests`` counts what is in flight; None: no limit.
    ``shared`` is where the drivers keep what all connections of the cluster share;
    it lives as long as the policy stays the same.
    """

    __slots__ = ("balancer", "cluster", "limiter", "refusal", "requests", "shared", "states")

    def __init__(
        self, cluster: Cluster, seed: Callable[[], int], previous: ClusterState | None
    ) -> None:
        self.cluster = cluster
        same_policy = previous is not None and previous.cluster.policy == cluster.policy
        kept = previous if same_policy else None
        self.states: tuple[EndpointState, ...] = carry_over(kept.states if kept else (), cluster)
        self.limiter: RetryLimiter = kept.limiter if kept else RetryLimiter(cluster.policy.limits)
        self.requests: RequestLimit | None = (
            kept.requests if kept else request_limit(cluster.policy.limits)
        )
        self.shared: dict[str, Any] = kept.shared if kept else {}
        self.balancer: Balancer = make_balancer(
            cluster, self.states, seed(), kept.balancer if kept else None
        )
        self.refusal = _refusal(cluster)

    @property
    def active_requests(self) -> int:
        """Requests in flight on all endpoints; the retry budget's denominator."""
        return sum(state.active for state in self.live_states())

    def live_states(self) -> tuple[EndpointState, ...]:
        """The endpoints known at this moment."""
        return self.states

    @property
    def is_dialled(self) -> bool:
        """True where the caller's address is the endpoint."""
        return False

    def dial(self, host: str, port: int) -> EndpointState | None:  # noqa: ARG002
        """None: an ordinary cluster picks, it is not told where to go."""
        return None


class DialledClusterState(ClusterState):
    """A cluster whose endpoint is what the caller dialled (ORIGINAL_DST).

    Thread-safe. Remembers at most :data:`MAX_DIALLED_ENDPOINTS` states. When it is full,
    those without a call in flight are forgotten; if all have one, a further
    endpoint gets a state that lives as long as its call.
    """

    __slots__ = ("_by_address", "_lock", "_port")

    def __init__(
        self, cluster: Cluster, seed: Callable[[], int], previous: ClusterState | None
    ) -> None:
        super().__init__(cluster, seed, None)
        self._lock = threading.Lock()
        self._by_address: dict[tuple[str, int], EndpointState] = {}
        source = cluster.discovery
        self._port = source.port if isinstance(source, OriginalDestination) else 0
        if isinstance(previous, DialledClusterState) and previous.cluster.policy == cluster.policy:
            self._by_address = previous._by_address
            self._lock = previous._lock
            self.limiter = previous.limiter
            self.requests = previous.requests
            self.shared = previous.shared

    def live_states(self) -> tuple[EndpointState, ...]:
        return tuple(self._by_address.values())

    @property
    def is_dialled(self) -> bool:
        return True

    def dial(self, host: str, port: int) -> EndpointState | None:
        key = (host, self._port or port)
        state = self._by_address.get(key)
        if state is None:
            with self._lock:
                state = self._by_address.get(key) or self._add_locked(key)
        return state

    def _add_locked(self, key: tuple[str, int]) -> EndpointState:
        if len(self._by_address) >= MAX_DIALLED_ENDPOINTS:
            for old, idle in list(self._by_address.items()):
                if idle.active == 0:
                    del self._by_address[old]
        state = EndpointState(Endpoint(key[0], key[1], hostname=key[0]), self.cluster.name)
        if len(self._by_address) < MAX_DIALLED_ENDPOINTS:
            self._by_address[key] = state
        return state


class Plane:
    """Everything a call reads. Immutable once built; safe to share by threads."""

    __slots__ = ("any_port", "clusters", "passthrough", "snapshot", "tables")

    def __init__(
        self,
        snapshot: Snapshot,
        tables: Mapping[int, RouteTable],
        clusters: Mapping[str, ClusterState],
        passthrough: ClusterState,
    ) -> None:
        self.snapshot = snapshot
        self.tables = tables
        self.any_port = tables.get(ANY_PORT)
        self.clusters = clusters
        self.passthrough = passthrough

    def find_host(self, port: int, authority: str) -> CompiledHost | None:
        """The virtual host for what was dialled, or None if no policy knows it."""
        table = self.tables.get(port, self.any_port)
        return None if table is None else table.find_host(authority)

    def __repr__(self) -> str:
        return f"<Plane of {self.snapshot!r}>"


def build_plane(
    snapshot: Snapshot,
    previous: Plane | None,
    seed: Callable[[], int],
    wall_clock: Callable[[], float] | None = None,
) -> Plane:
    """Compile ``snapshot``, taking over from ``previous`` whatever still holds.

    Route tables are reused where the configuration is the same object (one that
    is merely equal may stand on other lines); endpoint states (in-flight
    counts) where address and cluster policy compare equal. ``seed``
    gives a fresh unsigned 64-bit number per call, ``wall_clock`` Unix seconds
    for header values that name the time.
    """
    tables = {
        port: _table(port, configuration, previous, wall_clock)
        for port, configuration in snapshot.route_configurations.items()
    }
    old = previous.clusters if previous else {}
    clusters = {
        name: _cluster_state(cluster, seed, old.get(name))
        for name, cluster in snapshot.clusters.items()
    }
    passthrough = previous.passthrough if previous else _passthrough(seed)
    return Plane(snapshot, tables, clusters, passthrough)


def forked_plane(plane: Plane, seed: Callable[[], int]) -> Plane:
    """``plane`` for the child of a fork: same tables, no request in flight, new locks."""
    clusters = {
        name: _cluster_state(state.cluster, seed, None) for name, state in plane.clusters.items()
    }
    return Plane(plane.snapshot, plane.tables, clusters, _passthrough(seed))


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
    cluster: Cluster, seed: Callable[[], int], previous: ClusterState | None
) -> ClusterState:
    if previous is not None and previous.cluster is cluster:
        return previous
    if isinstance(cluster.discovery, OriginalDestination):
        return DialledClusterState(cluster, seed, previous)
    return ClusterState(cluster, seed, previous)


def _passthrough(seed: Callable[[], int]) -> ClusterState:
    cluster = Cluster(name=PASSTHROUGH, discovery=OriginalDestination())
    return DialledClusterState(cluster, seed, None)


def _refusal(cluster: Cluster) -> str:
    """Why calls to the cluster must not be made; empty when they may."""
    tls = cluster.policy.tls
    if tls is None or tls.mode == "disable":
        return ""
    if tls.credential_name:
        why = f"credentialName {tls.credential_name!r} is a secret that only a gateway can fetch"
    elif tls.mode == "istio_mutual" and not tls.expected_names and not tls.insecure_skip_verify:
        why = (
            "the server's identity is not known: name it in subjectAltNames "
            "(spiffe://<trust domain>/ns/<namespace>/sa/<service account>)"
        )
    elif tls.mode == "mutual" and not (tls.certificate and tls.key):
        why = "no client certificate and key are named"
    else:
        return ""
    target = cluster.service or cluster.name
    return (
        f"the policy asks for TLS mode {tls.mode.upper()} towards {target}, which cannot be "
        f"honoured: {why}; the call is refused, never sent in plain text"
    )
