"""One HTTP/1.1 connection as an ``asyncio.Protocol``: exchange and endings.

The hot path of the library: one write, one future and one parse per request,
and as a rule no timer (see :mod:`meshclient.transport.asyncio_time`). Which connection serves which
request is the engine's business; HTTP itself is :mod:`meshclient.transport.http1`.
Everything runs on the thread of one event loop.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import TYPE_CHECKING, Any

from meshclient.model.outcome import ResetReason
from meshclient.transport.asyncio_response import (
    HIGH_WATER,
    StreamingResponse,
    TrailedResponse,
)
from meshclient.transport.asyncio_time import TimedProtocol
from meshclient.transport.asyncio_upgrade import AsyncUpgradedResponse
from meshclient.transport.asyncio_upload import upload
from meshclient.transport.http1 import ResponseParser
from meshclient.transport.http1_request import SMALL_BODY, EncodedRequest, whole_body
from meshclient.transport.interface import (
    AsyncWireResponse,
    WireError,
    WireRequest,
    closed_error,
)
from meshclient.transport.readiness import Readiness

if TYPE_CHECKING:
    from meshclient.transport.loop_shard import LoopShard
    from meshclient.transport.pool import Pool

_EXTRA_INFO = {"client_addr": "sockname", "server_addr": "peername"}


class NotWrittenError(Exception):
    """A kept-alive connection broke before it took one byte of the request."""


class AsyncConnection(TimedProtocol):
    """States: idle (in the pool), busy (one exchange), closed (for good)."""

    __slots__ = (
        "_parser",
        "_readiness",
        "_request",
        "_response",
        "_reusable",
        "_shard",
        "_waiter",
        "ahead",
        "closed",
        "continued",
        "drained",
        "pool",
        "requests",
        "retire_at",
        "sock",
        "transport",
        "uploading",
        "write_paused",
    )

    transport: asyncio.Transport

    def __init__(self, shard: LoopShard, pool: Pool[AsyncConnection], sock: socket.socket) -> None:
        super().__init__(shard.loop)
        self._shard = shard
        self.pool = pool
        self.sock = sock
        self.retire_at = math.inf
        self.requests = 0
        #: Opened before a request needed it: its first may meet a stale connection, too.
        self.ahead = False
        self.closed = False
        self.uploading = False
        self.write_paused = False
        self.drained: asyncio.Future[None] | None = None
        options = pool.target.options
        self._parser = ResponseParser(
            options.max_response_header_kb * 1024, options.max_response_headers
        )
        self._readiness = Readiness(sock)
        self._reusable = False
        self._request: WireRequest | None = None
        self._response: StreamingResponse | AsyncUpgradedResponse | None = None
        self.continued: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[AsyncWireResponse] | None = None

    # One exchange

    async def exchange(self, request: WireRequest, encoded: EncodedRequest) -> AsyncWireResponse:
        """Send the request; returns once the response head is there.

        Raises WireError, or NotWrittenError when a reused connection was stale
        or failed at the first write. Whatever ends it early (cancellation included) closes
        the connection.
        """
        # What waits on a TLS connection that was never used may be a session ticket.
        used = self.requests or (self.ahead and self.pool.target.tls is None)
        if used and self._readiness.readable():
            # The server closed it, or sent what nobody had asked for yet: never an
            # answer. The loop has not looked since; the kernel knows.
            self.abort()
            raise NotWrittenError
        if self.closed:
            self.forget()  # it ended before the pool knew of it
            message = "the server closed the connection, or spoke, before the request"
            raise WireError(ResetReason.CONNECTION_TERMINATION, False, message)
        self.requests += 1
        self._busy = True
        self._reusable = not encoded.close
        self._request = request
        self._parser.start(request.method == b"HEAD", encoded.upgrade, encoded.tunnel)
        waiter: asyncio.Future[AsyncWireResponse] = self.loop.create_future()
        self._waiter = waiter
        body = request.body
        try:
            if body is None:
                self.transport.write(encoded.head)
            elif isinstance(body, bytes) and len(body) <= SMALL_BODY and not encoded.expects:
                self.transport.write(encoded.head + whole_body(body, encoded.length))
            else:
                await upload(self, request, encoded, waiter)
                return await waiter
            if (self.requests > 1 or self.ahead) and self.transport.is_closing():
                # The socket refused the write itself; nothing was buffered before it.
                raise NotWrittenError
            self.request_written(request)
            return await waiter
        except BaseException:
            self._give_up(waiter)
            raise

    def request_written(self, request: WireRequest) -> None:
        """From here the response has its time."""
        self._limit_head(request)
        if self._parser.head_complete:
            self._deliver_held()

    def _part_of_head(self) -> None:
        """Bytes came, but no whole head: what they mean to those who wait for them."""
        continued, request = self.continued, self._request
        if continued is not None and self._parser.continued and not continued.done():
            continued.set_result(None)
        if self.uploading or request is None or request.read_timeout_s is None:
            return
        self._limit_rest_of_head(request.read_timeout_s)

    def _give_up(self, waiter: asyncio.Future[AsyncWireResponse]) -> None:
        """The caller will not see this response: free what it holds."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            response = waiter.result()  # it came in the very moment of the cancellation
            if isinstance(response, (StreamingResponse, AsyncUpgradedResponse)):
                response.abort()
        if self._waiter is waiter:
            self.abort()

    # Incoming

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if self.pool.target.tls is not None:
            self._shard.tls_buffers.attach(self.transport, self)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if not self._busy:
            # Nobody asked: a 408 before the close, or an attack. Never anybody's answer.
            self.abort()
            return
        try:
            parser.feed(data)
        except WireError as error:
            self._fail(error)
            return
        response = self._response
        if response is not None:
            response.push(parser.take())
            if parser.complete:
                response.complete(parser.trailers)
                self._end()
        elif parser.head_complete:
            self._head_arrived(parser)
        else:
            self._part_of_head()

    def part_received(self, data: bytes) -> None:
        """``data_received``, where more may be here already: if the response ends with ``data``
        the connection is not used again, as what follows could pass for the next answer."""
        reusable, self._reusable = self._reusable, False
        self.data_received(data)
        if self._busy:
            self._reusable = reusable

    def _head_arrived(self, parser: ResponseParser) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():  # cancelled, and its task has not run yet
            self.abort()
        elif self._goes_on(parser):
            # It answers while it reads, as an echo does: the upload goes on. Only
            # a refusal or a whole answer makes it pointless (curl's rule, too).
            if parser.untaken() > HIGH_WATER:
                self.transport.pause_reading()
        else:
            self._deliver(parser, waiter)

    def _goes_on(self, parser: ResponseParser) -> bool:
        """Whether an upload under way is still worth finishing."""
        return (
            self.uploading
            and not parser.complete
            and parser.status < 400
            and self.continued is None
        )

    def _deliver(self, parser: ResponseParser, waiter: asyncio.Future[AsyncWireResponse]) -> None:
        if parser.upgraded is not None:
            self._upgrade(parser, parser.upgraded, waiter)
            return
        content = parser.take()
        if parser.complete:
            whole = AsyncWireResponse if parser.trailers is None else TrailedResponse
            response_ = whole(
                parser.status,
                parser.reason,
                parser.version,
                parser.headers,
                content,
                self.get_extra_info,
            )
            if parser.trailers is not None:
                response_.trailers = parser.trailers  # type: ignore[attr-defined]
            waiter.set_result(response_)
            self._end()
            return
        request = self._request
        if request is None:
            raise RuntimeError("a response head without a request")
        response = self._response = StreamingResponse(self, parser, request)
        self.body_arrived(response)
        response.push(content)
        waiter.set_result(response)

    def _upgrade(
        self,
        parser: ResponseParser,
        first: bytes,
        waiter: asyncio.Future[AsyncWireResponse],
    ) -> None:
        """From here the bytes are another protocol's: no parser, no limits of the request."""
        self.set_limit(math.inf, "")
        response = self._response = AsyncUpgradedResponse(self, parser, first)
        waiter.set_result(response)

    def _deliver_held(self) -> None:
        """The upload is over; the head that came meanwhile is due now."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self.transport.resume_reading()
            self._deliver(self._parser, waiter)

    def _end(self) -> None:
        """The exchange is over on the wire: back to the pool, or closed."""
        self._busy = False
        self._request = self._response = self._waiter = None
        self._limit = math.inf
        if self._reusable and self._parser.keep_alive and not self.uploading and not self.closed:
            self._shard.release(self)
        else:
            self.abort()

    # Outgoing

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._release_writer()

    def _release_writer(self) -> None:
        if self.drained is not None and not self.drained.done():
            self.drained.set_result(None)

    # Endings

    def eof_received(self) -> None:
        parser = self._parser
        if self._busy and parser.eof():
            response, waiter = self._response, self._waiter
            if response is not None:
                response.complete()
                self._end()
            elif waiter is not None and not waiter.done():
                self._deliver(parser, waiter)
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            head = self._parser.head_complete
            message = "the server closed the connection " + (
                "inside the response" if head else "before the response"
            )
            error = WireError(
                ResetReason.CONNECTION_TERMINATION,
                True,
                message,
                reused=(self.requests > 1 or self.ahead) and not self._parser.started,
            )
            error.__cause__ = exc
            self._fail(error)
        self.abort()

    def _fail(self, error: WireError) -> None:
        """End the exchange with an error, and the connection with it."""
        response, waiter = self._response, self._waiter
        self.abort()
        if response is not None:
            response.fail(error)
        elif waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def cancel(self) -> None:
        """The engine closes: an exchange under way fails, an idle connection ends."""
        if self._busy:
            self._fail(closed_error(True))
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once, without waiting for buffers or TLS; idempotent."""
        if self.closed:
            return
        # First the socket: forgetting may hand its slot to a task that opens another.
        self.transport.abort()
        self.forget()

    def forget(self) -> None:
        """Everything ``abort`` does, but for the transport."""
        self.closed = True
        self._busy = False
        self._request = self._response = self._waiter = None
        self._limit = math.inf
        self._stop_timer()
        self._release_writer()
        self.pool.discard(self)
        self._shard.open.discard(self)

    def get_extra_info(self, name: str) -> Any:
        """See WireResponse.get_extra_info; of a response that had no trailers."""
        if name == "trailers":
            return []
        return self.transport.get_extra_info(_EXTRA_INFO.get(name, name))
