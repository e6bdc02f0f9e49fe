"""The TCP check: connecting is enough, or sent bytes are answered by expected ones.

No schedule, no flags. Source: Envoy, ``source/extensions/health_checkers/tcp``.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Final

from meshclient.model.check_result import PASSED, CheckResult
from meshclient.transport.dial import open_async
from meshclient.transport.health_probe import Probe
from meshclient.transport.health_probe_http import holds
from meshclient.transport.interface import Target

if TYPE_CHECKING:
    from meshclient.model.health import HealthCheck

#: Most bytes kept of an answer that does not match yet; a flood fails the check.
MAX_ANSWER: Final = 64 * 1024

_CLOSED: Final = "the connection was closed"


class TcpProbe(Probe):
    """Keeps its connection only where it expects bytes; one that then ends between two
    checks counts as a failure, as in Envoy."""

    __slots__ = ("_connection",)

    def __init__(self, check: HealthCheck, target: Target, problem: str = "") -> None:
        super().__init__(check, target, problem)
        self._connection: _Connection | None = None

    async def _ask(self) -> CheckResult:
        connection = self._connection
        if connection is None or connection.closed:
            limit = time.monotonic() + self.check.timeout_s
            connection = await open_async(self.target, _Connection, limit, "connect")
            self._connection = connection
        if not self.check.receive:
            await self.aclose()
            return PASSED
        connection.received.clear()
        connection.transport.write(self.check.send)
        self.lost = None
        while not holds(bytes(connection.received), self.check.receive):
            if connection.closed or len(connection.received) > MAX_ANSWER:
                why = _CLOSED if connection.closed else "too long an answer without a match"
                return CheckResult("network", why)
            await connection.more()
        self.lost = connection.lost if self.check.reuse_connection else None
        return PASSED

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        self.lost = None
        if connection is not None:
            connection.transport.abort()
            # The socket goes in a callback of the next iteration.
            await asyncio.sleep(0)

    def after_fork_in_child(self) -> None:
        connection, self._connection = self._connection, None
        self.lost = None
        if connection is not None:
            _inherited.append(connection)
            socket.close(connection.descriptor)


#: Of a parent process: kept, because their destructors would speak to its event loop.
_inherited: list[object] = []


class _Connection(asyncio.Protocol):
    """Collects what comes."""

    def __init__(self, sock: socket.socket) -> None:
        self.descriptor = sock.fileno()
        self.received = bytearray()
        self.transport: asyncio.Transport
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._waiter: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        return self.lost.done()

    async def more(self) -> None:
        """Until something came, or the end."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if len(self.received) <= MAX_ANSWER:
            self.received += data
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.lost.done():
            self.lost.set_result(None)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


__all__ = ["MAX_ANSWER", "TcpProbe"]
