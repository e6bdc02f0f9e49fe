"""A storm of cancellations, time limits and closes: nothing is left behind.

About five seconds; ``MESHCLIENT_STORM_SECONDS=60`` for longer. The seed is printed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from engine_support import (
    LOOPS,
    HttpServer,
    Recorded,
    Reply,
    counts,
    eventually,
    get,
    post,
    soon,
    target,
    using,
)

from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import WireError, WireRequest
from meshclient.transport.sync_engine import SyncEngine

SECONDS = float(os.environ.get("MESHCLIENT_STORM_SECONDS", "1.5"))
TASKS = 1000


def sockets() -> int:
    """Open sockets of this process."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += os.readlink(entry).startswith("socket:")
        except OSError:
            continue  # the descriptor of the listing itself
    return count


async def slow(request: Recorded) -> Reply:
    """Waits before the head, or inside the body, as its path says."""
    kind, _, wait = request.path.strip("/").partition("-")
    delay = float(wait or 0) / 1000
    if kind == "body":

        async def body() -> AsyncIterator[bytes]:
            for _ in range(4):
                yield b"x" * 5000
                await asyncio.sleep(delay / 4)

        return Reply(200, body())
    return Reply(200, b"ok", delay_s=delay)


async def upload() -> AsyncIterator[bytes]:
    for _ in range(4):
        yield b"x" * 1000
        await asyncio.sleep(0.002)


def any_request(rand: Random) -> WireRequest:
    kind = rand.choice(("head", "body", "quick", "upload", "deadline"))
    path = b"/%b-%d" % (rand.choice((b"head", b"body")), rand.randrange(60))
    if kind == "quick":
        return get(b"/")
    if kind == "upload":
        return post(upload())
    if kind == "deadline":
        return get(path, deadline=soon(rand.random() * 0.05))
    return get(path)


async def one(engine: AsyncEngine, server: HttpServer, rand: Random) -> None:
    response = await engine.send(target(server), any_request(rand))
    async for _ in response:
        if rand.random() < 0.1:
            await response.aclose()  # leaves in the middle
            return


async def storm(engine: AsyncEngine, server: HttpServer, rand: Random, until: float) -> int:
    """Starts tasks and cancels each at a random moment; how many there were."""
    started = 0
    running: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    while started < TASKS or time.monotonic() < until:
        task = loop.create_task(one(engine, server, rand))
        running.add(task)
        task.add_done_callback(running.discard)
        loop.call_later(rand.random() * 0.04, task.cancel)
        started += 1
        if len(running) >= 200:
            await asyncio.sleep(0.001)
        elif rand.random() < 0.3:
            await asyncio.sleep(0)
    results = await asyncio.gather(*running, return_exceptions=True)
    for result in results:
        assert result is None or isinstance(result, (WireError, asyncio.CancelledError)), result
    return started


async def throughput(engine: AsyncEngine, server: HttpServer) -> float:
    """Requests per second of 20 tasks."""
    begun = time.perf_counter()

    async def worker() -> None:
        for _ in range(40):
            assert (await engine.send(target(server), get())).status == 200

    await asyncio.gather(*(worker() for _ in range(20)))
    return 800 / (time.perf_counter() - begun)


@pytest.mark.parametrize("kind", LOOPS)
def test_cancellations(kind: str) -> None:
    seed = int(os.environ.get("MESHCLIENT_STORM_SEED", "20261121"))
    print(f"MESHCLIENT_STORM_SEED={seed}")
    rand = Random(seed)

    async def test(engine: AsyncEngine) -> None:
        before = await throughput(engine, server)
        tasks = len(asyncio.all_tasks())
        started = await storm(engine, server, rand, time.monotonic() + SECONDS)
        assert started >= TASKS
        assert len(asyncio.all_tasks()) == tasks
        idle, active = counts(engine.stats())
        assert active == 0
        assert await throughput(engine, server) > before / 3  # a shared machine; a leak costs more
        assert counts(engine.stats())[1] == 0
        await engine.aclose()
        assert counts(engine.stats()) == (0, 0)
        assert idle <= 256
        await eventually(lambda: server.open_connections == 0)

    with HttpServer(slow) as server:
        gc.collect()
        base = sockets()
        using(kind, test, SECONDS + 20)
        gc.collect()
        assert sockets() <= base


@pytest.mark.parametrize("kind", LOOPS)
def test_closing_the_engine_in_the_middle(kind: str) -> None:
    """Every call under way ends at once, with a clear error, and nothing stays open."""
    rand = Random(7)

    async def test(_: AsyncEngine) -> None:
        for _round in range(5):
            engine = AsyncEngine()
            calls = [asyncio.ensure_future(one(engine, server, rand)) for _ in range(60)]
            await asyncio.sleep(rand.random() * 0.03)
            await engine.aclose()
            begun = time.monotonic()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - begun < 2
            assert all(result is None or isinstance(result, WireError) for result in results)
            assert counts(engine.stats()) == (0, 0)
        await eventually(lambda: server.open_connections == 0)

    with HttpServer(slow) as server:
        using(kind, test)


def test_threads_with_time_limits_and_a_close_in_the_middle() -> None:
    problems: list[BaseException] = []
    threads_before = threading.active_count()

    def work(engine: SyncEngine, server: HttpServer, rand: Random, until: float) -> None:
        while time.monotonic() < until:
            path = b"/%b-%d" % (rand.choice((b"head", b"body")), rand.randrange(30))
            try:
                response = engine.send(
                    target(server),
                    get(path, deadline=soon(rand.random() * 0.03), read_timeout_s=0.02),
                )
                for _ in response:
                    if rand.random() < 0.2:
                        response.close()
                        break
            except WireError:
                continue
            except BaseException as error:
                problems.append(error)
                return

    with HttpServer(slow) as server:
        threads_before = threading.active_count()
        base = sockets()
        engine = SyncEngine()
        until = time.monotonic() + SECONDS
        threads = [
            threading.Thread(target=work, args=(engine, server, Random(n), until))
            for n in range(16)
        ]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS * 0.8)
        assert engine.send(target(server), get()).status == 200
        engine.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert not problems, problems
        assert counts(engine.stats()) == (0, 0)
        assert server.wait_for(lambda: server.open_connections == 0)
        gc.collect()
        assert sockets() <= base
        assert threading.active_count() <= threads_before
