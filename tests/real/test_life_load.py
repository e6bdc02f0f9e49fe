"""Many threads, many tasks, several event loops on one mesh: every answer is the caller's own,
and nothing stays counted or open."""

from __future__ import annotations

import asyncio
import resource
import threading
import warnings
from collections.abc import Iterator

import pytest
import uvloop
from life_support import busy_connections, echo, in_flight, join, mesh_of, nothing_left, run_threads
from servers.http import HttpServer

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True, scope="module")
def many_descriptors() -> Iterator[None]:
    """A thousand connections have two thousand ends in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_hundred_threads_share_one_client() -> None:
    with nothing_left(), HttpServer(echo) as a, HttpServer(echo) as b, mesh_of(a, b) as mesh:
        with mesh.client() as client:

            def work(number: int) -> None:
                for turn in range(10):
                    path = f"/{number}/{turn}"
                    assert client.get("http://svc" + path).text == path

            raised = run_threads(work, 100)
        assert raised == []
        assert len(a.requests) + len(b.requests) == 1000
        assert min(len(a.requests), len(b.requests)) > 100
        assert a.accepted + b.accepted <= 200
        assert in_flight(mesh) == busy_connections(mesh) == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_a_thousand_tasks_on_one_client(loop: str) -> None:
    async def main() -> None:
        async with mesh.async_client() as client:

            async def work(number: int) -> None:
                for turn in range(2):
                    path = f"/{number}/{turn}"
                    assert (await client.get("http://svc" + path)).text == path

            await asyncio.gather(*(work(number) for number in range(1000)))
        assert in_flight(mesh) == busy_connections(mesh) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    # The caller states no limit: a thousand connections at once take their time.
    with nothing_left(), HttpServer(echo) as server, mesh_of(server, timeout="15s") as mesh:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main())
        assert len(server.requests) == 2000


def test_two_loops_in_two_threads_share_one_client() -> None:
    with nothing_left(), HttpServer(echo) as server, mesh_of(server) as mesh:
        client = mesh.async_client()

        async def main(name: str) -> None:
            async def work(number: int) -> None:
                for turn in range(5):
                    path = f"/{name}/{number}/{turn}"
                    assert (await client.get("http://svc" + path)).text == path

            await asyncio.gather(*(work(number) for number in range(30)))

        def run(number: int) -> None:
            name = ("asyncio", "uvloop")[number]
            with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
                runner.run(main(name))

        assert run_threads(run, 2) == []
        assert in_flight(mesh) == busy_connections(mesh) == 0
        assert len(server.requests) == 300


@pytest.mark.parametrize("loop", LOOPS)
def test_a_new_loop_after_a_closed_one(loop: str) -> None:
    with nothing_left(), HttpServer(echo) as server, mesh_of(server) as mesh:
        client = mesh.async_client()

        async def main() -> None:
            assert (await client.get("http://svc/x")).text == "/x"

        for _ in range(3):
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                runner.run(main())
        # A loop that is closed without the shutdown that asyncio.run does.
        bare = LOOPS[loop]()
        bare.run_until_complete(main())
        with warnings.catch_warnings():
            # uvloop warns of transports that are open, and never returns if that raises.
            warnings.simplefilter("ignore", ResourceWarning)
            bare.close()
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main())
        assert server.wait_for(lambda: server.open_connections == 0)


def test_sync_and_async_at_once() -> None:
    """Threads and a loop share the mesh, not the connections."""
    with nothing_left(), HttpServer(echo) as server, mesh_of(server) as mesh:
        with mesh.client() as client:
            done: list[str] = []

            def work() -> None:
                done.extend(client.get(f"http://svc/{turn}").text for turn in range(100))

            async def main() -> None:
                async with mesh.async_client() as other:
                    for turn in range(100):
                        assert (await other.get(f"http://svc/a{turn}")).text == f"/a{turn}"

            thread = threading.Thread(target=work)
            thread.start()
            asyncio.run(main())
            join([thread])
        assert done == [f"/{turn}" for turn in range(100)]
        assert in_flight(mesh) == 0
