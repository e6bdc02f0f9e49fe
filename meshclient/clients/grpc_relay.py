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
        self._transports: WeakSet[asyncio.Transport] = WeakSet()

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
        loop = asyncio.get_running_loop()

        def accepted() -> _Near:
            return _Near(self, target, path)

        self._servers.append(await loop.create_unix_server(accepted, path))

    def carry(self, near: _Near) -> None:
        """A channel has connected: lead on what it sends. On the relay's loop."""
        task = asyncio.get_running_loop().create_task(self._lead_on(near))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _lead_on(self, near: _Near) -> None:
        assert near.transport is not None
        self._transports.add(near.transport)
        try:
            async with asyncio.timeout(near.target.options.connect_timeout_s):
                far = await self._connect(near.target)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self.problems[near.path] = f"{type(error).__name__}: {error}"
            near.transport.abort()
            return
        assert far.transport is not None
        self.problems.pop(near.path, None)
        self._transports.add(far.transport)
        far.join(near)
        near.join(far)

    async def _connect(self, target: Target) -> _Side:
        identity = target.tls
        assert identity is not None
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {
            "ssl": identity.context,
            "server_hostname": identity.server_hostname,
            "ssl_handshake_timeout": max(0.001, target.options.connect_timeout_s),
            "ssl_shutdown_timeout": 1.0,
        }
        if target.address.startswith("unix:"):
            path = target.address.removeprefix("unix:").removeprefix("//")
            transport, side = await loop.create_unix_connection(_Side, path, **options)
        else:
            transport, side = await loop.create_connection(
                _Side, target.address, target.port, **options
            )
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if chosen not in HTTP2_PROTOCOLS:
            transport.abort()
            raise ssl.SSLError(1, f"the server does not offer HTTP/2 (ALPN: {chosen})")
        return side

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
        for transport in list(self._transports):
            transport.abort()
        for _ in range(_TICKS_TO_CLOSE):
            await asyncio.sleep(0)

    def after_fork_in_child(self) -> None:
        """The parent's thread is not here, and its sockets are not ours to remove."""
        # Kept, so that nothing of them is finalised in the child.
        _inherited.append((self._loop, self._servers))
        self.__init__()  # type: ignore[misc]


_inherited: list[Any] = []


class _Side(asyncio.Protocol):
    """One of two connections, each of which writes what the other reads."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._other: asyncio.Transport | None = None
        #: What came before there was another side (settings that a server sends at once).
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def join(self, other: _Side) -> None:
        """From now on, what comes goes to ``other``."""
        assert self.transport is not None
        assert other.transport is not None
        if self.transport.is_closing():
            other.transport.close()
            return
        self._other = other.transport
        early, self._early = self._early, []
        for data in early:
            self._other.write(data)
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)
            return
        self._early.append(data)
        assert self.transport is not None
        self.transport.pause_reading()

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and not self._other.is_closing():
            self._other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        # HTTP/2 knows no half-closed connection; what is written already still goes out.
        if self._other is not None:
            self._other.close()


class _Near(_Side):
    """The side of the channel."""

    def __init__(self, relay: Relay, target: Target, path: str) -> None:
        super().__init__()
        self._relay = relay
        self.target = target
        self.path = path

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self._relay.carry(self)


__all__ = ["Relay"]
