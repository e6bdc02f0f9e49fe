"""CONNECT from the caller: a tunnel after any 2xx, an ordinary answer after anything else."""

from __future__ import annotations

import asyncio
import importlib
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
from abuse_support import SHELLS
from engine_support import (
    Peer,
    RawServer,
    answer,
    certificate,
    counts,
    eventually,
    get,
    target,
    using,
)

from meshclient import Mesh
from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.asyncio_upgrade import AsyncUpgradedResponse
from meshclient.transport.fallback import HttpcoreAsyncEngine, HttpcoreSyncEngine
from meshclient.transport.interface import InvalidRequest, Target, WireError, WireRequest
from meshclient.transport.socket_upgrade import SyncUpgradedResponse
from meshclient.transport.sync_engine import SyncEngine
from meshclient.transport.tls import TlsIdentity

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def connect(**limits: Any) -> WireRequest:
    headers = [(b"Host", b"db:443")]
    return WireRequest(b"CONNECT", b"db:443", headers, **{"read_timeout_s": 5.0, **limits})


def tunnel(head: bytes, ended: list[int] | None = None) -> RawServer:
    """Answers ``head``, then whatever follows it comes back as it is, until the caller leaves."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(head)
        while data := peer.read(1):
            peer.send(data)
        if ended is not None:
            ended.append(peer.number)

    return RawServer(script)


async def conversation(shell: str, server: RawServer, request: WireRequest) -> tuple[int, bytes]:
    """Status, and what came: greeting of 5 bytes and an echo of ours."""
    if shell == "sync":
        with_threads = SyncEngine()
        stream = with_threads.send(target(server), request)
        assert isinstance(stream, SyncUpgradedResponse)
        stream.write(b"\x00\r\n\r\n!", 5.0)
        got = b""
        while len(got) < 11:
            got += stream.read(64, 5.0)
        assert counts(with_threads.stats()) == (0, 1)
        stream.close()
        assert counts(with_threads.stats()) == (0, 0)
        return stream.status, got
    engine = AsyncEngine()
    raw = await engine.send(target(server), request)
    assert isinstance(raw, AsyncUpgradedResponse)
    await raw.write(b"\x00\r\n\r\n!", 5.0)
    got = b""
    while len(got) < 11:
        got += await raw.read(64, 5.0)
    assert counts(engine.stats()) == (0, 1)
    await raw.aclose()
    assert counts(engine.stats()) == (0, 0)
    await engine.aclose()
    return raw.status, got


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "head",
    [
        ESTABLISHED,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204 N\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 102 P\r\n\r\n" + ESTABLISHED,
    ],
    ids=["plain", "1.0", "length", "chunked", "204", "interim"],
)
def test_after_a_2xx_every_byte_belongs_to_the_caller(shell: str, head: bytes) -> None:
    """Whatever framing the head claims (RFC 9110 section 9.3.6), and from the first byte."""
    found: list[tuple[int, bytes]] = []

    async def run(_: AsyncEngine) -> None:
        found.append(await conversation(shell, server, connect()))

    with tunnel(head + b"hello") as server:
        using("asyncio" if shell == "sync" else shell, run)
        assert server.heads == [b"CONNECT db:443 HTTP/1.1\r\nHost: db:443\r\n\r\n"]
    status = 204 if b" 204 " in head else 200
    assert found == [(status, b"hello\x00\r\n\r\n!")]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("split", [False, True])
def test_a_refusal_is_an_ordinary_answer(shell: str, split: bool) -> None:
    """With its body; the connection ends with it, since the server may think otherwise of it."""
    head = b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"2\r\nno\r\n0\r\n\r\n"

    def script(peer: Peer) -> None:
        while peer.read_head():
            for part in [head, body] if split else [head + body]:
                peer.send(part)

    async def run(engine: AsyncEngine) -> None:
        if shell == "sync":
            with_threads = SyncEngine()
            response = with_threads.send(target(server), connect())
            assert (response.status, b"".join(response)) == (403, b"no")
            assert counts(with_threads.stats()) == (0, 0)
            return
        answered = await engine.send(target(server), connect())
        assert (answered.status, b"".join([p async for p in answered])) == (403, b"no")
        assert counts(engine.stats()) == (0, 0)

    with RawServer(script) as server:
        using("asyncio" if shell == "sync" else shell, run)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200\nX: y\n\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["101", "bare LF", "100 KB"],
)
def test_what_is_no_answer_to_it(shell: str, head: bytes) -> None:
    async def run(engine: AsyncEngine) -> None:
        if shell == "sync":
            with pytest.raises(WireError) as caught:
                SyncEngine().send(target(server), connect())
        else:
            with pytest.raises(WireError) as caught:
                await engine.send(target(server), connect())
        assert caught.value.reason is ResetReason.PROTOCOL_ERROR
        assert counts(engine.stats()) == (0, 0)

    with tunnel(head) as server:
        using("asyncio" if shell == "sync" else shell, run)


@pytest.mark.parametrize("shell", SHELLS)
def test_closing_the_engine_ends_the_tunnel(shell: str) -> None:
    async def run(engine: AsyncEngine) -> None:
        if shell == "sync":
            with_threads = SyncEngine()
            stream = with_threads.send(target(server), connect())
            assert isinstance(stream, SyncUpgradedResponse)
            reader = asyncio.create_task(asyncio.to_thread(stream.read, 1, 10.0))
            await asyncio.sleep(0.02)
            with_threads.close()
            with pytest.raises(WireError, match="engine is closed"):
                await reader
            stream.close()
        else:
            raw = await engine.send(target(server), connect())
            assert isinstance(raw, AsyncUpgradedResponse)
            task = asyncio.create_task(raw.read(1, 10.0))
            await asyncio.sleep(0.02)
            await engine.aclose()
            with pytest.raises(WireError):
                await task
        await eventually(lambda: ended == [1])

    ended: list[int] = []
    with tunnel(ESTABLISHED, ended) as server:
        using("asyncio" if shell == "sync" else shell, run)


def test_http2_has_none() -> None:
    async def run(engine: AsyncEngine) -> None:
        over_http2 = Target("127.0.0.1", server.port, protocol="h2")
        with pytest.raises((InvalidRequest, WireError)):
            await engine.send(over_http2, connect(response_timeout_s=0.5))
        assert counts(engine.stats())[1] == 0

    with tunnel(b"") as server:
        using("asyncio", run)


def test_the_httpcore_engine_gives_the_same_stream() -> None:
    with tunnel(ESTABLISHED + b"hello") as server:
        engine = HttpcoreSyncEngine()
        stream: Any = engine.send(target(server), connect())
        assert stream.read(64) == b"hello"
        stream.write(b"x")
        assert stream.read(64) == b"x"
        stream.close()
        engine.close()


def test_the_httpcore_engine_on_trio_gives_the_same_stream() -> None:
    async def run(server: RawServer) -> None:
        engine = HttpcoreAsyncEngine()
        stream: Any = await engine.send(target(server), connect())
        assert await stream.read(64) == b"hello"
        await stream.write(b"x")
        assert await stream.read(64) == b"x"
        await stream.aclose()
        await engine.aclose()

    with tunnel(ESTABLISHED + b"hello") as server:
        trio.run(run, server)
        asyncio.run(run(server))


def mesh_to(server: RawServer) -> Mesh:
    service = {"endpoints": [f"127.0.0.1:{server.port}"], "timeout": "300ms"}
    return Mesh.from_documents([{"version": 1, "services": {"tunnels": service}}])


TO_DB = {"target": b"db:443"}


def test_through_httpx() -> None:
    """The route's timeout ends with the head; the stream raises httpcore's errors."""
    core = importlib.import_module("httpcore")
    with tunnel(ESTABLISHED + b"hello") as server, mesh_to(server) as mesh:
        mesh.wait_ready()
        with (
            mesh.client() as client,
            client.stream("CONNECT", "http://tunnels/", extensions=TO_DB) as got,
        ):
            assert got.status_code == 200
            stream = got.extensions["network_stream"]
            assert stream.read(64, 5.0) == b"hello"
            with pytest.raises(core.ReadTimeout):
                stream.read(1, timeout=0.4)
            stream.write(b"!", timeout=5.0)
            assert stream.read(1, timeout=5.0) == b"!"
        with pytest.raises(core.WriteError):
            stream.write(b"x")
        with mesh.client() as client, pytest.raises(ValueError, match="host:port"):
            client.request("CONNECT", "http://tunnels/")


def test_through_httpx_async() -> None:
    async def run(server: RawServer) -> None:
        async with mesh_to(server) as mesh:
            await mesh.async_wait_ready()
            async with (
                mesh.async_client() as client,
                client.stream("CONNECT", "http://tunnels/", extensions=TO_DB) as got,
            ):
                stream = got.extensions["network_stream"]
                assert await stream.read(64, 5.0) == b"hello"
                await stream.write(b"!", timeout=5.0)
                assert await stream.read(1, timeout=5.0) == b"!"

    with tunnel(ESTABLISHED + b"hello") as server:
        asyncio.run(asyncio.wait_for(run(server), 20))


def test_a_connection_that_was_used_before_may_become_a_tunnel() -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(b"first"))
        peer.read_head()
        peer.send(ESTABLISHED + b"second")
        peer.wait_closed()

    with RawServer(script) as server:
        engine = SyncEngine()
        assert engine.send(target(server), get()).content == b"first"
        stream = engine.send(target(server), connect())
        assert isinstance(stream, SyncUpgradedResponse)
        assert stream.read(64, 5.0) == b"second"
        assert server.accepted == 1
        stream.close()
        engine.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_tunnel_over_tls(shell: str, tmp_path: Path) -> None:
    chain = certificate(tmp_path, "localhost")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(*chain)
    identity = TlsIdentity("localhost", ssl.create_default_context(cafile=chain[0]))

    def script(peer: Peer) -> None:
        with theirs.wrap_socket(peer.sock, server_side=True) as secure:
            secure.recv(65536)
            secure.sendall(ESTABLISHED + b"hello")
            while data := secure.recv(100):
                secure.sendall(data)

    async def run(engine: AsyncEngine) -> None:
        where = Target("127.0.0.1", server.port, identity)
        if shell == "sync":
            with_threads = SyncEngine()
            stream: Any = with_threads.send(where, connect())
            stream.write(b"!", 5.0)
            assert stream.read(5, 5.0) + stream.read(1, 5.0) == b"hello!"
            stream.close()
        else:
            raw: Any = await engine.send(where, connect())
            await raw.write(b"!", 5.0)
            assert await raw.read(5, 5.0) + await raw.read(1, 5.0) == b"hello!"
            await raw.aclose()

    with RawServer(script) as server:
        using("asyncio" if shell == "sync" else shell, run)
