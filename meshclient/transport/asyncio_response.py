"""A response of the asyncio shell whose body is still on its way.

Holds the bytes that nobody has read yet, so that the connection is free as soon
as the wire is. Parsing, timers and sockets are the connection's business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from meshclient.model.outcome import ResetReason
from meshclient.transport.interface import AsyncWireResponse, Headers, WireError, WireRequest

if TYPE_CHECKING:
    from meshclient.transport.asyncio_shell import AsyncConnection
    from meshclient.transport.http1 import ResponseParser

#: Body bytes held for a slow reader before the socket is no longer read, and where that resumes.
HIGH_WATER: Final = 256 * 1024
LOW_WATER: Final = 64 * 1024


class TrailedResponse(AsyncWireResponse):
    """One whose body, when it is whole, may be followed by ``trailers``."""

    __slots__ = ("trailers",)

    trailers: Headers

    def get_extra_info(self, name: str) -> Any:
        return self.trailers if name == "trailers" else super().get_extra_info(name)


class StreamingResponse(TrailedResponse):
    """One task reads, the connection writes; both on the same loop."""

    __slots__ = (
        "_buffered",
        "_connection",
        "_error",
        "_pieces",
        "_reader",
        "_stalled",
        "deadline",
        "read_timeout_s",
    )

    def __init__(
        self, connection: AsyncConnection, parser: ResponseParser, request: WireRequest
    ) -> None:
        super().__init__(
            parser.status,
            parser.reason,
            parser.version,
            parser.headers,
            None,
            connection.get_extra_info,
        )
        self._connection: AsyncConnection | None = connection
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._stalled = False
        self._reader: asyncio.Future[None] | None = None
        self._error: WireError | None = None
        self.trailers = []
        self.deadline = request.deadline
        self.read_timeout_s = request.read_timeout_s

    # The connection's side

    def push(self, data: bytes) -> None:
        """Body bytes arrived."""
        if not data:
            return
        self._pieces.append(data)
        self._buffered += len(data)
        if self._buffered > HIGH_WATER and not self._stalled and self._connection is not None:
            self._stalled = True
            self._connection.transport.pause_reading()
        self._wake()

    def complete(self, trailers: Headers | None = None) -> None:
        """The body ends here; the connection is no longer ours."""
        if trailers is not None:
            self.trailers = trailers
        connection, self._connection = self._connection, None
        if self._stalled and connection is not None and not connection.closed:
            connection.transport.resume_reading()
        self._wake()

    def fail(self, error: WireError) -> None:
        """The body breaks off here: whoever reads gets what came, then the error."""
        self._connection = None
        self._error = error
        self._wake()
        self.finish()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # The reader's side

    def __aiter__(self) -> StreamingResponse:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            connection = self._connection
            if connection is None:
                self.finish()
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            await self._wait(connection)
        return self._pop()

    def _pop(self) -> bytes:
        piece = self._pieces.popleft()
        self._buffered -= len(piece)
        if self._stalled and self._buffered <= LOW_WATER and self._connection is not None:
            self._stalled = False
            self._connection.transport.resume_reading()
        return piece

    async def _wait(self, connection: AsyncConnection) -> None:
        if self._reader is not None:
            raise RuntimeError("two tasks read the same response")
        reader = self._reader = connection.loop.create_future()
        connection.await_body(self)
        try:
            await reader
        except BaseException:
            self.abort()
            raise
        finally:
            self._reader = None
        if self._connection is not None:
            connection.body_arrived(self)

    def abort(self) -> None:
        """Drop the rest, and the connection if it still carries it; idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None or self._pieces:
            self._error = WireError(ResetReason.CANCELLED, True, "the response was closed")
        self._pieces.clear()
        if connection is not None:
            connection.abort()
        self._wake()
        self.finish()

    async def aclose(self) -> None:
        self.abort()

    def drop(self) -> None:
        connection = self._connection
        if connection is not None:
            with suppress(RuntimeError):  # the loop is closed, and its connections with it
                connection.loop.call_soon_threadsafe(self.abort)
