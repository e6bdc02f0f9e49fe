"""Under trio, and with httpcore underneath: what the policy says of connections is kept."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from engine_support import HttpServer, Peer, RawServer, Recorded, Reply, answer

import meshclient
from meshclient import errors
from meshclient.model.cluster import ConnectionOptions
from meshclient.transport.httpcore_streams import Age

ENGINES = ("meshclient", "httpcore")
engines = pytest.mark.parametrize("engine", ENGINES)
URL = "http://web/"


def mesh_of(engine: str, *endpoints: str, **service: Any) -> meshclient.Mesh:
    entry = {"endpoints": list(endpoints), "retries": {"attempts": 0}, **service}
    document = {"version": 1, "services": {"web": entry}}
    return meshclient.Mesh.from_documents([document], engine=engine)  # type: ignore[arg-type]


def drive(mesh: meshclient.Mesh, function: Any) -> None:
    async def run() -> None:
        with trio.fail_after(15):
            async with mesh, mesh.async_client(timeout=None) as client:
                await function(client)

    trio.run(run)


def over_sync_httpcore(mesh: meshclient.Mesh, count: int) -> None:
    with mesh, mesh.client() as client:
        for _ in range(count):
            assert client.get(URL).status_code == 200


async def several(count: int, client: Any) -> None:
    for _ in range(count):
        assert (await client.get(URL)).status_code == 200


@engines
def test_a_connection_serves_so_many_requests(engine: str) -> None:
    with HttpServer() as server:
        drive(
            mesh_of(engine, server.authority, connection={"max_requests": 3}), partial(several, 7)
        )
        assert [request.connection for request in server.requests] == [1, 1, 1, 2, 2, 2, 3]


def test_the_same_for_blocking_clients() -> None:
    with HttpServer() as server:
        over_sync_httpcore(mesh_of("httpcore", server.authority, connection={"max_requests": 3}), 7)
        assert [request.connection for request in server.requests] == [1, 1, 1, 2, 2, 2, 3]


@engines
def test_a_connection_retires_at_its_most_age(engine: str) -> None:
    async def calls(client: Any) -> None:
        await several(2, client)
        assert server.accepted == 1
        await trio.sleep(0.2)
        await several(1, client)
        assert server.accepted == 2
        assert server.wait_for(lambda: server.open_connections == 1)

    with HttpServer() as server:
        drive(mesh_of(engine, server.authority, connection={"max_duration": "200ms"}), calls)


@engines
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_proxy_header_comes_first(engine: str, version: str) -> None:
    seen: list[bytes] = []

    def serve(peer: Peer) -> None:
        if version == "v1":
            line = b""
            while not line.endswith(b"\r\n"):
                line += peer.read(1)
        else:
            line = peer.read(16 + 12)
        seen.append(line)
        while peer.read_head():
            peer.send(answer(b"ok"))

    with RawServer(serve) as server:
        where = f"127.0.0.1:{server.port}"
        drive(mesh_of(engine, where, connection={"proxy_protocol": version}), partial(several, 2))
    assert len(seen) == 1
    if version == "v1":
        assert seen[0].startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
        assert seen[0].endswith(b" %d\r\n" % server.port)
    else:
        assert seen[0].startswith(b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c")
        assert seen[0][16:24] == socket.inet_aton("127.0.0.1") * 2


@engines
def test_the_proxy_header_over_a_unix_socket(engine: str, tmp_path: Path) -> None:
    """Nothing to tell, and said so."""
    path = str(tmp_path / "s")
    seen: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                seen.append(sock.recv(15))
                sock.recv(65536)
                sock.sendall(answer(b"ok"))

        async def calls(client: Any) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, serve)
                await several(1, client)

        drive(mesh_of(engine, f"unix://{path}", connection={"proxy_protocol": "v1"}), calls)
    assert seen == [b"PROXY UNKNOWN\r\n"]


@engines
def test_keepalive_probes_are_set(engine: str) -> None:
    found: list[int] = []

    async def calls(client: Any) -> None:
        async with client.stream("GET", URL) as response:
            sock = response.extensions["network_stream"].get_extra_info("socket")
            found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))

    with HttpServer(lambda _: Reply(200, iter([b"a", b"b"]))) as server:
        keepalive = {"time": "31s", "interval": "7s", "probes": 3}
        drive(mesh_of(engine, server.authority, connection={"keepalive": keepalive}), calls)
    assert found == [31]


@engines
def test_never_more_connections_to_an_endpoint_than_the_limit(engine: str) -> None:
    most = 0

    def handler(_: Recorded) -> Reply:
        nonlocal most
        most = max(most, server.open_connections)
        return Reply(200, b"ok", delay_s=0.01)

    async def calls(client: Any) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(several, 1, client)

    with HttpServer(handler) as server:
        drive(mesh_of(engine, server.authority, limits={"max_connections": 2}), calls)
        assert len(server.requests) == 20
        assert most == 2


@engines
def test_too_many_pending_requests_are_refused_and_counted_out(engine: str) -> None:
    outcomes: list[str] = []

    async def one(client: Any) -> None:
        try:
            await client.get(URL)
            outcomes.append("ok")
        except errors.Overflow:
            outcomes.append("overflow")

    async def calls(client: Any) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one, client)
        (cluster,) = [c for c in mesh._publisher.plane.clusters.values() if c.shared]
        assert cluster.shared["connections"].pending == 0

    with HttpServer(lambda _: Reply(200, b"ok", delay_s=0.05)) as server:
        limits = {"max_connections": 1, "max_pending_requests": 3}
        mesh = mesh_of(engine, server.authority, limits=limits)
        drive(mesh, calls)
    assert outcomes.count("overflow") >= 4
    assert outcomes.count("ok") >= 3


@engines
def test_waiting_for_a_connection_has_its_bound(engine: str) -> None:
    """Neither deadline nor pool timeout: the connect timeout it is, as on our own wire."""

    async def calls(client: Any) -> None:
        async with client.stream("GET", URL):
            with trio.fail_after(5), pytest.raises(errors.Overflow):
                await client.get(URL)

    def body() -> Any:
        async def pieces() -> Any:
            yield b"first"
            await trio_free_wait()

        return pieces()

    import asyncio

    async def trio_free_wait() -> None:
        await asyncio.sleep(1.0)

    with HttpServer(lambda _: Reply(200, body())) as server:
        mesh = mesh_of(
            engine,
            server.authority,
            limits={"max_connections": 1},
            connection={"connect_timeout": "100ms"},
        )
        drive(mesh, calls)


@pytest.mark.parametrize(("share", "over"), [(0.0, 110.0), (1.0, 109.0)])
def test_an_age_is_its_most_less_up_to_a_tenth(share: float, over: float) -> None:
    times = iter([100.0, over - 0.01, over])
    age = Age(ConnectionOptions(max_duration_s=10.0), lambda: next(times), lambda: share)
    assert not age.is_over()
    assert age.is_over()


def test_warm_up_is_not_for_trio() -> None:
    async def run(mesh: meshclient.Mesh) -> None:
        with pytest.raises(RuntimeError, match="asyncio loops only"):
            await mesh.async_warm_up("web")

    with mesh_of("meshclient", "127.0.0.1:1") as mesh:
        trio.run(run, mesh)
    with mesh_of("httpcore", "127.0.0.1:1") as mesh, pytest.raises(RuntimeError, match="httpcore"):
        mesh.warm_up("web")
