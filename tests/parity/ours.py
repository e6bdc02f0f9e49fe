"""The same requests through a real ``httpx.Client`` that a mesh made.

One mesh per route configuration, built from the same model values that the
Envoy configuration is made from. Nothing here knows what the answer should be.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import httpx

import meshclient
from meshclient.model.cluster import Cluster
from meshclient.model.routes import RouteConfiguration
from meshclient.model.snapshot import ANY_PORT, MeshConfig

from .traffic import CASE_HEADER, Exchange, Request


class Ours:
    """``send`` is safe to call from several threads at once."""

    def __init__(
        self, tables: Sequence[RouteConfiguration], clusters: Mapping[str, Cluster]
    ) -> None:
        self._meshes = [
            meshclient.Mesh.from_config(
                MeshConfig(
                    outbound="registry_only",
                    route_configurations={ANY_PORT: table},
                    clusters=clusters,
                ),
                local_replies="respond",
            )
            for table in tables
        ]
        for mesh in self._meshes:
            mesh.wait_ready()
        self._clients = [_client(mesh) for mesh in self._meshes]

    def close(self) -> None:
        """Close every client and mesh."""
        for client in self._clients:
            client.close()
        for mesh in self._meshes:
            mesh.close()

    def __enter__(self) -> Ours:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, table: int, request: Request, case_key: str) -> Exchange:
        """One request; an exception of the library becomes part of the exchange."""
        client = self._clients[table]
        message = client.build_request(
            request.method,
            f"http://{request.authority}{request.path}",
            headers=[
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in (
                    ("Host", request.authority),
                    *request.headers,
                    (CASE_HEADER, case_key),
                )
            ],
            content=request.body or None,
        )
        started = time.monotonic()
        try:
            response = client.send(message)
        except (httpx.HTTPError, meshclient.MeshError) as error:
            elapsed_s = time.monotonic() - started
            return Exchange(0, (), b"", elapsed_s, error=f"{type(error).__name__}: {error}")
        headers = tuple(
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in response.headers.raw
        )
        exchange = Exchange(
            response.status_code, headers, response.content, time.monotonic() - started
        )
        return _without_virtual_host(exchange, response)


def _client(mesh: meshclient.Mesh) -> httpx.Client:
    client = mesh.client(trust_env=False)
    client.headers.clear()  # the other side sends no defaults either
    return client


def _without_virtual_host(exchange: Exchange, response: httpx.Response) -> Exchange:
    """A host that no policy knows: Istio's 502 for ours, a plain 404 for a bare Envoy."""
    report = response.extensions.get("meshclient")
    if exchange.status == 502 and report is not None and not report.virtual_host:
        return Exchange(404, (("content-length", "0"),), b"", exchange.elapsed_s)
    return exchange
