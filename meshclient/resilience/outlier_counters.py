"""What outlier detection counts for a cluster, under Envoy's names.

Plain numbers, written on the control thread only; nothing decides here.
Source: Envoy ``source/common/upstream/outlier_detection_impl.{h,cc}``; its deprecated
counters are kept, for old dashboards read them.
"""

from __future__ import annotations

CONSECUTIVE_5XX = "consecutive_5xx"
CONSECUTIVE_GATEWAY = "consecutive_gateway_failure"
CONSECUTIVE_LOCAL = "consecutive_local_origin_failure"
SUCCESS_RATE = "success_rate"
SUCCESS_RATE_LOCAL = "success_rate_local_origin"
FAILURE_PERCENTAGE = "failure_percentage"
FAILURE_PERCENTAGE_LOCAL = "failure_percentage_local_origin"

#: The event's word for a reason, and the word in counters, where they differ.
_IN_COUNTERS = {
    SUCCESS_RATE_LOCAL: "local_origin_success_rate",
    FAILURE_PERCENTAGE_LOCAL: "local_origin_failure_percentage",
}
_REASONS = (
    CONSECUTIVE_5XX,
    CONSECUTIVE_GATEWAY,
    CONSECUTIVE_LOCAL,
    SUCCESS_RATE,
    SUCCESS_RATE_LOCAL,
    FAILURE_PERCENTAGE,
    FAILURE_PERCENTAGE_LOCAL,
)

#: Reasons that the deprecated ``ejections_total`` counts, before the enforcing percentage.
_IN_TOTAL = frozenset({CONSECUTIVE_5XX, SUCCESS_RATE})


class OutlierCounters:
    """Envoy's ``cluster.<name>.outlier_detection.*``. One thread writes, any may read."""

    __slots__ = ("_values", "active")

    def __init__(self) -> None:
        #: Endpoints ejected at this moment (``ejections_active``).
        self.active = 0
        names = [_IN_COUNTERS.get(reason, reason) for reason in _REASONS]
        self._values = {
            "ejections_enforced_total": 0,
            "ejections_overflow": 0,
            **{f"ejections_detected_{name}": 0 for name in names},
            **{f"ejections_enforced_{name}": 0 for name in names},
            "ejections_detected_degradation": 0,
            "ejections_total": 0,
            "ejections_consecutive_5xx": 0,
            "ejections_success_rate": 0,
        }

    def detected(self, reason: str) -> None:
        """A check found an outlier."""
        self._values[f"ejections_detected_{_IN_COUNTERS.get(reason, reason)}"] += 1
        if reason == CONSECUTIVE_5XX:
            self._values["ejections_consecutive_5xx"] += 1
        elif reason in (SUCCESS_RATE, SUCCESS_RATE_LOCAL):
            self._values["ejections_success_rate"] += 1

    def permitted(self, reason: str) -> None:
        """``max_ejection_percent`` has room for it."""
        if reason in _IN_TOTAL:
            self._values["ejections_total"] += 1

    def enforced(self, reason: str) -> None:
        """It was ejected."""
        self._values["ejections_enforced_total"] += 1
        self._values[f"ejections_enforced_{_IN_COUNTERS.get(reason, reason)}"] += 1
        self.active += 1

    def overflowed(self) -> None:
        """``max_ejection_percent`` has no room for it."""
        self._values["ejections_overflow"] += 1

    def degraded(self) -> None:
        """An endpoint called itself degraded."""
        self._values["ejections_detected_degradation"] += 1

    def stats(self) -> dict[str, int]:
        """A copy, by Envoy's names."""
        return {"ejections_active": self.active, **self._values}
