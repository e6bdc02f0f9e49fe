"""Which endpoint Envoy picks, many times over: clusters in, addresses out.

One Envoy, one listener; the request's header names the cluster. Pipelined, so that
thousands of picks take seconds. Judges nothing.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from types import TracebackType
from typing import Any

from .envoy import Envoy
from .to_envoy_routes import Json

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_PICKED = b"x-picked: "
_BATCH = 64
_HCM = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
    "HttpConnectionManager"
)
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


class _Answering(asyncio.Protocol):
    def __init__(self, open_ones: set[Any]) -> None:
        self._open = open_ones
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._open.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_ANSWER * data.count(b"\r\n\r\n"))


class Servers:
    """``count`` ports on 127.0.0.1 that answer 200 to everything."""

    def __init__(self, count: int) -> None:
        self._open: set[Any] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers = [self._run(self._listen()) for _ in range(count)]
        self.ports: list[int] = [s.sockets[0].getsockname()[1] for s in self._servers]

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Answering(self._open), "127.0.0.1", 0)

    async def _shut_down(self) -> None:
        for server in self._servers:
            server.close()
        for transport in list(self._open):
            transport.abort()
        for _ in range(3):  # aborted transports close their sockets a turn later
            await asyncio.sleep(0)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def bootstrap(clusters: list[Json], node: Json | None = None, local: str = "") -> Json:
    """A whole configuration. ``local`` names the caller's own cluster, for zone-aware routing."""
    route = {
        "match": {"prefix": "/"},
        "route": {
            "cluster_header": "x-c",
            "hash_policy": [{"header": {"header_name": "x-h"}}],
        },
    }
    manager = {
        "@type": _HCM,
        "stat_prefix": "table0",
        "route_config": {
            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}],
            "response_headers_to_add": [
                {"header": {"key": "x-picked", "value": "%UPSTREAM_REMOTE_ADDRESS%"}}
            ],
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": _ROUTER}}],
    }
    chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
    listener = {
        "name": "table0",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [chain],
    }
    made: Json = {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "node": {"id": "n", "cluster": "n", **(node or {})},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }
    if local:
        made["cluster_manager"] = {"local_cluster_name": local}
    return made


def picked(envoy: Envoy, cluster: str, hashed: list[str], batch: int = _BATCH) -> list[int | None]:
    """The ports that requests go to, in order, one per entry of ``hashed`` (the text that is
    hashed; empty for none). None: no endpoint; ``batch`` has to be 1 where that may be,
    for Envoy ends a connection when it refuses one of several requests at once."""
    found: list[int | None] = []
    while len(found) < len(hashed):
        before = len(found)
        _converse(envoy, cluster, hashed, found, batch)
        assert len(found) > before, "Envoy closes connections without an answer"
    return found


def _converse(
    envoy: Envoy, cluster: str, hashed: list[str], found: list[int | None], size: int
) -> None:
    """One connection, until all is asked or Envoy ends it."""
    with (
        socket.create_connection(("127.0.0.1", envoy.ports[0]), timeout=20) as connection,
        connection.makefile("rb") as stream,
    ):
        while batch := hashed[len(found) : len(found) + size]:
            connection.sendall(b"".join(_request(cluster, text) for text in batch))
            for _ in batch:
                try:
                    found.append(_answer(stream))
                except ConnectionError:
                    return


def _request(cluster: str, text: str) -> bytes:
    hashed = f"x-h: {text}\r\n" if text else ""
    return f"GET / HTTP/1.1\r\nhost: a\r\nx-c: {cluster}\r\n{hashed}\r\n".encode()


def _answer(stream: Any) -> int | None:
    first = stream.readline()
    if not first:
        raise ConnectionError("Envoy closed the connection")
    status = int(first.split()[1])
    port, length = None, 0
    while (line := stream.readline().lower()) not in (b"\r\n", b""):
        if line.startswith(_PICKED):
            port = int(line.strip().rsplit(b":", 1)[1])
        elif line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    stream.read(length)
    if status != 200:
        assert status == 503
        return None
    return port
