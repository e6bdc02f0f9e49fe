"""Scenarios of what is repeated: bodies and methods, limits, waits, strategies."""

from __future__ import annotations

from typing import Any

import tenacity
from servers.http import Recorded, Reply

from meshclient import RetryStrategy

from .bodies import WHOLE
from .failures import BUSY, BUSY_THEN_FINE, FINE, RETRY_503, busy
from .plain import SENT
from .scenario import Ask, Expected, Scenario, ok
from .world import World

# Which bodies and methods are sent again.


def _again(body: str) -> Scenario:
    """A body that can be sent twice is, byte for byte."""
    sent = SENT[body]

    def same(all_: list[Recorded]) -> None:
        assert [request.body for request in all_] == [sent, sent]

    return Scenario(
        f"sent again: {body}",
        asks=(Ask("PUT", body=body),),
        service=RETRY_503,
        script=(BUSY, FINE),
        expected=(ok(attempts=BUSY_THEN_FINE),),
        received=("a PUT /x",) * 2,
        sees=same,
    )


def _once(body: str) -> Scenario:
    """A body that is spent after one pass is not."""
    return Scenario(
        f"not sent again: {body}",
        asks=(Ask("PUT", body=body),),
        service=RETRY_503,
        script=(BUSY, FINE),
        expected=(busy(("a failed 503",), "the request body cannot be replayed"),),
        received=("a PUT /x",),
    )


def istio(world: World) -> list[dict[str, Any]]:
    """The same policy as an Istio document, whose retries do not look at the method."""
    host, _, port = world.address("a").partition(":")
    return [
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": "svc", "namespace": "default"},
            "spec": {
                "hosts": ["svc.example"],
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "resolution": "STATIC",
                "endpoints": [{"address": host, "ports": {"http": int(port)}}],
            },
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "svc", "namespace": "default"},
            "spec": {
                "hosts": ["svc.example"],
                "http": [
                    {
                        "route": [{"destination": {"host": "svc.example", "port": {"number": 80}}}],
                        "retries": {"attempts": 2, "retryOn": "503"},
                    }
                ],
            },
        },
    ]


_POST = (Ask("POST", body="bytes"),)
_POSTED_TWICE = ("a POST /x",) * 2

REPLAYS = (
    *(_again(body) for body in ("bytes", "big", "json", "form", "multipart", "list")),
    *(_once(body) for body in ("generator", "file", "multipart_pipe")),
    Scenario(
        "a spent body is no obstacle while nothing was sent",
        asks=(Ask("PUT", body="generator"),),
        endpoints=("a", "refused"),
        service={"load_balancing": "random"},
        expected=(ok(attempts=("refused remote connection failure -", "a success 200")),),
        received=("a PUT /x",),
        sees=lambda all_: _body_is(all_, WHOLE),
    ),
    Scenario(
        "POST is not repeated by the native rule",
        asks=_POST,
        service=RETRY_503,
        script=(BUSY, FINE),
        expected=(busy(("a failed 503",), "may have acted on the POST request"),),
        received=("a POST /x",),
    ),
    Scenario(
        "POST is repeated while nothing was sent",
        asks=_POST,
        endpoints=("a", "refused"),
        service={"load_balancing": "random"},
        expected=(ok(attempts=("refused remote connection failure -", "a success 200")),),
        received=("a POST /x",),
    ),
    Scenario(
        "POST is repeated when the file names it",
        asks=_POST,
        service={"retries": {"attempts": 2, "on": [503], "methods": ["POST"]}},
        script=(BUSY, FINE),
        expected=(ok(attempts=BUSY_THEN_FINE),),
        received=_POSTED_TWICE,
    ),
    Scenario(
        "POST is repeated under an Istio document",
        asks=(Ask("POST", "http://svc.example/x", "bytes"),),
        documents=istio,
        script=(BUSY, FINE),
        expected=(ok(attempts=BUSY_THEN_FINE),),
        received=_POSTED_TWICE,
    ),
)


def _body_is(all_: list[Recorded], wanted: bytes) -> None:
    assert [request.body for request in all_] == [wanted]


# Limits, budgets, waits, strategies.


def _strategy(**parts: Any) -> Any:
    return lambda: {"svc": RetryStrategy(**parts)}


def _after(seconds: str) -> Reply:
    return Reply(503, b"busy", [("Retry-After", seconds)])


LIMITS_AND_WAITS = (
    Scenario(
        "no retry at all may be under way",
        service={**RETRY_503, "limits": {"max_retries": 0}},
        script=(BUSY, FINE),
        expected=(busy(("a failed 503",), "as many retries under way as it allows", "UO"),),
    ),
    Scenario(
        "an empty retry budget",
        service={
            "retries": {**RETRY_503["retries"], "budget": {"percent": 0, "min_concurrency": 0}}
        },
        script=(BUSY, FINE),
        expected=(busy(("a failed 503",), "as many retries under way as it allows", "UO"),),
    ),
    Scenario(
        "the upstream says when to come back",
        service={"retries": {"attempts": 1, "on": [503], "retry_after": {}}},
        script=(_after("2"), FINE),
        expected=(ok(attempts=BUSY_THEN_FINE),),
        received=("a GET /x",) * 2,
        naps=(2.001,),
    ),
    Scenario(
        "a wait that outlasts the route's timeout is not begun",
        service={
            "timeout": "1s",
            "retries": {"attempts": 1, "on": [503], "retry_after": {}},
        },
        script=(_after("2"), FINE),
        expected=(
            Expected(
                error="RouteTimeout",
                counterpart="ReadTimeout",
                attempts=("a failed_retryable 503",),
                flags=("UT",),
                reply=(504, b"upstream request timeout"),
            ),
        ),
        naps=(),
    ),
    Scenario(
        "a wait that outlasts the caller's limit is not begun",
        client=lambda library, _: {"timeout": library.Timeout(1.0)},
        service={"retries": {"attempts": 1, "on": [503], "retry_after": {}}},
        script=(_after("2"), FINE),
        expected=(
            Expected(
                error="DeadlineExceeded",
                counterpart="ReadTimeout",
                attempts=("a failed_retryable 503",),
                flags=("UT",),
                reply=(504, b"upstream request timeout"),
            ),
        ),
        naps=(),
    ),
    Scenario(
        "the waits of a strategy",
        service={"retries": {"attempts": 3, "on": [503]}},
        strategies=_strategy(wait=tenacity.wait_incrementing(start=1, increment=2)),
        script=(BUSY, BUSY, FINE),
        expected=(ok(attempts=("a failed_retryable 503",) * 2 + ("a success 200",)),),
        received=("a GET /x",) * 3,
        naps=(1.0, 3.0),
    ),
    Scenario(
        "a strategy stops earlier",
        service={"retries": {"attempts": 3, "on": [503]}},
        strategies=_strategy(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_none()),
        script=(BUSY,),
        expected=(busy(("a failed_retryable 503", "a failed 503"), "the stop strategy", "URX"),),
        received=("a GET /x",) * 2,
        naps=(),
    ),
    Scenario(
        "a strategy decides what is repeated",
        service={"retries": {"attempts": 1, "on": [503]}},
        strategies=_strategy(
            retry=tenacity.retry_if_result(lambda response: response.status_code == 404)
        ),
        script=(Reply(404, b"not yet"), FINE),
        expected=(ok(attempts=("a failed_retryable 404", "a success 200")),),
        received=("a GET /x",) * 2,
    ),
)

SCENARIOS = REPLAYS + LIMITS_AND_WAITS
