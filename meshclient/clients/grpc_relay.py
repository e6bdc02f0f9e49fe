"""TLS for gRPC by the mesh's own stack: a relay between a unix socket and the endpoint.

gRPC's client checks neither URI names of a certificate (SPIFFE) nor takes newer files
for a live channel. So it speaks plain HTTP/2 into a socket that only this user can open,
and the relay carries the bytes over a connection secured as for every other call. What it
cannot secure it does not connect. HTTP/2 is not looked at here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import tempfile
import threading
from typing import Any
from weakref import WeakSet

from meshclient.transport.interface import Target
from meshclient.transport.tls_policy import HTTP2_PROTOCOLS

_CHUNK = 256 * 1024
#: Turns of the loop until an aborted TLS connection has closed its socket.
_TICKS_TO_CLOSE = 5


class Relay:
    """Unix sockets of one process, each leading to one TLS target. Thread-safe.

    One daemon thread with an event loop, started with the first target.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._folder = ""
        self._owner = 0
        self._addresses: dict[Target, str] = {}
        self._servers: list[asyncio.Server] = []
        #: Why the last connection to a target was not made.
        self.problems: dict[str, str] = {}
        self._busy: set[asyncio.Task[None]] = set()
        self._writers: WeakSet[asyncio.StreamWriter] = WeakSet()

    def address_of(self, target: Target) -> str:
        """What a channel dials in place of ``target``: ``unix:...``. Blocks for a moment.

        Raises RuntimeError after :meth:`close`, OSError where no socket can be made.
        """
        with self._lock:
            known = self._addresses.get(target)
            if known is not None:
                return known
            if self._loop is None:
                self._start_locked()
            assert self._loop is not None
            path = os.path.join(self._folder, str(len(self._addresses)))
            opening = asyncio.run_coroutine_threadsafe(self._open(target, path), self._loop)
            opening.result(timeout=10.0)
            address = self._addresses[target] = f"unix:{path}"
            return address

    def _start_locked(self) -> None:
        # Mode 0700: nobody else may use the secured connections.
        self._folder = tempfile.mkdtemp(prefix="meshclient-grpc-")
        self._owner = os.getpid()
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=loop.run_forever, name="meshclient-grpc-tls", daemon=True
        )
        self._thread.start()

    async def _open(self, target: Target, path: str) -> None:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._busy.add(task)
            try:
                await self._carry(target, path, reader, writer)
            finally:
                self._busy.discard(task)

        self._servers.append(await asyncio.start_unix_server(accepted, path, limit=_CHUNK))

    async def _carry(
        self, target: Target, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection of a channel's, from its first byte to its last."""
        onward: asyncio.StreamWriter | None = None
        self._writers.add(writer)
        try:
            async with asyncio.timeout(target.options.connect_timeout_s):
                back, onward = await self._connect(target)
            self._writers.add(onward)
            self.problems.pop(path, None)
            await _both(_pump(reader, onward), _pump(back, writer))
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self.problems[path] = f"{type(error).__name__}: {error}"
        finally:
            for one in (writer, onward):
                if one is not None:
                    one.close()

    async def _connect(self, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        identity = target.tls
        assert identity is not None
        options: dict[str, Any] = {
            "ssl": identity.context,
            "server_hostname": identity.server_hostname,
            "ssl_handshake_timeout": max(0.001, target.options.connect_timeout_s),
            "ssl_shutdown_timeout": 1.0,
            "limit": _CHUNK,
        }
        if target.address.startswith("unix:"):
            path = target.address.removeprefix("unix:").removeprefix("//")
            reader, writer = await asyncio.open_unix_connection(path, **options)
        else:
            reader, writer = await asyncio.open_connection(target.address, target.port, **options)
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        if chosen not in HTTP2_PROTOCOLS:
            writer.transport.abort()
            raise ssl.SSLError(1, f"the server does not offer HTTP/2 (ALPN: {chosen})")
        return reader, writer

    # -- life --------------------------------------------------------------------------

    def close(self) -> None:
        """End every connection and remove the sockets. Idempotent, from any thread."""
        with self._lock:
            loop, self._loop = self._loop, None
            thread, folder = self._thread, self._folder
            self._addresses.clear()
        if loop is None:
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(timeout=5.0)
        loop.call_soon_threadsafe(loop.stop)
        if thread is not None:
            thread.join(timeout=5.0)
        if thread is None or not thread.is_alive():
            loop.close()
        if self._owner == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._busy):
            task.cancel()
        if self._busy:
            await asyncio.wait(list(self._busy), timeout=2.0)
        for writer in list(self._writers):
            writer.transport.abort()
        for _ in range(_TICKS_TO_CLOSE):
            await asyncio.sleep(0)

    def after_fork_in_child(self) -> None:
        """The parent's thread is not here, and its sockets are not ours to remove."""
        # Kept, so that nothing of them is finalised in the child.
        _inherited.append((self._loop, self._servers))
        self.__init__()  # type: ignore[misc]


_inherited: list[Any] = []


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        data = await reader.read(_CHUNK)
        if not data:
            return
        writer.write(data)
        await writer.drain()


async def _both(*ways: Any) -> None:
    """Until one way has ended: HTTP/2 knows no half-closed connection."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


__all__ = ["Relay"]
