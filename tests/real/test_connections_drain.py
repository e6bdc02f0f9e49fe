"""What becomes of connections when the policy file changes: drained, kept, or limited anew."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_support import HttpServer, Recorded, Reply, certificate
from servers.proxy import ProxyServer

import meshclient


class File:
    """A policy file with one service, and the mesh that follows it."""

    def __init__(self, folder: Path, **service: Any) -> None:
        self.path = folder / "mesh.json"
        self._write(service)
        self.mesh = meshclient.Mesh.from_file(self.path)

    def _write(self, service: dict[str, Any]) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"version": 1, "services": {"web": service}}))
        fresh.replace(self.path)

    def change(self, **service: Any) -> None:
        version = self.mesh.snapshot.version
        self._write(service)
        until(lambda: self.mesh.snapshot.version > version)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.005)


def at(*servers: HttpServer) -> list[str]:
    return [f"127.0.0.1:{server.port}" for server in servers]


@contextmanager
def gated(tls: ssl.SSLContext | None = None) -> Iterator[tuple[HttpServer, threading.Event]]:
    """Answers a head at once, and the rest of the body when the gate opens."""
    gate = threading.Event()

    async def body() -> Any:
        yield b"first"
        await asyncio.to_thread(gate.wait, 10)
        yield b"last"

    def handler(request: Recorded) -> Reply:
        return Reply(200, body() if request.path == "/slow" else b"ok")

    with HttpServer(handler, tls=tls) as server:
        yield server, gate
        gate.set()


def test_an_endpoint_that_leaves_loses_its_idle_connections_and_ends_its_calls(
    tmp_path: Path,
) -> None:
    with gated() as (old, gate), HttpServer() as new:
        file = File(tmp_path, endpoints=at(old))
        with file.mesh, file.mesh.client() as client:
            with client.stream("GET", "http://web/slow") as busy:
                pieces = busy.iter_raw()
                assert next(pieces) == b"first"
                assert client.get("http://web/").status_code == 200
                assert old.open_connections == 2
                file.change(endpoints=at(new))
                until(lambda: old.open_connections == 1)
                assert client.get("http://web/").status_code == 200
                assert len(new.requests) == 1
                gate.set()
                assert b"".join(pieces) == b"last"
            until(lambda: old.open_connections == 0)
            assert new.open_connections == 1


def test_the_same_on_an_event_loop(tmp_path: Path) -> None:
    async def run(file: File, old: HttpServer, new: HttpServer, gate: threading.Event) -> None:
        async with file.mesh, file.mesh.async_client() as client:
            async with client.stream("GET", "http://web/slow") as busy:
                pieces = busy.aiter_raw()
                assert await anext(pieces) == b"first"
                assert (await client.get("http://web/")).status_code == 200
                assert old.open_connections == 2
                await asyncio.to_thread(file.change, endpoints=at(new))
                await asyncio.to_thread(until, lambda: old.open_connections == 1)
                assert (await client.get("http://web/")).status_code == 200
                assert len(new.requests) == 1
                gate.set()
                assert b"".join([piece async for piece in pieces]) == b"last"
            await asyncio.to_thread(until, lambda: old.open_connections == 0)

    with gated() as (old, gate), HttpServer() as new:
        asyncio.run(run(File(tmp_path, endpoints=at(old)), old, new, gate))


def test_an_endpoint_that_stays_keeps_its_connections(tmp_path: Path) -> None:
    with HttpServer() as one, HttpServer() as two:
        file = File(tmp_path, endpoints=at(one))
        with file.mesh, file.mesh.client() as client:
            client.get("http://web/")
            file.change(endpoints=at(one, two))
            for _ in range(4):
                client.get("http://web/")
            assert one.accepted == 1


def test_other_limits_take_over_from_the_old_connections(tmp_path: Path) -> None:
    """Those of the old policy are drained: old and new never add up for longer than a call."""
    with HttpServer() as server:
        file = File(tmp_path, endpoints=at(server), limits={"max_connections": 3})
        with file.mesh, file.mesh.client() as client:
            client.get("http://web/")
            assert server.open_connections == 1
            file.change(endpoints=at(server), limits={"max_connections": 2})
            until(lambda: server.open_connections == 0)
            client.get("http://web/")
            assert server.open_connections == 1


def test_a_logical_endpoint_dials_the_addresses_of_its_name(tmp_path: Path) -> None:
    """All the way from the model: the first address is dead, the second answers."""
    from meshclient.model.cluster import Cluster
    from meshclient.model.endpoint import Endpoint
    from meshclient.model.routes import (
        ForwardAction,
        Route,
        RouteConfiguration,
        VirtualHost,
        WeightedCluster,
    )
    from meshclient.model.snapshot import ANY_PORT, MeshConfig

    with HttpServer() as server:
        endpoint = Endpoint("127.0.0.2", server.port, more_addresses=("127.0.0.1",))
        route = Route(ForwardAction((WeightedCluster("web"),)), name="web")
        table = RouteConfiguration("rc", (VirtualHost("web", ("web",), (route,)),))
        config = MeshConfig(
            route_configurations={ANY_PORT: table},
            clusters={"web": Cluster("web", endpoints=(endpoint,))},
        )
        with meshclient.Mesh.from_config(config) as mesh, mesh.client() as client:
            assert client.get("http://web/").status_code == 200
            assert server.accepted == 1


def _over_tls(server: HttpServer, **tls: Any) -> dict[str, Any]:
    return {
        "endpoints": at(server),
        "tls": {"mode": "simple", "insecure_skip_verify": True, **tls},
    }


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates")
@pytest.mark.parametrize(
    "change",
    [
        {"insecure_skip_verify": False, "ca": "{ca}", "sni": "web"},
        {"sni": "other"},
    ],
    ids=["trust", "server name"],
)
def test_other_tls_settings_take_over_and_calls_in_flight_finish(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    certificate_, key = certificate(tmp_path, "web")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_, key)
    with gated(tls=context) as (server, gate):
        file = File(tmp_path, **_over_tls(server))
        with file.mesh, file.mesh.client() as client:
            with client.stream("GET", "http://web/slow") as busy:
                pieces = busy.iter_raw()
                assert next(pieces) == b"first"
                assert client.get("http://web/").status_code == 200
                assert server.open_connections == 2
                now = {
                    name: value.format(ca=certificate_) if isinstance(value, str) else value
                    for name, value in change.items()
                }
                file.change(**_over_tls(server, **now))
                until(lambda: server.open_connections == 1)
                assert client.get("http://web/").status_code == 200
                assert server.accepted == 3
                gate.set()
                assert b"".join(pieces) == b"last"
            until(lambda: server.open_connections == 1)


def test_another_proxy_takes_over(tmp_path: Path) -> None:
    with HttpServer() as server, ProxyServer() as one, ProxyServer() as two:
        file = File(tmp_path, endpoints=at(server), proxy=f"http://{one.authority}")
        with file.mesh, file.mesh.client() as client:
            assert client.get("http://web/").status_code == 200
            assert server.open_connections == 1
            file.change(endpoints=at(server), proxy=f"http://{two.authority}")
            until(lambda: server.open_connections == 0)
            assert client.get("http://web/").status_code == 200
            file.change(endpoints=at(server))
            until(lambda: server.open_connections == 0)
            assert client.get("http://web/").status_code == 200
            assert server.accepted == 3


def test_a_reload_that_changes_nothing_of_it_keeps_tls_connections(tmp_path: Path) -> None:
    certificate_, key = certificate(tmp_path, "web")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_, key)
    with HttpServer(tls=context) as server:
        file = File(tmp_path, **_over_tls(server))
        with file.mesh, file.mesh.client() as client:
            client.get("http://web/")
            file.change(**_over_tls(server), timeout="3s")
            client.get("http://web/")
            assert server.accepted == 1
