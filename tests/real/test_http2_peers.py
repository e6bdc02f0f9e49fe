"""HTTP/2 against servers that others wrote (Envoy, nginx), ALPN over TLS, and through a mesh."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_support import LOOPS, HttpServer, certificate, counts, get, post, read, total, using
from servers.http2 import H2Server, Request

import meshclient
from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import Target, WireError
from meshclient.transport.sync_engine import SyncEngine
from meshclient.transport.tls import TlsIdentity, default_context

loops = pytest.mark.parametrize("kind", LOOPS)
NAME = "api.test"

if shutil.which("openssl") is None:
    pytest.skip("makes its certificates with openssl", allow_module_level=True)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < until, "the server does not listen"
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificate(tmp_path_factory.mktemp("tls"), NAME)


def _listener(name: str, port: int, tls: dict[str, Any] | None) -> dict[str, Any]:
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http2_protocol_options": {"max_concurrent_streams": 10},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {
                                "status": 200,
                                "body": {"inline_string": "envoy " * 100},
                            },
                            "response_headers_to_add": [
                                {"header": {"key": "x-protocol", "value": "%PROTOCOL%"}}
                            ],
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if tls is not None:
        chain["transport_socket"] = {
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
                "DownstreamTlsContext",
                "common_tls_context": tls,
            },
        }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": name, "address": address, "filter_chains": [chain]}


@pytest.fixture(scope="module")
def envoy(
    pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int]]:
    """(plain port, TLS port) of a real Envoy."""
    binary = Path(sys.executable).with_name("envoy")
    found = str(binary) if binary.exists() else shutil.which("envoy")
    if found is None:
        pytest.skip("no envoy binary")
    plain, secure = free_port(), free_port()
    tls = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [
            {"certificate_chain": {"filename": pair[0]}, "private_key": {"filename": pair[1]}}
        ],
    }
    listeners = [_listener("plain", plain, None), _listener("secure", secure, tls)]
    folder = tmp_path_factory.mktemp("envoy")
    config = folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": listeners}}))
    command = [found, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "off"]
    with running(command, secure):
        yield plain, secure


def trusting(pair: tuple[str, str], http2: bool = True) -> TlsIdentity:
    return TlsIdentity(NAME, default_context(pair[0], http2=http2))


@loops
@pytest.mark.envoy
def test_envoy_in_clear_text_and_over_tls(
    kind: str, envoy: tuple[int, int], pair: tuple[str, str]
) -> None:
    async def test(engine: AsyncEngine) -> None:
        for target in (
            Target("127.0.0.1", envoy[0], protocol="h2"),
            Target("127.0.0.1", envoy[1], trusting(pair), protocol="auto"),
            Target("127.0.0.1", envoy[1], trusting(pair), protocol="h2"),
        ):
            answers = await asyncio.gather(*[engine.send(target, get()) for _ in range(50)])
            for answer in answers:
                assert (answer.status, await read(answer)) == (200, b"envoy " * 100)
                assert (b"x-protocol", b"HTTP/2") in answer.headers
            large = await engine.send(target, post(bytes(2_000_000)))
            assert (large.status, await read(large)) == (200, b"envoy " * 100)
            assert engine.stats()[target].active == 0
            assert engine.stats()[target].opened <= 6  # ten streams each, and one to spare

    using(kind, test)


@pytest.mark.envoy
def test_envoy_over_blocking_sockets(envoy: tuple[int, int], pair: tuple[str, str]) -> None:
    engine = SyncEngine()
    try:
        for target in (
            Target("127.0.0.1", envoy[0], protocol="h2"),
            Target("127.0.0.1", envoy[1], trusting(pair), protocol="auto"),
        ):
            for _ in range(5):
                response = engine.send(target, get())
                assert b"".join(response) == b"envoy " * 100
                assert response.http_version == b"HTTP/2"
            assert engine.stats()[target].opened == 1
    finally:
        engine.close()


@loops
@pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="no nginx")
def test_nginx_in_clear_text(kind: str, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "big").write_bytes(bytes(3_000_000))
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log /dev/null;\n"
        "events {}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body;\n"
        f" server {{ listen 127.0.0.1:{port} http2; http2_max_concurrent_streams 4;\n"
        f"  keepalive_requests 30; root {tmp_path};\n"
        "  location = /ok { return 200 hello; } } }\n"
    )
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin") or ""

    async def test(engine: AsyncEngine) -> None:
        target = Target("127.0.0.1", port, protocol="h2")

        async def one(number: int) -> None:
            path, expected = (b"/big", 3_000_000) if number % 20 == 0 else (b"/ok", 5)
            response = await engine.send(target, get(path))
            assert (response.status, len(await read(response))) == (200, expected)

        await asyncio.gather(*[one(number) for number in range(100)])
        assert counts(engine.stats())[1] == 0

    with running([nginx, "-p", str(tmp_path), "-c", str(config)], port):
        using(kind, test)


def server_context(pair: tuple[str, str], *alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def named(request: Request) -> None:
    scheme, authority = request[":scheme"], request[":authority"]
    request.peer.respond(request, body=f"{scheme} {authority}".encode())


@loops
def test_alpn_that_chooses_http1_is_kept(kind: str, pair: tuple[str, str]) -> None:
    with HttpServer(tls=server_context(pair, "http/1.1")) as server:

        async def test(engine: AsyncEngine) -> None:
            target = Target("127.0.0.1", server.port, trusting(pair), protocol="auto")
            for _ in range(3):
                answers = await asyncio.gather(*[engine.send(target, get()) for _ in range(4)])
                assert {a.http_version for a in answers} == {b"HTTP/1.1"}
            assert counts(engine.stats())[1] == 0
            assert total(engine.stats()).opened <= 4

        using(kind, test)


@loops
def test_a_server_that_learns_http2_costs_one_connect(kind: str, pair: tuple[str, str]) -> None:
    with HttpServer(tls=server_context(pair, "http/1.1")) as server:
        port = server.port

        async def test(engine: AsyncEngine) -> None:
            target = Target("127.0.0.1", port, trusting(pair), protocol="auto")
            assert (await engine.send(target, get())).http_version == b"HTTP/1.1"
            server.stop()
            with H2Server(named, context=server_context(pair, "h2"), port=port):
                with pytest.raises(WireError) as caught:
                    await engine.send(target, get())
                assert caught.value.reason is ResetReason.CONNECTION_FAILURE
                assert (await engine.send(target, get())).http_version == b"HTTP/2"

        using(kind, test)


def policy(port: int, **more: Any) -> dict[str, Any]:
    return {"version": 1, "services": {NAME: {"endpoints": [f"127.0.0.1:{port}"], **more}}}


def test_a_mesh_client_with_http2_chooses_by_alpn(pair: tuple[str, str]) -> None:
    with H2Server(named, context=server_context(pair, "h2", "http/1.1")) as server:
        with meshclient.Mesh.from_documents([policy(server.port)]) as mesh:
            with mesh.client(http2=True, verify=pair[0]) as client:
                answer = client.get(f"https://{NAME}/")
                assert (answer.http_version, answer.text) == ("HTTP/2", f"https {NAME}")

            async def test() -> None:
                async with mesh.async_client(http2=True, verify=pair[0]) as client:
                    answers = await asyncio.gather(
                        *[client.get(f"https://{NAME}/") for _ in range(20)]
                    )
                    assert {a.http_version for a in answers} == {"HTTP/2"}

            asyncio.run(test())
        assert len(server.peers) <= 3


def test_a_service_of_protocol_h2_is_spoken_to_in_http2_whatever_the_client_is(
    pair: tuple[str, str],
) -> None:
    with H2Server(named) as server:
        documents = [policy(server.port, protocol="h2")]
        with meshclient.Mesh.from_documents(documents) as mesh:
            with mesh.client() as client:
                answer = client.get(f"http://{NAME}/")
                assert (answer.http_version, answer.text) == ("HTTP/2", f"http {NAME}")

            async def test() -> None:
                async with mesh.async_client() as client:
                    answer = await client.post(f"http://{NAME}/", content=b"x" * 100_000)
                    assert (answer.http_version, answer.text) == ("HTTP/2", f"http {NAME}")

            asyncio.run(test())


def test_a_service_of_protocol_h2_with_tls_of_the_policy(pair: tuple[str, str]) -> None:
    with H2Server(named, context=server_context(pair, "h2")) as server:
        tls = {"mode": "simple", "ca": pair[0], "subject_alt_names": [NAME]}
        documents = [policy(server.port, protocol="h2", tls=tls)]
        with meshclient.Mesh.from_documents(documents) as mesh, mesh.client() as client:
            answer = client.get(f"http://{NAME}/")
            assert (answer.http_version, answer.text) == ("HTTP/2", f"https {NAME}")


def test_a_refused_stream_is_retried_elsewhere_by_policy() -> None:
    def refuse(request: Request) -> None:
        request.peer.reset(request, 7)

    with H2Server(refuse) as bad, H2Server(named) as good:
        service = {
            "protocol": "h2",
            "endpoints": [f"127.0.0.1:{bad.port}", f"127.0.0.1:{good.port}"],
            "load_balancing": {"policy": "round_robin"},
            "retries": {"attempts": 2, "on": ["refused-stream"]},
        }
        documents = [{"version": 1, "services": {NAME: service}}]
        with meshclient.Mesh.from_documents(documents) as mesh, mesh.client() as client:
            assert [client.post(f"http://{NAME}/").status_code for _ in range(6)] == [200] * 6
        assert bad.requests
