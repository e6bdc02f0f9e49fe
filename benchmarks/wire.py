"""CPU per request of HTTP clients beside ours, in one run, against one nginx.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.wire [--seconds 0.6] [--rounds 3] [--concurrency 1 16 100]
                              [--sizes 100 1000000] [--only async] [--memory]

Every cell (client, body size, concurrency) is a process of its own, in shuffled order, each
round anew; the tables give medians, and ratios to httpx. ``mesh`` is a mesh client to a
host that no policy knows: the httpx API over our engine; ``engine`` is the engine alone.
The server's CPU is not counted. Nothing is asserted here.
"""

# ruff: noqa: ARG001 - every client is made with the same three arguments

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.server import _free_port, _wait_for

#: Bodies beyond this size are read in pieces, as nobody holds them in memory.
STREAMED = 10_000_000
Call = Callable[[], Awaitable[int]]
SyncCall = Callable[[], int]
Sample = tuple[float, float, float]  # requests per second, CPU us per request, MB per second

_NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; sendfile on;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {folder}/files; }}
}}
"""


@contextmanager
def server(sizes: list[int]) -> Iterator[str]:
    """nginx with one file per size; gives its URL."""
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if nginx is None:
        raise SystemExit("this benchmark needs nginx")
    folder, port = Path(tempfile.mkdtemp(prefix="bench-wire-")), _free_port()
    (folder / "files").mkdir(parents=True)
    folder.chmod(0o755)
    for size in sizes:
        (folder / "files" / str(size)).write_bytes(b"x" * size)
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port))
    command = [nginx, "-p", str(folder), "-c", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


# -- asynchronous clients: each gives a call that returns the length of the body ---


def _httpx_call(client: Any, url: str, size: int) -> Call:
    async def whole() -> int:
        return len((await client.get(url)).content)

    async def streamed() -> int:
        async with client.stream("GET", url) as response:
            return sum([len(piece) async for piece in response.aiter_raw()])

    return streamed if size > STREAMED else whole


@asynccontextmanager
async def async_httpx(url: str, size: int, concurrency: int) -> AsyncIterator[Call]:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        yield _httpx_call(client, url, size)


@asynccontextmanager
async def async_httpx2(url: str, size: int, concurrency: int) -> AsyncIterator[Call]:
    import httpx2

    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(timeout=60, limits=limits) as client:
        yield _httpx_call(client, url, size)


@asynccontextmanager
async def async_httpx_aiohttp(url: str, size: int, concurrency: int) -> AsyncIterator[Call]:
    import httpx
    import httpx_aiohttp

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)
    async with httpx_aiohttp.HttpxAiohttpClient(timeout=60, limits=limits) as client:
        yield _httpx_call(client, url, size)


@asynccontextmanager
async def async_aiohttp(url: str, size: int, concurrency: int) -> AsyncIterator[Call]:
    import aiohttp

    async def call() -> int:
        async with session.get(url) as response:
            if size <= STREAMED:
                return len(await response.read())
            return sum([len(piece) async for piece in response.content.iter_any()])

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield call


@asynccontextmanager
async def async_mesh(url: str, size: int, concurrency: int) -> AsyncIterator[Call]:
    from meshclient import Mesh

    async with (
        Mesh.from_documents([{"version": 1, "services": {}}]) as mesh,
        mesh.async_client(timeout=60) as client,
    ):
        yield _httpx_call(client, url, size)


@asynccontextmanager
async def async_engine(url: str, size: int, concurrency: int) -> AsyncIterator[Call]:
    from meshclient.transport.async_engine import AsyncEngine

    engine = AsyncEngine()
    target, make = _wire(url)

    async def call() -> int:
        response = await engine.send(target, make())
        if response.content is not None:
            return len(response.content)
        return sum([len(piece) async for piece in response])

    try:
        yield call
    finally:
        await engine.aclose()


def _wire(url: str) -> tuple[Any, Callable[[], Any]]:
    from meshclient.transport.interface import Target, WireRequest

    authority, _, path = url.removeprefix("http://").partition("/")
    host, _, port = authority.partition(":")
    headers = [(b"Host", authority.encode()), (b"Accept", b"*/*"), (b"User-Agent", b"bench")]
    target = Target(host, int(port))
    return target, lambda: WireRequest(b"GET", b"/" + path.encode(), headers, read_timeout_s=60.0)


# -- blocking clients -----------------------------------------------------------------


@contextmanager
def sync_httpx(url: str, size: int, concurrency: int, library: str = "httpx") -> Iterator[SyncCall]:
    import importlib

    httpx = importlib.import_module(library)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    with httpx.Client(timeout=60, limits=limits) as client:
        yield lambda: _sync_length(client, url, size)


@contextmanager
def sync_httpx2(url: str, size: int, concurrency: int) -> Iterator[SyncCall]:
    with sync_httpx(url, size, concurrency, "httpx2") as call:
        yield call


@contextmanager
def sync_mesh(url: str, size: int, concurrency: int) -> Iterator[SyncCall]:
    from meshclient import Mesh

    with (
        Mesh.from_documents([{"version": 1, "services": {}}]) as mesh,
        mesh.client(timeout=60) as c,
    ):
        yield lambda: _sync_length(c, url, size)


def _sync_length(client: Any, url: str, size: int) -> int:
    if size <= STREAMED:
        return len(client.get(url).content)
    with client.stream("GET", url) as response:
        return sum(len(piece) for piece in response.iter_raw())


@contextmanager
def sync_urllib3(url: str, size: int, concurrency: int) -> Iterator[SyncCall]:
    import urllib3

    def call() -> int:
        if size <= STREAMED:
            return len(manager.request("GET", url).data)
        response = manager.request("GET", url, preload_content=False)
        return sum(len(piece) for piece in response.stream(65536))

    with urllib3.PoolManager(maxsize=concurrency) as manager:
        yield call


@contextmanager
def sync_engine(url: str, size: int, concurrency: int) -> Iterator[SyncCall]:
    from meshclient.transport.sync_engine import SyncEngine

    engine = SyncEngine()
    target, make = _wire(url)

    def call() -> int:
        response = engine.send(target, make())
        return len(response.content) if response.content is not None else sum(map(len, response))

    try:
        yield call
    finally:
        engine.close()


ASYNC: dict[str, Callable[..., AbstractAsyncContextManager[Call]]] = {
    "httpx": async_httpx,
    "httpx2": async_httpx2,
    "httpx-aiohttp": async_httpx_aiohttp,
    "aiohttp": async_aiohttp,
    "mesh": async_mesh,
    "engine": async_engine,
}
SYNC: dict[str, Any] = {
    "httpx": sync_httpx,
    "httpx2": sync_httpx2,
    "urllib3": sync_urllib3,
    "mesh": sync_mesh,
    "engine": sync_engine,
}


# -- measuring ----------------------------------------------------------------------


async def _async_cell(name: str, url: str, size: int, concurrency: int, seconds: float) -> Sample:
    count = 0

    async with ASYNC[name](f"{url}/{size}", size, concurrency) as call:

        async def worker(until: float) -> None:
            nonlocal count
            while True:
                assert await call() == size
                count += 1
                if time.perf_counter() >= until:
                    return

        async def run(duration: float) -> None:
            until = time.perf_counter() + duration
            await asyncio.gather(*(worker(until) for _ in range(concurrency)))

        await run(seconds / 3)
        count = 0
        wall, cpu = time.perf_counter(), time.process_time()
        await run(seconds)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return count / wall, cpu / count * 1e6, count * size / wall / 1e6


def _sync_cell(name: str, url: str, size: int, concurrency: int, seconds: float) -> Sample:
    with SYNC[name](f"{url}/{size}", size, concurrency) as call:
        counts: list[int] = []

        def worker(until: float) -> None:
            count = 0
            while not count or time.perf_counter() < until:
                assert call() == size
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
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    count = sum(counts)
    return count / wall, cpu / count * 1e6, count * size / wall / 1e6


def _cell(kind: str, name: str, url: str, size: int, concurrency: int, seconds: float) -> Sample:
    if kind == "sync":
        return _sync_cell(name, url, size, concurrency, seconds)
    return asyncio.run(_async_cell(name, url, size, concurrency, seconds))


def _idle_memory(name: str, url: str, connections: int = 300) -> float:
    """Kilobytes of resident memory per idle connection."""

    async def run() -> float:
        async with ASYNC[name](f"{url}/100", 100, connections) as call:
            await call()
            before = _resident()
            await asyncio.gather(*(call() for _ in range(connections)))
            return (_resident() - before) / connections / 1024

    return asyncio.run(run())


def _resident() -> int:
    import gc

    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _kinds(only: str | None) -> list[tuple[str, str]]:
    kinds = [("async", name) for name in ASYNC] + [("sync", name) for name in SYNC]
    return [(kind, name) for kind, name in kinds if only in (None, kind)]


def _table(results: dict[tuple[str, str, int, int], list[Sample]]) -> None:
    for kind, size, concurrency in sorted({(k, s, c) for k, _, s, c in results}):
        print(f"\n{kind}, {size:,} B, concurrency {concurrency}")
        bare = statistics.median(s[1] for s in results[kind, "httpx", size, concurrency])
        for (k, name, s, c), samples in results.items():
            if (k, s, c) == (kind, size, concurrency):
                rate, cpu, megabytes = (statistics.median(x) for x in zip(*samples, strict=True))
                print(
                    f"  {name:14}{cpu:12.1f} us CPU{cpu / bare:8.3f} x httpx"
                    f"{rate:10.0f}/s{megabytes:10.1f} MB/s"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 100])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000_000])
    parser.add_argument("--only", choices=["sync", "async"])
    parser.add_argument("--memory", action="store_true", help="memory per idle connection only")
    given = parser.parse_args()
    with server(sorted({100, *given.sizes})) as url:
        if given.memory:
            for name in ASYNC:
                print(f"{name:14}{_in_a_process(_idle_memory, name, url):8.1f} KB per connection")
            return
        cells = [
            (kind, name, size, concurrency)
            for kind, name in _kinds(given.only)
            for size in given.sizes
            for concurrency in given.concurrency
        ]
        results: dict[tuple[str, str, int, int], list[Sample]] = {cell: [] for cell in cells}
        for _ in range(given.rounds):
            for cell in random.sample(cells, len(cells)):
                kind, name, size, concurrency = cell
                arguments = (kind, name, url, size, concurrency, given.seconds)
                results[cell].append(_in_a_process(_cell, *arguments))
    _table(results)


if __name__ == "__main__":
    main()
