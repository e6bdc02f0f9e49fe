"""What engines and drivers say to each other: target, request, response, error.

Values and base classes only: no socket, no event loop, no parser, no clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from meshclient.model.cluster import ConnectionOptions
from meshclient.model.outcome import ResetReason

if TYPE_CHECKING:
    from meshclient.transport.abort import Abort
    from meshclient.transport.preconnect import Neighbours
    from meshclient.transport.proxy import Proxy
    from meshclient.transport.slots import ConnectionSlots
    from meshclient.transport.tls import TlsIdentity

Headers = list[tuple[bytes, bytes]]
Body = bytes | Iterable[bytes] | AsyncIterable[bytes] | None
#: What is spoken to a target; see :class:`Target`.
Protocol = Literal["http1", "h2", "auto"]
TimeoutKind = Literal["", "connect", "response", "deadline", "read", "write", "pool"]

#: Idle connections kept per target (and event loop); the ones beyond it are closed.
MAX_IDLE_CONNECTIONS = 256

DEFAULT_OPTIONS = ConnectionOptions()


class Target:
    """Where a connection leads and how it lives: the key of a pool.

    ``address`` is an IP, a host name, or ``unix:///path`` (``port`` is then
    ignored). ``tls`` None means plain text. Two targets are equal when these four
    parts and ``proxy`` are, and ``connections`` is the same object, so another
    server name or certificate never shares a connection. ``more_addresses`` (IPs) of
    the same endpoint are raced with ``address`` by new connections, and change
    nothing about those that exist. ``connections`` counts and limits those of the
    whole cluster; None: no limit. ``proxy``: connections are tunnels through it.
    ``protocol`` "h2" is HTTP/2 by prior knowledge or ALPN; "auto" (with ``tls`` whose
    context offers h2) is what the server's ALPN answer says. ``neighbours`` is asked where
    connections are opened ahead; None: nobody knows the endpoint's cluster. Treat as immutable.
    """

    __slots__ = (
        "_hash",
        "address",
        "connections",
        "more_addresses",
        "neighbours",
        "options",
        "port",
        "protocol",
        "proxy",
        "tls",
    )

    def __init__(
        self,
        address: str,
        port: int,
        tls: TlsIdentity | None = None,
        options: ConnectionOptions = DEFAULT_OPTIONS,
        *,
        more_addresses: tuple[str, ...] = (),
        connections: ConnectionSlots | None = None,
        proxy: Proxy | None = None,
        protocol: Protocol = "http1",
        neighbours: Neighbours | None = None,
    ) -> None:
        self.address = address
        self.port = port
        self.tls = tls
        self.options = options
        self.more_addresses = more_addresses
        self.connections = connections
        self.proxy = proxy
        self.protocol: Protocol = protocol
        self.neighbours = neighbours
        self._hash = hash((address, port, tls, options, protocol))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Target)
            and self._hash == other._hash
            and self.port == other.port
            and self.address == other.address
            and self.tls == other.tls
            and self.options == other.options
            and self.connections is other.connections
            and self.proxy == other.proxy
            and self.protocol == other.protocol
        )

    def counted_by(self, connections: ConnectionSlots | None) -> Target:
        """The same place, whose connections are counted elsewhere."""
        return Target(
            self.address,
            self.port,
            self.tls,
            self.options,
            more_addresses=self.more_addresses,
            connections=connections,
            proxy=self.proxy,
            protocol=self.protocol,
            neighbours=self.neighbours,
        )

    @property
    def unix_path(self) -> str | None:
        """The path of the unix socket, or None for TCP."""
        if self.address.startswith("unix:"):
            return self.address.removeprefix("unix:").removeprefix("//")
        return None

    def __str__(self) -> str:
        if self.unix_path is not None:
            return self.address
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Target {self}{'' if self.tls is None else f' {self.tls!r}'}>"


class WireRequest:
    """One request, final in every header. Seconds everywhere; None: no limit.

    ``body``: None sends none; bytes are sent as they are; an iterable (async
    for the async engine) is streamed, framed by the Content-Length header if
    there is one, else chunked (the engine adds the header when neither is there).
    ``connect_timeout_s`` bounds resolving, connecting and TLS together; None
    takes the target's options. ``response_timeout_s`` runs from "request fully
    written" to the response head. ``deadline`` is absolute ``time.monotonic()``
    over everything, the response body included. ``read_timeout_s`` bounds each
    wait for bytes, ``write_timeout_s`` each wait for the peer to take some.
    ``resend`` is asked at most once, when a kept-alive connection ended before a
    byte of an answer: True has the request sent again, on a fresh connection; None never.
    ``pool_timeout_s`` bounds the wait for a connection where the cluster limits them.
    ``abort`` ends a blocking exchange from outside (:mod:`meshclient.transport.abort`).
    """

    abort: Abort | None = None  # of the class: ordinary requests do not carry it

    __slots__ = (
        "body",
        "connect_timeout_s",
        "deadline",
        "headers",
        "method",
        "pool_timeout_s",
        "read_timeout_s",
        "resend",
        "response_timeout_s",
        "target",
        "write_timeout_s",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: Body = None,
        *,
        connect_timeout_s: float | None = None,
        response_timeout_s: float | None = None,
        deadline: float | None = None,
        read_timeout_s: float | None = None,
        write_timeout_s: float | None = None,
        pool_timeout_s: float | None = None,
        resend: Callable[[], bool] | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.connect_timeout_s = connect_timeout_s
        self.response_timeout_s = response_timeout_s
        self.deadline = deadline
        self.read_timeout_s = read_timeout_s
        self.write_timeout_s = write_timeout_s
        self.pool_timeout_s = pool_timeout_s
        self.resend = resend

    def __repr__(self) -> str:
        return f"<WireRequest {self.method.decode('latin-1')} {self.target.decode('latin-1')}>"


class WireError(Exception):
    """A try that ended without a (whole) response.

    ``sent``: a byte of the request may have reached the server. ``reused``: it
    went out on a kept-alive connection, and not one byte came back: most likely
    the server had just closed it. ``timeout`` names the limit that ended it.
    ``__cause__`` is the socket, TLS or parser error.
    """

    def __init__(
        self,
        reason: ResetReason,
        sent: bool,
        message: str = "",
        *,
        timeout: TimeoutKind = "",
        reused: bool = False,
    ) -> None:
        super().__init__(message or reason.value)
        self.reason = reason
        self.sent = sent
        self.timeout: TimeoutKind = timeout
        self.reused = reused


class InvalidRequest(WireError, ValueError):
    """The request cannot be put on the wire (injection, framing); nothing was sent."""

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(ResetReason.PROTOCOL_ERROR, sent, message)


_TIMEOUTS: dict[TimeoutKind, tuple[ResetReason, str]] = {
    "connect": (ResetReason.CONNECTION_TIMEOUT, "connecting took too long"),
    "pool": (ResetReason.OVERFLOW, "no connection slot in time"),
    "response": (ResetReason.PER_TRY_TIMEOUT, "no response head in time"),
    "deadline": (ResetReason.ROUTE_TIMEOUT, "the deadline is over"),
    "read": (ResetReason.PER_TRY_TIMEOUT, "no byte of the response in time"),
    "write": (ResetReason.PER_TRY_TIMEOUT, "the server takes no bytes of the request"),
}


def timeout_error(kind: TimeoutKind, sent: bool) -> WireError:
    """The error of the limit ``kind``."""
    reason, message = _TIMEOUTS[kind]
    return WireError(reason, sent, message, timeout=kind)


def closed_error(sent: bool) -> WireError:
    """The error of calls that ``close()`` of an engine ends or refuses."""
    return WireError(ResetReason.CANCELLED, sent, "the engine is closed")


class PoolStats:
    """Counts of one target: connections ``idle`` and ``active`` now, ``opened``
    and ``reused`` since the pool exists."""

    __slots__ = ("active", "idle", "opened", "reused")

    def __init__(self, idle: int = 0, active: int = 0, opened: int = 0, reused: int = 0) -> None:
        self.idle = idle
        self.active = active
        self.opened = opened
        self.reused = reused

    def add(self, other: PoolStats) -> None:
        """Sum of two pools of the same target (one per event loop)."""
        self.idle += other.idle
        self.active += other.active
        self.opened += other.opened
        self.reused += other.reused

    def __repr__(self) -> str:
        return (
            f"<PoolStats idle={self.idle} active={self.active} "
            f"opened={self.opened} reused={self.reused}>"
        )


class WireResponse:
    """A response head, and its body: complete in ``content``, else a stream.

    ``content`` is the whole body when it came along with the head: then the
    connection is already free again and nothing needs to be closed. ``on_close``
    may be set by the caller after ``send`` returned; it is called exactly once,
    when the body has been read to its end, failed or was closed.
    """

    __slots__ = ("_info", "content", "headers", "http_version", "on_close", "reason", "status")

    def __init__(
        self,
        status: int,
        reason: bytes,
        http_version: bytes,
        headers: Headers,
        content: bytes | None,
        info: Callable[[str], Any],
    ) -> None:
        self.status = status
        self.reason = reason
        self.http_version = http_version
        self.headers = headers
        self.content = content
        self.on_close: Callable[[], object] | None = None
        self._info = info

    def get_extra_info(self, name: str) -> Any:
        """``client_addr``, ``server_addr``, ``socket`` or ``ssl_object``; None when unknown."""
        return self._info(name)

    def finish(self) -> None:
        """Fire ``on_close`` if it has not been; for engines."""
        callback = self.on_close
        if callback is not None:
            self.on_close = None
            callback()

    def __repr__(self) -> str:
        body = "streaming" if self.content is None else f"{len(self.content)} bytes"
        return f"<{type(self).__name__} {self.status} {body}>"


class SyncWireResponse(WireResponse):
    """Iterate over the body once; ``close`` is idempotent. One thread at a time.

    This class is a response whose body is whole; the shell's subclass streams.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        if self.content:
            yield self.content
        self.finish()

    def close(self) -> None:
        """End the response; a body that was not read to its end costs its connection."""
        self.finish()


class AsyncWireResponse(WireResponse):
    """Iterate over the body once; ``aclose`` is idempotent and never blocks.

    This class is a response whose body is whole; the shell's subclass streams.
    """

    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._whole()

    async def _whole(self) -> AsyncIterator[bytes]:
        if self.content:
            yield self.content
        self.finish()

    async def aclose(self) -> None:
        """End the response; a body that was not read to its end costs its connection."""
        self.finish()

    def drop(self) -> None:
        """Nobody can read it any more: end it soon. For destructors, on any thread."""


__all__ = [
    "DEFAULT_OPTIONS",
    "MAX_IDLE_CONNECTIONS",
    "AsyncWireResponse",
    "Body",
    "Headers",
    "InvalidRequest",
    "PoolStats",
    "Protocol",
    "SyncWireResponse",
    "Target",
    "TimeoutKind",
    "WireError",
    "WireRequest",
    "WireResponse",
    "closed_error",
    "timeout_error",
]
