"""TLS sessions kept for the next connection to the same endpoint under the same name.

Bookkeeping, and the moments at which OpenSSL has a session to give. Which context made a
session is the caller's business: each has a store of its own. No socket is opened here.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Hashable
from typing import Any, Final

#: Sessions kept per store; the oldest makes room.
MAX_SESSIONS: Final = 256
#: Sessions kept per endpoint and server name: as many new connections at once can resume.
MAX_PER_KEY: Final = 4


class SessionStore:
    """Sessions by (server name, endpoint). Thread-safe; bounded."""

    __slots__ = ("_count", "_lock", "_sessions")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[Hashable, list[ssl.SSLSession]] = {}
        self._count = 0

    def keep(self, key: Hashable, session: ssl.SSLSession | None) -> bool:
        """Remember a session that can be resumed; False when this one cannot."""
        if session is None or not session.has_ticket:
            return False
        with self._lock:
            mine = self._sessions.pop(key, [])
            self._sessions[key] = mine  # the newest key is the last to make room
            mine.append(session)
            self._count += 1
            if len(mine) > MAX_PER_KEY:
                del mine[0]
                self._count -= 1
            while self._count > MAX_SESSIONS:
                oldest = next(iter(self._sessions))
                self._count -= len(self._sessions.pop(oldest))
        return True

    def take(self, key: Hashable) -> ssl.SSLSession | None:
        """The newest session for a new connection. Each is used once (RFC 8446, C.4)."""
        with self._lock:
            mine = self._sessions.get(key)
            if not mine:
                return None
            self._count -= 1
            session = mine.pop()
            if not mine:
                del self._sessions[key]
            return session

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<SessionStore {self._count} of {len(self._sessions)}>"


class ResumableObject(ssl.SSLObject):
    """For event loops: leaves its session behind once the server has sent a ticket.

    TLS 1.3 servers send theirs after the handshake, so the first reads look for it.
    """

    #: (server name, endpoint) until a session is kept, where one shall be.
    resume_key: Hashable = None

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002
        """See :class:`ssl.SSLObject`."""
        if self.resume_key is None:
            return super().read(len, buffer)
        try:
            return super().read(len, buffer)
        finally:
            self._keep()

    def _keep(self) -> None:
        if self.context.sessions.keep(self.resume_key, _session_of(self)):  # type: ignore[attr-defined]
            self.resume_key = None


class ResumableSocket(ssl.SSLSocket):
    """For blocking sockets: leaves its session behind when it is closed."""

    #: (server name, endpoint), once the connection may be resumed.
    resume_key: Hashable = None

    def close(self) -> None:
        """See :class:`ssl.SSLSocket`."""
        key, self.resume_key = self.resume_key, None
        if key is not None:
            self.context.sessions.keep(key, _session_of(self))  # type: ignore[attr-defined]
        super().close()


def _session_of(secured: ssl.SSLObject | ssl.SSLSocket) -> ssl.SSLSession | None:
    """Python fails to copy that of a handshake that broke off."""
    try:
        return secured.session
    except ValueError:
        return None


__all__ = ["MAX_PER_KEY", "MAX_SESSIONS", "ResumableObject", "ResumableSocket", "SessionStore"]
