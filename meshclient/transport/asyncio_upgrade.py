"""An asyncio connection after a 101, or a 2xx to CONNECT: the raw stream.

No HTTP any more, no pool: the connection ends with the stream. One task may read
while another writes, as WebSocket clients do.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from meshclient.model.outcome import ResetReason
from meshclient.transport.interface import AsyncWireResponse, WireError, timeout_error

if TYPE_CHECKING:
    from meshclient.transport.asyncio_shell import AsyncConnection
    from meshclient.transport.http1 import ResponseParser

#: Bytes held for a slow reader before the socket is no longer read.
HIGH_WATER: Final = 256 * 1024


class RawProtocol(asyncio.Protocol):
    """Receives in place of the connection, from the head on."""

    def __init__(self, stream: AsyncUpgradedResponse, connection: AsyncConnection) -> None:
        self._stream = stream
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._stream.push(data)

    def eof_received(self) -> bool:
        self._stream.complete()
        # TLS cannot be half open; over TCP the other direction stays with the caller.
        return self._connection.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._connection.connection_lost(exc)
        self._stream.complete()
        self._connection.abort()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()


class AsyncUpgradedResponse(AsyncWireResponse):
    """Without a body, and open in both directions until ``aclose``."""

    __slots__ = ("_buffer", "_connection", "_ended", "_error", "_paused", "_protocol", "_reader")

    def __init__(self, connection: AsyncConnection, parser: ResponseParser, first: bytes) -> None:
        super().__init__(
            parser.status,
            parser.reason,
            parser.version,
            parser.headers,
            None,
            connection.get_extra_info,
        )
        self._connection = connection
        self._buffer = bytearray(first)
        self._ended = self._paused = False
        self._error: WireError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._protocol = RawProtocol(self, connection)
        connection.transport.set_protocol(self._protocol)

    # The connection's side

    def push(self, data: bytes) -> None:
        """Bytes arrived."""
        self._buffer += data
        if len(self._buffer) > HIGH_WATER and not self._paused:
            self._paused = True
            self._connection.transport.pause_reading()
        self._wake()

    def complete(self, _trailers: object = None) -> None:
        """The peer sends no more."""
        self._ended = True
        self._wake()

    def fail(self, error: WireError) -> None:
        """The connection broke, or the engine closes."""
        self._error = error
        self.complete()
        self.finish()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # The caller's side

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At most ``max_bytes`` (1 or more); empty at the end. ``timeout`` in seconds.

        Raises WireError.
        """
        if not self._buffer and not self._ended:
            await self._wait(timeout)
        if not self._buffer and self._error is not None:
            raise self._error
        piece = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        if self._paused and len(self._buffer) <= HIGH_WATER // 4:
            self._paused = False
            self._connection.transport.resume_reading()
        return piece

    async def _wait(self, timeout: float | None) -> None:
        if self._reader is not None:
            raise RuntimeError("two tasks read the same stream")
        reader = self._reader = self._connection.loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await reader
        except TimeoutError:
            raise timeout_error("read", True) from None
        finally:
            self._reader = None

    async def write(self, data: bytes, timeout: float | None = None) -> None:
        """Hand over ``data``; waits while the peer takes none of it. Raises WireError."""
        connection = self._connection
        if connection.closed or connection.transport.is_closing():
            raise self._error or _broken("closed")
        connection.transport.write(data)
        if not connection.write_paused:
            return
        if connection.drained is None or connection.drained.done():
            connection.drained = connection.loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(connection.drained)
        except TimeoutError:
            raise timeout_error("write", True) from None
        if connection.closed:
            raise self._error or _broken("closed")

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> AsyncUpgradedResponse:
        """Continue with TLS. Raises WireError; a failed handshake closes the stream."""
        connection = self._connection
        try:
            async with asyncio.timeout(timeout):
                transport = await connection.loop.start_tls(
                    connection.transport,
                    self._protocol,
                    ssl_context,
                    server_hostname=server_hostname,
                )
        except TimeoutError as error:
            self.abort()
            raise timeout_error("connect", True) from error
        except OSError as error:
            self.abort()
            raise _broken(str(error)) from error
        if transport is None:
            self.abort()
            raise _broken("the connection was lost in the TLS handshake")
        connection.transport = transport
        return self

    def abort(self) -> None:
        """End the connection; idempotent."""
        self._connection.abort()
        self._error = self._error or _broken("closed")
        self.complete()
        self.finish()

    async def aclose(self) -> None:
        self.abort()

    def drop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and its connections with it
            self._connection.loop.call_soon_threadsafe(self.abort)


def _broken(why: str) -> WireError:
    return WireError(ResetReason.CONNECTION_TERMINATION, True, f"the stream ended: {why}")
