"""Scenarios of failing upstreams: statuses, resets, refused connections, and what is repeated."""

from __future__ import annotations

from typing import Any

import tenacity
from servers.http import Recorded, Reply

from meshclient import RetryStrategy

from .bodies import BIG, WHOLE
from .plain import _SENT
from .scenario import Ask, Expected, Scenario, ok
from .world import World

BUSY = Reply(503, b"busy")
FINE = Reply(200, b"ok")
RESET = Reply(reset=True)
HANG_UP = Reply(hang_up=True)
GARBAGE = Reply(raw=b"this is not HTTP\r\n\r\n", close=True)

RETRY_503 = {"retries": {"attempts": 2, "on": [503]}}
RETRY_RESET = {"retries": {"attempts": 2, "on": ["reset"]}}

_BUSY_THEN_FINE = ("a failed_retryable 503", "a success 200")
_CUT_BODY = ("a connection termination 200",)
_TERMINATED = b"upstream connect error or disconnect/reset before headers. "
_REFUSED = _TERMINATED + b"reset reason: remote connection failure"
_REFUSED_AGAIN = _TERMINATED + b"retried and the latest reset reason: remote connection failure"


def _busy(attempts: tuple[str, ...], note: str, *flags: str, status: int = 503) -> Expected:
    return Expected(status, b"busy", attempts=attempts, flags=flags, note=note)


def _cut(attempts: tuple[str, ...], note: str, *flags: str) -> Expected:
    again = b"retried and the latest " if len(attempts) > 1 else b""
    body = _TERMINATED + again + b"reset reason: connection termination"
    return Expected(
        error="UpstreamReset",
        counterpart="ReadError",
        attempts=attempts,
        flags=(*flags, "UC"),
        note=note,
        reply=(503, body),
    )


STATUSES = (
    Scenario(
        "503, then 200",
        service=RETRY_503,
        script=(BUSY, FINE),
        expected=(ok(attempts=_BUSY_THEN_FINE),),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "503 until the retries are used up",
        service=RETRY_503,
        script=(BUSY,),
        expected=(
            _busy(
                ("a failed_retryable 503", "a failed_retryable 503", "a failed 503"),
                "all 2 retries are used up",
                "URX",
            ),
        ),
        received=("a GET /x",) * 3,
    ),
    Scenario(
        "503 that the policy does not name",
        service={"retries": {"attempts": 2, "on": ["reset", 502]}},
        script=(BUSY,),
        expected=(_busy(("a failed 503",), "no condition of the policy covers status 503"),),
    ),
    Scenario(
        "503 with a streamed body is dropped before the next try",
        service=RETRY_503,
        script=(lambda _: Reply(503, iter([b"x" * 1000] * 300)), FINE),
        expected=(ok(attempts=_BUSY_THEN_FINE),),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "retries turned off",
        service={"retries": {"attempts": 0}},
        script=(BUSY,),
        expected=(Expected(503, b"busy", attempts=("a failed 503",)),),
    ),
    Scenario(
        "the next try goes to another endpoint",
        service={**RETRY_503, "load_balancing": "random"},
        endpoints=("a", "b"),
        script=(BUSY, FINE),
        expected=(ok(attempts=("b failed_retryable 503", "a success 200")),),
        received=("b GET /x", "a GET /x"),
    ),
    Scenario(
        "a request may ask for retries itself",
        asks=(
            Ask(
                options={
                    "headers": {
                        "x-envoy-retry-on": "retriable-status-codes",
                        "x-envoy-retriable-status-codes": "503",
                    }
                }
            ),
        ),
        script=(BUSY, FINE),
        expected=(ok(attempts=_BUSY_THEN_FINE),),
        received=("a GET /x",) * 2,
        sees=lambda all_: _absent(all_, "x-envoy-retry-on", "x-envoy-retriable-status-codes"),
    ),
)


def _absent(all_: list[Recorded], *names: str) -> None:
    for request in all_:
        assert not [name for name in names if request.header(name) is not None]


RESETS = (
    Scenario(
        "reset before the head, then 200",
        service=RETRY_RESET,
        script=(RESET, FINE),
        expected=(ok(attempts=("a connection termination -", "a success 200")),),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "closed before the head, then 200",
        service=RETRY_RESET,
        script=(HANG_UP, FINE),
        expected=(ok(attempts=("a connection termination -", "a success 200")),),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "reset until the retries are used up",
        service=RETRY_RESET,
        script=(RESET,),
        expected=(_cut(("a connection termination -",) * 3, "all 2 retries are used up", "URX"),),
        received=("a GET /x",) * 3,
    ),
    Scenario(
        "closed before the head, without a policy for it",
        script=(HANG_UP,),
        expected=(_cut(("a connection termination -",), "covers connection termination"),),
    ),
    Scenario(
        "not HTTP",
        script=(GARBAGE,),
        expected=(
            Expected(
                error="UpstreamProtocolError",
                counterpart="RemoteProtocolError",
                attempts=("a protocol error -",),
                flags=("UPE",),
                note="covers protocol error",
                reply=(502, _TERMINATED + b"reset reason: protocol error"),
            ),
        ),
    ),
    Scenario(
        "not HTTP, then 200",
        service={"retries": {"attempts": 1, "on": ["5xx"]}},
        script=(GARBAGE, FINE),
        expected=(ok(attempts=("a protocol error -", "a success 200")),),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "cut off inside the body",
        service=RETRY_RESET,
        script=(Reply(200, b"x" * 1000, truncate=500),),
        expected=(
            Expected(
                error="UpstreamReset", counterpart="ReadError", attempts=_CUT_BODY, flags=("UC",)
            ),
        ),
    ),
    Scenario(
        "cut off inside a streamed body, head already seen",
        asks=(Ask(reading="stream"),),
        script=(Reply(200, b"x" * 1000, truncate=500),),
        expected=(
            Expected(
                200,
                error="UpstreamReset",
                counterpart="ReadError",
                attempts=_CUT_BODY,
                flags=("UC",),
            ),
        ),
    ),
    Scenario(
        "not HTTP inside the body",
        script=(
            # So long that the head is delivered before the fault is seen.
            Reply(
                raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n%b\r\nzz\r\n"
                % BIG
            ),
        ),
        expected=(
            Expected(
                error="UpstreamProtocolError",
                counterpart="RemoteProtocolError",
                attempts=("a protocol error 200",),
                flags=("UPE",),
            ),
        ),
    ),
)

CONNECTING = (
    Scenario(
        "refused, then another endpoint",
        endpoints=("a", "refused"),
        service={"load_balancing": "random"},
        expected=(ok(attempts=("refused remote connection failure -", "a success 200")),),
    ),
    Scenario(
        "everything refuses",
        endpoints=("refused",),
        expected=(
            Expected(
                error="ConnectFailed",
                counterpart="ConnectError",
                attempts=("refused remote connection failure -",) * 3,
                flags=("URX", "UF"),
                note="all 2 retries are used up",
                reply=(503, _REFUSED_AGAIN),
            ),
        ),
        received=(),
    ),
    Scenario(
        "refused with retries turned off",
        endpoints=("refused",),
        service={"retries": {"attempts": 0}},
        expected=(
            Expected(
                error="ConnectFailed",
                counterpart="ConnectError",
                attempts=("refused remote connection failure -",),
                flags=("UF",),
                reply=(503, _REFUSED),
            ),
        ),
        received=(),
    ),
    Scenario(
        "no answer to the connection request",
        endpoints=("black_hole",),
        service={"connection": {"connect_timeout": "30ms"}, "retries": {"attempts": 0}},
        expected=(
            Expected(
                error="ConnectTimeout",
                counterpart="ConnectTimeout",
                attempts=("black_hole connection timeout -",),
                flags=("UF",),
                reply=(503, _TERMINATED + b"reset reason: connection timeout"),
            ),
        ),
        received=(),
    ),
    Scenario(
        "no answer to the connection request, then another endpoint",
        endpoints=("a", "black_hole"),
        service={"connection": {"connect_timeout": "30ms"}, "load_balancing": "random"},
        expected=(ok(attempts=("black_hole connection timeout -", "a success 200")),),
    ),
    Scenario(
        "the caller's connect timeout",
        client=lambda library, _: {"timeout": library.Timeout(None, connect=0.03)},
        endpoints=("black_hole",),
        service={"retries": {"attempts": 0}},
        expected=(
            Expected(
                error="ConnectTimeout",
                counterpart="ConnectTimeout",
                attempts=("black_hole connection timeout -",),
                flags=("UF",),
                reply=(503, _TERMINATED + b"reset reason: connection timeout"),
            ),
        ),
        received=(),
    ),
)

# Which bodies and methods are sent again.


def _again(body: str) -> Scenario:
    """A body that can be sent twice is, byte for byte."""
    sent = _SENT[body]

    def same(all_: list[Recorded]) -> None:
        assert [request.body for request in all_] == [sent, sent]

    return Scenario(
        f"sent again: {body}",
        asks=(Ask("PUT", body=body),),
        service=RETRY_503,
        script=(BUSY, FINE),
        expected=(ok(attempts=_BUSY_THEN_FINE),),
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
        expected=(_busy(("a failed 503",), "the request body cannot be replayed"),),
        received=("a PUT /x",),
    )


def _istio(world: World) -> list[dict[str, Any]]:
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
        expected=(_busy(("a failed 503",), "may have acted on the POST request"),),
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
        expected=(ok(attempts=_BUSY_THEN_FINE),),
        received=_POSTED_TWICE,
    ),
    Scenario(
        "POST is repeated under an Istio document",
        asks=(Ask("POST", "http://svc.example/x", "bytes"),),
        documents=_istio,
        script=(BUSY, FINE),
        expected=(ok(attempts=_BUSY_THEN_FINE),),
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
        expected=(_busy(("a failed 503",), "as many retries under way as it allows", "UO"),),
    ),
    Scenario(
        "an empty retry budget",
        service={
            "retries": {**RETRY_503["retries"], "budget": {"percent": 0, "min_concurrency": 0}}
        },
        script=(BUSY, FINE),
        expected=(_busy(("a failed 503",), "as many retries under way as it allows", "UO"),),
    ),
    Scenario(
        "the upstream says when to come back",
        service={"retries": {"attempts": 1, "on": [503], "retry_after": {}}},
        script=(_after("2"), FINE),
        expected=(ok(attempts=_BUSY_THEN_FINE),),
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
        expected=(_busy(("a failed_retryable 503", "a failed 503"), "the stop strategy", "URX"),),
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

SCENARIOS = STATUSES + RESETS + CONNECTING + REPLAYS + LIMITS_AND_WAITS
