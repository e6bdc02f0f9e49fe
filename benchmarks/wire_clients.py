"""The HTTP clients that ``benchmarks.wire`` compares, each as a call that gives a body's length.

How they are measured is not in here. All have room for every call at once.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, NamedTuple

#: Bodies beyond this size are read in pieces, as nobody holds them in memory.
STREAMED = 10_000_000
Call = Callable[[], Awaitable[int]]
SyncCall = Callable[[], int]


class Task(NamedTuple):
    """What a client is to do: ``wire`` is one of :data:`WIRES`, ``ca`` signed the server."""

    wire: str
    url: str
    ca: str
    size: int
    concurrency: int

    @property
    def http2(self) -> bool:
        return self.wire.startswith("http2")

    @property
    def context(self) -> Any:
        """For clients that want one; False in plain text, where none is looked at."""
        return ssl.create_default_context(cafile=self.ca) if self.wire.endswith("tls") else False


#: What is spoken, and the clients that can: all others, where none are named.
WIRES: dict[str, tuple[str, ...]] = {
    "http1": (),
    "http1-tls": (),
    "http2-tls": ("httpx", "httpx2", "mesh", "engine"),
    "http2": ("httpx", "httpx2", "engine"),
}


def _options(library: Any, task: Task) -> dict[str, Any]:
    limits = library.Limits(max_connections=None, max_keepalive_connections=None)
    return {
        "timeout": 60,
        "limits": limits,
        "verify": task.context,
        "http2": task.http2,
        "http1": not task.http2,
    }


# -- asynchronous ---------------------------------------------------------------------


def _httpx_call(client: Any, task: Task) -> Call:
    async def whole() -> int:
        return len((await client.get(task.url)).content)

    async def streamed() -> int:
        async with client.stream("GET", task.url) as response:
            return sum([len(piece) async for piece in response.aiter_raw()])

    return streamed if task.size > STREAMED else whole


@asynccontextmanager
async def async_httpx(task: Task, library: str = "httpx") -> AsyncIterator[Call]:
    httpx = importlib.import_module(library)
    async with httpx.AsyncClient(**_options(httpx, task)) as client:
        yield _httpx_call(client, task)


@asynccontextmanager
async def async_httpx2(task: Task) -> AsyncIterator[Call]:
    async with async_httpx(task, "httpx2") as call:
        yield call


@asynccontextmanager
async def async_httpx_aiohttp(task: Task) -> AsyncIterator[Call]:
    import httpx
    import httpx_aiohttp

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=task.concurrency)
    async with httpx_aiohttp.HttpxAiohttpClient(
        timeout=60, limits=limits, verify=task.context
    ) as client:
        yield _httpx_call(client, task)


@asynccontextmanager
async def async_aiohttp(task: Task) -> AsyncIterator[Call]:
    import aiohttp

    async def call() -> int:
        async with session.get(task.url) as response:
            if task.size <= STREAMED:
                return len(await response.read())
            return sum([len(piece) async for piece in response.content.iter_any()])

    connector = aiohttp.TCPConnector(limit=0, ssl=task.context)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield call


@asynccontextmanager
async def async_mesh(task: Task) -> AsyncIterator[Call]:
    from meshclient import Mesh

    with Mesh.from_documents([{"version": 1, "services": {}}]) as mesh:
        client = mesh.async_client(timeout=60, verify=task.context, http2=task.http2)
        async with client:
            yield _httpx_call(client, task)


@asynccontextmanager
async def async_engine(task: Task) -> AsyncIterator[Call]:
    from meshclient.transport.async_engine import AsyncEngine

    engine = AsyncEngine(max_idle=max(256, task.concurrency))
    target, make = _wire(task)

    async def call() -> int:
        response = await engine.send(target, make())
        if response.content is not None:
            return len(response.content)
        return sum([len(piece) async for piece in response])

    try:
        yield call
    finally:
        await engine.aclose()


def _wire(task: Task) -> tuple[Any, Callable[[], Any]]:
    from meshclient.transport.interface import Target, WireRequest
    from meshclient.transport.tls import TlsIdentity, default_context

    authority, _, path = task.url.partition("://")[2].partition("/")
    host, _, port = authority.partition(":")
    headers = [(b"Host", authority.encode()), (b"Accept", b"*/*"), (b"User-Agent", b"bench")]
    identity = None
    if task.wire.endswith("tls"):
        identity = TlsIdentity(host, default_context(task.ca, http2=task.http2))
    protocol: Any = "h2" if task.http2 else "http1"
    target = Target("127.0.0.1", int(port), identity, protocol=protocol)
    return target, lambda: WireRequest(b"GET", b"/" + path.encode(), headers, read_timeout_s=60.0)


# -- blocking -------------------------------------------------------------------------


@contextmanager
def sync_httpx(task: Task, library: str = "httpx") -> Iterator[SyncCall]:
    httpx = importlib.import_module(library)
    with httpx.Client(**_options(httpx, task)) as client:
        yield lambda: _sync_length(client, task)


@contextmanager
def sync_httpx2(task: Task) -> Iterator[SyncCall]:
    with sync_httpx(task, "httpx2") as call:
        yield call


@contextmanager
def sync_mesh(task: Task) -> Iterator[SyncCall]:
    from meshclient import Mesh

    with (
        Mesh.from_documents([{"version": 1, "services": {}}]) as mesh,
        mesh.client(timeout=60, verify=task.context, http2=task.http2) as client,
    ):
        yield lambda: _sync_length(client, task)


def _sync_length(client: Any, task: Task) -> int:
    if task.size <= STREAMED:
        return len(client.get(task.url).content)
    with client.stream("GET", task.url) as response:
        return sum(len(piece) for piece in response.iter_raw())


@contextmanager
def sync_urllib3(task: Task) -> Iterator[SyncCall]:
    import urllib3

    def call() -> int:
        if task.size <= STREAMED:
            return len(manager.request("GET", task.url).data)
        response = manager.request("GET", task.url, preload_content=False)
        return sum(len(piece) for piece in response.stream(65536))

    with urllib3.PoolManager(maxsize=task.concurrency, ca_certs=task.ca) as manager:
        yield call


@contextmanager
def sync_engine(task: Task) -> Iterator[SyncCall]:
    from meshclient.transport.sync_engine import SyncEngine

    engine = SyncEngine(max_idle=max(256, task.concurrency))
    target, make = _wire(task)

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
