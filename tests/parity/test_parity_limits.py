"""Requests, pending requests and connections over the limit: refused and queued as in Envoy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from . import generate_limits
from .conftest import Check
from .envoy import Envoy, EnvoyClient
from .generate import UPSTREAMS
from .generate_limits import BURSTS, Burst
from .ours import Ours
from .traffic import Exchange, Request, Side, Step
from .upstream import Upstreams

Send = Callable[[Request, str], Exchange]
_APART_S = 0.08


def test_single_requests_meet_limits_as_in_envoy(check: Check) -> None:
    seen = check(generate_limits.build)
    assert seen.cases >= 70
    assert seen.statuses[503] >= 30
    assert seen.statuses[200] >= 10
    assert seen.attempts[0] >= 20, "refused before anything was sent"


def test_bursts_are_refused_and_queued_as_in_envoy() -> None:
    """Status, flags in headers and body of every request of the burst, and what arrived."""
    with Upstreams(UPSTREAMS) as upstreams:
        plan = generate_limits.build_bursts(upstreams)
        with (
            Envoy(plan.tables, plan.clusters) as envoy,
            Ours(plan.tables, plan.clusters) as ours,
            ThreadPoolExecutor(2 * len(BURSTS)) as runs,
        ):

            def through_envoy(request: Request, key: str) -> Exchange:
                client = EnvoyClient(envoy.ports)
                try:
                    return client.send(0, request, key)
                finally:
                    client.close()

            def through_ours(request: Request, key: str) -> Exchange:
                return ours.send(0, request, key)

            theirs = [
                runs.submit(_burst, burst, "envoy", upstreams, through_envoy) for burst in BURSTS
            ]
            mine = [runs.submit(_burst, burst, "ours", upstreams, through_ours) for burst in BURSTS]
            for burst, their, own in zip(BURSTS, theirs, mine, strict=True):
                assert own.result() == their.result(), burst


def _burst(
    burst: Burst, side: Side, upstreams: Upstreams, send: Send
) -> tuple[list[object], Counter[str]]:
    """What each request got, in their order, and the requests that arrived."""
    key = upstreams.prepare(side, burst.name, (Step(delay_s=burst.slow_s),))
    with ThreadPoolExecutor(burst.requests) as threads:
        sent = []
        for number in range(burst.requests):
            place = "/high" if number in burst.important else ""
            request = Request(f"{burst.name}.test", f"{place}/{number}")
            sent.append(threads.submit(send, request, key))
            time.sleep(_APART_S)
        answers: list[object] = [_told(exchange.result(20), burst) for exchange in sent]
    arrived = Counter(received.path for received in upstreams.take(side, burst.name))
    assert len(arrived) < burst.requests or burst.name == "connections-1"
    return answers, arrived


def _told(exchange: Exchange, burst: Burst) -> tuple[int, bytes, str, str]:
    overloaded = dict(exchange.headers).get("x-envoy-overloaded", "")
    # Where a round of the endpoints begins is chance, and the body tells which one answered.
    body = b"" if burst.endpoints > 1 and exchange.status == 200 else exchange.body
    return exchange.status, body, overloaded, exchange.error
