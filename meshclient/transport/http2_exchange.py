"""One exchange of an asyncio HTTP/2 connection: waiting, body, time limits, endings.

The stream itself is :mod:`meshclient.transport.http2`; sockets and timers are
the connection's. Everything runs on the thread of one event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshclient.model.outcome import ResetReason
from meshclient.transport.http2_stream import Stream
from meshclient.transport.interface import (
    AsyncWireResponse,
    TimeoutKind,
    WireError,
    WireRequest,
    timeout_error,
)

if TYPE_CHECKING:
    from meshclient.transport.http2_asyncio import Http2Connection


class Exchange:
    """From the request to the last byte of the response."""

    __slots__ = (
        "connection",
        "limit",
        "limit_kind",
        "over",
        "reader",
        "request",
        "response",
        "seen",
        "stream",
        "uploading",
        "waiter",
    )

    def __init__(self, connection: Http2Connection, stream: Stream, request: WireRequest) -> None:
        self.connection = connection
        self.stream = stream
        self.request = request
        self.waiter: asyncio.Future[AsyncWireResponse] = connection.loop.create_future()
        self.reader: asyncio.Future[None] | None = None
        self.response: Http2Response | None = None
        self.limit = math.inf
        self.limit_kind: TimeoutKind = "deadline"
        self.uploading = self.over = False
        #: What the connection had received when this began.
        self.seen = connection.core.received

    # Time

    def request_written(self) -> None:
        """From here the response has its time."""
        request = self.request
        self.uploading = False
        limit = math.inf if request.deadline is None else request.deadline
        kind: TimeoutKind = "deadline"
        response_s, read_s = request.response_timeout_s, request.read_timeout_s
        if response_s is not None or read_s is not None:
            now = time.monotonic()
            if response_s is not None and now + response_s < limit:
                limit, kind = now + response_s, "response"
            if read_s is not None and now + read_s < limit:
                limit, kind = now + read_s, "read"
        self.set_limit(limit, kind)
        self.progress()  # a head that came during the upload

    def set_limit(self, when: float, kind: TimeoutKind) -> None:
        """When (monotonic) the wait of this moment has to be over."""
        self.limit, self.limit_kind = when, kind
        self.connection.look_by(when)

    def deadline(self) -> float:
        """Of the request, infinity for none."""
        deadline = self.request.deadline
        return math.inf if deadline is None else deadline

    def time_over(self) -> None:
        """The limit has passed."""
        self.fail(timeout_error(self.limit_kind, True))

    # The wire's side

    def progress(self) -> None:
        """The stream changed."""
        stream, waiter = self.stream, self.waiter
        if stream.error is not None:
            self.fail(stream.error)
        elif self.response is not None:
            self.wake()
            if stream.complete:
                self.end()
        elif stream.head_complete and not waiter.done() and self._is_due():
            self._deliver()

    def _is_due(self) -> bool:
        """It answers while it reads, as an echo does: the upload goes on. Only a
        refusal or a whole answer makes it pointless (as over HTTP/1.1)."""
        return not self.uploading or self.stream.complete or self.stream.status >= 400

    def _deliver(self) -> None:
        stream, connection = self.stream, self.connection
        if stream.complete:
            content = stream.take()
            self.waiter.set_result(Http2Whole(stream, content, connection.get_extra_info))
            self.end()
            return
        self.response = Http2Response(self)
        self.limit, self.limit_kind = self.deadline(), "deadline"
        self.waiter.set_result(self.response)

    def fail(self, error: WireError) -> None:
        """End with an error; idempotent."""
        if self.over:
            return
        self.end()
        response = self.response
        if response is not None:
            response.fail(error)
        elif not self.waiter.done():
            self.waiter.set_exception(error)

    def end(self) -> None:
        """Nothing more will come of it; a stream that is still open is cancelled."""
        if not self.over:
            self.over = True
            self.limit = math.inf
            self.wake()
            self.connection.finished(self)

    def wake(self) -> None:
        """Whoever waits for body bytes looks again."""
        if self.reader is not None and not self.reader.done():
            self.reader.set_result(None)

    def give_up(self) -> None:
        """The caller will not see this response: free what it holds."""
        waiter = self.waiter
        if not waiter.done():
            waiter.cancel()
        elif not waiter.cancelled():
            waiter.exception()  # retrieved
        self.end()


class Http2Whole(AsyncWireResponse):
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


class Http2Response(Http2Whole):
    """A response whose body is still on its way; one task reads."""

    __slots__ = ("_error", "_exchange")

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange.stream, None, exchange.connection.get_extra_info)
        self._exchange = exchange
        self._error: WireError | None = None

    def fail(self, error: WireError) -> None:
        """The body breaks off here: whoever reads gets what came, then the error."""
        self._error = error
        self.finish()

    def __aiter__(self) -> Http2Response:
        return self

    async def __anext__(self) -> bytes:
        exchange = self._exchange
        while True:
            data = self._stream.take()
            if data:
                if not exchange.over:
                    exchange.connection.consumed(self._stream, len(data))
                return data
            if exchange.over:
                self.finish()
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            await self._wait(exchange)

    async def _wait(self, exchange: Exchange) -> None:
        if exchange.reader is not None:
            raise RuntimeError("two tasks read the same response")
        reader = exchange.reader = exchange.connection.loop.create_future()
        read_s = exchange.request.read_timeout_s
        if read_s is not None:
            limit = time.monotonic() + read_s
            if limit < exchange.deadline():
                exchange.set_limit(limit, "read")
        try:
            await reader
        except BaseException:
            self.abort()
            raise
        finally:
            exchange.reader = None
        if not exchange.over:
            exchange.limit, exchange.limit_kind = exchange.deadline(), "deadline"

    def abort(self) -> None:
        """Drop the rest; the stream is cancelled, its connection lives on. Idempotent."""
        if self._error is None and (not self._exchange.over or self._stream.buffered):
            self._error = WireError(ResetReason.CANCELLED, True, "the response was closed")
        self._stream.take()
        self._exchange.end()
        self.finish()

    async def aclose(self) -> None:
        self.abort()

    def drop(self) -> None:
        if not self._exchange.over:
            with suppress(RuntimeError):  # the loop is closed, and its connections with it
                self._exchange.connection.loop.call_soon_threadsafe(self.abort)
