"""``outlierDetection`` blocks.

Reads and checks; nobody is ejected here. Istio turns both success rates off, leaves
the failure percentages at Envoy's default (detected, never enforced), never sets
``always_eject_one_host``, and a 0 turns a check off. Source: Istio
``pilot/pkg/networking/core/cluster_traffic_policy.go`` (``applyOutlierDetection``).
"""

from __future__ import annotations

from dataclasses import dataclass

from meshclient.config.reader import Reader
from meshclient.model.cluster import OutlierDetection


@dataclass(frozen=True, slots=True)
class OutlierBlock:
    """``reader`` is where the block stands, for findings about the cluster."""

    detection: OutlierDetection
    reader: Reader


def read_outlier_detection(block: Reader) -> OutlierBlock:
    """One ``outlierDetection`` block."""
    old = block.field("consecutiveErrors")
    if old is not None:
        old.integer(0)
        old.warning(
            "outlier detection consecutive errors is deprecated and has no effect",
            code="IST0002",
            suggestion="use consecutive5xxErrors",
        )
    consecutive = _count(block, "consecutive5xxErrors")
    return _read_common(block, 5 if consecutive is None else consecutive or None)


def _count(block: Reader, name: str, maximum: int = 2**31 - 1) -> int | None:
    field = block.field(name)
    return field.integer(0, maximum) if field is not None else None


def _duration(block: Reader, name: str, default_s: float) -> float:
    field = block.field(name)
    value = field.go_duration() if field is not None else None
    return default_s if value is None else value


def _read_common(block: Reader, consecutive: int | None) -> OutlierBlock:
    gateway = _count(block, "consecutiveGatewayErrors")
    split_field = block.field("splitExternalLocalOriginErrors")
    split = bool(split_field.boolean()) if split_field is not None else False
    local_field = block.field("consecutiveLocalOriginFailures")
    local = _count(block, "consecutiveLocalOriginFailures")
    if local_field is not None and local and not split:
        local_field.error(
            "outlier detection consecutive local origin failures is specified, but split "
            "external local origin errors is set to false",
            code="outlier",
            suggestion="set splitExternalLocalOriginErrors: true",
        )
    percent = _count(block, "maxEjectionPercent", 100)
    base_s = _duration(block, "baseEjectionTime", 30.0)
    detection = OutlierDetection(
        consecutive_5xx=consecutive,
        consecutive_gateway_failure=gateway or None,
        split_external_local_origin_errors=split,
        # A 0 leaves Envoy's default, unlike that of the other two.
        consecutive_local_origin_failure=local or 5,
        interval_s=_duration(block, "interval", 10.0),
        base_ejection_time_s=base_s,
        max_ejection_time_s=max(300.0, base_s),
        max_ejection_percent=percent or 10,
        min_health_percent=_count(block, "minHealthPercent", 100) or 0,
        enforcing_success_rate=0,
        enforcing_local_origin_success_rate=0 if split else 100,
        http_error_codes=_error_codes(block),
    )
    block.finish("outlierDetection")
    return OutlierBlock(detection, block)


def _error_codes(block: Reader) -> tuple[int, ...]:
    codes = block.field("outlierDetectionHttpErrorCodes")
    found = (code.integer(100, 599) for code in codes.elements()) if codes is not None else ()
    return tuple(dict.fromkeys(code for code in found if code is not None))


def is_inert(detection: OutlierDetection, endpoints: int) -> bool:
    """Whether not even one of ``endpoints`` could ever be ejected.

    Envoy (1.28 and later) ejects only while 100 x (ejected + 1) / endpoints stays
    within ``max_ejection_percent``, unless it always ejects one.
    """
    if detection.always_eject_one_host:
        return False
    return endpoints > 0 and 100 / endpoints > detection.max_ejection_percent


def inert_suggestion(field: str, endpoints: int) -> str:
    """The least percentage that lets one of ``endpoints`` go."""
    return f"set {field}: {-(-100 // endpoints)} or more"
