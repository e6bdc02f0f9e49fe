"""The fields of active health checks in the native policy file. Data only."""

from __future__ import annotations

from meshclient.config.native_shapes import (
    COUNT,
    DURATION,
    FLAG,
    NAME,
    PERCENT,
    PORT,
    TEXT,
    TEXT_MAP,
    Section,
    Shape,
    choice,
    either,
    one_or_many,
    ref,
)

#: What HTTP checks may ask with: Envoy's list, CONNECT left out as there.
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")

_STATUS: Shape = either(
    {"type": "integer", "minimum": 100, "maximum": 599},
    {"type": "string", "pattern": "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$"},
)
_BYTES: Shape = either(NAME, ref("bytes"))

#: Keys of a service and of a subset.
HEALTH: Section = {
    "health_check": (ref("health_check"), "How endpoints are asked whether they are well."),
    "health_checks": (
        {"type": "array", "items": ref("health_check")},
        "Several checks; an endpoint is healthy only if all pass.",
    ),
    "ignore_health_on_host_removal": (
        FLAG,
        "Drop an endpoint as soon as discovery does, even while its checks pass. Default false.",
    ),
    "ignore_new_hosts_until_first_hc": (
        FLAG,
        "Do not count a new endpoint before its first check. Default false.",
    ),
}

#: The key of an endpoint.
ENDPOINT_STATES = ("healthy", "unhealthy", "draining", "degraded")

ENDPOINT_HEALTH: Section = {
    "health": (
        choice(*ENDPOINT_STATES),
        "draining: no new calls, those under way end in peace. Default healthy.",
    ),
    "health_check": (
        either(FLAG, ref("endpoint_health_check")),
        "false: active checks leave this endpoint alone.",
    ),
}

HEALTH_SECTIONS: dict[str, Section] = {
    "endpoint_health_check": {
        "port": (PORT, "Where checks connect. Default: the endpoint's port."),
        "hostname": (NAME, "The host that checks of this endpoint name."),
    },
    "health_check": {
        "http": (either(NAME, ref("http_check")), "An HTTP request; or just its path."),
        "tcp": (ref("tcp_check"), "A connection, and perhaps bytes; {} just connects."),
        "grpc": (
            either(NAME, ref("grpc_check")),
            "grpc.health.v1.Health/Check; or just the name of the service.",
        ),
        "name": (NAME, "Tells several checks apart; needed then."),
        "port": (PORT, "Where the check connects. Default: the endpoint's port."),
        "timeout": (DURATION, "Most time for one check, connecting included. Default 1s."),
        "interval": (DURATION, "From the end of one check to the next. Default 5s."),
        "unhealthy_threshold": (
            COUNT,
            "Checks without answer in a row until unhealthy; a wrong answer needs one. Default 3.",
        ),
        "healthy_threshold": (
            COUNT,
            "Passed checks in a row until healthy again; the first ever needs one. Default 2.",
        ),
        "reuse_connection": (FLAG, "Keep the connection between checks. Default true."),
        "initial_jitter": (DURATION, "The first check waits up to so long. Default 0."),
        "interval_jitter": (DURATION, "Added to each interval, at random. Default 0."),
        "interval_jitter_percent": (PERCENT, "Share of the interval added at random. Default 0."),
        "no_traffic_interval": (
            DURATION,
            "Interval before the service was called for the first time. Default 60s.",
        ),
        "no_traffic_healthy_interval": (
            DURATION,
            "The same for healthy endpoints. Default: no_traffic_interval.",
        ),
        "unhealthy_interval": (DURATION, "For unhealthy endpoints. Default: interval."),
        "unhealthy_edge_interval": (
            DURATION,
            "While failures are counted. Default: unhealthy_interval.",
        ),
        "healthy_edge_interval": (DURATION, "While successes are counted. Default: interval."),
    },
    "http_check": {
        "path": (NAME, "Path and query. Default /."),
        "method": (choice(*METHODS), "Default GET."),
        "host": (NAME, "Host header. Default: the service's name."),
        "headers": (TEXT_MAP, "Further request headers."),
        "expected_statuses": (
            one_or_many(_STATUS),
            "What passes: statuses and ranges such as 200-299. Default 200.",
        ),
        "retriable_statuses": (
            one_or_many(_STATUS),
            "What fails only after unhealthy_threshold times. Default none.",
        ),
        "receive": (
            one_or_many(_BYTES),
            "What the first 1024 bytes of the body must hold, in this order. Default anything.",
        ),
    },
    "tcp_check": {
        "send": (_BYTES, "Sent after connecting. Default nothing."),
        "receive": (
            one_or_many(_BYTES),
            "What the answer must hold, in this order. Default: connecting is enough.",
        ),
    },
    "grpc_check": {
        "service_name": (NAME, "The service that is asked about. Default: the whole server."),
        "authority": (TEXT, "The :authority. Default: the service's name."),
        "metadata": (TEXT_MAP, "Further metadata."),
    },
    "bytes": {"hex": ({"type": "string", "pattern": "^([0-9a-fA-F]{2})+$"}, "Bytes in hex.")},
}
