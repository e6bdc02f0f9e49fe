"""How bytes of a TLS connection reach its protocol object: through one buffer of the loop.

asyncio and uvloop decrypt straight into it. As a plain ``asyncio.Protocol`` they would
make an object of 256 KiB for every TLS record, and join what came in one turn.
What the bytes mean is the connection's business.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

#: Bytes handed on at once; an object of this size costs the allocator no system call.
SCRATCH: Final = 120 * 1024


class _Connection(Protocol):
    def data_received(self, data: bytes) -> None: ...
    def part_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class TlsBuffers:
    """Of one loop, and shared by its TLS connections: what is in them is taken out before
    the loop does anything else.

    That is so where the loop fills a buffer and says how far in one go, without a look at
    another connection in between: asyncio's ``SSLProtocol`` and uvloop's do with what they
    decrypted, and selector loops with what they read. Other loops get a buffer for each
    connection, and keep their own for what is encrypted.
    """

    __slots__ = ("_encrypted", "_scratch", "_swaps")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        known = isinstance(loop, asyncio.BaseEventLoop) or _is_uvloop(loop)
        self._scratch = memoryview(bytearray(SCRATCH)) if known else None
        self._swaps = isinstance(loop, asyncio.SelectorEventLoop)
        self._encrypted: bytearray | None = None

    def attach(self, transport: asyncio.Transport, connection: _Connection) -> None:
        """Have ``connection`` get what ``transport`` decrypts."""
        scratch = self._scratch
        if scratch is None:
            scratch = memoryview(bytearray(SCRATCH))
        transport.set_protocol(Decrypted(connection, scratch))
        if self._swaps:
            self._share_encrypted(transport)

    def _share_encrypted(self, transport: asyncio.Transport) -> None:
        """asyncio's own has 256 KiB for each connection, also when it is idle.

        Private to asyncio, and the same in 3.11 to 3.13: it is handed out by ``get_buffer``
        and read by ``buffer_updated`` and nowhere else, and the selector loop calls both in
        one step. The handshake that leads here has read its own already. Where the attributes
        are others, the connection keeps what it has.
        """
        tls: Any = getattr(transport, "_ssl_protocol", None)
        own = getattr(tls, "_ssl_buffer", None)
        if isinstance(own, bytearray) and hasattr(tls, "_ssl_buffer_view"):
            if self._encrypted is None or len(self._encrypted) != len(own):
                self._encrypted = own
            tls._ssl_buffer, tls._ssl_buffer_view = self._encrypted, memoryview(self._encrypted)


def _is_uvloop(loop: asyncio.AbstractEventLoop) -> bool:
    return any(base.__module__.partition(".")[0] == "uvloop" for base in type(loop).__mro__)


class Decrypted(asyncio.BufferedProtocol):
    """Stands between the transport and ``connection``."""

    __slots__ = ("_connection", "_scratch")

    def __init__(self, connection: _Connection, scratch: memoryview) -> None:
        self._connection = connection
        self._scratch = scratch

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._scratch[:nbytes])
        if nbytes < len(self._scratch):
            self._connection.data_received(data)
        else:
            # More may be decrypted already, where no look at the socket finds it.
            self._connection.part_received(data)

    def eof_received(self) -> bool | None:
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
