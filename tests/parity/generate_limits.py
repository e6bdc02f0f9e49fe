"""Circuit-breaker thresholds: what one request meets, and what requests at the same time meet.

Limits of zero make the outcome of a single request certain; the bursts start so far
apart that it is certain, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from meshclient.model.cluster import UNLIMITED, Cluster, Limits
from meshclient.model.load_balancing import LoadBalancing
from meshclient.model.matching import PathMatch, RouteMatch
from meshclient.model.retry import BackOff, RetryPolicy
from meshclient.model.routes import (
    NO_OPERATIONS,
    ForwardAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

from .generate import UPSTREAMS, Draw, Plan, cluster, tag
from .traffic import Case, Request, Step
from .upstream import Upstreams

_SINGLE = {
    "requests-0": Limits(max_requests=0),
    "requests-1": Limits(max_requests=1),
    "pending-0": Limits(max_pending_requests=0),
    "pending-1": Limits(max_pending_requests=1),
    "connections-0": Limits(max_connections=0),
    "connections-1": Limits(max_connections=1),
    "all-0": Limits(0, 0, 0),
    "all-1": Limits(1, 1, 1),
}
_RETRIES = (
    None,
    RetryPolicy(frozenset({"5xx"}), 3, back_off=BackOff(0.001, 0.002)),
    RetryPolicy(
        frozenset({"reset", "connect-failure", "refused-stream", "gateway-error"}),
        2,
        back_off=BackOff(0.001, 0.002),
    ),
)


def build(seed: int, upstreams: Upstreams) -> Plan:
    """About 70 single requests."""
    draw = Draw(seed, "limits")
    clusters = {
        name: cluster(name, [upstreams.ports[draw.one(UPSTREAMS)]], limits)
        for name, limits in _SINGLE.items()
    }
    plan = Plan(clusters)
    hosts = [
        _host(plan, draw, name, index, retry)
        for name in clusters
        for index, retry in enumerate(_RETRIES)
    ]
    plan.tables.append(RouteConfiguration("limits", tuple(hosts), ignore_port=False))
    return plan


def _host(plan: Plan, draw: Draw, name: str, index: int, retry: RetryPolicy | None) -> VirtualHost:
    key = f"{name}-{index}"
    action = ForwardAction((WeightedCluster(name),), retry=retry)
    for number, method in enumerate(("GET", "POST", draw.one(("PUT", "DELETE", "HEAD")))):
        script = draw.one(((Step(),), (Step(503), Step()), (Step(503),), (Step(404),)))
        body = b"body" if method in ("POST", "PUT") else b""
        request = Request(f"{key}.test", draw.target(), method, (), body)
        plan.cases.append(Case(f"{key}/{number}", 0, request, script))
    return VirtualHost(
        key,
        (f"{key}.test",),
        (Route(action, name=key),),
        request_headers=tag(key),
        response_headers=tag(key) if draw.chance(0.5) else NO_OPERATIONS,
        include_attempt_count=draw.chance(0.5),
    )


_NO_LIMITS = Limits()


@dataclass(frozen=True)
class Burst:
    """``requests`` calls, one every 80 ms, to an upstream that takes ``slow_s``."""

    name: str
    limits: Limits
    requests: int
    slow_s: float = 0.8
    #: Limits of the calls on the route of priority high, which paths with "/high" take.
    high: Limits = _NO_LIMITS
    #: The numbers of the requests that take it.
    important: frozenset[int] = frozenset()
    #: All endpoints of the cluster; they lead to the same upstream's ports.
    endpoints: int = 1


BURSTS = (
    Burst("requests-1", Limits(max_requests=1), 4),
    Burst("requests-2", Limits(max_requests=2), 5),
    Burst("connections-1", Limits(max_connections=1), 3, 0.3),
    Burst("connections-2-pending-1", Limits(2, 1), 6),
    Burst("connections-1-pending-1", Limits(1, 1), 4),
    Burst("connections-3-requests-2", Limits(3, UNLIMITED, 2), 5),
    Burst("high-unlimited", Limits(max_requests=1), 6, important=frozenset({1, 3})),
    Burst(
        "high-requests-1",
        Limits(max_requests=2),
        6,
        0.8,
        Limits(max_requests=1),
        frozenset({1, 2, 4}),
    ),
    Burst("high-pending-1", Limits(), 5, 0.8, Limits(1, 1), frozenset({0, 1, 2, 3})),
    Burst("default-spares-high", Limits(0, 0, 0), 4, 0.3, Limits(2, 1), frozenset({0, 1, 3})),
    Burst("per-host-1", Limits(max_pending_requests=1, max_connections_per_endpoint=1), 4),
    Burst("per-host-2", Limits(UNLIMITED, 2, max_connections_per_endpoint=2), 6),
    Burst("per-host-1-of-2", Limits(UNLIMITED, 1, max_connections_per_endpoint=1), 5, endpoints=2),
    Burst(
        "per-host-over-both",
        Limits(UNLIMITED, 1, max_connections_per_endpoint=2),
        6,
        high=Limits(UNLIMITED, 1, max_connections_per_endpoint=2),
        important=frozenset({1, 2, 5}),
    ),
)


def build_bursts(upstreams: Upstreams) -> Plan:
    """A cluster and a virtual host per burst, and no cases."""
    plan = Plan({b.name: _cluster(b, upstreams) for b in BURSTS})
    plan.tables.append(
        RouteConfiguration("bursts", tuple(map(_burst_host, BURSTS)), ignore_port=False)
    )
    return plan


def _cluster(burst: Burst, upstreams: Upstreams) -> Cluster:
    ports = [upstreams.ports[name] for name in UPSTREAMS[: burst.endpoints]]
    made = cluster(burst.name, ports, burst.limits)
    policy = replace(
        made.policy,
        high_priority_limits=burst.high,
        load_balancing=LoadBalancing(policy="round_robin"),
    )
    return replace(made, policy=policy)


def _burst_host(burst: Burst) -> VirtualHost:
    retry = RetryPolicy(frozenset({"5xx", "reset"}), 2, back_off=BackOff(0.001, 0.002))
    ordinary = ForwardAction((WeightedCluster(burst.name),), retry=retry)
    important = Route(
        replace(ordinary, priority="high"),
        RouteMatch(path=PathMatch("prefix", "/high")),
        name=f"{burst.name}-high",
    )
    routes = (important, Route(ordinary, name=burst.name))
    return VirtualHost(burst.name, (f"{burst.name}.test",), routes)
