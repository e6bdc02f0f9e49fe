"""The fields of outlier detection in the native policy file. Data only."""

from __future__ import annotations

from meshclient.config.native_shapes import COUNT, DURATION, FLAG, OUTLIER_FLAG, Section, Shape

_NUMBER: Shape = {"type": "integer", "minimum": 0, "maximum": 4294967295}
_PERCENT: Shape = {"type": "integer", "minimum": 0, "maximum": 100}

#: Fields that say how many of a hundred detections lead to an ejection.
_ENFORCING: Section = {
    "enforcing_consecutive_5xx": (_PERCENT, "Percent of detections that eject. Default 100."),
    "enforcing_consecutive_gateway_failure": (_PERCENT, "Default 100."),
    "enforcing_consecutive_local_origin_failure": (_PERCENT, "Default 100."),
    "enforcing_success_rate": (_PERCENT, "Default 100."),
    "enforcing_local_origin_success_rate": (_PERCENT, "Default 100."),
    "enforcing_failure_percentage": (_PERCENT, "Default 0: only detected."),
    "enforcing_failure_percentage_local_origin": (_PERCENT, "Default 0: only detected."),
}

OUTLIER_SECTIONS: dict[str, Section] = {
    "outlier_detection": {
        "consecutive_5xx": (
            _NUMBER,
            "5xx in a row before an endpoint is ejected; 0: off. Default 5.",
        ),
        "consecutive_gateway_failure": (_NUMBER, "502, 503, 504 in a row; 0: off. Default off."),
        OUTLIER_FLAG: (FLAG, "Count connect failures apart from replies. Default false."),
        "consecutive_local_origin_failure": (COUNT, "Connect failures in a row. Default 5."),
        "http_error_codes": (
            {"type": "array", "items": {"type": "integer", "minimum": 100, "maximum": 599}},
            "Statuses that count as errors, instead of every 5xx.",
        ),
        "interval": (DURATION, "Time between sweeps. Default 10s."),
        "base_ejection_time": (DURATION, "Grows with each ejection. Default 30s."),
        "max_ejection_time": (DURATION, "Default 300s, or the base if that is more."),
        "max_ejection_time_jitter": (DURATION, "Random time on top. Default 0."),
        "max_ejection_percent": (_PERCENT, "Most endpoints ejected at a time. Default 10."),
        "always_eject_one_host": (
            FLAG,
            "The first one regardless of the percentage. Default false.",
        ),
        "min_health_percent": (_PERCENT, "Off while fewer endpoints are healthy. Default 0."),
        "success_rate_minimum_hosts": (_NUMBER, "Endpoints with enough calls. Default 5."),
        "success_rate_request_volume": (
            _NUMBER,
            "Calls per interval that are enough. Default 100.",
        ),
        "success_rate_stdev_factor": (
            _NUMBER,
            "Thousandths of standard deviations below the mean. Default 1900.",
        ),
        "failure_percentage_threshold": (_PERCENT, "Failures that are too many. Default 85."),
        "failure_percentage_minimum_hosts": (_NUMBER, "Endpoints with enough calls. Default 5."),
        "failure_percentage_request_volume": (
            _NUMBER,
            "Calls per interval that are enough. Default 50.",
        ),
        **_ENFORCING,
        "successful_active_health_check_uneject_host": (
            FLAG,
            "A passed health check ends an ejection. Default true.",
        ),
        "detect_degraded_hosts": (
            FLAG,
            "Prefer others to endpoints that answer with x-envoy-degraded. Default false.",
        ),
    },
}
