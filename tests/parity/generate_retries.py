"""Generated retry policies against scripted upstreams. Back-off is 1-2 ms here."""

from __future__ import annotations

from meshclient.model.cluster import Limits
from meshclient.model.matching import HeaderMatch, StringMatch
from meshclient.model.retry import BackOff, RateLimitedBackOff, ResetHeader, RetryPolicy
from meshclient.model.routes import (
    ForwardAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

from .generate import UPSTREAMS, Draw, Plan, cluster, plain_clusters
from .traffic import Case, Request, Step
from .upstream import Upstreams

_TOKENS = (
    "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream",
    "retriable-4xx", "retriable-status-codes", "retriable-headers", "envoy-ratelimited",
    "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
)  # fmt: skip
_RETRIABLE_HEADERS = (
    HeaderMatch("x-again"),
    HeaderMatch("x-again", StringMatch("exact", "yes")),
    HeaderMatch("x-again", StringMatch("prefix", "y"), invert=True),
    HeaderMatch("x-again", present=False),
)
_REQUEST_HEADERS = (
    HeaderMatch("x-may-retry"),
    HeaderMatch(":method", StringMatch("exact", "GET")),
    HeaderMatch("x-may-retry", StringMatch("exact", "yes")),
)
_STATUSES = (500, 501, 502, 503, 504, 409, 404, 429, 200, 200, 302, 204)
_STEP_HEADERS = (
    (), (), (), (), (("x-again", "yes"),), (("x-again", "no"),), (("x-envoy-ratelimited", "true"),),
    (("grpc-status", "14"),), (("grpc-status", "1"),), (("grpc-status", "13"),),
    (("grpc-status", "8"), ("x-again", "yes")), (("grpc-status", "4"),), (("grpc-status", "0"),),
)  # fmt: skip
_CONTROL = (
    ("x-envoy-retry-on", ("5xx", "gateway-error,reset", "retriable-4xx, connect-failure", "junk",
                          "retriable-status-codes", "retriable-headers", "5xx,nonsense")),
    ("x-envoy-retry-grpc-on", ("unavailable", "cancelled,internal", "junk")),
    ("x-envoy-max-retries", ("0", "1", "3", "x", "-1")),
    ("x-envoy-retriable-status-codes", ("404", "404,429", "abc,404")),
    ("x-envoy-retriable-header-names", ("x-again", "X-Again,x-other")),
    ("x-may-retry", ("yes", "no")),
)  # fmt: skip


def build(seed: int, upstreams: Upstreams) -> Plan:
    """About 300 cases."""
    draw = Draw(seed, "retries")
    plan = Plan(plain_clusters(upstreams))
    live = [upstreams.ports[name] for name in UPSTREAMS]
    refused = upstreams.refused_port()
    plan.clusters |= {
        "pair": cluster("pair", live[:2], at_random=True),
        "trio": cluster("trio", live[:3], at_random=True),
        "dead": cluster("dead", [refused]),
        "half": cluster("half", [live[3], refused], at_random=True),
        "empty": cluster("empty", []),
        "no-retries": cluster("no-retries", live[:1], Limits(max_retries=0)),
    }
    hosts = [_host(plan, draw, index) for index in range(100)]
    hosts += [_spread_host(plan, draw, index) for index in range(20)]
    plan.tables.append(RouteConfiguration("retries", tuple(hosts), ignore_port=False))
    return plan


def _virtual_host(
    draw: Draw, name: str, target: str, retry: RetryPolicy | None, counted: bool
) -> VirtualHost:
    action = ForwardAction(
        (WeightedCluster(target),), timeout_s=draw.one((None, 10.0)), retry=retry
    )
    route = Route(action, name=name)
    return VirtualHost(name, (f"{name}.test",), (route,), include_attempt_count=counted)


def _host(plan: Plan, draw: Draw, index: int) -> VirtualHost:
    """One endpoint: the script of each attempt is known."""
    name = f"r{index}"
    special = ("dead", "empty", "no-retries")
    target = draw.one(UPSTREAMS) if draw.chance(0.75) else draw.one(special)
    for number in range(3):
        request = _request(draw, f"{name}.test")
        plan.cases.append(Case(f"{name}/{number}", 0, request, _script(draw)))
    retry = None if draw.chance(0.1) else _policy(draw)
    return _virtual_host(draw, name, target, retry, draw.chance(0.4))


def _policy(draw: Draw) -> RetryPolicy:
    return RetryPolicy(
        retry_on=frozenset(draw.some(_TOKENS, 0 if draw.chance(0.1) else 1, 4)),
        num_retries=draw.number(0, 4),
        per_try_timeout_s=draw.one((None, None, 5.0)),
        status_codes=frozenset(draw.some((404, 429, 500, 200, 302), 0, 2)),
        headers=tuple(draw.some(_RETRIABLE_HEADERS, 0, 1)),
        request_headers=tuple(draw.some(_REQUEST_HEADERS, 1, 1)) if draw.chance(0.15) else (),
        back_off=_QUICK,
        rate_limited=draw.one((None, None, _RATE_LIMITED)),
    )


_QUICK = BackOff(0.001, 0.002)
_RATE_LIMITED = RateLimitedBackOff((ResetHeader("x-reset", "seconds"),), 2.0)


def _script(draw: Draw) -> tuple[Step, ...]:
    if draw.chance(0.3):
        return (Step(503),)  # for good, so that policies run out of retries
    return tuple(_step(draw) for _ in range(draw.number(1, 4)))


def _step(draw: Draw) -> Step:
    if draw.chance(0.2):
        return Step(action=draw.one(("reset", "close", "garbage")))
    return Step(draw.one(_STATUSES), draw.one(_STEP_HEADERS))


def _request(draw: Draw, authority: str) -> Request:
    headers = tuple((name, draw.one(values)) for name, values in _CONTROL if draw.chance(0.15))
    method = draw.one(("GET", "GET", "POST", "DELETE", "HEAD"))
    body = b"replayed" * draw.one((1, 1, 500)) if method == "POST" else b""
    return Request(authority, draw.one(("/", "/x?y=1")), method, headers, body)


def _spread_host(plan: Plan, draw: Draw, index: int) -> VirtualHost:
    """Several endpoints chosen at random; tried ones are avoided, so counts are exact."""
    name = f"s{index}"
    target = draw.one(("pair", "trio", "half"))
    failing, good = Step(draw.one((503, 500))), Step(body="from whom does not matter")
    steps = {"pair": (failing, good), "trio": (failing, failing, good), "half": (good,)}
    for number in range(3):
        request = Request(f"{name}.test")
        script = steps[target]
        plan.cases.append(Case(f"{name}/{number}", 0, request, script, spread=True))
    retry = RetryPolicy(
        retry_on=frozenset({"5xx", "connect-failure"}),
        num_retries=draw.number(2, 3),
        back_off=_QUICK,
        previous_hosts=True,
        host_attempts=40,
    )
    # Whether the dead one of "half" comes first is chance, and the count would show it.
    return _virtual_host(draw, name, target, retry, counted=target != "half")
