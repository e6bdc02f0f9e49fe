"""A hundred bodies of 1 MB each way at once over HTTP/2, verified by their hashes.

Peers: nghttp2 (node), Caddy and Envoy in front of it, h2 (hypercorn), and grpcio's server, whose
status comes in trailers.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from engine_support import LOOPS, get, post, read, using
from grpc_support import SERVICE, EchoServer
from servers.echo_app import PIECE
from test_http2_peers import free_port, running

from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import Target, WireRequest
from meshclient.transport.sync_engine import SyncEngine

SERVERS = Path(__file__).parents[1] / "servers"
SIZE = 1_000_000
loops = pytest.mark.parametrize("kind", LOOPS)


def body_of(number: int) -> bytes:
    return Random(number).randbytes(SIZE + number)


def program(name: str) -> str:
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin"
    found = shutil.which(name, path=path) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}")
    return found


def _caddy(port: int, upstream: int, folder: Path) -> list[str]:
    settings = folder / "Caddyfile"
    settings.write_text(
        f"{{\nadmin off\nauto_https off\nstorage file_system {folder}/caddy\n"
        "servers {\nprotocols h1 h2c\n}\n}\n"
        f"http://:{port} {{\nbind 127.0.0.1\nreverse_proxy h2c://127.0.0.1:{upstream}\n}}\n"
    )
    return [program("caddy"), "run", "--config", str(settings), "--adapter", "caddyfile"]


def _envoy(port: int, upstream: int, folder: Path) -> list[str]:
    def typed(name: str, **more: Any) -> dict[str, Any]:
        return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **more}

    def at(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    route = {"match": {"prefix": "/"}, "route": {"cluster": "up"}}
    hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
    router = {"name": "router", "typed_config": typed("filters.http.router.v3.Router")}
    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="in",
        route_config={"virtual_hosts": hosts},
        http_filters=[router],
    )
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    endpoint = {"endpoint": {"address": at(upstream)}}
    options = typed(
        "upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": {}},
    )
    cluster = {
        "name": "up",
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
    }
    listener = {"name": "in", "address": at(port), "filter_chains": [chain]}
    config = folder / "envoy.json"
    resources = {"listeners": [listener], "clusters": [cluster]}
    config.write_text(json.dumps({"static_resources": resources}))
    flags = ["--concurrency", "1", "--disable-hot-restart", "-l", "off"]
    return [program("envoy"), "-c", str(config), *flags]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Target]]:
    """A peer by name; started when first asked for."""
    with ExitStack() as stack:
        ports: dict[str, int] = {}

        def target_of(name: str) -> Target:
            if name not in ports:
                port = free_port()
                folder = tmp_path_factory.mktemp(name)
                if name == "node":
                    command = [program("node"), str(SERVERS / "echo_http2.js"), str(port)]
                elif name == "caddy":
                    command = _caddy(port, target_of("node").port, folder)
                else:
                    command = _envoy(port, target_of("node").port, folder)
                ports[name] = stack.enter_context(running(command, port))
            return Target("127.0.0.1", ports[name], protocol="h2")

        yield target_of


def check(number: int, status: int, got: bytes, trailers: list[tuple[bytes, bytes]]) -> None:
    digest = sha256(body_of(number)).hexdigest()
    assert (status, sha256(got).hexdigest()) == (200, digest)
    assert (b"x-sha256", digest.encode()) in trailers


NAMES = ["node", "caddy", pytest.param("envoy", marks=pytest.mark.envoy)]


@loops
@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_at_once(kind: str, name: str, peers: Callable[[str], Target]) -> None:
    target = peers(name)

    async def test(engine: AsyncEngine) -> None:
        async def one(number: int) -> None:
            response = await engine.send(target, post(body_of(number)))
            got = await read(response)
            check(number, response.status, got, response.get_extra_info("trailers"))

        await asyncio.gather(*[one(number) for number in range(100)])
        assert engine.stats()[target].active == 0

    using(kind, test, 60)


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_over_blocking_sockets(name: str, peers: Callable[[str], Target]) -> None:
    target, engine = peers(name), SyncEngine()

    def one(number: int) -> None:
        response = engine.send(target, post(body_of(number)))
        got = b"".join(response)
        check(number, response.status, got, response.get_extra_info("trailers"))

    try:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(one, range(100)))
        assert engine.stats()[target].active == 0
    finally:
        engine.close()


def message(data: bytes) -> bytes:
    """In gRPC's frame, not compressed."""
    return b"\0" + len(data).to_bytes(4, "big") + data


def call(method: str, data: bytes) -> WireRequest:
    headers = [(b"Host", b"test"), (b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return WireRequest(b"POST", f"{SERVICE}{method}".encode(), headers, message(data))


@loops
def test_grpcs_server_and_its_trailers(kind: str) -> None:
    """An answer ends with a status in trailers; one without any body is trailers alone."""
    with EchoServer() as server:

        async def test(engine: AsyncEngine) -> None:
            target = Target("127.0.0.1", server.port, protocol="h2")

            async def one(number: int) -> None:
                data = Random(number).randbytes(200_000)
                response = await engine.send(target, call("Get", data))
                got = await read(response)
                trailers = dict(response.get_extra_info("trailers"))
                assert trailers[b"grpc-status"] == b"0"
                assert sha256(got).digest() == sha256(message(data)).digest()

            await asyncio.gather(*[one(number) for number in range(100)])
            response = await engine.send(target, call("Missing", b""))
            assert await read(response) == b""
            assert dict(response.headers)[b"grpc-status"] == b"12"
            assert engine.stats()[target].opened <= 2

        using(kind, test, 60)


@loops
def test_hypercorn_both_ways(kind: str) -> None:
    """The h2 library at the other end; one megabyte down, and another up, thirty times."""
    port = free_port()
    application = f"{SERVERS / 'echo_app.py'}:asgi"
    command = [sys.executable, "-m", "hypercorn", application, "--bind", f"127.0.0.1:{port}"]

    async def test(engine: AsyncEngine) -> None:
        target = Target("127.0.0.1", port, protocol="h2")

        async def one(number: int) -> None:
            down = await read(await engine.send(target, get(b"/stream")))
            assert sha256(down).digest() == sha256(PIECE * 16).digest()
            up = await read(await engine.send(target, post(body_of(number))))
            assert up == b"POST / %d" % (SIZE + number)

        await asyncio.gather(*[one(number) for number in range(30)])

    with running(command, port):
        using(kind, test, 60)
