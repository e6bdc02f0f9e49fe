"""A socket after a 101, or a 2xx to CONNECT: the raw stream for its caller.

No HTTP any more, no pool: the connection ends with the stream. One thread may read
while another writes, as WebSocket clients do.
"""

from __future__ import annotations

import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

from meshclient.model.outcome import ResetReason
from meshclient.transport.http1 import ResponseParser
from meshclient.transport.interface import (
    SyncWireResponse,
    WireError,
    closed_error,
    timeout_error,
)
from meshclient.transport.readiness import WOULD_BLOCK, Readiness

if TYPE_CHECKING:
    from meshclient.transport.socket_shell import SyncConnection


class SyncUpgradedResponse(SyncWireResponse):
    """Without a body, and open in both directions until ``close``."""

    __slots__ = ("_closed", "_connection", "_first", "_lock", "_reader", "_users", "_writer")

    def __init__(self, connection: SyncConnection, parser: ResponseParser) -> None:
        super().__init__(
            parser.status,
            parser.reason,
            parser.version,
            parser.headers,
            None,
            connection.get_extra_info,
        )
        self._connection = connection
        self._first = parser.upgraded or b""
        # OpenSSL's objects are for one thread at a time; held for no wait.
        self._lock = threading.Lock()
        self._closed = False
        self._users = 0  # threads inside an operation
        self._reader = connection.readiness
        self._writer = Readiness(connection.sock)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At most ``max_bytes`` (1 or more); empty at the end. ``timeout`` in seconds.

        Raises WireError.
        """
        if self._first:
            piece, self._first = self._first[:max_bytes], self._first[max_bytes:]
            return piece
        piece = self._do(self._reader, timeout, False, lambda sock: sock.recv(max_bytes))
        if not piece and self._connection.cancelled and not self._closed:
            raise closed_error(True)  # no end that the server meant
        return piece  # type: ignore[no-any-return]

    def write(self, data: bytes, timeout: float | None = None) -> None:
        """All of ``data``; ``timeout`` bounds each wait for the peer. Raises WireError."""
        view = memoryview(data)
        while view:
            rest = view
            sent = self._do(self._writer, timeout, True, lambda sock, rest=rest: sock.send(rest))
            view = view[sent:]

    def _do(self, ready: Readiness, timeout: float | None, write: bool, operation: Any) -> Any:
        until = None if timeout is None else time.monotonic() + timeout
        self._enter()
        try:
            while True:
                try:
                    with self._lock:
                        return operation(self._connection.sock)
                except WOULD_BLOCK as error:
                    wants_write = _wants_write(error, write)
                left = None if until is None else until - time.monotonic()
                if not ready.wait(not wants_write, wants_write, left):
                    raise timeout_error("write" if write else "read", True)
        except ssl.SSLZeroReturnError:
            return b""
        except OSError as error:
            raise self._ended(error) from error
        finally:
            self._leave()

    def _ended(self, error: OSError) -> WireError:
        """By the engine, which closes, or by the peer."""
        if self._connection.cancelled and not self._closed:
            return closed_error(True)
        return _broken(error)

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise _broken("it is closed")
            self._users += 1

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._closed and not self._users
        if last:
            self._connection.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> SyncUpgradedResponse:
        """Continue with TLS. Raises WireError; a failed handshake closes the stream."""
        connection = self._connection
        plain = connection.sock
        try:
            plain.settimeout(timeout)
            connection.sock = ssl_context.wrap_socket(plain, server_hostname=server_hostname)
        except TimeoutError as error:
            self.close()
            raise timeout_error("connect", True) from error
        except (OSError, ValueError) as error:
            self.close()
            raise _broken(error) from error
        connection.readiness = self._reader = Readiness(connection.sock)
        self._writer = Readiness(connection.sock)
        return self

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle = not self._users
        # Another thread may wait in here, or be about to: it sees the end of the
        # stream, and closes the socket as it leaves. Closed under it, the number it
        # polls could be another file's by then, and it would wait for that one.
        self._connection.cancel()
        if idle:
            self._connection.close()
        self.finish()


def _wants_write(error: Exception, write: bool) -> bool:
    if isinstance(error, ssl.SSLWantReadError):
        return False
    return write or isinstance(error, ssl.SSLWantWriteError)


def _broken(error: Exception | str) -> WireError:
    return WireError(ResetReason.CONNECTION_TERMINATION, True, f"the stream broke: {error}")
