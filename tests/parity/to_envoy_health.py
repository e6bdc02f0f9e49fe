"""Active health checks, said in Envoy's v3 configuration."""

from __future__ import annotations

from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import Endpoint
from meshclient.model.health import HealthCheck

from .to_envoy_routes import Json, seconds

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def health_json(cluster: Cluster) -> Json:
    """What checks add to a ``Cluster``; nothing where there are none."""
    policy = cluster.policy
    if not policy.health_checks:
        return {}
    out: Json = {
        "health_checks": [
            _check(check, cluster.protocol == "h2") for check in policy.health_checks
        ],
        "ignore_health_on_host_removal": policy.ignore_health_on_host_removal,
    }
    if cluster.protocol == "h2" or any(c.kind == "grpc" for c in policy.health_checks):
        options = {
            "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        out["typed_extension_protocol_options"] = {_HTTP_OPTIONS: options}
    return out


def endpoint_health_json(endpoint: Endpoint) -> Json:
    """``Endpoint.health_check_config``."""
    return {
        "port_value": endpoint.health_check_port,
        "hostname": endpoint.health_check_hostname,
        "disable_active_health_check": not endpoint.health_check,
    }


def _check(check: HealthCheck, http2: bool) -> Json:
    out: Json = {
        "timeout": seconds(check.timeout_s),
        "interval": seconds(check.interval_s),
        "unhealthy_threshold": check.unhealthy_threshold,
        "healthy_threshold": check.healthy_threshold,
        "reuse_connection": check.reuse_connection,
        "no_traffic_interval": seconds(check.no_traffic_interval_s),
        "interval_jitter_percent": check.interval_jitter_percent,
    }
    if check.name:
        out["name"] = check.name
    for name in (
        "initial_jitter",
        "interval_jitter",
        "no_traffic_healthy_interval",
        "unhealthy_interval",
        "unhealthy_edge_interval",
        "healthy_edge_interval",
    ):
        value = getattr(check, f"{name}_s")
        if value:
            out[name] = seconds(value)
    out[f"{check.kind}_health_check"] = _KINDS[check.kind](check, http2)
    return out


def _http(check: HealthCheck, http2: bool) -> Json:
    headers = [
        {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for name, value in check.headers
    ]
    return {
        "path": check.path,
        "host": check.host,
        "method": check.method,
        "request_headers_to_add": headers,
        "expected_statuses": _ranges(check.expected_statuses),
        "retriable_statuses": _ranges(check.retriable_statuses),
        "receive": [_hex(segment) for segment in check.receive],
        "codec_client_type": "HTTP2" if http2 else "HTTP1",
    }


def _tcp(check: HealthCheck, _http2: bool) -> Json:
    out: Json = {"receive": [_hex(segment) for segment in check.receive]}
    if check.send:
        out["send"] = _hex(check.send)
    return out


def _grpc(check: HealthCheck, _http2: bool) -> Json:
    return {"service_name": check.service, "authority": check.host}


def _hex(segment: bytes) -> Json:
    return {"text": segment.hex()}


def _ranges(ranges: tuple[tuple[int, int], ...]) -> list[Json]:
    return [{"start": start, "end": end} for start, end in ranges]


_KINDS = {"http": _http, "tcp": _tcp, "grpc": _grpc}
