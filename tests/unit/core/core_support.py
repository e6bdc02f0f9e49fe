"""Short ways to build planes and calls out of model values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from meshclient.call import Call
from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.request import RequestHead
from meshclient.model.retry import BackOff, RetryPolicy
from meshclient.model.routes import (
    Action,
    ForwardAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)
from meshclient.model.snapshot import ANY_PORT, Snapshot
from meshclient.plane import Plane, build_plane
from meshclient.testing import ScriptedRandom

Pairs = Iterable[tuple[str, str]]

#: Back-off of exactly 0 ms for a draw of 0, of 10 ms for a draw of 10.
QUICK = BackOff(0.025, 0.25)
RETRY = RetryPolicy(frozenset({"5xx", "connect-failure", "reset"}), num_retries=2, back_off=QUICK)

REFUSED = ResetReason.CONNECTION_FAILURE
BROKEN = ResetReason.CONNECTION_TERMINATION
SLOW = ResetReason.PER_TRY_TIMEOUT


def seed() -> int:
    return 7


def head(
    path: str = "/", headers: Pairs = (), host: str = "a.test", method: str = "GET", port: int = 80
) -> RequestHead:
    lines = [("Host", host), *headers]
    return RequestHead(method, "http", host, port, path, HeaderMap.of(lines), host)


def endpoints(count: int, **options: Any) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"10.0.0.{n}", 80, **options) for n in range(1, count + 1))


def cluster(name: str = "a", count: int = 2, **options: Any) -> Cluster:
    """Round robin, so that tests can say which endpoint comes next."""
    policy = options.pop("policy", ClusterPolicy(LoadBalancing("round_robin")))
    made = Cluster(name, service=name, endpoints=endpoints(count), policy=policy)
    return replace(made, **options)


def to(name: str = "a", **options: Any) -> ForwardAction:
    return ForwardAction(clusters=(WeightedCluster(name),), **options)


def host_of(*routes: Route | Action, **options: Any) -> VirtualHost:
    built = tuple(r if isinstance(r, Route) else Route(r, name="r") for r in routes)
    return replace(VirtualHost("v", ("a.test",), built), **options)


def snapshot_of(host: VirtualHost | Action, *clusters: Cluster, **options: Any) -> Snapshot:
    hosts = host if isinstance(host, VirtualHost) else host_of(host)
    configuration = RouteConfiguration("rc", (hosts,))
    made = Snapshot(
        1,
        route_configurations={ANY_PORT: configuration},
        clusters={c.name: c for c in clusters or (cluster(),)},
    )
    return replace(made, **options)


def plane_of(host: VirtualHost | Action, *clusters: Cluster, **options: Any) -> Plane:
    return build_plane(snapshot_of(host, *clusters, **options), None, seed)


def call_of(
    plane: Plane,
    request: RequestHead | None = None,
    now: float = 0.0,
    rand: Callable[[], int] | None = None,
    **options: Any,
) -> Call:
    return Call(plane, request or head(), now, rand or ScriptedRandom(seed=1), **options)


def status(code: int, headers: Pairs = ()) -> Outcome:
    return Outcome(code, HeaderMap.of(headers))


def reset(reason: ResetReason, sent: bool = True, error: BaseException | None = None) -> Outcome:
    return Outcome(reset=reason, sent=sent, error=error)


def sent(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header lines as a dictionary with lower-case names; repeated ones joined by ``|``."""
    found: dict[str, str] = {}
    for name, value in HeaderMap(headers):
        key = name.lower()
        found[key] = f"{found[key]}|{value}" if key in found else value
    return found


def counts(plane: Plane) -> int:
    """Requests in flight, their slots and retry permits, over the whole plane; 0 at rest."""
    states = (*plane.clusters.values(), plane.passthrough)
    slots = sum(state.lane.requests.active for state in states if state.lane.requests is not None)
    return slots + sum(state.active_requests + state.lane.limiter.active for state in states)
