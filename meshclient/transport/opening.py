"""Connections on their way, so that closing the engine ends those who wait for them, too.

Which connection is opened, and why, is the business of :mod:`meshclient.transport.dial`
and the engines; nothing here connects.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Final

from meshclient.transport.interface import closed_error

#: Seconds between two looks at ``cancelled`` where several sockets are waited for at once.
LOOK_S: Final = 0.1


class Opening:
    """One that a thread opens; ``cancel`` comes from another.

    Where a resolver is asked nothing can be woken: that ends as soon as it answers.
    """

    __slots__ = ("_lock", "_sock", "cancelled")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self.cancelled = False

    def holds(self, sock: socket.socket | None) -> None:
        """The thread waits on ``sock`` from here on; None: before it closes what it had.

        Raises WireError when the engine was closed meanwhile.
        """
        with self._lock:
            self._sock = sock
            cancelled = self.cancelled
        if cancelled and sock is not None:
            raise closed_error(False)

    def cancel(self) -> None:
        """Whoever waits on it fails at once."""
        with self._lock:
            self.cancelled = True
            if self._sock is not None:
                with suppress(OSError):
                    # See SyncConnection.cancel. Under the lock, so that its file
                    # descriptor cannot have become another's.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


class LoopOpenings:
    """Those of one event loop: the time limits that they run under. On its thread only."""

    __slots__ = ("_limits", "closed")

    def __init__(self) -> None:
        self._limits: set[asyncio.Timeout] = set()
        self.closed = False

    def add(self, limit: asyncio.Timeout) -> None:
        """A connection is being opened under ``limit``, which has been entered."""
        self._limits.add(limit)

    def discard(self, limit: asyncio.Timeout) -> None:
        """It is open, or failed."""
        self._limits.discard(limit)

    def close(self) -> None:
        """Every limit is over now."""
        self.closed = True
        for limit in self._limits:
            if not limit.expired():  # one that has run out just now cannot be moved any more
                limit.reschedule(0.0)
