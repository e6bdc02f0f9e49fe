"""Responses of the blocking HTTP/2 shell: whole, or read as the caller asks.

The wire, its time limits and its endings are the connection's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshclient.model.outcome import ResetReason
from meshclient.transport.http2_stream import Stream
from meshclient.transport.interface import SyncWireResponse, WireError, WireRequest

if TYPE_CHECKING:
    from meshclient.transport.http2_socket import SyncHttp2Connection


class SyncHttp2Whole(SyncWireResponse):
    """A response whose body came with its head, and perhaps trailers."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream, content: bytes | None, info: Any) -> None:
        super().__init__(stream.status, b"", b"HTTP/2", stream.headers, content, info)
        self._stream = stream

    def get_extra_info(self, name: str) -> Any:
        if name == "trailers":
            return self._stream.trailers
        if name == "stream_id":
            return self._stream.id
        return super().get_extra_info(name)


class SyncHttp2Response(SyncHttp2Whole):
    """A response whose body is still on its way; it is read as the caller asks."""

    __slots__ = ("_connection", "_error", "_request")

    def __init__(
        self, connection: SyncHttp2Connection, stream: Stream, request: WireRequest
    ) -> None:
        super().__init__(stream, None, connection.get_extra_info)
        self._connection: SyncHttp2Connection | None = connection
        self._request = request
        self._error: WireError | None = None

    def __iter__(self) -> SyncHttp2Response:
        return self

    def __next__(self) -> bytes:
        stream = self._stream
        while True:
            data = stream.take()
            connection = self._connection
            if connection is not None:
                self._advance(connection, len(data))
            if data:
                return data
            if self._connection is None and not stream.buffered:
                self.finish()
                if self._error is not None:
                    raise self._error
                raise StopIteration

    def _advance(self, connection: SyncHttp2Connection, taken: int) -> None:
        """Return the window for what was taken, or wait for more; notice the end."""
        stream = self._stream
        try:
            if stream.error is not None:
                raise stream.error
            if stream.complete:
                self._connection = None
                connection.end(stream, None)
            elif taken:
                connection.consumed(stream, taken, self._request)
            else:
                connection.read_on(self._request)
        except WireError as error:
            self._error = error
            self._connection = None
            connection.end(stream, error)
        except BaseException as error:
            self._error = WireError(ResetReason.CANCELLED, True, "reading was interrupted")
            self._connection = None
            connection.end(stream, error)
            self.finish()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._error = WireError(ResetReason.CANCELLED, True, "the response was closed")
            self._stream.take()
            connection.end(self._stream, None)
        self.finish()
