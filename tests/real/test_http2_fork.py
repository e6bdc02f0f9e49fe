"""A fork while HTTP/2 connections exist: the child opens its own, the parent's go on."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable

import pytest
from engine_support import LOOPS, eventually, run_on
from servers.http2 import H2Server, Request

import meshclient
from meshclient.transport.interface import Target

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 and later warn of every fork beside threads; that is what is tested here.
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]
URL = "http://web/"


def mesh_of(server: H2Server, **service: object) -> meshclient.Mesh:
    entry = {"endpoints": [f"127.0.0.1:{server.port}"], "protocol": "h2", **service}
    return meshclient.Mesh.from_documents([{"version": 1, "services": {"web": entry}}])


def who(request: Request) -> None:
    """Answers with the number of the connection."""
    request.peer.respond(request, 200, str(request.peer.number).encode())


def in_child(function: Callable[[], bool]) -> None:
    """Run in a forked child, on a thread that knows no event loop; it must be True."""
    child = os.fork()
    if child == 0:
        outcome: list[bool] = []
        thread = threading.Thread(target=lambda: outcome.append(function()), daemon=True)
        try:
            thread.start()
            thread.join(10)
        finally:
            os._exit(0 if outcome == [True] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def ask(mesh: meshclient.Mesh, count: int = 3) -> list[str]:
    with mesh.client() as client:
        return [client.get(URL).text for _ in range(count)]


async def ask_async(mesh: meshclient.Mesh, count: int = 3) -> list[str]:
    async with mesh.async_client() as client:
        return [(await client.get(URL)).text for _ in range(count)]


def parents_sockets(mesh: meshclient.Mesh) -> int:
    """Those of connections that the engines still know."""
    return sum(
        stats.idle + stats.active
        for engine in mesh._engines.values()
        for stats in engine.stats().values()
    )


def test_blocking_clients() -> None:
    with H2Server(who) as server, mesh_of(server) as mesh:
        assert ask(mesh) == ["0"] * 3

        def child() -> bool:
            return parents_sockets(mesh) == 0 and ask(mesh) == ["1"] * 3

        in_child(child)
        assert ask(mesh) == ["0"] * 3
        in_child(lambda: ask(mesh) == ["2"] * 3)
        assert ask(mesh) == ["0"] * 3
        assert not server.peers[0].resets


@pytest.mark.parametrize("kind", LOOPS)
def test_event_loops(kind: str) -> None:
    async def run(server: H2Server) -> None:
        async with mesh_of(server) as mesh:
            assert await ask_async(mesh) == ["0"] * 3

            def child() -> bool:
                if parents_sockets(mesh):
                    return False
                return asyncio.run(ask_async(mesh)) == ["1"] * 3 and ask(mesh) == ["2"] * 3

            in_child(child)
            assert await ask_async(mesh) == ["0"] * 3
            assert len(server.peers) == 3

    with H2Server(who) as server:
        run_on(kind, run(server))


@pytest.mark.parametrize("kind", LOOPS)
def test_a_stream_that_is_open_during_the_fork_ends_in_the_parent(kind: str) -> None:
    """The child's end says nothing on the parent's connection: no GOAWAY, no reset, no close."""
    held: list[Request] = []

    def hold(request: Request) -> None:
        if request.path == "/held":
            held.append(request)
        else:
            who(request)

    async def run(server: H2Server) -> None:
        async with mesh_of(server) as mesh, mesh.async_client() as client:
            task = asyncio.create_task(client.get(URL + "held"))
            await eventually(lambda: bool(held))
            in_child(lambda: ask(mesh) == ["1"] * 3)
            held[0].peer.respond(held[0], 200, b"late")
            assert (await task).text == "late"
            assert (await client.get(URL)).text == "0"
            assert not server.peers[0].resets

    with H2Server(hold) as server:
        run_on(kind, run(server))


@pytest.mark.parametrize("kind", LOOPS)
def test_warm_connections_stay_the_parents(kind: str) -> None:
    async def run(server: H2Server) -> None:
        async with mesh_of(server, connection={"warm_up": 2}) as mesh:
            await ask_async(mesh)
            assert await mesh.async_warm_up("web")
            in_child(lambda: asyncio.run(ask_async(mesh)) != [])
            assert (await ask_async(mesh))[0] in "01"

    with H2Server(who) as server:
        run_on(kind, run(server))


def test_no_descriptor_of_the_parents_connections_stays_open_in_the_child() -> None:
    with H2Server(who) as server, mesh_of(server) as mesh:
        ask(mesh)
        (engine,) = mesh._engines.values()
        (target,) = engine.stats()
        assert isinstance(target, Target)
        (connection,) = engine._pools[target].connections
        number = connection.sock.fileno()

        def child() -> bool:
            try:
                os.fstat(number)
            except OSError:
                return True
            # The number may be another file's by now, never the parent's socket.
            with socket.socket(fileno=os.dup(number)) as found:
                return bool(found.getpeername() != ("127.0.0.1", server.port))

        in_child(child)
