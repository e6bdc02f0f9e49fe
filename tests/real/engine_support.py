"""Shared by the engine tests: servers, targets, requests, and loops of both kinds."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.http import HttpServer, Peer, RawServer, Recorded, Reply, answer, serve_raw

from meshclient.model.cluster import ConnectionOptions
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import AsyncWireResponse, PoolStats, Target, WireRequest

T = TypeVar("T")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def run_on(kind: str, coroutine: Coroutine[Any, Any, T], limit_s: float = 20) -> T:
    """Run to the end, with a limit that turns a hang into a failure."""

    async def bounded() -> T:
        return await asyncio.wait_for(coroutine, limit_s)

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        return runner.run(bounded())


def target(server: HttpServer | RawServer, **options: Any) -> Target:
    return Target("127.0.0.1", server.port, None, ConnectionOptions(**options))


def get(path: bytes = b"/", **limits: Any) -> WireRequest:
    return WireRequest(b"GET", path, [(b"Host", b"test")], **limits)


def post(body: Any, *headers: tuple[bytes, bytes], **limits: Any) -> WireRequest:
    return WireRequest(b"POST", b"/", [(b"Host", b"test"), *headers], body, **limits)


def soon(seconds: float) -> float:
    """A deadline."""
    return time.monotonic() + seconds


async def read(response: AsyncWireResponse) -> bytes:
    return b"".join([piece async for piece in response])


def total(stats: dict[Target, PoolStats]) -> PoolStats:
    result = PoolStats()
    for one in stats.values():
        result.add(one)
    return result


def counts(stats: dict[Target, PoolStats]) -> tuple[int, int]:
    """(idle, active) over all targets."""
    one = total(stats)
    return one.idle, one.active


async def no_tasks_left() -> None:
    """Nothing but the test itself still runs on this loop."""
    me = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not me]
    # wait_for runs the test in a task of its own on Python 3.11.
    others = [task for task in others if "bounded" not in repr(task)]
    assert not others, others


async def eventually(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    """Until ``condition`` holds; what it waits for happens on other threads."""
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, "never happened"
        await asyncio.sleep(0.002)


stopped = threading.Event()


class DeafListener:
    """A port whose queue of connections is full: connecting hangs."""

    def __enter__(self) -> DeafListener:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(filler)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self.listener, *self.fillers):
            sock.close()


def silent(peer: Peer) -> None:
    """Take the request and say nothing."""
    peer.read_head()
    peer.wait_closed()


def half(peer: Peer) -> None:
    """Stop inside the body."""
    peer.read_head()
    peer.send(answer(b"0123456789")[:-5])
    peer.wait_closed()


def deaf(peer: Peer) -> None:
    """Take the head and then nothing."""
    peer.read_head()
    stopped.wait(10)


def certificate(folder: Path, name: str) -> tuple[str, str]:
    """A self-signed certificate for the DNS name ``name``: (certificate, key)."""
    certificate, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", f"/CN={name}",
         "-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def using(kind: str, test: Callable[[AsyncEngine], Awaitable[None]], limit_s: float = 20) -> None:
    """Run ``test`` with an engine that is closed afterwards, and leave nothing behind."""

    async def run() -> None:
        engine = AsyncEngine()
        try:
            await test(engine)
        finally:
            await engine.aclose()
        await no_tasks_left()

    run_on(kind, run(), limit_s)


__all__ = [
    "LOOPS",
    "DeafListener",
    "HttpServer",
    "Peer",
    "RawServer",
    "Recorded",
    "Reply",
    "answer",
    "certificate",
    "counts",
    "deaf",
    "eventually",
    "get",
    "half",
    "no_tasks_left",
    "post",
    "read",
    "run_on",
    "serve_raw",
    "silent",
    "soon",
    "stopped",
    "target",
    "total",
    "using",
]
