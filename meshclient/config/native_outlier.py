"""``outlier_detection`` of the native file: Reader to settings, and what cannot work.

Ejects nobody. Names, units and defaults are Envoy's, but that gateway failures are
not counted unless a number says so (Envoy counts and never ejects).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshclient.config.istio_outlier import inert_suggestion, is_inert
from meshclient.config.native_shapes import OUTLIER_FLAG
from meshclient.config.native_values import finish, flag_of, integer_of, limit_of, seconds_of
from meshclient.config.reader import Reader
from meshclient.model.cluster import Cluster, OutlierDetection

_DEFAULT = OutlierDetection()
_PERCENTS = (
    "max_ejection_percent",
    "min_health_percent",
    "failure_percentage_threshold",
    "enforcing_consecutive_5xx",
    "enforcing_consecutive_gateway_failure",
    "enforcing_success_rate",
    "enforcing_failure_percentage",
)
_LOCAL_PERCENTS = (
    "enforcing_consecutive_local_origin_failure",
    "enforcing_local_origin_success_rate",
    "enforcing_failure_percentage_local_origin",
)
_NUMBERS = (
    "success_rate_minimum_hosts",
    "success_rate_request_volume",
    "success_rate_stdev_factor",
    "failure_percentage_minimum_hosts",
    "failure_percentage_request_volume",
)


def read_outlier_detection(r: Reader) -> OutlierDetection:
    """One ``outlier_detection`` block."""
    split = flag_of(r, OUTLIER_FLAG)
    _refuse_without_split(r, split)
    integers: dict[str, Any] = {
        name: integer_of(r, name, getattr(_DEFAULT, name), 0, 100)
        for name in (*_PERCENTS, *_LOCAL_PERCENTS)
    }
    for name in _NUMBERS:
        integers[name] = integer_of(r, name, getattr(_DEFAULT, name), 0)
    passed = "successful_active_health_check_uneject_host"
    codes = r.field("http_error_codes")
    detection = OutlierDetection(
        consecutive_5xx=integer_of(r, "consecutive_5xx", 5, 0) or None,
        consecutive_gateway_failure=integer_of(r, "consecutive_gateway_failure", 0, 0) or None,
        split_external_local_origin_errors=split,
        consecutive_local_origin_failure=integer_of(r, "consecutive_local_origin_failure", 5),
        always_eject_one_host=flag_of(r, "always_eject_one_host"),
        successful_active_health_check_uneject_host=flag_of(r, passed, True),
        detect_degraded_hosts=flag_of(r, "detect_degraded_hosts"),
        http_error_codes=_codes(codes) if codes is not None else (),
        **_times(r),
        **integers,
    )
    finish(r, "outlier_detection")
    return detection


def _times(r: Reader) -> dict[str, Any]:
    base_s = seconds_of(r, "base_ejection_time", _DEFAULT.base_ejection_time_s)
    most_s = seconds_of(r, "max_ejection_time", max(_DEFAULT.max_ejection_time_s, base_s))
    if base_s > most_s:
        r.error("max_ejection_time is less than base_ejection_time")
    return {
        "interval_s": seconds_of(r, "interval", _DEFAULT.interval_s),
        "base_ejection_time_s": base_s,
        "max_ejection_time_s": most_s,
        "max_ejection_time_jitter_s": limit_of(r, "max_ejection_time_jitter", None) or 0.0,
    }


def _refuse_without_split(r: Reader, split: bool) -> None:
    for name in ("consecutive_local_origin_failure", *_LOCAL_PERCENTS):
        field = r.field(name)
        if field is not None and not split:
            field.error(f"has no effect without {OUTLIER_FLAG}: true")


def _codes(r: Reader) -> tuple[int, ...]:
    found = (item.integer(100, 599) for item in r.elements())
    return tuple(dict.fromkeys(code for code in found if code is not None))


def warn_if_inert(r: Reader, clusters: Iterable[Cluster]) -> None:
    """A service some of whose clusters are too small to ever lose an endpoint."""
    for cluster in clusters:
        detection, size = cluster.policy.outlier_detection, len(cluster.endpoints)
        if detection is None or not is_inert(detection, size):
            continue
        at = r.field("outlier_detection") or r
        where = f' of subset "{cluster.subset}"' if cluster.subset else ""
        at.warning(
            f"no endpoint can ever be ejected: {detection.max_ejection_percent} % of "
            f"{size} endpoints{where} is less than one",
            code="outlier-inert",
            suggestion=inert_suggestion("max_ejection_percent", size)
            + ", or always_eject_one_host: true",
        )
        return
