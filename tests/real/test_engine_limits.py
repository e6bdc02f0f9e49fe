"""Time limits and cancellation of the asyncio engine at every point where it waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from engine_support import (
    LOOPS,
    DeafListener,
    HttpServer,
    Peer,
    RawServer,
    Reply,
    counts,
    deaf,
    eventually,
    get,
    half,
    no_tasks_left,
    post,
    read,
    silent,
    soon,
    stopped,
    target,
    using,
)

from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import Target, WireError, WireRequest

loops = pytest.mark.parametrize("kind", LOOPS)
MIB = 1 << 20


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(MIB)


async def stuck() -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.Event().wait()


async def whole(engine: AsyncEngine, where: Target, request: WireRequest) -> bytes:
    return await read(await engine.send(where, request))


# name: (script, limits of the request, body, timeout, reason)
TIMEOUTS: dict[str, tuple[Callable[[Peer], None], dict[str, Any], Any, str, ResetReason]] = {
    "response": (
        silent, {"response_timeout_s": 0.05}, None, "response", ResetReason.PER_TRY_TIMEOUT,
    ),
    "read before the head": (
        silent, {"read_timeout_s": 0.05}, None, "read", ResetReason.PER_TRY_TIMEOUT,
    ),
    "the shorter one": (
        silent, {"read_timeout_s": 5, "response_timeout_s": 0.05}, None, "response",
        ResetReason.PER_TRY_TIMEOUT,
    ),
    "deadline before the head": (
        silent, {"deadline": 0.05, "read_timeout_s": 5}, None, "deadline",
        ResetReason.ROUTE_TIMEOUT,
    ),
    "read inside the body": (
        half, {"read_timeout_s": 0.05}, None, "read", ResetReason.PER_TRY_TIMEOUT,
    ),
    "deadline inside the body": (
        half, {"deadline": 0.05, "response_timeout_s": 0.01}, None, "deadline",
        ResetReason.ROUTE_TIMEOUT,
    ),
    "write": (deaf, {"write_timeout_s": 0.05}, endless, "write", ResetReason.PER_TRY_TIMEOUT),
    "deadline while writing": (
        deaf, {"deadline": 0.05, "write_timeout_s": 5}, endless, "deadline",
        ResetReason.ROUTE_TIMEOUT,
    ),
    "deadline while the source waits": (
        deaf, {"deadline": 0.05, "response_timeout_s": 0.01}, stuck, "deadline",
        ResetReason.ROUTE_TIMEOUT,
    ),
}  # fmt: skip


@loops
@pytest.mark.parametrize("name", TIMEOUTS)
def test_every_limit(kind: str, name: str) -> None:
    script, limits, body, timeout, reason = TIMEOUTS[name]
    if "deadline" in name and "body" in name:
        limits = {**limits, "response_timeout_s": 5}
    stopped.clear()
    with RawServer(script) as server:

        async def test(engine: AsyncEngine) -> None:
            values = dict(limits)
            if "deadline" in values:
                values["deadline"] = soon(values["deadline"])
            request = get(**values) if body is None else post(body(), **values)
            started = time.monotonic()
            with pytest.raises(WireError) as caught:
                await whole(engine, target(server), request)
            assert 0.04 < time.monotonic() - started < 2
            assert (caught.value.timeout, caught.value.reason) == (timeout, reason)
            assert caught.value.sent
            assert counts(engine.stats()) == (0, 0)
            await no_tasks_left()

        using(kind, test)
        stopped.set()


@loops
@pytest.mark.parametrize(
    ("limits", "timeout", "reason"),
    [
        ({"connect_timeout_s": 0.05}, "connect", ResetReason.CONNECTION_TIMEOUT),
        ({"deadline": 0.05}, "deadline", ResetReason.ROUTE_TIMEOUT),
    ],
)
def test_connecting_takes_too_long(
    kind: str, limits: dict[str, float], timeout: str, reason: ResetReason
) -> None:
    with DeafListener() as listener:

        async def test(engine: AsyncEngine) -> None:
            values = dict(limits)
            if "deadline" in values:
                values["deadline"] = soon(values["deadline"])
            with pytest.raises(WireError) as caught:
                await engine.send(Target("127.0.0.1", listener.port), get(**values))
            assert (caught.value.timeout, caught.value.reason) == (timeout, reason)
            assert not caught.value.sent
            assert counts(engine.stats()) == (0, 0)

        using(kind, test)


@loops
def test_the_response_limit_starts_when_the_upload_is_over(kind: str) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(4):
            await asyncio.sleep(0.05)
            yield b"x"

    with HttpServer() as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(target(server), post(slow(), response_timeout_s=0.15))
            assert response.status == 200

        using(kind, test)


@loops
def test_one_lazy_timer_serves_limits_of_all_lengths(kind: str) -> None:
    """A long limit, then a short one, then a long one again on the same connection."""
    with HttpServer(lambda r: Reply(200, b"ok", delay_s=float(r.path[1:]))) as server:

        async def test(engine: AsyncEngine) -> None:
            await engine.send(target(server), get(b"/0", response_timeout_s=30))
            await engine.send(target(server), get(b"/0", response_timeout_s=0.05))
            slow = await engine.send(target(server), get(b"/0.2", response_timeout_s=5))
            assert slow.content == b"ok"
            await engine.send(target(server), get(b"/0.1"))
            with pytest.raises(WireError):
                await engine.send(target(server), get(b"/5", response_timeout_s=0.05))

        using(kind, test)
        assert server.accepted == 1


@loops
def test_a_forgotten_response_ends_with_its_deadline(kind: str) -> None:
    with RawServer(half) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(target(server), get(deadline=soon(0.1)))
            ends: list[int] = []
            response.on_close = lambda: ends.append(1)
            await eventually(lambda: counts(engine.stats()) == (0, 0))
            assert ends == [1]
            with pytest.raises(WireError) as caught:
                await read(response)
            assert caught.value.timeout == "deadline"

        using(kind, test)


CANCELS: dict[str, tuple[Callable[[Peer], None], Any]] = {
    "waiting for the head": (silent, None),
    "inside the body": (half, None),
    "writing": (deaf, endless),
    "the source waits": (deaf, stuck),
}


@loops
@pytest.mark.parametrize("name", CANCELS)
def test_cancel_at_every_wait(kind: str, name: str) -> None:
    script, body = CANCELS[name]
    stopped.clear()
    with RawServer(script) as server:

        async def test(engine: AsyncEngine) -> None:
            request = get() if body is None else post(body())
            call = asyncio.create_task(whole(engine, target(server), request))
            await eventually(lambda: bool(server.heads))
            await asyncio.sleep(0.02)
            assert counts(engine.stats()) == (0, 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert counts(engine.stats()) == (0, 0)
            await no_tasks_left()

        using(kind, test)
        stopped.set()


@loops
def test_cancel_while_connecting(kind: str) -> None:
    with DeafListener() as listener:

        async def test(engine: AsyncEngine) -> None:
            call = asyncio.create_task(engine.send(Target("127.0.0.1", listener.port), get()))
            await asyncio.sleep(0.02)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert counts(engine.stats()) == (0, 0)

        using(kind, test)


@loops
def test_a_storm_of_cancellations_leaks_nothing(kind: str) -> None:
    """Cancel each call at another moment, the one in which its answer arrives included."""
    with HttpServer(lambda _: Reply(200, b"x" * 10)) as server:

        async def test(engine: AsyncEngine) -> None:
            for step in range(300):
                call = asyncio.create_task(whole(engine, target(server), get(read_timeout_s=5)))
                await asyncio.sleep(step * 0.00001)
                call.cancel()
                results = await asyncio.gather(call, return_exceptions=True)
                assert results[0] == b"x" * 10 or isinstance(results[0], asyncio.CancelledError)
                assert counts(engine.stats())[1] == 0
            assert await whole(engine, target(server), get()) == b"x" * 10
            await no_tasks_left()

        using(kind, test)


@loops
def test_asyncio_timeout_works_around_a_call(kind: str) -> None:
    with RawServer(silent) as server:

        async def test(engine: AsyncEngine) -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await engine.send(target(server), get())
            assert counts(engine.stats()) == (0, 0)

        using(kind, test)


@loops
def test_closing_a_response_early_costs_its_connection_only(kind: str) -> None:
    with RawServer(half) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(target(server), get())
            ends: list[int] = []
            response.on_close = lambda: ends.append(1)
            assert await anext(response.__aiter__()) == b"01234"
            await response.aclose()
            await response.aclose()
            assert ends == [1]
            assert counts(engine.stats()) == (0, 0)
            with pytest.raises(WireError) as caught:
                await read(response)
            assert caught.value.reason is ResetReason.CANCELLED

        using(kind, test)
        assert server.ended.acquire(timeout=5), "the server sees the close"
