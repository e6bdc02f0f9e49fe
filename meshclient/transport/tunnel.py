"""Proxy handshakes over real sockets, within the caller's time limit.

One function per shell; each leaves the socket open, whatever happens: who
opened it closes it. Which proxy, and whether at all, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
import time

from meshclient.transport.interface import Target
from meshclient.transport.proxy import Proxy


def first_hop(target: Target) -> Target:
    """Whom to dial for a target behind a proxy."""
    proxy = target.proxy
    assert proxy is not None
    return Target(proxy.host, proxy.port, None, target.options)


async def tunnel_async(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: Proxy, host: str, port: int
) -> None:
    """Make ``sock``, connected to ``proxy``, a connection to ``host``:``port``. Raises OSError."""
    steps = proxy.tunnel(host, port)
    send, count = next(steps)
    while True:
        if send:
            await loop.sock_sendall(sock, send)
        got = await loop.sock_recv(sock, count)
        try:
            send, count = steps.send(got)
        except StopIteration:
            return


def tunnel_sync(sock: socket.socket, proxy: Proxy, host: str, port: int, limit: float) -> None:
    """:func:`tunnel_async` for a blocking socket, until ``limit`` (monotonic)."""
    steps = proxy.tunnel(host, port)
    send, count = next(steps)
    while True:
        left = limit - time.monotonic()
        if left <= 0:
            raise TimeoutError("the proxy takes too long")
        sock.settimeout(left)
        if send:
            sock.sendall(send)
        got = sock.recv(count)
        try:
            send, count = steps.send(got)
        except StopIteration:
            return
