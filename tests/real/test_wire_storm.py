"""A storm of cancellations, time limits and closes: nothing is left behind.

About eight seconds; ``MESHCLIENT_STORM_SECONDS=60`` for longer. The seed is printed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random

import httpx
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
    run_on,
    soon,
    target,
    using,
)
from life_support import busy_connections, in_flight, nothing_left

from meshclient import Mesh
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


async def throughput(engine: AsyncEngine) -> float:
    """Requests per second of 20 tasks, the best of a few rounds: this machine is shared.

    Of a server that saw no storm, since the engine is what is measured.
    """
    with HttpServer() as calm:
        return max([await _round(engine, calm) for _ in range(12)])


async def _round(engine: AsyncEngine, server: HttpServer) -> float:
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
        before = await throughput(engine)
        tasks = len(asyncio.all_tasks())
        started = await storm(engine, server, rand, time.monotonic() + SECONDS)
        assert started >= TASKS
        assert len(asyncio.all_tasks()) == tasks
        idle, active = counts(engine.stats())
        assert active == 0
        await eventually(lambda: server.open_connections <= idle)
        await asyncio.sleep(0.1)  # the server's last handlers share the interpreter with us
        after = await throughput(engine)
        print(f"{kind}: {started} tasks, {before:.0f}/s before, {after:.0f}/s after, {idle} idle")
        assert after > before / 3  # a shared machine; a leak costs more
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


class Threads:
    """Many threads with short time limits and early closes, until ``until``."""

    def __init__(self, engine: SyncEngine, server: HttpServer, count: int, until: float) -> None:
        self.calls = 0
        self.problems: list[BaseException] = []
        self._engine = engine
        self._server = server
        self._until = until
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self, number: int) -> None:
        rand = Random(number)
        try:
            while time.monotonic() < self._until:
                self.calls += 1
                with suppress(WireError):
                    self._one(rand)
        except BaseException as error:
            self.problems.append(error)

    def _one(self, rand: Random) -> None:
        path = b"/%b-%d" % (rand.choice((b"head", b"body")), rand.randrange(60))
        limits: dict[str, float] = {"deadline": soon(rand.random() * 0.1)}
        if rand.random() < 0.5:
            limits["read_timeout_s"] = rand.random() * 0.05
        upload = rand.random() < 0.2
        request = post(iter([b"x" * 1000] * 4), **limits) if upload else get(path, **limits)
        response = self._engine.send(target(self._server), request)
        for _ in response:
            if rand.random() < 0.2:
                response.close()
                return

    def join(self, seconds: float) -> None:
        """All of them ended in time, and none with anything but errors of the wire."""
        limit = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, limit - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads)
        assert not self.problems, self.problems


def sync_throughput(engine: SyncEngine) -> float:
    """Requests per second of 8 threads; see :func:`throughput`."""
    with HttpServer() as calm:
        return max(_sync_round(engine, calm) for _ in range(12))


def _sync_round(engine: SyncEngine, server: HttpServer) -> float:

    def work() -> None:
        for _ in range(50):
            assert engine.send(target(server), get()).status == 200

    threads = [threading.Thread(target=work) for _ in range(8)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return 400 / (time.perf_counter() - begun)


def test_threads_with_time_limits() -> None:
    """150 threads; afterwards nothing is active and the engine is as quick as before."""
    with HttpServer(slow) as server:
        threads_before = threading.active_count()
        gc.collect()
        base = sockets()
        engine = SyncEngine()
        before = sync_throughput(engine)
        storm = Threads(engine, server, 150, time.monotonic() + SECONDS)
        storm.join(SECONDS + 15)
        idle, active = counts(engine.stats())
        assert server.wait_for(lambda: server.open_connections <= idle)
        time.sleep(0.1)
        after = sync_throughput(engine)
        print(f"threads: {storm.calls} calls, {before:.0f}/s, then {after:.0f}/s, {idle} idle")
        assert active == 0
        assert idle <= 256
        assert storm.calls > 150
        assert after > before / 3  # threads share two cores with whatever else runs
        engine.close()
        assert counts(engine.stats()) == (0, 0)
        assert server.wait_for(lambda: server.open_connections == 0)
        gc.collect()
        assert sockets() <= base
        assert threading.active_count() <= threads_before


def test_threads_and_a_close_in_the_middle() -> None:
    """Calls that begin after it are refused; the ones under way end at once."""
    with HttpServer(slow) as server:
        gc.collect()
        base = sockets()
        engine = SyncEngine()
        storm = Threads(engine, server, 100, time.monotonic() + 1.0)
        time.sleep(0.4)
        assert engine.send(target(server), get()).status == 200
        engine.close()
        assert server.wait_for(lambda: server.open_connections == 0)
        storm.join(10)
        assert counts(engine.stats()) == (0, 0)
        gc.collect()
        assert sockets() <= base


@pytest.mark.parametrize("kind", LOOPS)
def test_cancellations_through_a_mesh(kind: str) -> None:
    """Whole calls with retries, and a queue for connections: every count is zero afterwards."""
    rand = Random(11)
    ended: Counter[str] = Counter()

    async def call(client: httpx.AsyncClient) -> None:
        path = f"/{rand.choice(('head', 'body'))}-{rand.randrange(60)}"
        await client.get("http://svc" + path, timeout=rand.choice((None, 0.03)))

    async def run() -> None:
        async with mesh.async_client() as client:
            running: set[asyncio.Task[None]] = set()
            started, until = 0, time.monotonic() + SECONDS
            while started < TASKS or time.monotonic() < until:
                task = asyncio.ensure_future(call(client))
                running.add(task)
                task.add_done_callback(running.discard)
                asyncio.get_running_loop().call_later(rand.random() * 0.08, task.cancel)
                started += 1
                await asyncio.sleep(0.001 if len(running) >= 200 else 0)
            results = await asyncio.gather(*running, return_exceptions=True)
            ended.update(type(result).__name__ for result in results)
            assert in_flight(mesh) == busy_connections(mesh) == 0
            good = await asyncio.gather(*(client.get("http://svc/head-0") for _ in range(40)))
            assert [response.status_code for response in good] == [200] * 40
            print(f"mesh, {kind}: {started} calls; the last of them ended with {dict(ended)}")

    limits = {"max_connections": 40, "max_pending_requests": 100}
    retries = {"attempts": 1, "on": ["reset", "connect-failure"]}
    with nothing_left(), HttpServer(slow) as server:
        service = {"endpoints": [server.authority], "limits": limits, "retries": retries}
        with Mesh.from_documents([{"version": 1, "services": {"svc": service}}]) as mesh:
            run_on(kind, run(), SECONDS + 20)
