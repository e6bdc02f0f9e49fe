"""A non-blocking socket that is waited for: send, receive and look, each within seconds.

Python's own time limits (``settimeout``) would cost a system call to set and two
more per operation, each of which lets go of the interpreter lock: with many
threads that is the price of a request. So the socket never blocks; a send is
tried at once, as it nearly always succeeds, and a receive is one ``poll`` and one
``recv``. No HTTP in here, no pool, and no decision about what a failure means.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from contextlib import suppress
from typing import Any, Final

RECEIVE: Final = 64 * 1024
#: In the middle of a body, where more is nearly always there.
RECEIVE_BODY: Final = 256 * 1024
WOULD_BLOCK: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Readiness:
    """Of one connected socket, which is made non-blocking; one thread at a time.

    Keeps its poll objects, so a look costs one system call. ``poll`` where the
    system has it (any file descriptor number), else ``select``.
    """

    __slots__ = ("_both", "_read", "_secure", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0.0)
        self._sock = sock
        self._secure = isinstance(sock, ssl.SSLSocket)
        self._read: select.poll | None = None
        self._both: select.poll | None = None
        if hasattr(select, "poll"):
            self._read = select.poll()
            self._read.register(sock, select.POLLIN)

    def readable(self) -> bool:
        """Bytes, the end of the stream or an error are waiting."""
        if self._read is not None:
            return bool(self._read.poll(0))
        return bool(select.select([self._sock], [], [], 0)[0])

    def has_ended(self) -> bool:
        """Like :meth:`readable`, but for a connection that has not been used yet: session
        tickets, which TLS 1.3 sends after the handshake, are taken in and mean nothing."""
        if not self.readable():
            return False
        if not isinstance(self._sock, ssl.SSLSocket):
            return True
        try:
            self._sock.recv(1)
        except ssl.SSLWantReadError:
            return False
        except OSError:
            pass
        return True

    def wait(self, read: bool, write: bool, timeout: float | None) -> bool:
        """Wait until one of them is possible; False when ``timeout`` seconds passed."""
        if self._read is None:
            readers = [self._sock] if read else []
            writers = [self._sock] if write else []
            return any(select.select(readers, writers, [], timeout))
        milliseconds = None if timeout is None else max(0.0, timeout) * 1000
        if read and not write:
            return bool(self._read.poll(milliseconds))
        if self._both is None:
            self._both = select.poll()
        self._both.register(
            self._sock, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)
        )
        return bool(self._both.poll(milliseconds))

    def send(self, data: bytes | memoryview, timeout: float | None) -> int:
        """Bytes taken, at least one. Raises TimeoutError, OSError."""
        try:
            return self._sock.send(data)
        except WOULD_BLOCK as error:
            want: Exception = error
        until = _until(timeout)
        while True:
            self._wait_for(want, until)
            try:
                return self._sock.send(data)
            except WOULD_BLOCK as error:
                want = error

    def receive(self, timeout: float | None, most: int = RECEIVE) -> bytes:
        """What is there, at most ``most`` bytes; empty at the end of the stream.

        Raises TimeoutError, OSError.
        """
        # A TLS socket may hold decrypted bytes that no poll sees: it is asked first.
        if not self._secure and not self.wait(True, False, timeout):
            raise TimeoutError
        try:
            return self._sock.recv(most)
        except WOULD_BLOCK as error:
            want: Exception = error
        until = _until(timeout)
        while True:
            self._wait_for(want, until, reading=True)
            try:
                return self._sock.recv(most)
            except WOULD_BLOCK as error:
                want = error

    def _wait_for(self, want: Exception, until: float, reading: bool = False) -> None:
        """What TLS wants may be the other direction than what the caller does."""
        if isinstance(want, ssl.SSLWantReadError):
            reading = True
        elif isinstance(want, ssl.SSLWantWriteError):
            reading = False
        left = None if until == math.inf else until - time.monotonic()
        if not self.wait(reading, not reading, left):
            raise TimeoutError


def socket_info(sock: socket.socket, name: str) -> Any:
    """``socket``, ``ssl_object``, ``client_addr`` or ``server_addr`` of a blocking
    shell's connection; None when unknown or gone."""
    with suppress(OSError):
        if name == "socket":
            return sock
        if name == "ssl_object":
            return sock if isinstance(sock, ssl.SSLSocket) else None
        if name == "client_addr":
            return sock.getsockname()
        if name == "server_addr":
            return sock.getpeername()
    return None


def _until(timeout: float | None) -> float:
    return math.inf if timeout is None else time.monotonic() + timeout
