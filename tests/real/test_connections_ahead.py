"""Preconnect and warm-up over real sockets: opened ahead, kept, refilled, and never in the way."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from connections_support import deaf_at, sockets
from engine_support import LOOPS, HttpServer, Reply, eventually, run_on
from test_connections_drain import File, at, until
from tls_support import Authority, server_context

import meshclient
from meshclient import errors
from meshclient.transport import loop_spares, preconnect, thread_spares

KINDS = ("sync", *LOOPS)
kinds = pytest.mark.parametrize("kind", KINDS)
URL = "http://web/"


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a second at work takes a moment here."""
    for module in (preconnect, loop_spares, thread_spares):
        monkeypatch.setattr(module, "REFILL_S", 0.05)


def mesh_of(*endpoints: Any, **service: Any) -> meshclient.Mesh:
    entry = {"endpoints": list(endpoints), "retries": {"attempts": 0}, **service}
    return meshclient.Mesh.from_documents([{"version": 1, "services": {"web": entry}}])


def drive(kind: str, mesh: meshclient.Mesh, *steps: Callable[[Callable[[], int]], object]) -> None:
    """Each step gets a function that makes one call; whatever loop there is stays alive between."""
    if kind == "sync":
        with mesh, mesh.client() as client:
            for step in steps:
                step(lambda: client.get(URL).status_code)
        return

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with mesh, mesh.async_client() as client:

            def call() -> int:
                return (
                    asyncio.run_coroutine_threadsafe(client.get(URL), loop).result(10).status_code
                )

            for step in steps:
                await asyncio.to_thread(step, call)

    run_on(kind, run())


@kinds
def test_one_call_has_the_next_connection_opened(kind: str) -> None:
    with HttpServer() as server:
        mesh = mesh_of(server.authority, connection={"preconnect_ratio": 1.5})

        def step(call: Callable[[], int]) -> None:
            assert call() == 200
            until(lambda: server.open_connections == 2)
            assert call() == 200  # one of them is enough: (0 + 1) * 1.5 <= 1 idle + 1 busy
            time.sleep(0.1)
            assert server.accepted == 2

        drive(kind, mesh, step)
        until(lambda: server.open_connections == 0)


@kinds
def test_warm_connections_are_opened_to_all_endpoints_and_opened_again(kind: str) -> None:
    with HttpServer() as one, HttpServer() as two:
        mesh = mesh_of(*at(one, two), connection={"warm_up": 3})

        def step(call: Callable[[], int]) -> None:
            assert one.accepted == two.accepted == 0
            assert call() == 200
            until(lambda: one.open_connections == two.open_connections == 3)
            one.drop_connections()
            until(lambda: one.accepted == 6 and one.open_connections == 3)
            for _ in range(6):
                assert call() == 200
            assert one.open_connections == two.open_connections == 3

        drive(kind, mesh, step)
        until(lambda: one.open_connections == two.open_connections == 0)


@kinds
def test_a_server_that_closes_at_once_is_not_stormed(kind: str) -> None:
    """At most one refill per second and warm connection; here per 50 ms."""
    with HttpServer() as server:
        mesh = mesh_of(server.authority, connection={"warm_up": 2})

        def step(call: Callable[[], int]) -> None:
            call()
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                server.drop_connections()
                time.sleep(0.002)
            assert 2 <= server.accepted <= 2 + 2 * 11

        drive(kind, mesh, step)


@kinds
def test_an_endpoint_that_joins_is_warmed_before_a_call_picks_it(kind: str, tmp_path: Path) -> None:
    with HttpServer() as one, HttpServer() as two:
        options = {"warm_up": 2}
        file = File(tmp_path, endpoints=at(one), connection=options)

        def step(call: Callable[[], int]) -> None:
            call()
            until(lambda: one.open_connections == 2)
            file.change(endpoints=at(one, two), connection=options)
            until(lambda: two.open_connections == 2)
            assert not two.requests
            file.change(endpoints=at(two), connection=options)
            until(lambda: one.open_connections == 0)
            time.sleep(0.15)
            assert one.open_connections == 0, "nobody wants it any more, and it was refilled"

        drive(kind, file.mesh, step)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_later_event_loop_warms_the_endpoints_of_now(kind: str, tmp_path: Path) -> None:
    """What an older loop learned of the cluster is not what the next one opens."""

    async def call() -> None:
        async with file.mesh.async_client() as client:
            assert (await client.get(URL)).status_code == 200
            await eventually(lambda: two.open_connections == 2)

    with HttpServer() as one, HttpServer() as two, HttpServer() as three:
        options = {"warm_up": 2}
        file = File(tmp_path, endpoints=at(one, two), connection=options)
        with file.mesh:
            run_on(kind, call())
            until(lambda: one.open_connections == two.open_connections == 0)
            file.change(endpoints=at(two, three), connection=options)
            seen = one.accepted

            async def later() -> None:
                await call()
                await eventually(lambda: three.open_connections == 2)

            run_on(kind, later())
            assert one.accepted == seen


@kinds
def test_a_dead_endpoint_costs_no_call_and_is_left_alone(kind: str) -> None:
    """Failures are quiet, and pauses follow them; the calls to the others do not wait."""
    with HttpServer() as server, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        dead = f"127.0.0.1:{listener.getsockname()[1]}"
        unused = {"address": dead, "priority": 0, "weight": 1}
        mesh = mesh_of(
            server.authority,
            unused,
            connection={"warm_up": 2},
            retries={"attempts": 3, "on": ["connect-failure"]},
        )

        def step(call: Callable[[], int]) -> None:
            began = time.monotonic()
            assert [call() for _ in range(10)] == [200] * 10
            assert time.monotonic() - began < 3.0
            # A call that came before they stood has opened one of its own.
            until(lambda: 2 <= server.open_connections <= 3)

        drive(kind, mesh, step)


@kinds
def test_limits_hold_and_nobody_waits_for_a_spare(kind: str) -> None:
    with HttpServer(lambda _: Reply(200, b"ok", delay_s=0.01)) as server:
        mesh = mesh_of(
            server.authority,
            connection={"warm_up": 8, "preconnect_ratio": 3},
            limits={"max_connections": 3},
        )
        most = 0

        def step(call: Callable[[], int]) -> None:
            nonlocal most
            statuses: list[int] = []
            threads = [
                threading.Thread(target=lambda: statuses.extend(call() for _ in range(10)))
                for _ in range(6)
            ]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                most = max(most, server.open_connections)
                time.sleep(0.001)
            assert statuses == [200] * 60
            (cluster,) = [c for c in mesh._publisher.plane.clusters.values() if c.shared]
            slots = cluster.shared["connections"]
            until(lambda: slots.pending == 0 and slots.waiting == 0)
            assert slots.open == 3

        drive(kind, mesh, step)
        assert most <= 3


@kinds
def test_a_stale_warm_connection_is_nobodys_error(kind: str, monkeypatch: Any) -> None:
    """The server closed it before its first request: as with any idle connection, no call fails."""
    for module in (preconnect, loop_spares, thread_spares):
        monkeypatch.setattr(module, "REFILL_S", 30.0)
    with HttpServer() as server:
        mesh = mesh_of(server.authority, connection={"warm_up": 4})

        def step(call: Callable[[], int]) -> None:
            assert call() == 200
            until(lambda: server.open_connections == 4)
            server.drop_connections()
            until(lambda: server.open_connections == 0)
            assert call() == 200

        drive(kind, mesh, step)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates")
@kinds
def test_the_handshake_is_part_of_it(kind: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = server_context(authority.issue("DNS:web"), authority.ca)
    certificate, key = authority.issue("URI:spiffe://x/one")
    tls = {"mode": "mutual", "ca": authority.ca, "certificate": certificate, "key": key}
    with HttpServer(tls=context) as server:
        mesh = mesh_of(server.authority, tls=tls)
        ready: list[bool] = []
        if kind == "sync":
            with mesh, mesh.client() as client:
                ready.append(mesh.warm_up("web", connections=3))
                until(lambda: server.accepted == 3)
                client.get(URL)
        else:

            async def run() -> None:
                async with mesh, mesh.async_client() as client:
                    ready.append(await mesh.async_warm_up("web", connections=3))
                    await eventually(lambda: server.accepted == 3)
                    await client.get(URL)

            run_on(kind, run())
        assert ready == [True]
        assert server.accepted == 3


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_warm_up_over_http2(kind: str) -> None:
    from servers.http2 import H2Server

    async def run(mesh: meshclient.Mesh, server: H2Server) -> None:
        async with mesh, mesh.async_client() as client:
            assert (await client.get(URL)).status_code == 200
            await eventually(lambda: len(server.peers) == 2)
            assert (await client.get(URL)).http_version == "HTTP/2"
            assert await mesh.async_warm_up("web", connections=3)
            await eventually(lambda: len(server.peers) == 3)
            server.peers[0].goaway(1)
            server.peers[1].goaway(1)
            await eventually(lambda: len(server.peers) == 4)

    with H2Server() as server:
        mesh = mesh_of(f"127.0.0.1:{server.port}", protocol="h2", connection={"warm_up": 2})
        run_on(kind, run(mesh, server))


def test_on_demand_says_what_it_could_not_do() -> None:
    with HttpServer() as server:
        with mesh_of(server.authority, "127.0.0.1:1") as mesh:
            assert mesh.warm_up("web", timeout=2.0) is False
            until(lambda: server.accepted == 1)
            with pytest.raises(ValueError, match="no policy knows"):
                mesh.warm_up("elsewhere")
            for bad in ({"connections": 0}, {"connections": 65}, {"timeout": 0}):
                with pytest.raises(ValueError, match="is"):
                    mesh.warm_up("web", **bad)
        with pytest.raises(errors.ClosedError):
            mesh.warm_up("web")


@kinds
def test_the_wait_has_its_bound(kind: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with deaf_at("127.0.0.1", port):
        mesh = mesh_of(f"127.0.0.1:{port}")
        began = time.monotonic()
        if kind == "sync":
            with mesh:
                assert mesh.warm_up("web", timeout=0.2) is False
        else:

            async def run() -> None:
                async with mesh:
                    assert await mesh.async_warm_up("web", timeout=0.2) is False

            run_on(kind, run())
        assert time.monotonic() - began < 2.0


@kinds
def test_closing_in_the_middle_leaves_nothing(kind: str) -> None:
    before = sockets()
    with HttpServer() as server:
        mesh = mesh_of(server.authority, connection={"warm_up": 32})
        drive(kind, mesh, lambda call: call())
        until(lambda: server.open_connections == 0)
    until(lambda: sockets() <= before)
    until(lambda: not [t for t in threading.enumerate() if t.name == "meshclient-warm-up"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_warms_its_own() -> None:
    with HttpServer() as server:
        mesh = mesh_of(server.authority, connection={"warm_up": 2})
        with mesh, mesh.client() as client:
            client.get(URL)
            until(lambda: server.open_connections == 2)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    assert client.get(URL).status_code == 200
                    until(lambda: server.open_connections == 2 and server.accepted >= 2)
                    code = 0 if _warm(mesh) else 2
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert client.get(URL).status_code == 200
            assert server.accepted == 4


def _warm(mesh: meshclient.Mesh) -> bool:
    """Whether the child's own pool reached its two."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if "idle=2" in str(mesh.dump()["pools"]):
            return True
        time.sleep(0.01)
    return False


def test_an_unhealthy_endpoint_is_not_warmed() -> None:
    from meshclient.model.health import FAILED_ACTIVE_HC

    with HttpServer() as one, HttpServer() as two:
        mesh = mesh_of(*at(one, two), connection={"warm_up": 2}, load_balancing="round_robin")
        with mesh, mesh.client() as client:
            (cluster,) = [c for c in mesh._publisher.plane.clusters.values() if c.states]
            cluster.states[1].flags |= FAILED_ACTIVE_HC
            for _ in range(2):
                client.get(URL)
            time.sleep(0.2)
            assert two.open_connections <= 1  # at most that of a call


def test_requests_count_from_nothing(tmp_path: Path) -> None:
    """A connection opened ahead serves as many requests as any other."""
    with HttpServer() as server:
        mesh = mesh_of(server.authority, connection={"preconnect_ratio": 2, "max_requests": 2})
        with mesh, mesh.client() as client:
            client.get(URL)
            until(lambda: server.open_connections == 2)
            for _ in range(9):
                client.get(URL)
        served: dict[int, int] = {}
        for request in server.requests:
            served[request.connection] = served.get(request.connection, 0) + 1
        assert max(served.values()) == 2
