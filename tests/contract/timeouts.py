"""Scenarios of slow upstreams. The time-outs are real, and told by what comes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from servers.http import Recorded, Reply

from .scenario import Ask, Expected, Scenario, ok

FINE = Reply(200, b"ok")
#: Far beyond every limit below; nobody waits for it, the client hangs up first.
SLOW = Reply(200, b"late", delay_s=20)
TIMED_OUT = (504, b"upstream request timeout")

PER_TRY = {"retries": {"attempts": 1, "on": ["reset"], "per_try_timeout": "100ms"}}


def stall(request: Recorded) -> Reply:
    """A head and a first piece, and then nothing."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(20)
        yield b"late"

    return Reply(200, pieces())


def drip(request: Recorded) -> Reply:
    """Always a byte in time, never an end."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(2000):
            yield b"."
            await asyncio.sleep(0.01)

    return Reply(200, pieces())


def _timed_out(kind: str, *attempts: str, **more: Any) -> Expected:
    return Expected(
        **{
            "error": kind,
            "counterpart": "ReadTimeout",
            "attempts": attempts,
            "flags": ("UT",),
            "reply": TIMED_OUT,
            **more,
        }
    )


def _limit(**limits: float) -> Any:
    """The caller's own time-outs; what is not named has none."""
    return lambda library, _: {"timeout": library.Timeout(None, **limits)}


BEFORE_THE_HEAD = (
    Scenario(
        "per-try timeout, then 200",
        service=PER_TRY,
        script=(SLOW, FINE),
        expected=(ok(attempts=("a per try timeout -", "a success 200")),),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "per-try timeout until the retries are used up",
        service=PER_TRY,
        script=(SLOW,),
        expected=(
            _timed_out(
                "PerTryTimeout",
                "a per try timeout -",
                "a per try timeout -",
                flags=("URX", "UT"),
                note="all 1 retries are used up",
            ),
        ),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "route timeout",
        service={"timeout": "50ms", "retries": {"attempts": 3, "on": ["reset"]}},
        script=(SLOW,),
        expected=(_timed_out("RouteTimeout", "a response timeout -"),),
    ),
    Scenario(
        "route timeout in the second try",
        service={
            "timeout": "250ms",
            "retries": {
                "attempts": 3,
                "on": ["reset"],
                "per_try_timeout": "150ms",
                "back_off": {"base": "1ms"},
            },
        },
        script=(SLOW,),
        expected=(_timed_out("RouteTimeout", "a per try timeout -", "a response timeout -"),),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "route timeout with an upload that is streamed",
        asks=(Ask("PUT", body="generator"),),
        service={"timeout": "50ms"},
        script=(SLOW,),
        expected=(
            _timed_out("RouteTimeout", "a per try timeout -", note="covers per try timeout"),
        ),
        received=("a PUT /x",),
    ),
    Scenario(
        "the caller's read timeout",
        client=_limit(read=0.05),
        script=(SLOW,),
        expected=(_timed_out("DeadlineExceeded", "a per try timeout -"),),
    ),
    Scenario(
        "the caller's read timeout holds over all tries",
        client=_limit(read=0.25),
        service={"retries": {"attempts": 3, "on": ["reset"], "per_try_timeout": "150ms"}},
        script=(SLOW,),
        expected=(_timed_out("DeadlineExceeded", "a per try timeout -", "a per try timeout -"),),
        received=("a GET /x",) * 2,
    ),
    Scenario(
        "the caller's limit is shorter than the route's",
        client=_limit(read=0.05),
        service={"timeout": "10s"},
        script=(SLOW,),
        expected=(_timed_out("DeadlineExceeded", "a per try timeout -"),),
    ),
    Scenario(
        "the caller's control headers",
        asks=(Ask(options={"headers": {"x-envoy-upstream-rq-timeout-ms": "50"}}),),
        service={"timeout": "10s"},
        script=(SLOW,),
        expected=(_timed_out("RouteTimeout", "a response timeout -"),),
    ),
    Scenario(
        "the route's idle timeout before the head",
        service={"idle_timeout": "50ms", "retries": {"attempts": 0}},
        script=(SLOW,),
        expected=(_timed_out("RouteTimeout", "a response timeout -"),),
    ),
)


IN_THE_UPLOAD = (
    Scenario(
        "the caller's write timeout",
        client=_limit(write=0.05),
        asks=(Ask("PUT", body="huge"),),
        endpoints=("deaf",),
        expected=(
            _timed_out(
                "DeadlineExceeded",
                "deaf per try timeout -",
                counterpart="WriteTimeout",
                note="covers per try timeout",
            ),
        ),
        received=(),
    ),
    Scenario(
        "route timeout in the upload",
        asks=(Ask("PUT", body="huge"),),
        endpoints=("deaf",),
        service={"timeout": "60ms"},
        expected=(_timed_out("RouteTimeout", "deaf response timeout -"),),
        received=(),
    ),
)

IN_THE_BODY = (
    Scenario(
        "route timeout in the body, although bytes keep coming",
        asks=(Ask(reading="stream"),),
        service={"timeout": "60ms"},
        script=(drip,),
        expected=(_timed_out("RouteTimeout", "a response timeout 200", status=200, reply=None),),
    ),
    Scenario(
        "route timeout in the body of a plain request",
        service={"timeout": "60ms"},
        script=(stall,),
        expected=(_timed_out("RouteTimeout", "a response timeout 200", reply=None),),
    ),
    Scenario(
        "idle timeout in the body",
        asks=(Ask(reading="stream"),),
        service={"idle_timeout": "50ms"},
        script=(stall,),
        expected=(
            _timed_out(
                "RouteTimeout", "a response timeout 200", status=200, reply=None, body=b"first"
            ),
        ),
    ),
    Scenario(
        "the caller's read timeout in the body",
        client=_limit(read=0.05),
        asks=(Ask(reading="stream"),),
        script=(stall,),
        expected=(
            _timed_out(
                "DeadlineExceeded", "a per try timeout 200", status=200, reply=None, body=b"first"
            ),
        ),
    ),
    Scenario(
        "the caller's read timeout is for each piece, not for the whole body",
        client=_limit(read=0.25),
        script=(lambda _: Reply(200, _slow_pieces()),),
        expected=(ok(b"." * 6),),
    ),
)


async def _slow_pieces() -> AsyncIterator[bytes]:
    for _ in range(6):
        yield b"."
        await asyncio.sleep(0.06)


SCENARIOS = BEFORE_THE_HEAD + IN_THE_UPLOAD + IN_THE_BODY
