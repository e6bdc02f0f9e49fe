"""One DNS query to one server, over UDP or TCP, with a time limit.

Bytes only: what a message means, and which server is asked next, is decided
elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from meshclient.discovery.dns_settings import Server


class Exchange(Protocol):
    """How a query travels; tests put a scripted one in its place."""

    async def __call__(
        self,
        server: Server,
        query: bytes,
        *,
        tcp: bool,
        timeout_s: float,
        matches: Callable[[bytes], bool],
    ) -> bytes:
        """The first answer for which ``matches`` holds.

        Raises ``TimeoutError`` after ``timeout_s``, ``OSError`` when the server
        cannot be reached, ``EOFError`` when it hangs up.
        """


async def exchange(
    server: Server,
    query: bytes,
    *,
    tcp: bool,
    timeout_s: float,
    matches: Callable[[bytes], bool],
) -> bytes:
    """The real :class:`Exchange`."""
    async with asyncio.timeout(timeout_s):
        if tcp:
            return await _over_tcp(server, query, matches)
        return await _over_udp(server, query, matches)


class _Answer(asyncio.DatagramProtocol):
    def __init__(self, matches: Callable[[bytes], bool]) -> None:
        self._matches = matches
        self.received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
        # A forged or late datagram is not ours: keep listening (RFC 5452 section 9.1).
        if not self.received.done() and self._matches(data):
            self.received.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.received.done():
            self.received.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.received.done():
            self.received.set_exception(exc or EOFError("the socket was closed"))


async def _over_udp(server: Server, query: bytes, matches: Callable[[bytes], bool]) -> bytes:
    # Connected, so that the kernel drops strangers' datagrams and hands us the
    # ICMP error of a dead server at once. A fresh socket gives a random port.
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Answer(matches), remote_addr=server
    )
    try:
        transport.sendto(query)
        return await protocol.received
    finally:
        protocol.received.cancel()
        transport.abort()


async def _over_tcp(server: Server, query: bytes, matches: Callable[[bytes], bool]) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = await reader.readexactly(size)
    finally:
        writer.transport.abort()
    if not matches(answer):
        raise EOFError("the answer is not for this query")
    return answer
