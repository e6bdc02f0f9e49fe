"""WebSockets (httpx-ws over the mesh's transport) and server-sent events, as they arrive."""

# ruff: noqa: SIM117 - the levels show what is closed when

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import httpx_sse
import httpx_ws
import pytest
import trio
import wsproto
import wsproto.events as ws
from engine_support import Peer, RawServer
from servers.proxy import ProxyServer

from meshclient import Mesh, errors

ENGINES = ("meshclient", "httpcore", "httpx")


def istio(port: int) -> list[dict[str, Any]]:
    """A WebSocket service as mesh users write it: routes as for any HTTP service."""
    return [
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": "tornado"},
            "spec": {
                "hosts": ["tornado.test"],
                "ports": [{"number": 8888, "name": "http", "protocol": "HTTP"}],
                "location": "MESH_INTERNAL",
                "resolution": "STATIC",
                "endpoints": [{"address": "127.0.0.1", "ports": {"http": port}}],
            },
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "tornado"},
            "spec": {
                "hosts": ["tornado.test"],
                "http": [
                    {
                        "match": [{"uri": {"prefix": "/"}}],
                        "route": [{"destination": {"host": "tornado.test"}, "weight": 100}],
                        "headers": {"request": {"add": {"x-routed": "yes"}}},
                    }
                ],
            },
        },
    ]


def echo(peer: Peer) -> None:
    """A WebSocket server: greets at once, then sends back what it is told."""
    connection = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    connection.receive_data(peer.read_head())
    text, data = "", b""
    while True:
        for event in connection.events():
            if isinstance(event, ws.Request):
                if dict(event.extra_headers).get(b"x-routed") != b"yes":
                    peer.send(connection.send(ws.RejectConnection(status_code=421)))
                    return
                # Together with the 101: must not get lost between the protocols.
                greeting = connection.send(ws.AcceptConnection())
                peer.send(greeting + connection.send(ws.TextMessage("welcome")))
            elif isinstance(event, ws.TextMessage):
                text += event.data  # a piece: as much as one read brought
                if event.message_finished:
                    peer.send(connection.send(ws.TextMessage(text[::-1])))
                    text = ""
            elif isinstance(event, ws.BytesMessage):
                data += bytes(event.data)
                if event.message_finished:
                    peer.send(connection.send(ws.BytesMessage(data)))
                    data = b""
            elif isinstance(event, ws.Ping):
                peer.send(connection.send(event.response()))
            elif isinstance(event, ws.CloseConnection):
                peer.send(connection.send(event.response()))
                return
        received = peer.sock.recv(65536)
        if not received:
            return
        connection.receive_data(received)


def run_async(how: str, function: Callable[[], Any]) -> None:
    if how == "asyncio":
        asyncio.run(asyncio.wait_for(function(), 20))
        return

    async def bounded() -> None:
        with trio.fail_after(20):
            await function()

    trio.run(bounded)


def idle(mesh: Mesh) -> None:
    for state in mesh._publisher.plane.clusters.values():
        assert state.active_requests == 0
    # httpx-ws reads on a thread of its own; the socket goes when that has left it.
    deadline = time.monotonic() + 5
    while _active(mesh) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not _active(mesh)


def _active(mesh: Mesh) -> int:
    return sum(s.active for engine in mesh._engines.values() for s in engine.stats().values())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_websocket_over_a_sync_client(engine):
    with RawServer(echo) as server:
        with (
            Mesh.from_documents(istio(server.port), engine=engine) as mesh,
            mesh.client() as client,
        ):
            with httpx_ws.connect_ws("http://tornado.test:8888/ws", client) as socket:
                assert socket.receive_text(timeout=5) == "welcome"
                for word in ("abc", "x" * 50_000):
                    socket.send_text(word)
                    assert socket.receive_text(timeout=5) == word[::-1]
                socket.send_bytes(bytes(range(256)))
                assert socket.receive_bytes(timeout=5) == bytes(range(256))
                report = socket.response.extensions["meshclient"]
                assert report.endpoint == f"127.0.0.1:{server.port}"
            idle(mesh)


@pytest.mark.parametrize("how", ["asyncio", "trio"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_websocket_over_an_async_client(engine, how):
    async def calls() -> None:
        async with Mesh.from_documents(istio(server.port), engine=engine) as mesh:
            async with (
                mesh.async_client() as client,
                httpx_ws.aconnect_ws("http://tornado.test:8888/ws", client) as socket,
            ):
                assert await socket.receive_text(timeout=5) == "welcome"
                for word in ("abc", "x" * 50_000):
                    await socket.send_text(word)
                    assert await socket.receive_text(timeout=5) == word[::-1]
                await socket.send_bytes(bytes(range(256)))
                assert await socket.receive_bytes(timeout=5) == bytes(range(256))
            idle(mesh)

    with RawServer(echo) as server:
        run_async(how, calls)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_websocket_through_a_proxy(scheme):
    with RawServer(echo) as server, ProxyServer() as proxy:
        mesh = Mesh.from_documents(istio(server.port))
        with mesh, mesh.client(proxy=f"{scheme}://{proxy.authority}") as client:
            with httpx_ws.connect_ws("http://tornado.test:8888/", client) as socket:
                assert socket.receive_text(timeout=5) == "welcome"
        assert len(proxy.asked) == 1


def test_a_refused_upgrade_is_an_ordinary_response():
    with RawServer(echo) as server:
        documents = istio(server.port)
        del documents[1]["spec"]["http"][0]["headers"]
        with Mesh.from_documents(documents) as mesh, mesh.client() as client:
            with pytest.raises(httpx_ws.WebSocketUpgradeError) as caught:
                with httpx_ws.connect_ws("http://tornado.test:8888/", client):
                    pytest.fail("it was accepted")
            assert caught.value.response.status_code == 421
            idle(mesh)


def test_an_upgrade_is_retried_on_another_endpoint():
    """Until the 101 a WebSocket is a call like any other."""
    with RawServer(echo) as server:
        documents = istio(server.port)
        documents[0]["spec"]["endpoints"].insert(0, {"address": "127.0.0.1", "ports": {"http": 1}})
        route = documents[1]["spec"]["http"][0]
        route["retries"] = {"attempts": 3, "retryOn": "connect-failure"}
        with Mesh.from_documents(documents) as mesh, mesh.client() as client:
            for _ in range(4):
                with httpx_ws.connect_ws("http://tornado.test:8888/", client) as socket:
                    assert socket.receive_text(timeout=5) == "welcome"


# -- server-sent events: each is read before the server sends the next -----------

EVENTS = 5


class EventServer(RawServer):
    """Sends an event only after the client said that it has read the one before."""

    def __init__(self) -> None:
        self.read = threading.Semaphore(0)
        super().__init__(self._serve)

    def _serve(self, peer: Peer) -> None:
        peer.read_head()
        peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(EVENTS):
            event = b"event: tick\nid: %d\ndata: n%d\n\n" % (number, number)
            peer.send(b"%x\r\n%b\r\n" % (len(event), event))
            if not self.read.acquire(timeout=10):
                return
        peer.send(b"0\r\n\r\n")


def events_service(server: RawServer) -> dict[str, Any]:
    endpoint = f"127.0.0.1:{server.port}"
    return {"version": 1, "services": {"events": {"endpoints": [endpoint]}}}


@pytest.mark.parametrize("engine", ENGINES)
def test_events_arrive_one_by_one_sync(engine):
    with EventServer() as server:
        mesh = Mesh.from_documents([events_service(server)], engine=engine)
        with mesh, mesh.client() as client:
            with httpx_sse.connect_sse(client, "GET", "http://events/") as source:
                seen = []
                for event in source.iter_sse():
                    seen.append((event.id, event.data))
                    server.read.release()
            assert seen == [(str(n), f"n{n}") for n in range(EVENTS)]
            idle(mesh)


@pytest.mark.parametrize("how", ["asyncio", "trio"])
@pytest.mark.parametrize("engine", ENGINES)
def test_events_arrive_one_by_one_async(engine, how):
    async def calls() -> None:
        mesh = Mesh.from_documents([events_service(server)], engine=engine)
        async with mesh, mesh.async_client() as client:
            seen = []
            async with client.stream("GET", "http://events/") as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        seen.append(line)
                        server.read.release()
            assert seen == [f"data: n{n}" for n in range(EVENTS)]
            idle(mesh)

    with EventServer() as server:
        run_async(how, calls)


def test_events_may_be_left_in_the_middle():
    with EventServer() as server:
        with Mesh.from_documents([events_service(server)]) as mesh, mesh.client() as client:
            with httpx_sse.connect_sse(client, "GET", "http://events/") as source:
                assert next(source.iter_sse()).data == "n0"
            idle(mesh)
            server.read.release(EVENTS)


def test_silence_between_events_is_the_callers_read_timeout():
    with EventServer() as server:
        with Mesh.from_documents([events_service(server)]) as mesh, mesh.client() as client:
            with pytest.raises(httpx.ReadTimeout) as caught:
                with client.stream("GET", "http://events/", timeout=0.2) as response:
                    list(response.iter_lines())
            assert isinstance(caught.value, errors.CallTimeout)
            idle(mesh)
        server.read.release(EVENTS)
