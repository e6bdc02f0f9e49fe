"""Active health of one endpoint, as one check sees it: results in, flags and waits out.

A state machine without clock, randomness or I/O; who asks the endpoint, and when, is
the business of the runner. Source: Envoy,
``source/extensions/health_checkers/common/health_checker_base_impl.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

from meshclient.model.check_result import CheckResult
from meshclient.model.health import (
    ACTIVE_HC_TIMEOUT,
    DEGRADED_ACTIVE_HC,
    EXCLUDED_VIA_IMMEDIATE_HC_FAIL,
    FAILED_ACTIVE_HC,
    PENDING_ACTIVE_HC,
    HealthCheck,
)

#: The flags that belong to active checks alone.
ACTIVE_FLAGS: Final = (
    FAILED_ACTIVE_HC
    | ACTIVE_HC_TIMEOUT
    | DEGRADED_ACTIVE_HC
    | PENDING_ACTIVE_HC
    | EXCLUDED_VIA_IMMEDIATE_HC_FAIL
)

#: ``pending``: on the way to another state, the threshold is not reached.
Transition = Literal["unchanged", "pending", "changed"]

_NETWORK = ("network", "timeout")


class CheckState:
    """One check of one endpoint. One thread owns it.

    Begins as failed, and is ``first`` until a result came: that one decides alone when
    it is a success. A wrong answer fails the endpoint at once; no answer, and an answer
    among the retriable statuses, when it has happened ``unhealthy_threshold`` times running.
    """

    __slots__ = ("_failures", "_successes", "_transition", "first", "flags", "result", "settings")

    def __init__(self, settings: HealthCheck) -> None:
        self.settings = settings
        self.flags = FAILED_ACTIVE_HC
        self.first = True
        #: The last one; None before the first.
        self.result: CheckResult | None = None
        self._failures = 0
        self._successes = 0
        self._transition: Transition = "unchanged"

    @property
    def failed(self) -> bool:
        """Whether the endpoint is to be avoided."""
        return bool(self.flags & FAILED_ACTIVE_HC)

    def take(self, result: CheckResult) -> Transition:
        """Note a result; what it changed."""
        if result.immediate_failure:
            self.flags |= EXCLUDED_VIA_IMMEDIATE_HC_FAIL
        transition = self._pass(result) if result.passed else self._fail(result)
        self.first = False
        self.result = result
        if result.kind != "passive":  # which leaves the time of the next check alone
            self._transition = transition
        return transition

    def _pass(self, result: CheckResult) -> Transition:
        self._failures = 0
        transition: Transition = "unchanged"
        if self.failed:
            self._successes += 1
            if self.first or self._successes == self.settings.healthy_threshold:
                self.flags &= ~(
                    FAILED_ACTIVE_HC | ACTIVE_HC_TIMEOUT | EXCLUDED_VIA_IMMEDIATE_HC_FAIL
                )
                transition = "changed"
            else:
                transition = "pending"
        if result.degraded != bool(self.flags & DEGRADED_ACTIVE_HC):
            self.flags ^= DEGRADED_ACTIVE_HC
            if transition == "unchanged":
                transition = "changed"
        return transition

    def _fail(self, result: CheckResult) -> Transition:
        self._successes = 0
        transition: Transition = "unchanged"
        if not self.failed:
            transition = "changed" if self._is_enough(result) else "pending"
            if transition == "changed":
                self.flags |= FAILED_ACTIVE_HC
        # It says why the endpoint fails now, hence comes and goes while it does.
        self.flags &= ~ACTIVE_HC_TIMEOUT
        if result.kind == "timeout" and self.failed:
            self.flags |= ACTIVE_HC_TIMEOUT
        return transition

    def _is_enough(self, result: CheckResult) -> bool:
        if result.kind not in (*_NETWORK, "retriable"):
            return True  # nor is it counted
        self._failures += 1
        return self._failures == self.settings.unhealthy_threshold

    def wait_s(self, rand: Callable[[], int], traffic: bool) -> float:
        """Seconds from the end of the last check to the begin of the next, at least 0.001.

        ``traffic``: whether the cluster ever had any.
        """
        assert self.result is not None
        base = self._interval_s(self.result.passed, traffic)
        percent = self.settings.interval_jitter_percent
        return _jittered(base, percent, self.settings.interval_jitter_s, rand)

    def _interval_s(self, passed: bool, traffic: bool) -> float:
        settings, pending = self.settings, self._transition == "pending"
        if not traffic:
            idle = settings.no_traffic_healthy_interval_s
            if passed and not pending and idle is not None:
                return idle
            return settings.no_traffic_interval_s
        plain = settings.interval_s
        if passed:
            return _given(settings.healthy_edge_interval_s, plain) if pending else plain
        unhealthy = _given(settings.unhealthy_interval_s, plain)
        return _given(settings.unhealthy_edge_interval_s, unhealthy) if pending else unhealthy


def first_wait_s(settings: HealthCheck, rand: Callable[[], int]) -> float:
    """Seconds to the first check of a new endpoint; 0 without ``initial_jitter_s``."""
    if not _milliseconds(settings.initial_jitter_s):
        return 0.0
    return _jittered(0.0, 0, settings.initial_jitter_s, rand)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _jittered(base_s: float, percent: int, jitter_s: float, rand: Callable[[], int]) -> float:
    """Envoy's arithmetic, in whole milliseconds; the end of both ranges is not in them."""
    wait = base = _milliseconds(base_s)
    share = percent * base // 100
    if share > 0:
        wait += rand() % share
    jitter = _milliseconds(jitter_s)
    if jitter > 0:
        wait += rand() % jitter
    return max(1, wait) / 1000


def combined_flags(checks: Iterable[CheckState], wait_for_first: bool) -> int:
    """Flags of an endpoint with several checks: what one of them raises, stands.

    Hence it is healthy only if all pass. ``wait_for_first``: it is left out of all counts
    until every check had a result.
    """
    flags = 0
    for check in checks:
        flags |= check.flags
        if wait_for_first and check.first:
            flags |= PENDING_ACTIVE_HC
    return flags


__all__ = ["ACTIVE_FLAGS", "CheckState", "Transition", "combined_flags", "first_wait_s"]
