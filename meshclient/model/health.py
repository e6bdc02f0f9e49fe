"""Endpoint health: Envoy's flags, and the settings of passive and active checking.

Values only. Who raises a flag: discovery (``*_EDS_*``), active checks
(``*_ACTIVE_HC``), outlier detection (``*_OUTLIER_*``); each clears its own alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Bits of EndpointState.flags. Plain integers: an IntFlag costs a microsecond per test.
FAILED_ACTIVE_HC = 1
FAILED_OUTLIER_CHECK = 1 << 1
FAILED_EDS_HEALTH = 1 << 2
DEGRADED_ACTIVE_HC = 1 << 3
DEGRADED_EDS_HEALTH = 1 << 4
DEGRADED_OUTLIER_DETECTION = 1 << 5
PENDING_DYNAMIC_REMOVAL = 1 << 6
PENDING_ACTIVE_HC = 1 << 7
EXCLUDED_VIA_IMMEDIATE_HC_FAIL = 1 << 8
ACTIVE_HC_TIMEOUT = 1 << 9
EDS_STATUS_DRAINING = 1 << 10

#: Any of these: the endpoint gets no traffic but in panic.
UNHEALTHY = FAILED_ACTIVE_HC | FAILED_OUTLIER_CHECK | FAILED_EDS_HEALTH | EDS_STATUS_DRAINING
#: Any of these, and none of the above: traffic only where healthy endpoints do not suffice.
DEGRADED = DEGRADED_ACTIVE_HC | DEGRADED_EDS_HEALTH | DEGRADED_OUTLIER_DETECTION
#: Any of these: not counted when the health of a priority is computed.
EXCLUDED = PENDING_ACTIVE_HC | EXCLUDED_VIA_IMMEDIATE_HC_FAIL | EDS_STATUS_DRAINING

#: What discovery's word for an endpoint raises.
DISCOVERED = {
    "healthy": 0,
    "unhealthy": FAILED_EDS_HEALTH,
    "draining": EDS_STATUS_DRAINING,
    "degraded": DEGRADED_EDS_HEALTH,
}
_DISCOVERY_FLAGS = FAILED_EDS_HEALTH | EDS_STATUS_DRAINING | DEGRADED_EDS_HEALTH

_NAMES = (
    (FAILED_ACTIVE_HC, "failed_active_hc"),
    (FAILED_OUTLIER_CHECK, "failed_outlier_check"),
    (FAILED_EDS_HEALTH, "failed_eds_health"),
    (DEGRADED_ACTIVE_HC, "degraded_active_hc"),
    (DEGRADED_EDS_HEALTH, "degraded_eds_health"),
    (DEGRADED_OUTLIER_DETECTION, "degraded_outlier_detection"),
    (PENDING_DYNAMIC_REMOVAL, "pending_dynamic_removal"),
    (PENDING_ACTIVE_HC, "pending_active_hc"),
    (EXCLUDED_VIA_IMMEDIATE_HC_FAIL, "excluded_via_immediate_hc_fail"),
    (ACTIVE_HC_TIMEOUT, "active_hc_timeout"),
    (EDS_STATUS_DRAINING, "eds_status_draining"),
)


def flag_names(flags: int) -> str:
    """``healthy``, or Envoy's words as its admin page prints them: ``/failed_active_hc/…``."""
    return "".join(f"/{name}" for bit, name in _NAMES if flags & bit) or "healthy"


def with_discovered(flags: int, health: str) -> int:
    """``flags`` with discovery's own bits set as its word ``health`` says."""
    return (flags & ~_DISCOVERY_FLAGS) | DISCOVERED[health]


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Passive health. Names, units and defaults are Envoy's; percents are 0-100.

    None for a consecutive counter: that check is off. ``max_ejection_time_s``
    below ``base_ejection_time_s`` counts as the latter. ``min_health_percent`` is
    Istio's: it only moves the panic threshold. ``success_rate_stdev_factor`` is in
    thousandths. ``http_error_codes``: the statuses of responses that count as
    errors, instead of all from 500 on.
    """

    consecutive_5xx: int | None = 5
    consecutive_gateway_failure: int | None = None
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failure: int = 5
    interval_s: float = 10.0
    base_ejection_time_s: float = 30.0
    max_ejection_time_s: float = 300.0
    max_ejection_percent: int = 10
    min_health_percent: int = 0
    max_ejection_time_jitter_s: float = 0.0
    always_eject_one_host: bool = False
    enforcing_consecutive_5xx: int = 100
    enforcing_consecutive_gateway_failure: int = 100
    enforcing_consecutive_local_origin_failure: int = 100
    success_rate_minimum_hosts: int = 5
    success_rate_request_volume: int = 100
    success_rate_stdev_factor: int = 1900
    enforcing_success_rate: int = 100
    enforcing_local_origin_success_rate: int = 100
    failure_percentage_threshold: int = 85
    failure_percentage_minimum_hosts: int = 5
    failure_percentage_request_volume: int = 50
    enforcing_failure_percentage: int = 0
    enforcing_failure_percentage_local_origin: int = 0
    successful_active_health_check_uneject_host: bool = True
    detect_degraded_hosts: bool = False
    http_error_codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One active check of a cluster's endpoints. Names and defaults are Envoy's;
    None for an interval: it follows ``interval_s``.

    ``kind`` says how: ``http`` (``path``, ``host``, ``headers``, ``expected_statuses`` as
    half-open ranges, ``retriable_statuses``, ``receive``: a text that the first 1024
    bytes of the body must hold), ``tcp`` (``send``, ``receive`` as bytes; neither:
    connecting is enough) or ``grpc`` (``service`` of grpc.health.v1, ``host`` as the
    authority). ``port`` 0: the endpoint's own.
    """

    kind: Literal["http", "tcp", "grpc"]
    timeout_s: float = 1.0
    interval_s: float = 5.0
    unhealthy_threshold: int = 3
    healthy_threshold: int = 2
    name: str = ""
    path: str = "/"
    method: str = "GET"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    expected_statuses: tuple[tuple[int, int], ...] = ((200, 201),)
    retriable_statuses: tuple[tuple[int, int], ...] = ()
    send: bytes = b""
    receive: tuple[bytes, ...] = ()
    service: str = ""
    port: int = 0
    reuse_connection: bool = True
    initial_jitter_s: float = 0.0
    interval_jitter_s: float = 0.0
    interval_jitter_percent: int = 0
    no_traffic_interval_s: float = 60.0
    no_traffic_healthy_interval_s: float | None = None
    unhealthy_interval_s: float | None = None
    unhealthy_edge_interval_s: float | None = None
    healthy_edge_interval_s: float | None = None


__all__ = [
    "ACTIVE_HC_TIMEOUT",
    "DEGRADED",
    "DEGRADED_ACTIVE_HC",
    "DEGRADED_EDS_HEALTH",
    "DEGRADED_OUTLIER_DETECTION",
    "EDS_STATUS_DRAINING",
    "EXCLUDED",
    "EXCLUDED_VIA_IMMEDIATE_HC_FAIL",
    "FAILED_ACTIVE_HC",
    "FAILED_EDS_HEALTH",
    "FAILED_OUTLIER_CHECK",
    "PENDING_ACTIVE_HC",
    "PENDING_DYNAMIC_REMOVAL",
    "UNHEALTHY",
    "HealthCheck",
    "OutlierDetection",
    "flag_names",
    "with_discovered",
]
