"""A mesh that exists before a fork: the child calls for itself, and the parent never notices."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
from life_support import (
    PATIENCE_S,
    busy_connections,
    descriptors,
    echo,
    in_flight,
    join,
    mesh_of,
    nothing_left,
    policy,
    run_threads,
    wait_for,
    write,
)
from servers.http import HttpServer, Recorded, Reply

from meshclient import Mesh

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 and later warn of every fork beside threads; that is what is tested here.
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


def in_child(body: Callable[[], object]) -> None:
    """Run ``body`` in a forked child; its failure is this test's failure."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    wait_for_child(pid)


def wait_for_child(pid: int) -> None:
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("the child hangs")


def slowly(request: Recorded) -> Reply:
    """``/slow`` is a body in pieces; everything else an echo."""
    if request.path != "/slow":
        return echo(request)

    async def pieces() -> Any:
        for _ in range(20):
            yield b"piece,"
            await asyncio.sleep(0.01)

    return Reply(200, pieces())


def sockets() -> int:
    return sum(what.startswith("socket:") for what in descriptors().values())


def test_a_child_has_its_own_connections_and_counts() -> None:
    with nothing_left(), HttpServer(slowly) as server, mesh_of(server) as mesh:
        client = mesh.client()
        assert client.get("http://svc/before").text == "/before"
        with client.stream("GET", "http://svc/slow") as response:
            chunks = response.iter_raw()
            got = next(chunks)
            assert in_flight(mesh) == 1

            def child() -> None:
                assert in_flight(mesh) == busy_connections(mesh) == 0
                for turn in range(3):
                    assert client.get(f"http://svc/{turn}").text == f"/{turn}"
                assert in_flight(mesh) == 0

            in_child(child)
            assert in_flight(mesh) == 1
            got += b"".join(chunks)
        assert got == b"piece," * 20
        by_connection = {r.path: r.connection for r in server.requests}
        assert by_connection["/0"] == by_connection["/2"]
        assert by_connection["/0"] not in (by_connection["/before"], by_connection["/slow"])
        # The connection that was idle at the fork still serves the parent.
        accepted = server.accepted
        assert client.get("http://svc/after").text == "/after"
        assert server.accepted == accepted


def test_a_child_has_loops_of_its_own() -> None:
    with nothing_left(), HttpServer(slowly) as server, mesh_of(server) as mesh:
        client = mesh.async_client()

        async def get(path: str) -> None:
            assert (await client.get("http://svc" + path)).text == path

        def child() -> None:
            asyncio.run(get("/child"))
            assert in_flight(mesh) == busy_connections(mesh) == 0
            mesh.close()

        async def main() -> None:
            await get("/before")
            async with client.stream("GET", "http://svc/slow") as response:
                chunks = response.aiter_raw()
                got = await anext(chunks)
                pid = os.fork()
                if pid == 0:
                    _leave_the_parents_loop(child)
                await asyncio.to_thread(wait_for_child, pid)
                async for chunk in chunks:
                    got += chunk
            assert got == b"piece," * 20
            await get("/after")

        asyncio.run(main())
        assert [r.path for r in server.requests] == ["/before", "/slow", "/child", "/after"]
        assert in_flight(mesh) == 0


def _leave_the_parents_loop(body: Callable[[], object]) -> None:
    """In a child that was forked inside a running loop."""
    try:
        asyncio._set_running_loop(None)  # as asyncio's own after-fork code does
        body()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def test_forks_while_threads_call() -> None:
    """No lock that a thread of the parent holds stops the child."""
    over = threading.Event()
    failed: list[BaseException] = []
    with nothing_left(), HttpServer(echo) as server, mesh_of(server) as mesh:
        client = mesh.client()

        def work() -> None:
            try:
                while not over.is_set():
                    assert client.get("http://svc/parent").text == "/parent"
            except BaseException as error:
                failed.append(error)

        def child() -> None:
            assert in_flight(mesh) == 0
            assert run_threads(lambda n: client.get(f"http://svc/{n}").raise_for_status(), 4) == []
            assert in_flight(mesh) == busy_connections(mesh) == 0

        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                in_child(child)
        finally:
            over.set()
            join(threads)
        assert failed == []
        assert in_flight(mesh) == 0


def test_a_child_reloads_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with nothing_left(), HttpServer(echo, name="a") as a, HttpServer(echo, name="b") as b:
        write(path, policy(a))
        with Mesh.from_file(path) as mesh, mesh.client() as client:
            client.get("http://svc/first")

            def child() -> None:
                client.get("http://svc/child")
                write(path, policy(b))
                wait_for(lambda: mesh.snapshot.version > 1)
                client.get("http://svc/moved")
                mesh.close()

            in_child(child)
            assert [r.path for r in a.requests] == ["/first", "/child"]
            assert [r.path for r in b.requests] == ["/moved"]
            wait_for(lambda: mesh.snapshot.version > 1)
            client.get("http://svc/parent")
            assert [r.path for r in b.requests] == ["/moved", "/parent"]


def test_the_childs_children() -> None:
    with nothing_left(), HttpServer(echo) as server, mesh_of(server) as mesh:
        client = mesh.client()

        def get(path: str) -> None:
            assert client.get("http://svc" + path).text == path

        get("/parent")
        in_child(lambda: (get("/child"), in_child(lambda: get("/grandchild")), get("/child")))
        get("/parent")
        assert len({r.connection for r in server.requests}) == 3


def test_close_in_the_child_leaves_the_parents_connections_alone() -> None:
    with nothing_left(), HttpServer(echo) as server, mesh_of(server) as mesh:
        client = mesh.client()
        client.get("http://svc/x")
        before = sockets()
        in_child(mesh.close)
        client.get("http://svc/x")
        assert {r.connection for r in server.requests} == {1}
        assert sockets() == before


# multiprocessing


def _call_inherited(client: Any, path: str) -> None:
    assert client.get("http://svc" + path).text == path


def _call_anew(document: dict[str, Any], path: str) -> None:
    with Mesh.from_documents([document]) as mesh, mesh.client() as client:
        assert client.get("http://svc" + path).text == path


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method: str) -> None:
    context = multiprocessing.get_context(method)
    if method == "spawn":  # its helper process stays for the life of this one
        resource_tracker.ensure_running()
    with nothing_left(), HttpServer(echo) as server, mesh_of(server) as mesh:
        client = mesh.client()
        client.get("http://svc/parent")
        work: Any = _call_inherited if method == "fork" else _call_anew
        first = client if method == "fork" else policy(server)
        children = [context.Process(target=work, args=(first, f"/{n}")) for n in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join(PATIENCE_S)
            assert child.exitcode == 0
            child.close()
        paths = sorted(r.path for r in server.requests)
        assert paths == ["/0", "/1", "/2", "/parent"]
        assert len({r.connection for r in server.requests}) == 4
