"""The httpcore engines behind the same interface: asyncio, trio, HTTP/2, a proxy."""

from __future__ import annotations

import importlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trio
from engine_support import (
    HttpServer,
    Peer,
    RawServer,
    Recorded,
    Reply,
    certificate,
    counts,
    get,
    half,
    post,
    read,
    run_on,
    silent,
    soon,
    target,
)

from meshclient.model.outcome import ResetReason
from meshclient.transport import httpcore_bridge
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.fallback import HttpcoreAsyncEngine, HttpcoreSyncEngine
from meshclient.transport.interface import InvalidRequest, Target, WireError, WireRequest
from meshclient.transport.tls import TlsIdentity, default_context


def echo(request: Recorded) -> Reply:
    return Reply(200, request.body or b"ok", [("X-Path", request.path)])


@pytest.fixture(params=["httpcore2", "httpcore"])
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    module = importlib.import_module(request.param)
    monkeypatch.setattr("meshclient.transport.fallback.load_httpcore", lambda: module)
    monkeypatch.setattr(httpcore_bridge, "load_httpcore", lambda: module)
    return str(request.param)


def test_httpcore2_comes_first() -> None:
    assert httpcore_bridge.load_httpcore().__name__ == "httpcore2"


def test_sync(family: str) -> None:
    with HttpServer(echo) as server:
        engine = HttpcoreSyncEngine()
        ends: list[int] = []
        response = engine.send(target(server), get(b"/a?b=c"))
        response.on_close = lambda: ends.append(1)
        assert counts(engine.stats()) == (0, 1)
        assert (response.status, b"".join(response)) == (200, b"ok")
        response.close()
        assert ends == [1]
        assert counts(engine.stats()) == (1, 0)
        assert b"".join(engine.send(target(server), post(iter([b"x", b"y"])))) == b"xy"
        assert server.requests[0].target == "/a?b=c"
        assert server.requests[0].header("host") == "test"
        assert server.accepted == 1
        engine.retain(())
        b"".join(engine.send(target(server), get()))
        assert server.wait_for(lambda: server.closed == 1), "the drained pool is closed"
        engine.close()
        with pytest.raises(WireError, match="closed"):
            engine.send(target(server), get())


async def exercise(engine: Any, server: HttpServer) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"x"
        yield b"y"

    for body in (None, b"bytes", iter([b"x", b"y"]), source()):
        request = get() if body is None else post(body)
        got = await read(await engine.send(target(server), request))
        assert got in (b"ok", b"bytes", b"xy")
    response = await engine.send(target(server), get())
    await response.aclose()
    await response.aclose()
    assert counts(engine.stats())[1] == 0
    await engine.aclose()


def test_async(family: str) -> None:
    with HttpServer(echo) as server:
        run_on("asyncio", exercise(HttpcoreAsyncEngine(), server))
        assert server.accepted <= 2


def test_trio_is_served_by_the_async_engine(family: str) -> None:
    with HttpServer(echo) as server:
        trio.run(exercise, AsyncEngine(), server)
        assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("script", "limits", "timeout"),
    [
        (silent, {"read_timeout_s": 0.05}, "read"),
        (silent, {"response_timeout_s": 0.05}, "response"),
        (silent, {"deadline": 0.1}, "deadline"),
        (half, {"deadline": 0.1}, "deadline"),
        (half, {"read_timeout_s": 0.05}, "read"),
    ],
)
@pytest.mark.parametrize("how", ["sync", "asyncio", "trio"])
def test_limits(family: str, how: str, script: Any, limits: dict[str, float], timeout: str) -> None:
    with RawServer(script) as server:
        values = dict(limits)
        if "deadline" in values:
            values["deadline"] = soon(values["deadline"])

        def sync_call() -> None:
            engine = HttpcoreSyncEngine()
            try:
                b"".join(engine.send(target(server), get(**values)))
            finally:
                assert counts(engine.stats())[1] == 0
                engine.close()

        async def async_call() -> None:
            engine = HttpcoreAsyncEngine()
            try:
                await read(await engine.send(target(server), get(**values)))
            finally:
                assert counts(engine.stats())[1] == 0
                await engine.aclose()

        calls = {
            "sync": sync_call,
            "trio": lambda: trio.run(async_call),
            "asyncio": lambda: run_on("asyncio", async_call()),
        }
        with pytest.raises(WireError) as caught:
            calls[how]()
        assert caught.value.timeout == timeout


def test_failures_have_our_reasons(family: str) -> None:
    engine = HttpcoreSyncEngine()
    with RawServer(lambda peer: peer.read_head()) as server:
        with pytest.raises(WireError) as caught:
            engine.send(target(server), get())
        assert caught.value.reason is ResetReason.CONNECTION_TERMINATION
        gone = target(server)
    with pytest.raises(WireError) as caught:
        engine.send(gone, get())
    assert (caught.value.reason, caught.value.sent) == (ResetReason.CONNECTION_FAILURE, False)
    with RawServer(lambda peer: (peer.read_head(), peer.send(b"rubbish\r\n\r\n"))) as server:
        with pytest.raises(WireError) as caught:
            engine.send(target(server), get())
        assert caught.value.reason is ResetReason.PROTOCOL_ERROR
    with pytest.raises(InvalidRequest):
        engine.send(gone, WireRequest(b"GET", b"/ x", []))
    assert counts(engine.stats()) == (0, 0)
    engine.close()


def h2_server(pair: tuple[str, str]) -> RawServer:
    """Answers every request with its path, over HTTP/2 and TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    context.set_alpn_protocols(["h2"])

    def script(peer: Peer) -> None:
        with context.wrap_socket(peer.sock, server_side=True) as sock:
            connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            connection.initiate_connection()
            sock.sendall(connection.data_to_send())
            while data := sock.recv(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        path = dict(event.headers)[b":path"]
                        connection.send_headers(event.stream_id, [(":status", "200")])
                        connection.send_data(event.stream_id, path, end_stream=True)
                sock.sendall(connection.data_to_send())

    return RawServer(script)


def test_http2(family: str, tmp_path: Path) -> None:
    pair = certificate(tmp_path, "api.test")
    with h2_server(pair) as server:
        context = default_context(pair[0], http2=True)
        assert context is not default_context(pair[0]), "its ALPN is another"
        where = Target("127.0.0.1", server.port, TlsIdentity("api.test", context))

        async def run() -> None:
            engine = HttpcoreAsyncEngine(http2=True)
            for path in (b"/a", b"/b"):
                response = await engine.send(where, get(path))
                assert response.http_version == b"HTTP/2"
                assert await read(response) == path
            await engine.aclose()

        run_on("asyncio", run())
        assert server.accepted == 1
