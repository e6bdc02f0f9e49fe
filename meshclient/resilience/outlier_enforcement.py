"""Whether an endpoint that was found wanting may be ejected.

Pure rules; counts and ejects nothing. Source: Envoy ``DetectorImpl::ejectHost``,
``enforceEjection``.
"""

from __future__ import annotations

from meshclient.model.health import OutlierDetection
from meshclient.resilience import outlier_counters as counters


def is_allowed(settings: OutlierDetection, ejected: int, endpoints: int) -> bool:
    """Whether one more may be ejected of ``endpoints``, of which ``ejected`` are already.

    100 x (ejected + 1) / endpoints must stay within ``max_ejection_percent``: with the
    default of 10, a cluster of nine never loses one. ``always_eject_one_host`` lets the
    first one go regardless.
    """
    if settings.always_eject_one_host and not ejected:
        return True
    return 100.0 * (ejected + 1) / endpoints <= min(100, settings.max_ejection_percent)


def enforcing_percent(settings: OutlierDetection, reason: str) -> int:
    """How many of a hundred detections for ``reason`` lead to an ejection."""
    return {
        counters.CONSECUTIVE_5XX: settings.enforcing_consecutive_5xx,
        counters.CONSECUTIVE_GATEWAY: settings.enforcing_consecutive_gateway_failure,
        counters.CONSECUTIVE_LOCAL: settings.enforcing_consecutive_local_origin_failure,
        counters.SUCCESS_RATE: settings.enforcing_success_rate,
        counters.SUCCESS_RATE_LOCAL: settings.enforcing_local_origin_success_rate,
        counters.FAILURE_PERCENTAGE: settings.enforcing_failure_percentage,
        counters.FAILURE_PERCENTAGE_LOCAL: settings.enforcing_failure_percentage_local_origin,
    }[reason]
