"""How bytes of a TLS connection reach its protocol object: through one buffer of the loop.

asyncio and uvloop decrypt straight into it. As a plain ``asyncio.Protocol`` they would
make an object of 256 KiB for every TLS record, and join what came in one turn.
What the bytes mean is the connection's business.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

#: Bytes handed on at once; an object of this size costs the allocator no system call.
SCRATCH: Final = 120 * 1024


class _Connection(Protocol):
    def data_received(self, data: bytes) -> None: ...
    def part_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Decrypted(asyncio.BufferedProtocol):
    """Stands between the transport and ``connection``. ``scratch`` is shared by the
    connections of a loop: nothing stays in it from one call to the next."""

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
