"""Timeouts and asked-for waits: few cases, since each costs its time on the wall.

Windows are wide: the least time is exact up to timer granularity, the most
allows for a busy machine.
"""

from __future__ import annotations

from meshclient.model.retry import BackOff, RateLimitedBackOff, ResetHeader, RetryPolicy
from meshclient.model.routes import (
    ForwardAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

from .generate import UPSTREAMS, Draw, Plan, plain_clusters
from .traffic import Case, Pairs, Request, Step
from .upstream import Upstreams

#: How much earlier (timer granularity) and later (load) than expected is accepted.
_EARLY_S, _LATE_S = 0.02, 0.9
_SLOW = 3.0


class _Builder:
    def __init__(self, plan: Plan, draw: Draw) -> None:
        self.plan = plan
        self.draw = draw
        self.hosts: list[VirtualHost] = []

    def add(
        self,
        name: str,
        expected_s: float,
        script: tuple[Step, ...],
        retry: RetryPolicy | None = None,
        timeout_s: float | None = None,
        headers: Pairs = (),
    ) -> None:
        """A virtual host of its own, and one case with a window around ``expected_s``."""
        target = WeightedCluster(self.draw.one(UPSTREAMS))
        action = ForwardAction((target,), timeout_s=timeout_s, retry=retry)
        route = Route(action, name=name)
        counted = self.draw.chance(0.5)
        host = VirtualHost(name, (f"{name}.test",), (route,), include_attempt_count=counted)
        self.hosts.append(host)
        method = self.draw.one(("GET", "POST"))
        body = b"body" if method == "POST" else b""
        window = (expected_s - _EARLY_S, expected_s + _LATE_S)
        request = Request(f"{name}.test", "/", method, headers, body)
        self.plan.cases.append(Case(f"{name}/0", 0, request, script, window))


def build(seed: int, upstreams: Upstreams) -> Plan:
    """About 30 cases that wait up to two seconds each."""
    plan = Plan(plain_clusters(upstreams))
    builder = _Builder(plan, Draw(seed, "timeouts"))
    _route_timeouts(builder)
    _per_try_timeouts(builder)
    _control_headers(builder)
    _asked_for_waits(builder)
    plan.tables.append(RouteConfiguration("timeouts", tuple(builder.hosts), ignore_port=False))
    return plan


def _retry(num: int, per_try_s: float | None, *retry_on: str, base_s: float = 0.001) -> RetryPolicy:
    return RetryPolicy(
        frozenset(retry_on), num, per_try_s, back_off=BackOff(base_s, max(base_s * 2, 0.002))
    )


def _late(delay_s: float, status: int = 200) -> Step:
    return Step(status, delay_s=delay_s)


def _route_timeouts(b: _Builder) -> None:
    limit_s = b.draw.number(30, 60) / 100
    b.add("route-spent", limit_s, (_late(_SLOW),), timeout_s=limit_s)
    b.add("route-kept", 0.2, (_late(0.2),), timeout_s=1.5)
    b.add("route-none", 0.4, (_late(0.4),))
    b.add("route-no-retry", limit_s, (_late(_SLOW),), _retry(3, None, "5xx", "reset"), limit_s)
    # The third try starts well before, the fourth would start well after the limit.
    b.add("route-over-tries", 0.9, (_late(0.35, 503),), _retry(9, None, "5xx"), 0.9)
    b.add("route-over-tries-kept", 0.4, (_late(0.2, 503), _late(0.2)), _retry(9, None, "5xx"), 3.0)


def _per_try_timeouts(b: _Builder) -> None:
    try_s = b.draw.number(20, 35) / 100
    slow_once = (_late(_SLOW), Step())
    for token in ("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure"):
        retried = token in ("5xx", "gateway-error", "reset")
        b.add(f"try-{token}", try_s, slow_once, _retry(2, try_s, token), 5.0)
        if retried:
            all_slow = (_late(_SLOW),)
            b.add(f"try-{token}-spent", try_s * 3, all_slow, _retry(2, try_s, token), 5.0)
    b.add("try-not-below-route", 0.4, (_late(_SLOW),), _retry(2, 0.4, "5xx"), 0.4)
    b.add("try-then-route", 0.9, (_late(_SLOW),), _retry(9, 0.35, "5xx"), 0.9)
    b.add("try-kept", 0.3, (_late(0.1, 503), _late(0.2)), _retry(2, 0.8, "5xx"), 5.0)
    b.add("try-no-retries", try_s, (_late(_SLOW),), _retry(0, try_s, "5xx"), None)
    b.add("try-without-route", try_s, slow_once, _retry(1, try_s, "reset"), None)


def _control_headers(b: _Builder) -> None:
    timeout, per_try = "x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms"
    slow = (_late(_SLOW),)
    b.add("ask-timeout", 0.3, slow, None, 5.0, ((timeout, "300"),))
    b.add("ask-no-timeout", 0.6, (_late(0.6),), None, 0.2, ((timeout, "0"),))
    b.add("ask-junk", 0.3, slow, None, 0.3, ((timeout, "abc"),))
    b.add("ask-per-try", 0.4, slow, _retry(1, 2.0, "5xx"), 5.0, ((per_try, "200"),))
    both = ((timeout, "400"), (per_try, "400"))
    b.add("ask-both", 0.4, slow, _retry(3, None, "5xx"), 5.0, both)
    plain = ((per_try, "300"),)
    b.add("ask-per-try-no-policy", 0.3, slow, None, 5.0, plain)
    asked = ((per_try, "200"), ("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "2"))
    b.add("ask-retries", 0.6, slow, None, 5.0, asked)


def _asked_for_waits(b: _Builder) -> None:
    limited = RateLimitedBackOff((ResetHeader("x-reset", "seconds"),), 3.0)

    def policy(rate_limited: RateLimitedBackOff) -> RetryPolicy:
        return RetryPolicy(
            frozenset({"5xx"}), 1, back_off=BackOff(0.001, 0.002), rate_limited=rate_limited
        )

    def failing(value: str) -> tuple[Step, ...]:
        return (Step(503, (("x-reset", value),)), Step())

    # One second plus up to a half: the window's upper side has room for it.
    b.add("wait-asked", 1.0, failing("1"), policy(limited))
    b.add("wait-too-long", 0.0, failing("9"), policy(limited))
    b.add("wait-junk", 0.0, failing("soon"), policy(limited))
    b.add("wait-zero", 0.0, failing("0"), policy(limited))
    past = RateLimitedBackOff((ResetHeader("x-reset", "unix_timestamp"),), 3.0)
    b.add("wait-past", 0.0, failing("1000000000"), policy(past))
