"""Policy that changes while calls run: no call fails, none sees half an edit, endpoints that leave
are drained."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from life_support import (
    PATIENCE_S,
    echo,
    in_flight,
    join,
    mesh_of,
    nothing_left,
    policy,
    wait_for,
    write,
)
from servers.http import HttpServer, Recorded, Reply

from meshclient import Mesh

EDITS = 20


def edition(server: HttpServer, number: int) -> dict[str, Any]:
    """A policy that says its number in three places: all of them, or none, hold for a call."""
    text = str(number)
    return {
        "version": 1,
        "services": {
            "svc": {
                "routes": [
                    {
                        "name": f"edition-{text}",
                        "to": f"target-{text}",
                        "request_headers": {"set": {"X-Asked": text}},
                        "response_headers": {"set": {"X-Answered": text}},
                    }
                ]
            },
            f"target-{text}": {"endpoints": [server.authority]},
        },
    }


def asked(request: Recorded) -> Reply:
    return Reply(200, request.header("x-asked") or "nothing")


def check_whole(response: Any) -> int:
    """That the answer comes of one edition; its number."""
    report = response.extensions["meshclient"]
    number = response.text
    assert response.status_code == 200
    assert response.headers["x-answered"] == number
    assert (report.route, report.cluster) == (f"edition-{number}", f"target-{number}")
    return int(number)


class Editing:
    """A mesh on a file that is edited 20 times; ``over`` says when callers may stop."""

    def __init__(self, path: Path, server: HttpServer, mesh: Mesh) -> None:
        self.path = path
        self.server = server
        self.mesh = mesh
        self.over = threading.Event()

    def edit(self) -> None:
        try:
            for number in range(1, EDITS + 1):
                version = self.mesh.snapshot.version
                write(self.path, edition(self.server, number))
                wait_for(lambda v=version: self.mesh.snapshot.version > v, f"edition {number}")
        finally:
            self.over.set()


@pytest.fixture
def editing(tmp_path: Path) -> Iterator[Editing]:
    path = tmp_path / "policy.yaml"
    with nothing_left(), HttpServer(asked) as server:
        write(path, edition(server, 0))
        with Mesh.from_file(path) as mesh:
            yield Editing(path, server, mesh)
            assert in_flight(mesh) == 0


def test_threads_call_while_the_file_is_edited(editing: Editing) -> None:
    seen: list[list[int]] = []
    failed: list[BaseException] = []

    def work() -> None:
        numbers = [0]
        seen.append(numbers)
        try:
            while not editing.over.is_set():
                numbers.append(check_whole(client.get("http://svc/x")))
        except BaseException as error:
            failed.append(error)

    with editing.mesh.client() as client:
        threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        editing.edit()
        join(threads)
        assert failed == []
        assert all(numbers == sorted(numbers) for numbers in seen)
        assert len(set().union(*seen)) > EDITS / 2
        assert check_whole(client.get("http://svc/x")) == EDITS


def test_tasks_call_while_the_file_is_edited(editing: Editing) -> None:
    async def main() -> None:
        async with editing.mesh.async_client() as client:

            async def work() -> list[int]:
                numbers = [0]
                while not editing.over.is_set():
                    numbers.append(check_whole(await client.get("http://svc/x")))
                return numbers

            tasks = [asyncio.create_task(work()) for _ in range(20)]
            await asyncio.to_thread(editing.edit)
            seen = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S)
            assert all(numbers == sorted(numbers) for numbers in seen)
            assert check_whole(await client.get("http://svc/x")) == EDITS

    asyncio.run(main())


def test_a_call_under_way_ends_under_the_snapshot_it_began_with(editing: Editing) -> None:
    gate = threading.Event()
    editing.server.handler = lambda request: Reply(
        200, request.header("x-asked") or "nothing", gate=gate
    )
    answers: list[int] = []
    with editing.mesh.client() as client:
        thread = threading.Thread(
            target=lambda: answers.append(check_whole(client.get("http://svc/x")))
        )
        thread.start()
        assert editing.server.wait_for(lambda: len(editing.server.requests) == 1)
        write(editing.path, edition(editing.server, 1))
        wait_for(lambda: editing.mesh.snapshot.version == 2)
        gate.set()
        join([thread])
        assert answers == [0]
        assert check_whole(client.get("http://svc/x")) == 1


# Endpoints that leave.


class Pieces:
    """A body of two pieces, the second after ``gate``."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def reply(self, request: Recorded) -> Reply:
        return Reply(200, self._pieces())

    async def _pieces(self) -> Any:
        yield b"first,"
        await asyncio.to_thread(self.gate.wait, PATIENCE_S)
        yield b"last"


def leave(path: Path, mesh: Mesh, stays: HttpServer) -> None:
    version = mesh.snapshot.version
    write(path, policy(stays))
    wait_for(lambda: mesh.snapshot.version > version)


Leaving = Callable[[Path, Mesh, HttpServer, HttpServer, Pieces], None]


def sync_reader(
    path: Path, mesh: Mesh, stays: HttpServer, leaves: HttpServer, body: Pieces
) -> None:
    with mesh.client() as client:
        with client.stream("GET", "http://svc/x") as response:
            chunks = response.iter_raw()
            got = next(chunks)
            leave(path, mesh, stays)
            assert client.get("http://svc/after").text == "/after"
            body.gate.set()
            got += b"".join(chunks)
        assert got == b"first,last"
        assert [client.get("http://svc/after").text for _ in range(5)] == ["/after"] * 5


def async_reader(
    path: Path, mesh: Mesh, stays: HttpServer, leaves: HttpServer, body: Pieces
) -> None:
    async def main() -> None:
        async with mesh.async_client() as client:
            async with client.stream("GET", "http://svc/x") as response:
                chunks = response.aiter_raw()
                got = await anext(chunks)
                await asyncio.to_thread(leave, path, mesh, stays)
                assert (await client.get("http://svc/after")).text == "/after"
                body.gate.set()
                async for chunk in chunks:
                    got += chunk
            assert got == b"first,last"
            assert (await client.get("http://svc/after")).text == "/after"
            # While the loop lives, not only with its end:
            gone = await asyncio.to_thread(
                leaves.wait_for, lambda: leaves.open_connections == 0, PATIENCE_S
            )
            assert gone

    asyncio.run(main())


@pytest.mark.parametrize("reader", [sync_reader, async_reader])
def test_an_endpoint_that_leaves_is_drained_not_cut(reader: Leaving, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    body = Pieces()
    with nothing_left(), HttpServer(body.reply) as leaves, HttpServer(echo) as stays:
        write(path, policy(leaves))
        with Mesh.from_file(path) as mesh:
            reader(path, mesh, stays, leaves, body)
            assert leaves.wait_for(lambda: leaves.open_connections == 0)
            assert len(leaves.requests) == 1
            assert in_flight(mesh) == 0


def test_an_endpoint_leaves_and_returns_under_load(tmp_path: Path) -> None:
    """Threads call all the while; not one call fails, whatever comes and goes."""
    path = tmp_path / "policy.yaml"
    over = threading.Event()
    failed: list[BaseException] = []
    with nothing_left(), HttpServer(echo) as a, HttpServer(echo) as b:
        write(path, policy(a, b))
        with Mesh.from_file(path) as mesh, mesh.client() as client:

            def work(number: int) -> None:
                try:
                    while not over.is_set():
                        assert client.get(f"http://svc/{number}").text == f"/{number}"
                except BaseException as error:
                    failed.append(error)

            threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(8)]
            for thread in threads:
                thread.start()
            for turn in range(10):
                version = mesh.snapshot.version
                write(path, policy(a) if turn % 2 == 0 else policy(a, b))
                wait_for(lambda v=version: mesh.snapshot.version > v)
                time.sleep(0.02)  # some load under this policy
            over.set()
            join(threads)
            assert failed == []
            assert min(len(a.requests), len(b.requests)) > 10
            assert in_flight(mesh) == 0


def test_a_mesh_without_watch_reads_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with nothing_left(), HttpServer(echo) as a:
        write(path, policy(a))
        with Mesh.from_file(path, watch=False) as mesh, mesh.client() as client:
            path.unlink()
            assert client.get("http://svc/x").text == "/x"
            assert mesh.snapshot.version == 1


def test_meshes_do_not_share_connections() -> None:
    with nothing_left(), HttpServer(echo) as a, mesh_of(a) as one, mesh_of(a) as other:
        first, second = one.client(), other.client()
        first.get("http://svc/x")
        second.get("http://svc/x")
        assert a.accepted == 2
        one.close()
        second.get("http://svc/x")
        assert a.accepted == 2
