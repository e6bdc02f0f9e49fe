"""Draining, closing, dead event loops and forks."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings

import pytest
from engine_support import (
    LOOPS,
    HttpServer,
    RawServer,
    Reply,
    counts,
    eventually,
    get,
    half,
    read,
    run_on,
    silent,
    target,
    using,
)

from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import WireError
from meshclient.transport.sync_engine import SyncEngine

loops = pytest.mark.parametrize("kind", LOOPS)


@loops
def test_targets_that_leave_are_drained_not_cut(kind: str) -> None:
    gate = threading.Event()
    with HttpServer() as staying, HttpServer() as leaving:
        leaving.handler = lambda r: Reply(200, b"late", gate=gate if r.path == "/slow" else None)

        async def test(engine: AsyncEngine) -> None:
            stay, leave = target(staying), target(leaving)
            await engine.send(stay, get())
            slow = asyncio.create_task(engine.send(leave, get(b"/slow")))
            await eventually(lambda: bool(leaving.requests))
            await engine.send(leave, get())
            assert counts(engine.stats()) == (2, 1)
            thread = threading.Thread(target=engine.retain, args=({stay},))
            thread.start()
            thread.join()
            await eventually(lambda: leaving.closed == 1)
            assert counts(engine.stats()) == (1, 0)
            gate.set()
            assert (await slow).content == b"late"
            await eventually(lambda: leaving.closed == 2)
            assert staying.closed == 0
            assert (await engine.send(leave, get())).content == b"late", "it may come back"

        using(kind, test)


@loops
def test_close_ends_calls_in_flight_with_a_clear_error(kind: str) -> None:
    with RawServer(silent) as quiet, RawServer(half) as halfway, HttpServer() as server:

        async def test(engine: AsyncEngine) -> None:
            await engine.send(target(server), get())
            waiting = asyncio.create_task(engine.send(target(quiet), get()))
            response = await engine.send(target(halfway), get())
            await eventually(lambda: bool(quiet.heads))
            await engine.aclose()
            for failing in (waiting, read(response), engine.send(target(server), get())):
                with pytest.raises(WireError) as caught:
                    await failing
                assert caught.value.reason is ResetReason.CANCELLED
            await eventually(lambda: server.open_connections == 0)
            await engine.aclose()

        using(kind, test)
        assert quiet.ended.acquire(timeout=5)
        assert halfway.ended.acquire(timeout=5)


@loops
def test_close_of_an_engine_while_it_drains_ends_that_too(kind: str) -> None:
    with RawServer(silent) as server:

        async def test(engine: AsyncEngine) -> None:
            call = asyncio.create_task(engine.send(target(server), get()))
            await eventually(lambda: bool(server.heads))
            engine.retain(())
            await eventually(lambda: engine.stats() == {})
            engine.close()
            with pytest.raises(WireError, match="closed"):
                await call

        using(kind, test)


@loops
def test_each_loop_has_its_own_connections_and_takes_them_along(kind: str) -> None:
    with HttpServer() as server:
        engine = AsyncEngine()

        async def one() -> None:
            for _ in range(2):
                assert (await engine.send(target(server), get())).content == b"ok"

        for number in (1, 2, 3):
            run_on(kind, one())
            assert server.wait_for(lambda: server.open_connections == 0), "the loop took them along"
            assert server.accepted == number
        engine.close()


@loops
def test_two_loops_at_the_same_time(kind: str) -> None:
    with HttpServer() as server:
        engine = AsyncEngine()
        failures: list[BaseException] = []

        async def one() -> None:
            for _ in range(50):
                assert (await engine.send(target(server), get())).content == b"ok"

        def thread() -> None:
            try:
                run_on(kind, one())
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=thread) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        engine.close()
        assert failures == []
        assert server.accepted == 4


@loops
@pytest.mark.parametrize("then", ["next loop", "close", "collect"])
def test_a_loop_closed_without_a_word(kind: str, then: str) -> None:
    """No shutdown_asyncgens, no close: quiet, and no socket is left.

    uvloop itself closes and warns of what is open, inside ``loop.close()``.
    """
    with HttpServer() as server, warnings.catch_warnings():
        warnings.simplefilter("ignore" if kind == "uvloop" else "error")
        engine = AsyncEngine()

        async def one() -> None:
            assert (await engine.send(target(server), get())).content == b"ok"

        loop = LOOPS[kind]()
        loop.run_until_complete(one())
        loop.close()
        if then == "next loop":
            run_on(kind, one())
            assert server.accepted == 2
        if then == "close":
            engine.close()
        elif then == "collect":
            del engine, one, loop
        gc.collect()
        assert server.wait_for(lambda: server.open_connections == 0)


def in_child(work: object) -> int:
    """Run ``work`` in a forked child; its exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()  # type: ignore[operator]
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@loops
def test_fork_with_an_async_engine(kind: str) -> None:
    with HttpServer() as server:
        engine = AsyncEngine()

        async def one(path: bytes) -> None:
            assert (await engine.send(target(server), get(path))).content == b"ok"

        def child() -> None:
            engine.after_fork_in_child()
            assert engine.stats() == {}
            run_on(kind, one(b"/child"))
            engine.close()

        loop = LOOPS[kind]()
        loop.run_until_complete(one(b"/before"))
        assert in_child(child) == 0
        loop.run_until_complete(one(b"/after"))
        loop.run_until_complete(engine.aclose())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        before, childs, after = server.requests
        assert (before.path, childs.path, after.path) == ("/before", "/child", "/after")
        assert before.connection == after.connection != childs.connection


def test_fork_with_a_sync_engine_whose_locks_are_held() -> None:
    with HttpServer() as server:
        engine = SyncEngine()
        assert engine.send(target(server), get(b"/before")).content == b"ok"

        def child() -> None:
            engine.after_fork_in_child()
            assert engine.send(target(server), get(b"/child")).content == b"ok"
            engine.close()

        with engine._lock, engine._pools[target(server)].lock:
            assert in_child(child) == 0
        assert engine.send(target(server), get(b"/after")).content == b"ok"
        engine.close()
        before, childs, after = server.requests
        assert before.connection == after.connection != childs.connection
