"""CPU per request of the wire engine beside bare httpx, on one server in another process.

    python -m benchmarks.engine [--seconds 1.0] [--rounds 3] [--uvloop]

Every cell runs in shuffled order, each round anew; the table gives medians and
the ratio to httpx at the same concurrency. The server's CPU is not counted. No
assertion here: budgets belong to the benchmark of the whole library.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

import httpx

from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import Target, WireRequest
from meshclient.transport.sync_engine import SyncEngine

ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
)
CONCURRENCY = (1, 10, 100)
Sample = tuple[float, float]  # requests per second, CPU microseconds per request


class _Answer(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER * data.count(b"\r\n\r\n"))  # type: ignore[attr-defined]


def serve(ready: Connection) -> None:
    """A server that costs as little as Python allows, so that the client is what is measured."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Answer, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    try:
        import uvloop

        uvloop.run(run())
    except ImportError:
        asyncio.run(run())


def headers(port: int) -> list[tuple[bytes, bytes]]:
    """What httpx sends."""
    return [
        (b"Host", b"127.0.0.1:%d" % port),
        (b"Accept", b"*/*"),
        (b"Accept-Encoding", b"gzip, deflate"),
        (b"Connection", b"keep-alive"),
        (b"User-Agent", b"python-httpx/0.28.1"),
    ]


async def _measure(call: Callable[[], Awaitable[None]], concurrency: int, seconds: float) -> Sample:
    count = 0

    async def worker(until: float) -> None:
        nonlocal count
        while time.perf_counter() < until:
            await call()
            count += 1

    async def run(duration: float) -> None:
        until = time.perf_counter() + duration
        await asyncio.gather(*(worker(until) for _ in range(concurrency)))

    await run(seconds / 3)
    count = 0
    wall, cpu = time.perf_counter(), time.process_time()
    await run(seconds)
    cpu = time.process_time() - cpu
    return count / (time.perf_counter() - wall), cpu / count * 1e6


async def async_engine(port: int, concurrency: int, seconds: float) -> Sample:
    engine, target, lines = AsyncEngine(), Target("127.0.0.1", port), headers(port)

    async def call() -> None:
        request = WireRequest(
            b"GET", b"/x", lines, connect_timeout_s=5.0, read_timeout_s=5.0, response_timeout_s=2.0
        )
        response = await engine.send(target, request)
        assert len(response.content or b"") == 100

    try:
        return await _measure(call, concurrency, seconds)
    finally:
        await engine.aclose()


async def async_httpx(port: int, concurrency: int, seconds: float) -> Sample:
    url = f"http://127.0.0.1:{port}/x"
    async with httpx.AsyncClient() as client:

        async def call() -> None:
            assert len((await client.get(url)).content) == 100

        return await _measure(call, concurrency, seconds)


def _measure_threads(call: Callable[[], None], concurrency: int, seconds: float) -> Sample:
    counts: list[int] = []

    def worker(until: float) -> None:
        count = 0
        while time.perf_counter() < until:
            call()
            count += 1
        counts.append(count)

    def run(duration: float) -> None:
        until = time.perf_counter() + duration
        threads = [threading.Thread(target=worker, args=(until,)) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run(seconds / 3)
    counts.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    run(seconds)
    cpu = time.process_time() - cpu
    return sum(counts) / (time.perf_counter() - wall), cpu / sum(counts) * 1e6


def sync_engine(port: int, concurrency: int, seconds: float) -> Sample:
    engine, target, lines = SyncEngine(), Target("127.0.0.1", port), headers(port)

    def call() -> None:
        request = WireRequest(
            b"GET", b"/x", lines, connect_timeout_s=5.0, read_timeout_s=5.0, response_timeout_s=2.0
        )
        response = engine.send(target, request)
        assert len(response.content or b"") == 100

    try:
        return _measure_threads(call, concurrency, seconds)
    finally:
        engine.close()


def sync_httpx(port: int, concurrency: int, seconds: float) -> Sample:
    url = f"http://127.0.0.1:{port}/x"
    with httpx.Client() as client:
        return _measure_threads(lambda: _checked(client, url), concurrency, seconds)


def _checked(client: httpx.Client, url: str) -> None:
    assert len(client.get(url).content) == 100


def _run_cell(name: str, port: int, concurrency: int, seconds: float, loop: str) -> Sample:
    if name.startswith("sync"):
        return {"sync engine": sync_engine, "sync httpx": sync_httpx}[name](
            port, concurrency, seconds
        )
    coroutine = {"async engine": async_engine, "async httpx": async_httpx}[name]
    if loop == "uvloop":
        import uvloop

        return uvloop.run(coroutine(port, concurrency, seconds))
    return asyncio.run(coroutine(port, concurrency, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ready, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    port = ready.recv()
    names = ("async httpx", "async engine", "sync httpx", "sync engine")
    cells = [(name, concurrency) for name in names for concurrency in CONCURRENCY]
    samples: dict[tuple[str, int], list[Sample]] = {cell: [] for cell in cells}
    loop = "uvloop" if options.uvloop else "asyncio"
    for _ in range(options.rounds):
        for name, concurrency in random.sample(cells, len(cells)):
            sample = _run_cell(name, port, concurrency, options.seconds, loop)
            samples[name, concurrency].append(sample)
    server.terminate()
    server.join()
    print(f"{loop}: median requests/s, CPU us per request (lowest-highest), CPU ratio to httpx")
    for name, concurrency in cells:
        got = samples[name, concurrency]
        base = statistics.median(s[1] for s in samples[name.split()[0] + " httpx", concurrency])
        cpu = [s[1] for s in got]
        print(
            f"{name:14} c={concurrency:<4} {statistics.median(s[0] for s in got):8.0f}/s "
            f"{statistics.median(cpu):8.0f} us ({min(cpu):.0f}-{max(cpu):.0f}) "
            f"{statistics.median(cpu) / base:6.2f}"
        )


if __name__ == "__main__":
    main()
