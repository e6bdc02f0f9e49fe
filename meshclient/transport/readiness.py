"""Whether a socket has something to read or room to write, without touching its bytes.

``poll`` where the system has it (any file descriptor number), else ``select``.
"""

from __future__ import annotations

import select
import socket


class Readiness:
    """Of one socket; keeps its poll objects, so a look costs one system call."""

    __slots__ = ("_both", "_read", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
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

    def wait(self, read: bool, write: bool, timeout: float | None) -> bool:
        """Wait until one of them is possible; False when ``timeout`` seconds passed."""
        if self._read is None:
            readers = [self._sock] if read else []
            writers = [self._sock] if write else []
            return any(select.select(readers, writers, [], timeout))
        if self._both is None:
            self._both = select.poll()
        self._both.register(
            self._sock, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)
        )
        return bool(self._both.poll(None if timeout is None else max(0.0, timeout) * 1000))
