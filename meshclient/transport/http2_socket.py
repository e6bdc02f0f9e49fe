"""One HTTP/2 connection over a blocking socket: one exchange at a time.

Threads do not share a connection: each takes one from the pool, as over
HTTP/1.1, and puts it back. So no thread ever reads for another, no lock is held
around the wire, and a slow reader slows nobody. The price is a connection per
thread that is in a call at the same time. HTTP/2 is :mod:`meshclient.transport.http2`.
"""

from __future__ import annotations

import math
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from meshclient.model.outcome import ResetReason
from meshclient.transport.http1_request import CHUNKED, EncodedRequest
from meshclient.transport.http2 import MAX_UNREAD_ANSWERS, UNREAD, Http2Core
from meshclient.transport.http2_request import header_list
from meshclient.transport.http2_socket_response import SyncHttp2Response, SyncHttp2Whole
from meshclient.transport.http2_stream import Stream, Unprocessed, no_streams, protocol_error
from meshclient.transport.interface import (
    InvalidRequest,
    SyncWireResponse,
    TimeoutKind,
    WireError,
    WireRequest,
    closed_error,
    timeout_error,
)
from meshclient.transport.readiness import WOULD_BLOCK, Readiness, socket_info
from meshclient.transport.socket_shell import NotWrittenError
from meshclient.transport.socket_upload import pieces_of

if TYPE_CHECKING:
    from meshclient.transport.pool import Pool

_WRITE: Final = 64 * 1024


class SyncHttp2Connection:
    """``done`` is called when an exchange ends with the wire in order."""

    __slots__ = (
        "_cancelled",
        "_done",
        "_scheme",
        "_seen",
        "_writing",
        "ahead",
        "closed",
        "core",
        "pool",
        "readiness",
        "requests",
        "retire_at",
        "sock",
    )

    def __init__(self, sock: socket.socket, pool: Pool[Any], done: Callable[[Any], None]) -> None:
        self.sock = sock
        self.pool = pool
        self.core = Http2Core(pool.target.options)
        self.readiness = Readiness(sock)
        self.requests = 0
        #: Opened before a request needed it: its first may meet a stale connection, too.
        self.ahead = False
        self.retire_at = math.inf
        self.closed = False
        self._cancelled = False
        #: Bytes of a frame are in the socket, and the rest is not.
        self._writing = False
        self._seen = 0
        self._done = done
        self._scheme = b"https" if isinstance(sock, ssl.SSLSocket) else b"http"

    def settle(self, limit: float, kind: TimeoutKind) -> None:
        """Exchange SETTINGS. Raises WireError; the connection is closed then."""
        try:
            self._push(limit, kind)
            while not self.core.settled:
                self._receive(limit, kind, None)
            if self.core.room() <= 0:
                raise no_streams(self.pool.target)
        except WireError as error:
            self.close()
            if error.timeout:
                raise timeout_error(kind, False) from None
            reason = error.reason
            if reason is ResetReason.CONNECTION_TERMINATION:
                reason = ResetReason.CONNECTION_FAILURE
            if not self.core.settled:
                message = f"{self.pool.target} does not answer as an HTTP/2 server: {error}"
                raise WireError(reason, False, message) from error
            raise WireError(reason, False, str(error)) from error
        except BaseException:
            self.close()
            raise

    # One exchange

    def exchange(self, request: WireRequest, encoded: EncodedRequest) -> SyncWireResponse:
        """Send the request; returns once the response head is there.

        Raises WireError, or NotWrittenError when the connection takes no stream
        any more. What ends it early cancels the stream; the connection stays if
        the wire is in order.
        """
        headers = header_list(request, self._scheme)
        if (self.requests or self.ahead) and not self._is_fresh():
            self.close()
            raise NotWrittenError
        body = request.body or None if isinstance(request.body, bytes) else request.body
        stream = self.core.open(headers, body is None)
        self.requests += 1
        self._seen = self.core.received
        try:
            limit, kind = _deadline(request), "deadline"
            self._push(*self._write_limit(request))
            if body is not None:
                self._upload(request, encoded, stream)
            if request.response_timeout_s is not None:
                response_at = time.monotonic() + request.response_timeout_s
                if response_at < limit:
                    limit, kind = response_at, "response"
            while not stream.head_complete:
                self._check(stream)
                self._receive(limit, kind, request.read_timeout_s)  # type: ignore[arg-type]
            return self._response(stream, request)
        except BaseException as error:
            self.end(stream, error)
            whole = body is None or isinstance(body, bytes)
            again = self.requests > 1 or self.ahead
            if isinstance(error, Unprocessed) and whole and again:
                raise NotWrittenError from error  # as good as not written
            raise

    def _is_fresh(self) -> bool:
        """Look at what came since the last exchange: a PING, or the end."""
        with suppress(WireError):
            while self.readiness.readable():
                self._receive(time.monotonic() + 1.0, "deadline", None)
            return self.core.room() > 0
        return False

    def _response(self, stream: Stream, request: WireRequest) -> SyncWireResponse:
        if stream.error is not None or not stream.complete:
            return SyncHttp2Response(self, stream, request)
        response = SyncHttp2Whole(stream, stream.take(), self.get_extra_info)
        self.end(stream, None)
        return response

    def _check(self, stream: Stream) -> None:
        if stream.error is not None:
            raise stream.error

    def end(self, stream: Stream, error: BaseException | None) -> None:
        """The exchange is over: back to the pool, or closed."""
        sound = error is None or (isinstance(error, WireError) and self._seen != self.core.received)
        self.core.cancel(stream)
        if sound and not self._writing and not self._cancelled and not self.closed:
            with suppress(WireError):
                self._push(time.monotonic(), "write")  # what fits in at once
                if self.core.room() > 0:
                    self._done(self)
                    return
        self.close()

    # Outgoing

    def _write_limit(self, request: WireRequest) -> tuple[float, TimeoutKind]:
        deadline = _deadline(request)
        if request.write_timeout_s is not None:
            limit = time.monotonic() + request.write_timeout_s
            if limit < deadline:
                return limit, "write"
        return deadline, "deadline"

    def _push(self, limit: float, kind: TimeoutKind) -> None:
        """Write what is due, and read what comes meanwhile: the peer may stop reading
        until somebody takes what it sends."""
        view = memoryview(self.core.outgoing())
        answered = self.core.answered
        while view:
            try:
                sent = self.sock.send(view[:_WRITE])
            except WOULD_BLOCK as error:
                self._writing = True
                left = limit - time.monotonic()
                reading = not isinstance(error, ssl.SSLWantWriteError)
                wait_s = None if left == math.inf else left
                if left <= 0 or not self.readiness.wait(reading, True, wait_s):
                    raise timeout_error(kind, True) from None
                if self.readiness.readable():
                    self._take_in()
                    if self.core.answered - answered > MAX_UNREAD_ANSWERS:
                        raise protocol_error(UNREAD) from None
                    view = memoryview(bytes(view) + self.core.outgoing())
            except OSError as error:
                raise self._terminated() from error
            else:
                view = view[sent:]
        self._writing = False

    def _upload(self, request: WireRequest, encoded: EncodedRequest, stream: Stream) -> None:
        """The body, within the peer's windows, until an answer makes it pointless."""
        left = encoded.length
        for piece in pieces_of(request.body):
            if left != CHUNKED:
                left -= len(piece)
                if left < 0:
                    message = "the body is longer than its content-length"
                    raise InvalidRequest(message, sent=True)
            if not self._send(request, stream, piece):
                return
        if left not in (CHUNKED, 0):
            raise InvalidRequest("the body is shorter than its content-length", sent=True)
        self.core.send(stream, b"", True)
        self._push(*self._write_limit(request))

    def _send(self, request: WireRequest, stream: Stream, piece: bytes) -> bool:
        view = memoryview(piece)
        while view:
            if self.readiness.readable():
                self._take_in()
            if stream.error is not None or stream.complete or stream.status >= 400:
                return False
            limit, kind = self._write_limit(request)
            window = min(self.core.window(stream), _WRITE)
            if window <= 0:
                self._receive(limit, kind, None)
                continue
            self.core.send(stream, view[:window], False)
            self._push(limit, kind)
            view = view[window:]
        return True

    # Incoming

    def _receive(self, limit: float, kind: TimeoutKind, read_s: float | None) -> None:
        """Take what comes next, and answer what the protocol wants answered."""
        timeout, shorter = read_s, "read"
        if limit != math.inf:
            left = limit - time.monotonic()
            if left <= 0:
                raise timeout_error(kind, True)
            if timeout is None or left < timeout:
                timeout, shorter = left, kind
        try:
            data = self._wait(timeout)
        except TimeoutError:
            raise timeout_error(shorter, True) from None  # type: ignore[arg-type]
        except OSError as error:
            raise self._terminated() from error
        self._feed(data)
        self._push(limit, kind)

    def _wait(self, timeout: float | None) -> bytes:
        """Bytes within ``timeout``, with a PING in between where the policy asks for it."""
        options = self.pool.target.options
        interval_s = options.ping_interval_s
        if interval_s is None or (timeout is not None and timeout <= interval_s):
            return self.readiness.receive(timeout)
        with suppress(TimeoutError):
            return self.readiness.receive(interval_s)
        self.core.ping()
        self._push(time.monotonic() + options.ping_timeout_s, "write")
        left = math.inf if timeout is None else timeout - interval_s
        if left <= options.ping_timeout_s:
            return self.readiness.receive(left)
        try:
            return self.readiness.receive(options.ping_timeout_s)
        except TimeoutError:
            message = "the server does not answer a PING"
            raise WireError(ResetReason.CONNECTION_TERMINATION, True, message) from None

    def _take_in(self) -> None:
        """What is there now, without waiting."""
        try:
            data = self.sock.recv(_WRITE)
        except WOULD_BLOCK:
            return  # half a TLS record
        except OSError as error:
            raise self._terminated() from error
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        if not data:
            raise self._terminated()
        self.core.feed(data, time.monotonic())
        if self.core.broken is not None:
            with suppress(OSError):
                self.sock.send(self.core.outgoing())  # why we leave
            raise self.core.broken

    def _terminated(self) -> WireError:
        if self._cancelled:
            return closed_error(True)
        return WireError(
            ResetReason.CONNECTION_TERMINATION,
            True,
            "the server closed the connection",
            reused=(self.requests > 1 or self.ahead) and self._seen == self.core.received,
        )

    def read_on(self, request: WireRequest) -> None:
        """More of a response body."""
        self._receive(_deadline(request), "deadline", request.read_timeout_s)

    def consumed(self, stream: Stream, size: int, request: WireRequest) -> None:
        """The reader took body bytes."""
        self.core.consumed(stream, size)
        self._push(_deadline(request), "deadline")

    # Endings

    def cancel(self) -> None:
        """From any thread: whoever waits on this connection fails at once."""
        self._cancelled = True
        with suppress(OSError):
            # Not SSLSocket.shutdown, and not close; see the HTTP/1.1 shell.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent; on the thread that holds the connection."""
        if not self.closed:
            self.closed = True
            if not self._writing and not self._cancelled:
                self.core.close()
                with suppress(OSError, ValueError):
                    self.sock.send(self.core.outgoing())
            self.sock.close()
            self.pool.discard(self)

    def get_extra_info(self, name: str) -> Any:
        """See WireResponse.get_extra_info."""
        return socket_info(self.sock, name)


def _deadline(request: WireRequest) -> float:
    return math.inf if request.deadline is None else request.deadline
