"""Circuit-breaker thresholds: what one request meets, and what requests at the same time meet.

Limits of zero make the outcome of a single request certain; the bursts start so far
apart that it is certain, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshclient.model.cluster import UNLIMITED, Limits
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


@dataclass(frozen=True)
class Burst:
    """``requests`` calls, one every 80 ms, to an upstream that takes ``slow_s``."""

    name: str
    limits: Limits
    requests: int
    slow_s: float = 0.8


BURSTS = (
    Burst("requests-1", Limits(max_requests=1), 4),
    Burst("requests-2", Limits(max_requests=2), 5),
    Burst("connections-1", Limits(max_connections=1), 3, 0.3),
    Burst("connections-2-pending-1", Limits(2, 1), 6),
    Burst("connections-1-pending-1", Limits(1, 1), 4),
    Burst("connections-3-requests-2", Limits(3, UNLIMITED, 2), 5),
)


def build_bursts(upstreams: Upstreams) -> Plan:
    """A cluster and a virtual host per burst, and no cases."""
    plan = Plan(
        {b.name: cluster(b.name, [upstreams.ports[UPSTREAMS[0]]], b.limits) for b in BURSTS}
    )
    retry = RetryPolicy(frozenset({"5xx", "reset"}), 2, back_off=BackOff(0.001, 0.002))
    hosts = tuple(
        VirtualHost(
            b.name,
            (f"{b.name}.test",),
            (Route(ForwardAction((WeightedCluster(b.name),), retry=retry), name=b.name),),
        )
        for b in BURSTS
    )
    plan.tables.append(RouteConfiguration("bursts", hosts, ignore_port=False))
    return plan
