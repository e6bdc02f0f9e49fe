"""One HTTP/1.1 connection over a blocking socket: exchange, time limits, endings.

One thread at a time uses a connection (``cancel`` alone may come from another).
HTTP is :mod:`meshclient.transport.http1`; which connection serves which request
is the engine's business; no event loop in here.
"""

from __future__ import annotations

import math
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from meshclient.model.outcome import ResetReason
from meshclient.transport.http1 import ResponseParser
from meshclient.transport.http1_request import SMALL_BODY, EncodedRequest, whole_body
from meshclient.transport.interface import (
    Headers,
    SyncWireResponse,
    TimeoutKind,
    WireError,
    WireRequest,
    closed_error,
    timeout_error,
)
from meshclient.transport.pool import Pool
from meshclient.transport.readiness import RECEIVE, RECEIVE_BODY, Readiness, socket_info
from meshclient.transport.socket_upgrade import SyncUpgradedResponse
from meshclient.transport.socket_upload import upload


class NotWrittenError(Exception):
    """A kept-alive connection broke before it took one byte of the request."""


class SyncConnection:
    """``done`` is called when an exchange ends with the wire in order."""

    __slots__ = (
        "_done",
        "_reusable",
        "ahead",
        "cancelled",
        "closed",
        "parser",
        "pool",
        "readiness",
        "requests",
        "retire_at",
        "sock",
    )

    def __init__(
        self,
        sock: socket.socket,
        pool: Pool[SyncConnection],
        done: Callable[[SyncConnection], None],
    ) -> None:
        self.sock = sock
        self.pool = pool
        options = pool.target.options
        self.parser = ResponseParser(
            options.max_response_header_kb * 1024, options.max_response_headers
        )
        self.readiness = Readiness(sock)
        self.requests = 0
        #: Opened before a request needed it: its first may meet a stale connection, too.
        self.ahead = False
        self.retire_at = math.inf
        self.closed = False
        self.cancelled = False
        self._reusable = False
        self._done = done

    def exchange(self, request: WireRequest, encoded: EncodedRequest) -> SyncWireResponse:
        """Send the request; returns once the response head is there.

        Raises WireError, or NotWrittenError when a reused connection was stale
        or failed at the first write. Whatever ends it early closes the connection.
        """
        if self.requests:
            stale = self.readiness.readable()
        else:
            stale = self.ahead and self.readiness.has_ended()
        if stale:
            # The server closed it, or sent what nobody had asked for yet: never an answer.
            self.close()
            raise NotWrittenError
        self.requests += 1
        self._reusable = not encoded.close
        self.parser.start(request.method == b"HEAD", encoded.upgrade, encoded.tunnel)
        try:
            self._write(request, encoded)
            return self._read_head(request)
        except BaseException:
            self.close()
            raise

    # Outgoing

    def _write(self, request: WireRequest, encoded: EncodedRequest) -> None:
        body = request.body
        if body is None:
            self._write_whole(request, encoded.head)
        elif isinstance(body, bytes) and len(body) <= SMALL_BODY and not encoded.expects:
            self._write_whole(request, encoded.head + whole_body(body, encoded.length))
        elif not upload(self, request, encoded):
            self._reusable = False  # the server answered, or left, without the whole body

    def _write_whole(self, request: WireRequest, data: bytes) -> None:
        sent = 0
        try:
            while sent < len(data):
                timeout = self._write_limit(request)
                sent += self.readiness.send(data[sent:] if sent else data, timeout)
        except TimeoutError:
            raise self.write_timeout(request) from None
        except OSError as error:
            idle = self.requests > 1 or self.ahead
            if not sent and idle and not isinstance(error, ssl.SSLError):
                raise NotWrittenError from error
            # It may have answered before it closed; then the answer counts.
            self._reusable = False

    def _write_limit(self, request: WireRequest) -> float | None:
        timeout = request.write_timeout_s
        if request.deadline is not None:
            left = request.deadline - time.monotonic()
            if left <= 0:
                raise timeout_error("deadline", True)
            timeout = left if timeout is None else min(left, timeout)
        return timeout

    def write_timeout(self, request: WireRequest) -> WireError:
        """The error of a write that took too long."""
        over = request.deadline is not None and time.monotonic() >= request.deadline
        return timeout_error("deadline" if over else "write", True)

    # Incoming

    def _read_head(self, request: WireRequest) -> SyncWireResponse:
        parser = self.parser
        limit, kind = math.inf, "deadline"
        if request.deadline is not None:
            limit = request.deadline
        if request.response_timeout_s is not None:
            response = time.monotonic() + request.response_timeout_s
            if response < limit:
                limit, kind = response, "response"
        while not parser.head_complete:
            self.receive(limit, kind, request.read_timeout_s)  # type: ignore[arg-type]
        if not parser.complete:
            return SyncStreamingResponse(self, request)
        if parser.upgraded is not None:
            return SyncUpgradedResponse(self, parser)
        whole = SyncWireResponse if parser.trailers is None else SyncTrailedResponse
        response_ = whole(
            parser.status,
            parser.reason,
            parser.version,
            parser.headers,
            parser.take(),
            self.get_extra_info,
        )
        if parser.trailers is not None:
            response_.trailers = parser.trailers  # type: ignore[attr-defined]
        self.end()
        return response_

    def receive(self, limit: float, kind: TimeoutKind, read_s: float | None) -> None:
        """Read and parse what comes next. Raises WireError, also at the end of the stream."""
        timeout = read_s
        shorter: TimeoutKind = "read"
        if limit != math.inf:
            left = limit - time.monotonic()
            if left <= 0:
                raise timeout_error(kind, True)
            if timeout is None or left < timeout:
                timeout, shorter = left, kind
        try:
            most = RECEIVE_BODY if self.parser.head_complete else RECEIVE
            data = self.readiness.receive(timeout, most)
        except TimeoutError:
            raise timeout_error(shorter, True) from None
        except OSError as error:
            raise self._terminated() from error
        if data:
            self.parser.feed(data)
        elif self.cancelled or not self.parser.eof():
            raise self._terminated()

    def _terminated(self) -> WireError:
        if self.cancelled:
            return closed_error(True)
        inside = "inside" if self.parser.head_complete else "before"
        return WireError(
            ResetReason.CONNECTION_TERMINATION,
            True,
            f"the server closed the connection {inside} the response",
            reused=(self.requests > 1 or self.ahead) and not self.parser.started,
        )

    # Endings

    def end(self) -> None:
        """The exchange is over on the wire: back to the pool, or closed."""
        if self._reusable and self.parser.keep_alive and not self.cancelled:
            self._done(self)
        else:
            self.close()

    def cancel(self) -> None:
        """From any thread: whoever waits on this connection fails at once."""
        self.cancelled = True
        with suppress(OSError):
            # Not SSLSocket.shutdown, which would turn the socket into a plain
            # one under the thread that reads; and not close, whose file
            # descriptor could be another's before that thread wakes.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent; on the thread that holds the connection."""
        if not self.closed:
            self.closed = True
            # First the socket: forgetting may hand its slot to a thread that opens another.
            self.sock.close()
            self.pool.discard(self)

    def get_extra_info(self, name: str) -> Any:
        """See WireResponse.get_extra_info; of a response that had no trailers."""
        if name == "trailers":
            return []
        return socket_info(self.sock, name)


class SyncTrailedResponse(SyncWireResponse):
    """One whose body, when it is whole, may be followed by ``trailers``."""

    __slots__ = ("trailers",)

    trailers: Headers

    def get_extra_info(self, name: str) -> Any:
        return self.trailers if name == "trailers" else super().get_extra_info(name)


class SyncStreamingResponse(SyncTrailedResponse):
    """A response whose body is still on its way; it is read as the caller asks."""

    __slots__ = ("_connection", "_deadline", "_error", "_read_s")

    def __init__(self, connection: SyncConnection, request: WireRequest) -> None:
        parser = connection.parser
        super().__init__(
            parser.status,
            parser.reason,
            parser.version,
            parser.headers,
            None,
            connection.get_extra_info,
        )
        self._connection: SyncConnection | None = connection
        self._deadline = math.inf if request.deadline is None else request.deadline
        self._read_s = request.read_timeout_s
        self.trailers = []
        self._error: WireError | None = None

    def __iter__(self) -> SyncStreamingResponse:
        return self

    def __next__(self) -> bytes:
        connection = self._connection
        while connection is not None:
            try:
                piece = self._read(connection)
            except BaseException as error:
                self._fail(connection, error)
                raise
            if piece:
                return piece
            connection = self._connection
        self.finish()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def _read(self, connection: SyncConnection) -> bytes:
        parser = connection.parser
        piece = parser.take()
        if not piece and not parser.complete:
            connection.receive(self._deadline, "deadline", self._read_s)
            piece = parser.take()
        if parser.complete:
            self._connection = None
            self.trailers = parser.trailers or []
            connection.end()
        return piece

    def _fail(self, connection: SyncConnection, error: BaseException) -> None:
        self._connection = None
        if isinstance(error, WireError):
            self._error = error
        else:
            self._error = WireError(ResetReason.CANCELLED, True, "reading was interrupted")
        connection.close()
        self.finish()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._error = WireError(ResetReason.CANCELLED, True, "the response was closed")
            connection.close()
        self.finish()
