"""The real Envoy with outlier detection, one cluster per scenario, told which host to call.

Builds the bootstrap, sends requests, reads what Envoy says of its hosts. Judges nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from meshclient.model.health import OutlierDetection

from .envoy import Envoy, EnvoyClient
from .traffic import Exchange, Pairs, Request, Step
from .upstream import Upstreams

Json = dict[str, Any]
_HOST = "x-host"
_ALLOWED_IDLE_S = 3600


@dataclass(frozen=True)
class World:
    """One cluster: its endpoints' ports, and what Envoy is told about outliers."""

    name: str
    ports: tuple[int, ...]
    settings: OutlierDetection


def detection_json(settings: OutlierDetection) -> Json:
    """Envoy's ``OutlierDetection`` message; what the model calls off is 0."""
    out: Json = {
        name: getattr(settings, name)
        for name in settings.__dataclass_fields__
        if not name.endswith("_s") and name not in ("min_health_percent", "http_error_codes")
    }
    out["consecutive_5xx"] = settings.consecutive_5xx or 0
    out["consecutive_gateway_failure"] = settings.consecutive_gateway_failure or 0
    for name in ("interval", "base_ejection_time", "max_ejection_time", "max_ejection_time_jitter"):
        out[name] = f"{getattr(settings, name + '_s'):.3f}s"
    return out


def bootstrap(worlds: Sequence[World], event_log: Path) -> Json:
    """One listener; the authority names the world, ``x-host`` the endpoint's number."""
    return {
        "admin": {"address": _address(0), "access_log": []},
        "cluster_manager": {"outlier_detection": {"event_log_path": str(event_log)}},
        "static_resources": {
            "listeners": [_listener(worlds)],
            "clusters": [_cluster(world) for world in worlds],
        },
    }


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _metadata(host: int) -> Json:
    return {"filter_metadata": {"envoy.lb": {"host": str(host)}}}


def _cluster(world: World) -> Json:
    endpoints = [
        {"endpoint": {"address": _address(port)}, "metadata": _metadata(host)}
        for host, port in enumerate(world.ports)
    ]
    out: Json = {
        "name": world.name,
        "type": "STATIC",
        "connect_timeout": "1s",
        # A host that is ejected stays reachable: the panic threshold is 100 %.
        "common_lb_config": {"healthy_panic_threshold": {"value": 100}},
        "lb_subset_config": {"subset_selectors": [{"keys": ["host"]}]},
        "outlier_detection": detection_json(world.settings),
        "load_assignment": {
            "cluster_name": world.name,
            "endpoints": [{"lb_endpoints": endpoints}],
        },
    }
    if world.settings.http_error_codes:
        out["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _matcher(world.settings)
        }
    return out


def _matcher(settings: OutlierDetection) -> Json:
    rules = [
        {
            "http_response_headers_match": {
                "headers": [{"name": ":status", "string_match": {"exact": str(code)}}]
            }
        }
        for code in settings.http_error_codes
    ]
    predicate = rules[0] if len(rules) == 1 else {"or_match": {"rules": rules}}
    return {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        "outlier_detection": {"error_matcher": predicate},
    }


def _listener(worlds: Sequence[World]) -> Json:
    hosts = [
        {
            "name": world.name,
            "domains": [world.name],
            "routes": [_route(world, host) for host in range(len(world.ports))],
        }
        for world in worlds
    ]
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "table0",
        "use_remote_address": True,
        "internal_address_config": {
            "cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]
        },
        "route_config": {"name": "table0", "virtual_hosts": hosts},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": "table0",
        "address": _address(0),
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }


def _route(world: World, host: int) -> Json:
    return {
        "match": {
            "prefix": "/",
            "headers": [{"name": _HOST, "string_match": {"exact": str(host)}}],
        },
        "route": {
            "cluster": world.name,
            "timeout": "5s",
            "metadata_match": _metadata(host),
        },
    }


class TheirSide:
    """Asks one running Envoy. One thread owns it."""

    def __init__(self, envoy: Envoy, upstreams: Upstreams, name: str) -> None:
        self._envoy = envoy
        self._upstreams = upstreams
        self._name = name
        self._sent = 0

    def send(self, world: World, host: int, step: Step, headers: Pairs = ()) -> Exchange:
        """One request to one host, which answers as ``step`` says."""
        self._sent += 1
        case = f"{self._name}-{self._sent}"
        key = self._upstreams.prepare("envoy", case, (step,))
        client = EnvoyClient(self._envoy.ports)
        request = Request(world.name, headers=((_HOST, str(host)), *headers))
        try:
            return client.send(0, request, key)
        except (ConnectionError, HTTPException) as error:  # a response that breaks off in its body
            return Exchange(0, (), b"", 0.0, error=str(error))
        finally:
            client.close()
            self._upstreams.take("envoy", case)

    def hosts(self, world: World) -> dict[int, dict[str, str]]:
        """What ``/clusters`` says of every host, by number."""
        text = self._envoy.ask(f"/clusters?filter=^{quote(world.name)}$")[1].decode()
        found: dict[int, dict[str, str]] = {host: {} for host in range(len(world.ports))}
        numbers = {f"127.0.0.1:{port}": host for host, port in enumerate(world.ports)}
        for line in text.splitlines():
            _, where, name, *value = line.split("::")
            if where in numbers:
                found[numbers[where]][name] = value[0] if value else ""
        return found

    def averages(self, world: World) -> dict[str, float]:
        """The cluster's line of success rates."""
        text = self._envoy.ask(f"/clusters?filter=^{quote(world.name)}$")[1].decode()
        lines = (line.split("::") for line in text.splitlines())
        return {parts[2]: float(parts[3]) for parts in lines if parts[1] == "outlier"}

    def stats(self, world: World) -> dict[str, int]:
        """Counters of outlier detection, by their last name."""
        prefix = f"cluster.{world.name}.outlier_detection."
        text = self._envoy.ask(f"/stats?filter=^{quote(prefix)}")[1].decode()
        pairs = (line.split(": ") for line in text.splitlines())
        return {name.removeprefix(prefix): int(value) for name, value in pairs}


def read_events(event_log: Path, worlds: Sequence[World]) -> Mapping[str, list[tuple[Any, ...]]]:
    """By world: host and action; for an ejection also its type and whether it is enforced."""
    by_name = {world.name: world for world in worlds}
    found: dict[str, list[tuple[Any, ...]]] = {world.name: [] for world in worlds}
    for line in event_log.read_text().splitlines():
        event = json.loads(line)
        world = by_name[event["cluster_name"]]
        host = world.ports.index(int(event["upstream_url"].rsplit(":", 1)[1]))
        ejected = event["action"] == "EJECT"
        what = (event["type"].lower(), event["enforced"]) if ejected else ()
        found[world.name].append((host, event["action"], *what))
    return found
