"""Upgraded connections: the raw stream after a 101, in both shells and through httpx."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import httpcore
import httpx
import pytest
from engine_support import (
    LOOPS,
    Peer,
    RawServer,
    certificate,
    counts,
    get,
    serve_raw,
    target,
    using,
)

from meshclient import Mesh
from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.asyncio_upgrade import AsyncUpgradedResponse
from meshclient.transport.interface import WireError, WireRequest
from meshclient.transport.socket_upgrade import SyncUpgradedResponse
from meshclient.transport.sync_engine import SyncEngine

SWITCH = b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
ASK = [(b"Host", b"test"), (b"Connection", b"Upgrade"), (b"Upgrade", b"echo")]


def ask() -> WireRequest:
    return WireRequest(b"GET", b"/", ASK, read_timeout_s=5.0)


def echo(peer: Peer) -> None:
    """Greets at once, in the same write as the 101, then echoes."""
    peer.read_head()
    peer.send(SWITCH + b"hello")
    while data := peer.read(1):
        peer.send(data)


def flood(peer: Peer) -> None:
    peer.read_head()
    peer.send(SWITCH)
    for _ in range(64):
        peer.send(b"x" * 65536)


@pytest.fixture
def engine() -> SyncEngine:
    return SyncEngine()


def test_both_directions_sync(engine: SyncEngine) -> None:
    with RawServer(echo) as server:
        stream = engine.send(target(server), ask())
        assert isinstance(stream, SyncUpgradedResponse)
        assert (stream.status, list(stream)) == (101, [])
        assert stream.read(3) + stream.read(64) == b"hello"
        stream.write(b"abc")
        assert b"".join(stream.read(1) for _ in range(3)) == b"abc"
        with pytest.raises(WireError) as caught:
            stream.read(1, 0.05)
        assert caught.value.timeout == "read"
        assert stream.get_extra_info("server_addr")[1] == server.port
        assert counts(engine.stats()) == (0, 1)
        stream.close()
        stream.close()
        assert counts(engine.stats()) == (0, 0)
        with pytest.raises(WireError):
            stream.write(b"x")


def test_one_thread_reads_while_another_writes(engine: SyncEngine) -> None:
    with RawServer(echo) as server:
        stream = engine.send(target(server), ask())
        assert isinstance(stream, SyncUpgradedResponse)
        got = bytearray()

        def read() -> None:
            while len(got) < 5 + 2000:
                got.extend(stream.read(100, 5.0))

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(1000):
            stream.write(b"%02d" % (number % 100), 5.0)
        reader.join(10)
        assert got == b"hello" + b"".join(b"%02d" % (n % 100) for n in range(1000))
        stream.close()


def test_closing_wakes_a_reader(engine: SyncEngine) -> None:
    with RawServer(echo) as server:
        stream = engine.send(target(server), ask())
        assert isinstance(stream, SyncUpgradedResponse)
        stream.read(64)
        seen: list[object] = []

        def read() -> None:
            try:
                seen.append(stream.read(1, 10.0))
            except WireError as error:
                seen.append(error.reason)

        reader = threading.Thread(target=read)
        reader.start()
        engine.close()
        reader.join(5)
        assert seen == [ResetReason.CANCELLED]
        stream.close()


def test_a_reader_never_polls_a_number_that_is_free(engine: SyncEngine) -> None:
    """Closed by another thread between a look and the wait: the socket outlives the wait."""
    with RawServer(echo) as server:
        stream = engine.send(target(server), ask())
        assert isinstance(stream, SyncUpgradedResponse)
        stream.read(64)
        sock = stream._connection.sock
        wait = stream._reader.wait
        during: list[int] = []

        class CloseFirst:
            def wait(self, read: bool, write: bool, timeout: float | None) -> bool:
                stream.close()
                during.append(sock.fileno())
                return wait(read, write, timeout)

        stream._reader = CloseFirst()  # type: ignore[assignment]
        assert stream.read(1, 10.0) == b""
        assert during[0] >= 0
        assert sock.fileno() == -1
        with pytest.raises(WireError, match="closed"):
            stream.read(1, 10.0)


@pytest.mark.parametrize("kind", LOOPS)
def test_both_directions_async(kind: str) -> None:
    async def test(engine: AsyncEngine) -> None:
        stream = await engine.send(target(server), ask())
        assert isinstance(stream, AsyncUpgradedResponse)
        assert (stream.status, [p async for p in stream]) == (101, [])
        assert await stream.read(3) + await stream.read(64) == b"hello"
        await stream.write(b"abc")
        assert b"".join([await stream.read(1) for _ in range(3)]) == b"abc"
        with pytest.raises(WireError) as caught:
            await stream.read(1, 0.05)
        assert caught.value.timeout == "read"
        assert counts(engine.stats()) == (0, 1)
        await stream.aclose()
        assert counts(engine.stats()) == (0, 0)
        with pytest.raises(WireError):
            await stream.write(b"x")

    with RawServer(echo) as server:
        using(kind, test)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_slow_reader_stops_the_sender_and_loses_nothing(kind: str) -> None:
    async def test(engine: AsyncEngine) -> None:
        stream = await engine.send(target(server), ask())
        assert isinstance(stream, AsyncUpgradedResponse)
        await asyncio.sleep(0.05)
        assert len(stream._buffer) < 1024 * 1024
        count = 0
        while piece := await stream.read(30000, 5.0):
            count += len(piece)
        assert count == 64 * 65536
        await stream.aclose()

    with RawServer(flood) as server:
        using(kind, test)


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_reader_that_is_cancelled_or_cut_off(kind: str, how: str) -> None:
    async def test(engine: AsyncEngine) -> None:
        stream = await engine.send(target(server), ask())
        assert isinstance(stream, AsyncUpgradedResponse)
        await stream.read(64)
        task = asyncio.create_task(stream.read(64))
        await asyncio.sleep(0.01)
        if how == "cancel":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await stream.write(b"z")
            assert await stream.read(1, 5.0) == b"z"  # the stream itself is unharmed
            await stream.aclose()
        else:
            engine.close()
            with pytest.raises(WireError):
                await task

    with RawServer(echo) as server:
        using(kind, test)


def _tls_after_switch(folder: Path) -> tuple[Callable[[Peer], None], ssl.SSLContext]:
    chain = certificate(folder, "localhost")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(*chain)
    ours = ssl.create_default_context(cafile=chain[0])

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(SWITCH)
        with theirs.wrap_socket(peer.sock, server_side=True) as secure:
            while data := secure.recv(100):
                secure.sendall(data)

    return script, ours


def test_start_tls_sync(engine: SyncEngine, tmp_path: Path) -> None:
    script, context = _tls_after_switch(tmp_path)
    with RawServer(script) as server:
        stream = engine.send(target(server), ask())
        assert isinstance(stream, SyncUpgradedResponse)
        secure = stream.start_tls(context, "localhost", 5.0)
        secure.write(b"secret", 5.0)
        assert secure.read(100, 5.0) == b"secret"
        assert secure.get_extra_info("ssl_object") is not None
        with pytest.raises(WireError) as caught:
            secure.read(1, 0.05)
        assert caught.value.timeout == "read"
        secure.close()


@pytest.mark.parametrize("kind", LOOPS)
def test_start_tls_async(kind: str, tmp_path: Path) -> None:
    script, context = _tls_after_switch(tmp_path)

    async def test(engine: AsyncEngine) -> None:
        stream = await engine.send(target(server), ask())
        assert isinstance(stream, AsyncUpgradedResponse)
        secure = await stream.start_tls(context, "localhost", 5.0)
        await secure.write(b"secret", 5.0)
        assert await secure.read(100, 5.0) == b"secret"
        assert secure.get_extra_info("ssl_object") is not None
        await secure.aclose()

    with RawServer(script) as server:
        using(kind, test)


def test_a_refused_upgrade_is_an_ordinary_response(engine: SyncEngine) -> None:
    with serve_raw(b"HTTP/1.1 426 No\r\nContent-Length: 2\r\n\r\nno") as server:
        response = engine.send(target(server), ask())
        assert (response.status, response.content) == (426, b"no")
        assert counts(engine.stats()) == (1, 0)
        engine.close()


def test_a_101_without_asking_is_an_error(engine: SyncEngine) -> None:
    with serve_raw(SWITCH) as server:
        with pytest.raises(WireError) as caught:
            engine.send(target(server), get())
        assert caught.value.reason is ResetReason.PROTOCOL_ERROR
        assert counts(engine.stats()) == (0, 0)


HEADERS = {"Connection": "Upgrade", "Upgrade": "echo"}


def _mesh(server: RawServer) -> Mesh:
    service = {"endpoints": [f"127.0.0.1:{server.port}"], "timeout": "300ms"}
    return Mesh.from_documents([{"version": 1, "services": {"echo": service}}])


def test_httpx_sync_gives_httpcores_stream() -> None:
    """The route's timeout ends with the 101; errors are the ones WebSocket clients catch."""
    with RawServer(echo) as server, _mesh(server) as mesh:
        mesh.wait_ready()
        with mesh.client() as client, client.stream("GET", "http://echo/", headers=HEADERS) as got:
            assert got.status_code == 101
            stream = got.extensions["network_stream"]
            assert stream.read(64, 5.0) == b"hello"
            with pytest.raises(httpcore.ReadTimeout):
                stream.read(1, timeout=0.4)
            stream.write(b"!", timeout=5.0)
            assert stream.read(1, timeout=5.0) == b"!"
            stream.close()
            with pytest.raises(httpcore.WriteError):
                stream.write(b"x")


def test_httpx_async_gives_httpcores_stream() -> None:
    async def run(server: RawServer) -> None:
        async with _mesh(server) as mesh:
            await mesh.async_wait_ready()
            async with mesh.async_client() as client:
                async with client.stream("GET", "http://echo/", headers=HEADERS) as got:
                    stream = got.extensions["network_stream"]
                    assert await stream.read(64, 5.0) == b"hello"
                    with pytest.raises(httpcore.ReadTimeout):
                        await stream.read(1, timeout=0.4)
                    await stream.write(b"!", timeout=5.0)
                    assert await stream.read(1, timeout=5.0) == b"!"
                    await stream.aclose()
                    with pytest.raises(httpcore.WriteError):
                        await stream.write(b"x")
                assert isinstance(got, httpx.Response)

    with RawServer(echo) as server:
        asyncio.run(asyncio.wait_for(run(server), 20))
