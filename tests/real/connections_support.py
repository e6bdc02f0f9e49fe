"""Shared by the tests of connections: dead addresses, counted sockets, both engines."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from engine_support import read, run_on

from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import Target, WireRequest
from meshclient.transport.sync_engine import SyncEngine


@contextmanager
def deaf_at(host: str, port: int) -> Iterator[None]:
    """``host:port`` takes no connection and refuses none: its queue is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.bind((host, port))
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket(family)
        filler.setblocking(False)
        filler.connect_ex((host, port))
        fillers.append(filler)
    try:
        yield
    finally:
        for sock in (listener, *fillers):
            sock.close()


def sockets() -> int:
    """Sockets this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:  # the folder itself was one of them
            continue
    return found


def names(monkeypatch: Any, *addresses: str) -> None:
    """Every host name has these addresses, in this order."""

    def getaddrinfo(
        host: str, port: int, *_: object, **__: object
    ) -> list[tuple[Any, Any, int, str, Any]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def over_sync(target: Target, request: WireRequest) -> tuple[bytes, Any]:
    """Body, and the address that answered."""
    engine = SyncEngine()
    try:
        response = engine.send(target, request)
        return b"".join(response), response.get_extra_info("server_addr") or _peer(engine)
    finally:
        engine.close()


def _peer(engine: SyncEngine) -> Any:
    (pool,) = engine._pools.values()
    (connection,) = pool.connections
    return connection.sock.getpeername()


def over_async(target: Target, request: WireRequest, kind: str = "asyncio") -> tuple[bytes, Any]:
    """The same on an event loop."""

    async def run() -> tuple[bytes, Any]:
        engine = AsyncEngine()
        try:
            response = await engine.send(target, request)
            peer = response.get_extra_info("server_addr")
            return await read(response), peer
        finally:
            await engine.aclose()

    return run_on(kind, run())


def over_uvloop(target: Target, request: WireRequest) -> tuple[bytes, Any]:
    """The same on uvloop."""
    return over_async(target, request, "uvloop")


WAYS: dict[str, Callable[[Target, WireRequest], tuple[bytes, Any]]] = {
    "sync": over_sync,
    "asyncio": over_async,
    "uvloop": over_uvloop,
}
