"""httpcore's connections made and ended as the policy says: a network backend around another.

Sends the PROXY header, sets keep-alive probes, and has a connection retire at its most
age or count of requests: httpcore takes a connection that is "readable" while idle for
one that the server closed, and opens another. No pool and no HTTP in here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from meshclient.model.cluster import ConnectionOptions
from meshclient.transport import proxy_protocol
from meshclient.transport.addresses import set_options
from meshclient.transport.pool import MAX_AGE_JITTER

Clock = Callable[[], float]


class Age:
    """How long one connection goes on taking requests."""

    __slots__ = ("_clock", "_left", "_retire_at")

    def __init__(
        self,
        options: ConnectionOptions,
        clock: Clock = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        most_s = options.max_duration_s
        share = 1.0 - MAX_AGE_JITTER * jitter()
        self._clock = clock
        self._retire_at = None if most_s is None else clock() + most_s * share
        self._left = options.max_requests or None

    def count(self) -> None:
        """It has answered one more request."""
        if self._left is not None:
            self._left -= 1

    def is_over(self) -> bool:
        """It takes no further request."""
        if self._left is not None and self._left <= 0:
            return True
        return self._retire_at is not None and self._clock() >= self._retire_at


class _Stream:
    """A network stream of httpcore's with an age."""

    def __init__(self, inner: Any, age: Age) -> None:
        self._inner = inner
        self.age = age
        self.read = inner.read
        self.write = inner.write

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        if info == "is_readable" and self.age.is_over():
            return True
        return self._inner.get_extra_info(info)


class SyncStream(_Stream):
    """For ``ConnectionPool``."""

    def start_tls(self, *args: Any, **options: Any) -> SyncStream:
        """See httpcore."""
        return SyncStream(self._inner.start_tls(*args, **options), self.age)

    def close(self) -> None:
        """See httpcore."""
        self._inner.close()


class AsyncStream(_Stream):
    """For ``AsyncConnectionPool``."""

    async def start_tls(self, *args: Any, **options: Any) -> AsyncStream:
        """See httpcore."""
        return AsyncStream(await self._inner.start_tls(*args, **options), self.age)

    async def aclose(self) -> None:
        """See httpcore."""
        await self._inner.aclose()


class SyncBackend:
    """``inner`` with the options of a policy."""

    def __init__(self, httpcore: ModuleType, inner: Any, options: ConnectionOptions) -> None:
        self._httpcore = httpcore
        self._inner = inner or httpcore.SyncBackend()
        self._options = options

    def connect_tcp(self, *args: Any, **options: Any) -> SyncStream:
        """See httpcore."""
        return self._begun(self._inner.connect_tcp(*args, **options))

    def connect_unix_socket(self, *args: Any, **options: Any) -> SyncStream:
        """See httpcore."""
        return self._begun(self._inner.connect_unix_socket(*args, **options))

    def _begun(self, stream: Any) -> SyncStream:
        try:
            preface = prepare(stream, self._options)
            if preface:
                stream.write(preface, self._options.connect_timeout_s)
        except BaseException as error:
            stream.close()
            raise_as_connect_error(self._httpcore, error)
            raise
        return SyncStream(stream, Age(self._options))


class AsyncBackend:
    """:class:`SyncBackend` for asyncio and trio."""

    def __init__(self, httpcore: ModuleType, inner: Any, options: ConnectionOptions) -> None:
        self._httpcore = httpcore
        self._inner = inner
        self._options = options

    def _backend(self) -> Any:
        if self._inner is None:
            self._inner = self._httpcore.AnyIOBackend()
        return self._inner

    async def connect_tcp(self, *args: Any, **options: Any) -> AsyncStream:
        """See httpcore."""
        return await self._begun(await self._backend().connect_tcp(*args, **options))

    async def connect_unix_socket(self, *args: Any, **options: Any) -> AsyncStream:
        """See httpcore."""
        return await self._begun(await self._backend().connect_unix_socket(*args, **options))

    async def sleep(self, seconds: float) -> None:
        """See httpcore."""
        await self._backend().sleep(seconds)

    async def _begun(self, stream: Any) -> AsyncStream:
        try:
            preface = prepare(stream, self._options)
            if preface:
                await stream.write(preface, self._options.connect_timeout_s)
        except BaseException as error:
            import anyio

            with anyio.CancelScope(shield=True):  # a plain socket: nothing is waited for
                await stream.aclose()
            raise_as_connect_error(self._httpcore, error)
            raise
        return AsyncStream(stream, Age(self._options))


def prepare(stream: Any, options: ConnectionOptions) -> bytes:
    """Set the socket's options; what the connection begins with, before TLS."""
    sock = stream.get_extra_info("socket")
    if options.keepalive is not None:
        set_options(sock, options.keepalive)
    if not options.proxy_protocol:
        return b""
    return proxy_protocol.header(options.proxy_protocol, sock.getsockname(), sock.getpeername())


def raise_as_connect_error(httpcore: ModuleType, error: BaseException) -> None:
    """Nothing was sent yet, whatever failed."""
    if isinstance(error, (httpcore.WriteTimeout, httpcore.ReadTimeout)):
        raise httpcore.ConnectTimeout(str(error)) from error
    if isinstance(error, (OSError, httpcore.WriteError, httpcore.ReadError)):
        raise httpcore.ConnectError(str(error)) from error


def needs_backend(options: ConnectionOptions) -> bool:
    """Whether connections with these options are more than httpcore's own."""
    return bool(
        options.max_duration_s is not None
        or options.max_requests
        or options.keepalive
        or options.proxy_protocol
    )


def count_request(response: Any) -> None:
    """A response head came: its connection has served one more request."""
    stream = response.extensions.get("network_stream")
    if isinstance(stream, _Stream):
        stream.age.count()


__all__ = ["Age", "AsyncBackend", "SyncBackend", "count_request", "needs_backend", "prepare"]
