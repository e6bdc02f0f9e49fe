"""Closing a mesh with calls under way: each ends, soon, with its response or a clear error."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import httpx
import pytest
from life_support import (
    PATIENCE_S,
    busy_connections,
    echo,
    in_flight,
    join,
    mesh_of,
    nothing_left,
    wait_for,
)
from servers.http import HttpServer, Recorded, Reply

from meshclient import ClosedError, Mesh, MeshError


def sometimes_slow(request: Recorded) -> Reply:
    """One path never answers in the time of a test."""
    return Reply(200, request.target, delay_s=60 if request.path == "/slow" else 0)


def endless(request: Recorded) -> Reply:
    async def pieces() -> Any:
        while True:
            yield b"." * 1000
            await asyncio.sleep(0.005)

    return Reply(200, pieces())


NO_LIMIT = {"timeout": None}


def test_close_under_load_from_another_thread() -> None:
    """Quick calls, slow calls, and bodies that are being read."""
    ended: list[BaseException] = []
    good: list[str] = []

    def call(path: str) -> None:
        try:
            while True:
                good.append(client.get("http://svc" + path).text)
        except BaseException as error:
            ended.append(error)

    with nothing_left(), HttpServer(sometimes_slow) as server, mesh_of(server) as mesh:
        client = mesh.client(**NO_LIMIT)
        paths = ["/quick"] * 10 + ["/slow"] * 10
        threads = [threading.Thread(target=call, args=(p,), daemon=True) for p in paths]
        for thread in threads:
            thread.start()
        wait_for(lambda: sum(r.path == "/slow" for r in server.requests) == 10)
        wait_for(lambda: len(good) > 100)
        mesh.close()
        join(threads)
        assert len(ended) == 20
        assert all(isinstance(error, MeshError) for error in ended), ended
        assert in_flight(mesh) == busy_connections(mesh) == 0
        assert server.wait_for(lambda: server.open_connections == 0)


def test_close_while_a_body_is_read() -> None:
    ended: list[BaseException] = []
    reading = threading.Event()

    def read() -> None:
        try:
            with client.stream("GET", "http://svc/x") as response:
                for _ in response.iter_raw():
                    reading.set()
        except BaseException as error:
            ended.append(error)

    with nothing_left(), HttpServer(endless) as server, mesh_of(server) as mesh:
        client = mesh.client(**NO_LIMIT)
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        assert reading.wait(PATIENCE_S)
        mesh.close()
        join([thread])
        assert [isinstance(e, MeshError) and isinstance(e, httpx.ReadError) for e in ended] == [
            True
        ]
        assert in_flight(mesh) == 0


async def outcomes(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE_S)


def start_calls(client: httpx.AsyncClient) -> list[asyncio.Task[None]]:
    async def call(path: str) -> None:
        while True:
            assert (await client.get("http://svc" + path)).text == path

    return [asyncio.create_task(call(p)) for p in ["/quick"] * 25 + ["/slow"] * 25]


async def all_under_way(server: HttpServer) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await asyncio.sleep(0.001)
            slow = sum(request.path == "/slow" for request in server.requests)
            if slow == 25 and len(server.requests) > 200:
                return


@pytest.mark.parametrize("way", ["aclose", "close", "close in another thread"])
def test_close_under_load_of_a_loop(way: str) -> None:
    async def main() -> None:
        client = mesh.async_client(**NO_LIMIT)
        tasks = start_calls(client)
        await all_under_way(server)
        if way == "aclose":
            await mesh.aclose()
        elif way == "close":
            mesh.close()
        else:
            await asyncio.to_thread(mesh.close)
        ended = await outcomes(tasks)
        assert all(isinstance(error, MeshError) for error in ended), ended
        assert in_flight(mesh) == busy_connections(mesh) == 0
        with pytest.raises(ClosedError):
            await client.get("http://svc/x")
        assert asyncio.all_tasks() == {asyncio.current_task()}
        # Here and now, not only with the end of the loop.
        gone = await asyncio.to_thread(server.wait_for, lambda: server.open_connections == 0)
        assert gone

    with nothing_left(), HttpServer(sometimes_slow) as server, mesh_of(server) as mesh:
        asyncio.run(main())


def test_aclose_while_two_loops_call() -> None:
    """The loop that closes does not touch the connections of the other; both end."""
    started = threading.Event()
    ended: list[Any] = []

    async def other() -> None:
        tasks = start_calls(mesh.async_client(**NO_LIMIT))
        await all_under_way(server)
        started.set()
        ended.extend(await outcomes(tasks))

    async def closer() -> None:
        assert await asyncio.to_thread(started.wait, PATIENCE_S)
        await mesh.aclose()

    with nothing_left(), HttpServer(sometimes_slow) as server, mesh_of(server) as mesh:
        thread = threading.Thread(target=lambda: asyncio.run(other()), daemon=True)
        thread.start()
        asyncio.run(closer())
        join([thread])
        assert len(ended) == 50
        assert all(isinstance(error, MeshError) for error in ended), ended


def test_after_close_nothing_is_called() -> None:
    with nothing_left(), HttpServer(echo) as server:
        mesh = mesh_of(server)
        client, async_client = mesh.client(), mesh.async_client()
        assert client.get("http://svc/x").text == "/x"
        mesh.close()
        mesh.close()
        asyncio.run(mesh.aclose())
        with pytest.raises(ClosedError):
            client.get("http://svc/x")
        with pytest.raises(ClosedError):
            asyncio.run(async_client.get("http://svc/x"))
        for make in (mesh.client, mesh.async_client, mesh.transport, mesh.async_transport):
            with pytest.raises(ClosedError):
                make()
        assert repr(mesh).startswith("<Mesh closed")
        assert len(server.requests) == 1


def test_closing_a_client_closes_no_other() -> None:
    with nothing_left(), HttpServer(echo) as server, mesh_of(server) as mesh:
        with mesh.client() as first:
            first.get("http://svc/x")
        with mesh.client() as second:
            assert second.get("http://svc/y").text == "/y"
        assert server.accepted == 1


def test_many_threads_close_at_once() -> None:
    with nothing_left(), HttpServer(echo) as server:
        mesh = mesh_of(server)
        with mesh.client() as client:
            client.get("http://svc/x")
        threads = [threading.Thread(target=mesh.close, daemon=True) for _ in range(10)]
        for thread in threads:
            thread.start()
        join(threads)
        assert server.wait_for(lambda: server.open_connections == 0)


# Sockets of a mesh that nobody closed may be complained of, as every other unclosed socket.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_mesh_that_is_forgotten_leaves_nothing() -> None:
    """Never closed, only dropped: thread, sockets and the mesh itself go."""

    def use() -> weakref.ref[Mesh]:
        mesh = mesh_of(server)
        client = mesh.client()
        assert client.get("http://svc/x").text == "/x"

        async def main() -> None:
            assert (await mesh.async_client().get("http://svc/x")).text == "/x"

        asyncio.run(main())
        return weakref.ref(mesh)

    with nothing_left(), HttpServer(echo) as server:
        forgotten = use()
        gc.collect()
        assert forgotten() is None
        assert server.wait_for(lambda: server.open_connections == 0)


def test_a_streamed_response_that_is_forgotten() -> None:
    """Its connection and its place in the count come back when it is collected."""
    with (
        nothing_left(),
        HttpServer(endless) as server,
        mesh_of(server) as mesh,
        mesh.client(**NO_LIMIT) as client,
    ):
        response = client.send(client.build_request("GET", "http://svc/x"), stream=True)
        assert in_flight(mesh) == 1
        del response
        gc.collect()
        assert in_flight(mesh) == busy_connections(mesh) == 0
        assert server.wait_for(lambda: server.open_connections == 0)


@pytest.mark.parametrize("read", [0, 1])
def test_a_streamed_response_that_is_forgotten_on_a_loop(read: int) -> None:
    async def main() -> None:
        async with mesh.async_client(**NO_LIMIT) as client:
            response = await client.send(client.build_request("GET", "http://svc/x"), stream=True)
            if read:
                await anext(response.aiter_raw())
            assert in_flight(mesh) == 1
            del response
            async with asyncio.timeout(PATIENCE_S):
                while in_flight(mesh) or busy_connections(mesh):
                    # Again and again: the loop closes what httpx had begun to iterate over.
                    gc.collect()
                    await asyncio.sleep(0)
            gone = await asyncio.to_thread(server.wait_for, lambda: server.open_connections == 0)
            assert gone

    with nothing_left(), HttpServer(endless) as server, mesh_of(server) as mesh:
        asyncio.run(main())
