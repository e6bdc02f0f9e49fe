"""A socket that speaks another protocol after a 101: the raw stream for its caller.

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
from meshclient.transport.interface import SyncWireResponse, WireError, timeout_error
from meshclient.transport.readiness import WOULD_BLOCK, Readiness

if TYPE_CHECKING:
    from meshclient.transport.socket_shell import SyncConnection


class SyncUpgradedResponse(SyncWireResponse):
    """A 101: without a body, and open in both directions until ``close``."""

    __slots__ = ("_connection", "_first", "_lock", "_reader", "_writer")

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
        self._reader = connection.readiness
        self._writer = Readiness(connection.sock)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At most ``max_bytes`` (1 or more); empty at the end. ``timeout`` in seconds.

        Raises WireError.
        """
        if self._first:
            piece, self._first = self._first[:max_bytes], self._first[max_bytes:]
            return piece
        return self._do(self._reader, timeout, False, lambda sock: sock.recv(max_bytes))  # type: ignore[no-any-return]

    def write(self, data: bytes, timeout: float | None = None) -> None:
        """All of ``data``; ``timeout`` bounds each wait for the peer. Raises WireError."""
        view = memoryview(data)
        while view:
            rest = view
            sent = self._do(self._writer, timeout, True, lambda sock, rest=rest: sock.send(rest))
            view = view[sent:]

    def _do(self, ready: Readiness, timeout: float | None, write: bool, operation: Any) -> Any:
        until = None if timeout is None else time.monotonic() + timeout
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
        except (OSError, ValueError) as error:  # ValueError: poll on a socket closed meanwhile
            raise _broken(error) from error

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
        # Another thread may wait in here: it wakes through the end of the stream.
        self._connection.cancel()
        self._connection.close()
        self.finish()


def _wants_write(error: Exception, write: bool) -> bool:
    if isinstance(error, ssl.SSLWantReadError):
        return False
    return write or isinstance(error, ssl.SSLWantWriteError)


def _broken(error: Exception) -> WireError:
    return WireError(ResetReason.CONNECTION_TERMINATION, True, f"the stream broke: {error}")
