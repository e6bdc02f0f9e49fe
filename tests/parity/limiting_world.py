"""One Envoy with a listener per world, each with its own HTTP filters before the router, and
one mesh with a service per world. Starts and asks; judges nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

import meshclient

from .envoy import Envoy, EnvoyClient
from .traffic import CASE_HEADER, Request

Json = dict[str, Any]
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
_NETWORK = "type.googleapis.com/envoy.extensions.filters.network"
_PROTOCOLS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
#: What is no part of a filter's reply.
_ASIDE = frozenset({"date", "server", "x-envoy-upstream-service-time", "content-length"})


@dataclass(frozen=True)
class World:
    """``filters`` are Envoy's (name, package, message and settings); ``policy`` is what the
    native file says of the service instead; ``rate_limits`` Envoy's, on its virtual host."""

    name: str
    filters: tuple[tuple[str, str, Json], ...]
    policy: Json
    rate_limits: tuple[Json, ...] = ()
    routes: tuple[Json, ...] = field(default=())


@dataclass(frozen=True)
class Answer:
    """What a caller sees, without what every proxy adds."""

    status: int
    headers: frozenset[tuple[str, str]]
    body: bytes


def bootstrap(worlds: Sequence[World], port: int, service_port: int = 0) -> Json:
    """``port`` is the upstream's, ``service_port`` the rate limit service's."""
    clusters = [_cluster("upstream", port)]
    if service_port:
        options = {
            "@type": f"type.googleapis.com/{_PROTOCOLS}",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        protocol = {"typed_extension_protocol_options": {_PROTOCOLS: options}}
        clusters.append(_cluster("ratelimit", service_port) | protocol)
    return {
        "admin": {"address": _address(0), "access_log": []},
        "static_resources": {
            "listeners": [_listener(number, world) for number, world in enumerate(worlds)],
            "clusters": clusters,
        },
    }


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, port: int) -> Json:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def _listener(number: int, world: World) -> Json:
    forward = {"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}
    host = {
        "name": world.name,
        "domains": ["*"],
        "routes": [*world.routes, forward],
        "rate_limits": list(world.rate_limits),
    }
    filters = [
        {"name": name, "typed_config": {"@type": f"{_FILTERS}.{kind}", **settings}}
        for name, kind, settings in world.filters
    ]
    router = {"name": "router", "typed_config": {"@type": f"{_FILTERS}.router.v3.Router"}}
    manager = {
        "@type": f"{_NETWORK}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": world.name,
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        "route_config": {"name": world.name, "virtual_hosts": [host]},
        "http_filters": [*filters, router],
    }
    chain = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": f"table{number}",
        "address": _address(0),
        "filter_chains": [{"filters": [chain]}],
    }


def documents(worlds: Sequence[World], port: int, service_port: int = 0) -> list[Json]:
    """The native file that says the same."""
    services: Json = {
        world.name: {
            "endpoints": [f"127.0.0.1:{port}"],
            "retries": {"attempts": 0},
            **world.policy,
        }
        for world in worlds
    }
    if service_port:
        services["ratelimit"] = {"endpoints": [f"127.0.0.1:{service_port}"], "protocol": "h2"}
    return [{"version": 1, "services": services}]


class Sides:
    """Both sides running. ``ours`` and ``theirs`` send one request each."""

    def __init__(self, worlds: Sequence[World], port: int, service_port: int = 0) -> None:
        self.worlds = {world.name: number for number, world in enumerate(worlds)}
        self.mesh = meshclient.Mesh.from_documents(
            documents(worlds, port, service_port), local_replies="respond"
        )
        self._client = self.mesh.client(trust_env=False)
        self._client.headers.clear()
        try:
            self.envoy = Envoy((), {}, bootstrap(worlds, port, service_port))
        except BaseException:
            self.mesh.close()
            raise
        self._theirs = EnvoyClient(self.envoy.ports)

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *exc: object) -> None:
        self._theirs.close()
        self.envoy.close()
        self._client.close()
        self.mesh.close()

    def theirs(self, world: str, request: Request, key: str = "any") -> Answer:
        """Through the real Envoy."""
        exchange = self._theirs.send(self.worlds[world], request, key)
        return _answer(exchange.status, exchange.headers, exchange.body)

    def ours(self, world: str, request: Request, key: str = "any") -> Answer:
        """Through a mesh's client."""
        response = self.respond(world, request, key)
        pairs = [(n.decode().lower(), v.decode()) for n, v in response.headers.raw]
        return _answer(response.status_code, pairs, response.content)

    def respond(self, world: str, request: Request, key: str = "any") -> httpx.Response:
        """Our answer with its report."""
        headers = [*request.headers, (CASE_HEADER, key)]
        url = f"http://{world}{request.path}"
        return self._client.request(request.method, url, headers=headers, content=request.body)

    def stats(self, pattern: str) -> Mapping[str, int]:
        """Envoy's counters and gauges whose name contains ``pattern``."""
        text = self.envoy.ask(f"/stats?format=json&filter={pattern}")[1]
        found = json.loads(text)["stats"]
        return {one["name"]: one["value"] for one in found if "name" in one}

    def filters(self, scope: str) -> list[Any]:
        """Our filters whose settings have this scope."""
        states = self.mesh._publisher.plane.filters.by_settings
        return [one for settings, one in states.items() if settings.scope == scope]  # type: ignore[attr-defined]


def _answer(status: int, headers: Any, body: bytes) -> Answer:
    kept = frozenset((name, value) for name, value in headers if name not in _ASIDE)
    return Answer(status, kept, body)
