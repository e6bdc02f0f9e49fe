"""How large a response head may be: the real Envoy and this engine before the same upstream."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from servers.http import Peer, RawServer

from meshclient import Mesh

from .envoy import Envoy

MANAGER = (
    "type.googleapis.com/envoy.extensions.filters.network."
    "http_connection_manager.v3.HttpConnectionManager"
)
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

#: (lines, size of each value): the default limits, then those of ``NARROW``.
HEADS = {
    "100 lines": (100, 1),
    "101 lines": (101, 1),
    "500 lines": (500, 1),
    "78 KB in one line": (1, 78_000),
    "78 KB in many lines": (78, 990),
    "84 KB in one line": (1, 84_000),
    "84 KB in many lines": (84, 1000),
    "10 lines": (10, 1),
    "11 lines": (11, 1),
    "3 KB": (3, 1000),
    "5 KB": (5, 1000),
}
NARROW = {"max_response_header_kb": 4, "max_response_headers": 10}


def head(name: str) -> bytes:
    """A response of so many lines; Content-Length, the last of them, included."""
    lines, size = HEADS[name]
    first = b"".join(b"a%03d: %b\r\n" % (n, b"v" * size) for n in range(lines - 1))
    if lines == 1:
        return b"HTTP/1.1 204 N\r\na: " + b"v" * size + b"\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\n" + first + b"Content-Length: 2\r\n\r\nhi"


def upstream() -> RawServer:
    def script(peer: Peer) -> None:
        while request := peer.read_head():
            path = request.split()[1].decode()
            peer.send(head(path.removeprefix("/").replace("_", " ")))

    return RawServer(script)


def cluster(number: int, port: int, narrow: bool) -> dict[str, Any]:
    common = {"max_headers_count": 10, "max_response_headers_kb": 4} if narrow else {}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": f"cluster{number}",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": f"cluster{number}",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": OPTIONS,
                "common_http_protocol_options": common,
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def listener(number: int) -> dict[str, Any]:
    manager = {
        "@type": MANAGER,
        "stat_prefix": f"table{number}",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": f"cluster{number}"}}
                    ],
                }
            ]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
    }
    filters = [{"name": "http", "typed_config": manager}]
    return {
        "name": f"table{number}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": filters}],
    }


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[RawServer, Envoy]]:
    with upstream() as server:
        made = {
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {
                "listeners": [listener(0), listener(1)],
                "clusters": [cluster(0, server.port, False), cluster(1, server.port, True)],
            },
        }
        with Envoy([], {}, made) as envoy:
            yield server, envoy


def through_envoy(port: int, path: str) -> tuple[int, bytes]:
    """Status and body; the standard library's client takes no more than 100 headers itself."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        ask = f"GET {path} HTTP/1.1\r\nHost: svc\r\nConnection: close\r\n\r\n"
        sock.sendall(ask.encode())
        got = b"".join(iter(lambda: sock.recv(65536), b""))
    top, _, body = got.partition(b"\r\n\r\n")
    return int(top.split()[1]), body


@pytest.mark.parametrize("narrow", [False, True], ids=["default", "narrow"])
@pytest.mark.parametrize("name", HEADS)
def test_the_same_heads_are_too_large(
    world: tuple[RawServer, Envoy], name: str, narrow: bool
) -> None:
    server, envoy = world
    path = "/" + name.replace(" ", "_")
    theirs = through_envoy(envoy.ports[narrow], path)
    service = {
        "endpoints": [f"127.0.0.1:{server.port}"],
        "connection": NARROW if narrow else {},
    }
    document = {"version": 1, "services": {"svc": service}}
    with Mesh.from_documents([document], local_replies="respond") as mesh, mesh.client() as client:
        response = client.get("http://svc" + path)
        flags = response.extensions["meshclient"].flags
    assert (response.status_code, response.content) == theirs
    assert flags == (("UPE",) if theirs[0] == 502 else ())
