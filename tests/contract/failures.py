"""Scenarios of failing upstreams: statuses, resets, connections that do not come about."""

from __future__ import annotations

from servers.http import Recorded, Reply

from .bodies import BIG
from .scenario import Ask, Expected, Scenario, ok

BUSY = Reply(503, b"busy")
FINE = Reply(200, b"ok")
RESET = Reply(reset=True)
HANG_UP = Reply(hang_up=True)
GARBAGE = Reply(raw=b"this is not HTTP\r\n\r\n", close=True)

RETRY_503 = {"retries": {"attempts": 2, "on": [503]}}
RETRY_RESET = {"retries": {"attempts": 2, "on": ["reset"]}}

BUSY_THEN_FINE = ("a failed_retryable 503", "a success 200")
_CUT_BODY = ("a connection termination 200",)
_TERMINATED = b"upstream connect error or disconnect/reset before headers. "
_REFUSED = _TERMINATED + b"reset reason: remote connection failure"
_REFUSED_AGAIN = _TERMINATED + b"retried and the latest reset reason: remote connection failure"


def busy(attempts: tuple[str, ...], note: str, *flags: str, status: int = 503) -> Expected:
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
        expected=(ok(attempts=BUSY_THEN_FINE),),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "503 until the retries are used up",
        service=RETRY_503,
        script=(BUSY,),
        expected=(
            busy(
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
        expected=(busy(("a failed 503",), "no condition of the policy covers status 503"),),
    ),
    Scenario(
        "503 with a streamed body is dropped before the next try",
        service=RETRY_503,
        script=(lambda _: Reply(503, iter([b"x" * 1000] * 300)), FINE),
        expected=(ok(attempts=BUSY_THEN_FINE),),
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
        expected=(ok(attempts=BUSY_THEN_FINE),),
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

SCENARIOS = STATUSES + RESETS + CONNECTING
