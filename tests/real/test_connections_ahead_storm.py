"""Preconnect and warm-up under cancellation, drops and limits: every slot and socket comes back."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest
from connections_support import sockets
from engine_support import LOOPS, HttpServer, Reply, eventually, no_tasks_left, run_on
from test_connections_drain import until

import meshclient
from meshclient.transport import loop_spares, preconnect, thread_spares
from meshclient.transport.slots import ConnectionSlots

SECONDS = 1.0
SERVICE = {
    "retries": {"attempts": 3, "on": ["reset", "connect-failure"]},
    "connection": {"warm_up": 5, "preconnect_ratio": 2.5, "max_requests": 7},
    "limits": {"max_connections": 12},
}


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (preconnect, loop_spares, thread_spares):
        monkeypatch.setattr(module, "REFILL_S", 0.01)


def mesh_to(*servers: HttpServer) -> meshclient.Mesh:
    entry = {"endpoints": [server.authority for server in servers], **SERVICE}
    return meshclient.Mesh.from_documents([{"version": 1, "services": {"web": entry}}])


def slots_of(mesh: meshclient.Mesh) -> ConnectionSlots:
    (found,) = (
        cluster.shared["connections"]
        for cluster in mesh._publisher.plane.clusters.values()
        if cluster.shared.get("connections") is not None
    )
    return found  # type: ignore[no-any-return]


def at_rest(mesh: meshclient.Mesh) -> bool:
    """Slots and connections agree, and nobody waits."""
    slots = slots_of(mesh)
    known = sum(s.idle + s.active for e in mesh._engines.values() for s in e.stats().values())
    return (slots.open, slots.pending, slots.waiting) == (known, 0, 0)


@pytest.mark.parametrize("kind", LOOPS)
def test_tasks_cancelled_at_any_point(kind: str) -> None:
    rand = random.Random(7)

    async def run(mesh: meshclient.Mesh, *servers: HttpServer) -> None:
        async with mesh, mesh.async_client() as client:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                tasks = [asyncio.create_task(client.get("http://web/")) for _ in range(20)]
                await asyncio.sleep(rand.random() * 0.004)
                for task in rand.sample(tasks, 12):
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if rand.random() < 0.1:
                    rand.choice(servers).drop_connections()
            assert (await client.get("http://web/")).status_code == 200
            limit = time.monotonic() + 5
            while not at_rest(mesh):
                assert time.monotonic() < limit, (slots_of(mesh), mesh.dump()["pools"])
                await asyncio.sleep(0.01)
        await eventually(lambda: slots_of(mesh).open == 0)
        await asyncio.sleep(0.05)
        await no_tasks_left()

    before = sockets()
    with slow() as one, slow() as two:
        run_on(kind, run(mesh_to(one, two), one, two))
        until(lambda: one.open_connections == two.open_connections == 0)
    until(lambda: sockets() <= before)


def slow() -> HttpServer:
    return HttpServer(lambda _: Reply(200, b"ok", delay_s=0.001))


def test_threads_and_drops() -> None:
    before = sockets()
    with slow() as one, slow() as two:
        mesh = mesh_to(one, two)
        failures: list[BaseException] = []
        done = threading.Event()

        def worker() -> None:
            while not done.is_set():
                try:
                    client.get("http://web/")
                except BaseException as error:
                    failures.append(error)

        with mesh, mesh.client() as client:
            threads = [threading.Thread(target=worker) for _ in range(6)]
            for thread in threads:
                thread.start()
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                time.sleep(0.1)
                one.drop_connections()
            done.set()
            for thread in threads:
                thread.join()
            until(lambda: at_rest(mesh))
        until(lambda: slots_of(mesh).open == 0)
        until(lambda: one.open_connections == two.open_connections == 0)
        until(
            lambda: not [t for t in threading.enumerate() if t.name.startswith("meshclient-warm")]
        )
    until(lambda: sockets() <= before)
    assert len(failures) < 20, failures[:3]
