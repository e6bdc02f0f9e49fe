"""One HTTP/2 connection as an ``asyncio.Protocol``: many exchanges, one timer, endings.

Which connection serves which request is :mod:`meshclient.transport.http2_loop`'s
business; HTTP/2 itself is :mod:`meshclient.transport.http2`. Everything runs on
the thread of one event loop.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from typing import TYPE_CHECKING, Any

from meshclient.model.outcome import ResetReason
from meshclient.transport.asyncio_shell import NotWrittenError
from meshclient.transport.http1_request import SMALL_BODY, EncodedRequest
from meshclient.transport.http2 import MAX_UNREAD_ANSWERS, UNREAD, Http2Core
from meshclient.transport.http2_exchange import Exchange
from meshclient.transport.http2_request import header_list
from meshclient.transport.http2_stream import Stream, protocol_error
from meshclient.transport.http2_upload import upload
from meshclient.transport.interface import (
    AsyncWireResponse,
    WireError,
    WireRequest,
    closed_error,
)

if TYPE_CHECKING:
    from meshclient.transport.http2_pool import MultiplexPool
    from meshclient.transport.loop_shard import LoopShard

_EXTRA_INFO = {"client_addr": "sockname", "server_addr": "peername"}


class Http2Connection(asyncio.Protocol):
    """Settling (until the peer's SETTINGS), open, leaving (no new streams), closed."""

    __slots__ = (
        "_answered",
        "_flushing",
        "_heard_at",
        "_idle_at",
        "_paused",
        "_ping_s",
        "_pong_by",
        "_scheme",
        "_shard",
        "_timer",
        "_timer_at",
        "_writers",
        "closed",
        "core",
        "exchanges",
        "loop",
        "pool",
        "requests",
        "retire_at",
        "settled",
        "sock",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(
        self, shard: LoopShard, pool: MultiplexPool[Http2Connection], sock: socket.socket
    ) -> None:
        self._shard = shard
        self.loop = shard.loop
        self.pool = pool
        self.sock = sock
        self.core = Http2Core(pool.target.options)
        self.exchanges: set[Exchange] = set()
        self.requests = 0
        self.retire_at = math.inf
        self.closed = False
        #: Done when the peer's SETTINGS are here, or the connection ended before.
        self.settled: asyncio.Future[None] = self.loop.create_future()
        self._scheme = b"http" if pool.target.tls is None else b"https"
        self._writers: set[asyncio.Future[None]] = set()
        self._paused = self._flushing = False
        self._answered = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._idle_at = self._pong_by = math.inf
        self._heard_at = 0.0
        self._ping_s = pool.target.options.ping_interval_s

    # What the pool asks

    def active(self) -> int:
        """Streams under way."""
        return len(self.exchanges)

    def room(self) -> int:
        """Streams that fit in now."""
        return 0 if self.closed else self.core.room()

    def in_pool(self) -> None:
        """It is open for streams, and its idle time begins."""
        now = time.monotonic()
        self._idle_at = now + self.pool.idle_timeout_s
        ping_at = math.inf if self._ping_s is None else now + self._ping_s
        self.look_by(min(self._idle_at, self.retire_at, ping_at))

    # One exchange

    async def exchange(self, request: WireRequest, encoded: EncodedRequest) -> AsyncWireResponse:
        """Send the request; returns once the response head is there.

        Raises WireError, or NotWrittenError when the connection takes no stream
        any more. Whatever ends it early (cancellation included) cancels its
        stream and leaves the others alone.
        """
        headers = header_list(request, self._scheme)
        if self.room() <= 0 or self.transport.is_closing():
            raise NotWrittenError
        body = request.body or None if isinstance(request.body, bytes) else request.body
        stream = self.core.open(headers, body is None)
        self.requests += 1
        exchange = stream.owner = Exchange(self, stream, request)
        self.exchanges.add(exchange)
        try:
            if body is None:
                self.flush_soon()
            elif isinstance(body, bytes) and self._fits(stream, body):
                self.core.send(stream, body, True)
                self.flush_soon()
            else:
                await upload(exchange, encoded)
                return await exchange.waiter
            exchange.request_written()
            return await exchange.waiter
        except BaseException:
            exchange.give_up()
            raise

    def _fits(self, stream: Stream, body: bytes) -> bool:
        size = len(body)
        return size <= SMALL_BODY and size <= self.core.window(stream) and not self._paused

    def finished(self, exchange: Exchange) -> None:
        """The exchange is over; a stream still open is cancelled."""
        self.exchanges.discard(exchange)
        self.core.cancel(exchange.stream)
        if self.closed:
            return
        self.flush_soon()
        now = time.monotonic()
        if not self.exchanges:
            self._idle_at = now + self.pool.idle_timeout_s
            self.look_by(min(self._idle_at, self.retire_at))
        self.pool.changed(self, now)

    def consumed(self, stream: Stream, size: int) -> None:
        """A reader took body bytes."""
        self.core.consumed(stream, size)
        self.flush_soon()

    # Outgoing

    def flush_soon(self) -> None:
        """Write at the end of this turn of the loop: one system call for all streams."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is due."""
        self._flushing = False
        if not self.closed:
            data = self.core.outgoing()
            if data:
                self.transport.write(data)

    def may_write(self) -> bool:
        """The socket takes more."""
        return not self._paused

    def pause_writing(self) -> None:
        self._paused = True
        self._answered = self.core.answered

    def resume_writing(self) -> None:
        self._paused = False
        self._wake_writers()

    async def window_changes(self) -> None:
        """Until more of some body may be written, or the connection ended."""
        future = self.loop.create_future()
        self._writers.add(future)
        try:
            await future
        finally:
            self._writers.discard(future)

    def _wake_writers(self) -> None:
        for future in self._writers:
            if not future.done():
                future.set_result(None)

    # Incoming

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if self.pool.target.tls is not None:
            self._shard.tls_buffers.attach(self.transport, self)
        self._heard_at = time.monotonic()
        self.flush()

    def part_received(self, data: bytes) -> None:
        self.data_received(data)

    def data_received(self, data: bytes) -> None:
        core = self.core
        now = self._heard_at = time.monotonic()
        touched = core.feed(data, now)
        self.flush()
        limits_changed = core.windows_opened
        if limits_changed:
            core.windows_opened = False
            self._wake_writers()
        if core.settled and not self.settled.done():
            self.settled.set_result(None)
        if not core.awaits_pong:
            self._pong_by = math.inf
        for stream in touched:
            if stream.owner is not None:
                stream.owner.progress()
        if core.broken is not None:
            self._end(core.broken, None)
        elif self._paused and core.answered - self._answered > MAX_UNREAD_ANSWERS:
            self._end(protocol_error(UNREAD), None)
        elif (limits_changed or core.leaving) and not self.closed:
            self.pool.changed(self, now)

    def eof_received(self) -> None:
        return None  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        error = WireError(
            ResetReason.CONNECTION_TERMINATION, True, "the server closed the connection"
        )
        self._end(error, exc)

    # Endings

    def _end(self, error: WireError, cause: BaseException | None) -> None:
        """Close, and fail every exchange with ``error`` or what is said of its stream."""
        exchanges, requests, core = list(self.exchanges), self.requests, self.core
        if core.broken is None:
            core.fail(error, cause)
        self.abort()
        for exchange in exchanges:
            failure = WireError(
                error.reason,
                error.sent,
                str(error),
                reused=requests > 1 and exchange.seen == core.received,
            )
            failure.__cause__ = cause or error.__cause__
            exchange.fail(failure)

    def cancel(self) -> None:
        """The engine closes: exchanges under way fail."""
        self._end(closed_error(True), None)

    def abort(self) -> None:
        """Close at once, without waiting for buffers or TLS; idempotent."""
        if self.closed:
            return
        if not self.transport.is_closing():
            self.core.close()
            self.flush()
        self.forget()
        self.transport.abort()

    def forget(self) -> None:
        """Everything ``abort`` does, but for the transport."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.settled.done() and not self.loop.is_closed():
            self.settled.set_result(None)
        if not self.loop.is_closed():
            self._wake_writers()
        self.pool.discard(self)
        self._shard.open.discard(self)

    # Time

    def look_by(self, when: float) -> None:
        """Have the limits looked at by then: one timer for all exchanges, moved only
        when something is due earlier. Most requests start no timer and cancel none."""
        if when < self._timer_at and not self.closed:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self.loop.call_later(max(0.0, when - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = time.monotonic()
        for exchange in [one for one in self.exchanges if one.limit <= now]:
            if exchange.seen == self.core.received:
                # Not a sign of life since it began: nobody else should try this connection.
                self.core.leaving = True
            exchange.time_over()
        if self.closed:
            return
        if not self.exchanges and now >= min(self._idle_at, self.retire_at):
            self.pool.end(self)
            return
        due = min((one.limit for one in self.exchanges), default=self._idle_at)
        if not self.exchanges:
            due = min(due, self.retire_at)
        if self._ping_s is not None:
            due = min(due, self._keep_alive(self._ping_s, now))
        self.look_by(due)

    def _keep_alive(self, interval_s: float, now: float) -> float:
        """A PING when nothing was heard for that long; when to look again."""
        if self.core.awaits_pong:
            if now >= self._pong_by:
                message = "the server does not answer a PING"
                self._end(WireError(ResetReason.CONNECTION_TERMINATION, True, message), None)
            return self._pong_by
        if now - self._heard_at < interval_s:
            return self._heard_at + interval_s
        self.core.ping()
        self.flush()
        self._pong_by = now + self.pool.target.options.ping_timeout_s
        return self._pong_by

    def get_extra_info(self, name: str) -> Any:
        """See WireResponse.get_extra_info."""
        return self.transport.get_extra_info(_EXTRA_INFO.get(name, name))
