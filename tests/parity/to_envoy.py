"""Our model, said in Envoy's v3 bootstrap (JSON): listeners and clusters.

Routes are in :mod:`.to_envoy_routes`; nothing is dropped in silence here either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshclient.model.cluster import Cluster, ClusterPolicy, Limits
from meshclient.model.retry import RetryBudget
from meshclient.model.routes import Fault, RouteConfiguration

from .to_envoy_health import endpoint_health_json, health_json
from .to_envoy_routes import (
    FAULT_FILTER,
    Json,
    Untranslatable,
    fault_json,
    seconds,
    table_json,
)

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_BALANCERS = {
    "round_robin": "ROUND_ROBIN",
    "least_request": "LEAST_REQUEST",
    "random": "RANDOM",
    "ring_hash": "RING_HASH",
    "maglev": "MAGLEV",
}


def bootstrap(
    tables: Sequence[RouteConfiguration], clusters: Mapping[str, Cluster], admin_log: str
) -> Json:
    """A whole static bootstrap: one listener on a free port per route configuration."""
    out: Json = {
        "admin": {
            "address": _address("127.0.0.1", 0),
            "access_log": [],
            "profile_path": admin_log,
        },
        "static_resources": {
            "listeners": [_listener(index, table) for index, table in enumerate(tables)],
            "clusters": [cluster_json(cluster) for cluster in clusters.values()],
        },
    }
    return _as_utf8(out)  # type: ignore[no-any-return]


def _as_utf8(value: Any) -> Any:
    """Model text is one character per byte of the wire; Envoy's configuration is UTF-8."""
    if isinstance(value, str):
        return value.encode("latin-1").decode("utf-8")
    if isinstance(value, list):
        return [_as_utf8(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_utf8(item) for key, item in value.items()}
    return value


def _listener(index: int, table: RouteConfiguration) -> Json:
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": f"table{index}",
        # Without these two, Envoy deletes x-envoy-* control headers as untrusted.
        "use_remote_address": True,
        "internal_address_config": {
            "cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]
        },
        # What belongs to a proxy in the path, not to a client library.
        "generate_request_id": False,
        "skip_xff_append": True,
        "server_header_transformation": "PASS_THROUGH",
        "route_config": table_json(table),
        "http_filters": [
            {"name": FAULT_FILTER, "typed_config": fault_json(Fault())},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_HTTP}.router.v3.Router",
                },
            },
        ],
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    return {
        "name": f"table{index}",
        "address": _address("127.0.0.1", 0),
        "filter_chains": [chain],
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def cluster_json(cluster: Cluster) -> Json:
    """A static ``Cluster`` in plain HTTP/1.1."""
    policy = cluster.policy
    if policy.tls is not None or policy.outlier_detection is not None:
        raise Untranslatable("TLS and outlier detection are not generated")
    return health_json(cluster) | {
        "name": cluster.name,
        "type": "STATIC",
        "connect_timeout": seconds(policy.connection.connect_timeout_s),
        "lb_policy": _BALANCERS[policy.load_balancing.policy],
        "common_lb_config": {"healthy_panic_threshold": {"value": policy.panic_threshold_percent}},
        "circuit_breakers": _circuit_breakers(policy),
        "load_assignment": {
            "cluster_name": cluster.name,
            "endpoints": [{"lb_endpoints": list(_endpoints(cluster))}] if cluster.endpoints else [],
        },
    }


def _circuit_breakers(policy: ClusterPolicy) -> Json:
    priorities = {"DEFAULT": policy.limits, "HIGH": policy.high_priority_limits}
    return {
        "thresholds": [
            {"priority": name} | _thresholds(limits) for name, limits in priorities.items()
        ],
        "per_host_thresholds": [
            {"priority": name, "max_connections": limits.max_connections_per_endpoint}
            for name, limits in priorities.items()
        ],
    }


def _thresholds(limits: Limits) -> Json:
    out: Json = {
        "max_connections": limits.max_connections,
        "max_pending_requests": limits.max_pending_requests,
        "max_requests": limits.max_requests,
        "max_retries": limits.max_retries,
    }
    budget = limits.retry_budget
    if isinstance(budget, RetryBudget):
        out["retry_budget"] = {
            "budget_percent": {"value": budget.percent},
            "min_retry_concurrency": budget.min_concurrency,
        }
    return out


def _endpoints(cluster: Cluster) -> Iterable[Json]:
    for endpoint in cluster.endpoints:
        yield {
            "endpoint": {
                "address": _address(endpoint.address, endpoint.port),
                "hostname": endpoint.hostname,
                "health_check_config": endpoint_health_json(endpoint),
            },
            "load_balancing_weight": endpoint.weight,
            "health_status": endpoint.health.upper(),
        }
