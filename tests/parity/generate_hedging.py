"""Hedging at the per-try timeout: few cases, since each waits on the wall.

Every step of a script is the next request that arrives, whichever try it belongs to.
"""

from __future__ import annotations

from meshclient.model.cluster import Limits
from meshclient.model.hedging import Hedging
from meshclient.model.retry import BackOff, RetryPolicy
from meshclient.model.routes import (
    ForwardAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)

from .generate import UPSTREAMS, Draw, Plan, cluster, plain_clusters
from .traffic import Case, Pairs, Request, Step
from .upstream import Upstreams

_PER_TRY_S = 0.2
_LONG_S = 2.5
_EARLY_S, _LATE_S = 0.03, 0.9
_HEDGED = Hedging(on_per_try_timeout=True)
_PER_TRY_HEADER = ("x-envoy-upstream-rq-per-try-timeout-ms", "200")
_HEDGE_HEADER = "x-envoy-hedge-on-per-try-timeout"


def _retry(number: int, *retry_on: str, per_try_s: float | None = _PER_TRY_S) -> RetryPolicy:
    return RetryPolicy(frozenset(retry_on), number, per_try_s, back_off=BackOff(0.001, 0.002))


def _slow(delay_s: float, status: int = 200) -> Step:
    return Step(status, delay_s=delay_s)


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
        retry: RetryPolicy | None,
        *,
        hedging: Hedging | None = _HEDGED,
        timeout_s: float | None = None,
        headers: Pairs = (),
        to: str = "",
    ) -> None:
        """A virtual host of its own, and one case that takes ``expected_s``."""
        target = WeightedCluster(to or self.draw.one(UPSTREAMS))
        action = ForwardAction((target,), timeout_s=timeout_s, retry=retry, hedging=hedging)
        counted = self.draw.chance(0.5)
        route = Route(action, name=name)
        self.hosts.append(
            VirtualHost(name, (f"{name}.test",), (route,), include_attempt_count=counted)
        )
        method = self.draw.one(("GET", "POST"))
        body = b"body" if method == "POST" else b""
        window = (expected_s - _EARLY_S, expected_s + _LATE_S)
        request = Request(f"{name}.test", "/", method, headers, body)
        self.plan.cases.append(Case(f"{name}/0", 0, request, script, window))


def build(seed: int, upstreams: Upstreams) -> Plan:
    """About 25 cases of up to two seconds."""
    plan = Plan(plain_clusters(upstreams))
    limits = Limits(max_retries=0)
    plan.clusters["no-retries"] = cluster("no-retries", [upstreams.ports[UPSTREAMS[0]]], limits)
    builder = _Builder(plan, Draw(seed, "hedging"))
    _who_wins(builder)
    _bad_answers(builder)
    _limits(builder)
    _headers(builder)
    plan.tables.append(RouteConfiguration("hedging", tuple(builder.hosts), ignore_port=False))
    return plan


def _who_wins(b: _Builder) -> None:
    late, now = _slow(_LONG_S), Step()
    b.add("in-time", 0.0, (now,), _retry(2, "5xx"))
    b.add("second", 0.2, (late, now), _retry(1, "5xx"))
    b.add("first-after-all", 0.45, (_slow(0.45), late), _retry(1, "5xx"))
    b.add("third", 0.4, (late, late, now), _retry(2, "5xx"))
    b.add("third-of-many", 0.4, (late, late, now), _retry(9, "5xx"))
    b.add("resets-not-covered", 0.2, (late, now), _retry(1, "retriable-4xx"))
    b.add("status-404", 0.2, (late, Step(404)), _retry(1, "5xx"))


def _bad_answers(b: _Builder) -> None:
    late, bad, broken = _slow(_LONG_S), Step(503), Step(action="close")
    b.add("hedge-bad-first-good", 0.5, (_slow(0.5), bad), _retry(1, "5xx"))
    b.add("both-bad", 0.5, (_slow(0.5, 500), bad), _retry(1, "5xx"))
    b.add("hedge-bad-then-good", 0.2, (late, bad, Step()), _retry(2, "5xx"))
    b.add("first-bad-hedge-good", 0.6, (_slow(0.35, 503), _slow(0.4)), _retry(1, "5xx"))
    b.add("bad-but-not-covered", 0.2, (late, Step(500)), _retry(1, "gateway-error"))
    b.add("hedge-broken-first-good", 0.5, (_slow(0.5), broken), _retry(1, "5xx"))
    b.add("hedge-broken-then-good", 0.2, (late, broken, Step()), _retry(2, "5xx"))
    first_broken = Step(action="close", delay_s=0.35)
    b.add("first-broken-hedge-good", 0.6, (first_broken, _slow(0.4)), _retry(1, "5xx"))
    b.add("both-broken", 0.35, (first_broken, broken), _retry(1, "5xx"))
    b.add("bad-at-once", 0.2, (bad, late, Step()), _retry(2, "5xx"))


def _limits(b: _Builder) -> None:
    late = _slow(_LONG_S)
    b.add("none-left", 0.45, (_slow(0.45),), _retry(0, "5xx"))
    b.add("over-time", 0.6, (late,), _retry(1, "5xx"), timeout_s=0.6)
    b.add("over-time-many", 0.7, (late,), _retry(9, "5xx"), timeout_s=0.7)
    b.add("no-permit", 0.45, (_slow(0.45),), _retry(3, "5xx"), to="no-retries")
    b.add("no-permit-bad", 0.45, (_slow(0.45, 503),), _retry(3, "5xx"), to="no-retries")
    b.add("no-per-try", 0.45, (_slow(0.45),), _retry(3, "5xx", per_try_s=None))


def _headers(b: _Builder) -> None:
    late, on, off = _slow(_LONG_S), (_HEDGE_HEADER, "true"), (_HEDGE_HEADER, "false")
    retry = _retry(1, "5xx")
    b.add("asked-for", 0.5, (_slow(0.5), late), retry, hedging=None, headers=(on,))
    b.add("asked-against", 0.3, (_slow(0.5), _slow(0.1)), retry, headers=(off,), timeout_s=5.0)
    b.add("asked-oddly", 0.5, (_slow(0.5), late), retry, headers=((_HEDGE_HEADER, "no"),))
    b.add("no-policy", 0.45, (_slow(0.45),), None, headers=(on, _PER_TRY_HEADER), hedging=None)
    b.add("per-try-by-header", 0.2, (late, Step()), _retry(1, "5xx", per_try_s=None),
          headers=(_PER_TRY_HEADER,), timeout_s=3.0)  # fmt: skip
