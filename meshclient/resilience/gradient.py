"""The gradient controller: how many calls may be in flight, from how long they take.

Decides by times that it is told; a window that ended while nothing happened is closed when
something does. Not thread-safe. Source: Envoy
``filters/http/adaptive_concurrency/controller/gradient_controller.cc``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, inf, sqrt

from meshclient.model.concurrency import AdaptiveConcurrency
from meshclient.resilience.latency_histogram import LatencyHistogram

#: After so many windows at the least concurrency the least latency is measured anew.
WINDOWS_AT_MIN = 5


class GradientController:
    """One limit and what it follows from.

    ``limit``, ``min_rtt_s``, ``sample_rtt_s``, ``gradient``, ``burst_queue_size``,
    ``min_rtt_calculation_active`` and ``rq_blocked`` are Envoy's statistics.
    """

    __slots__ = (
        "_at_min",
        "_deferred",
        "_epoch",
        "_histogram",
        "_min_rtt_due",
        "_rand",
        "_sample_due",
        "_settings",
        "_started",
        "burst_queue_size",
        "gradient",
        "in_flight",
        "limit",
        "min_rtt_s",
        "rq_blocked",
        "sample_rtt_s",
    )

    def __init__(self, settings: AdaptiveConcurrency) -> None:
        self._settings = settings
        self._histogram = LatencyHistogram()
        self._started = False
        self._sample_due = inf
        self._min_rtt_due = inf
        self._epoch = 0.0
        #: The limit to go back to after the measurement; 0: there is none.
        self._deferred = 0
        self._at_min = 0
        self._rand: Callable[[], int] = lambda: 0
        self.limit = settings.min_concurrency
        self.in_flight = 0
        self.min_rtt_s = settings.fixed_min_rtt_s or 0.0
        self.sample_rtt_s = 0.0
        self.gradient = 0.0
        self.burst_queue_size = 0.0
        self.rq_blocked = 0

    @property
    def min_rtt_calculation_active(self) -> bool:
        """Whether the least latency is being measured."""
        return self._deferred > 0

    def admit(self, now: float, rand: Callable[[], int]) -> bool:
        """Whether one more call may be in flight; then it is counted in."""
        self._rand = rand
        self.advance(now)
        if self.in_flight >= self.limit:
            self.rq_blocked += 1
            return False
        self.in_flight += 1
        return True

    def release(self, started: float, now: float) -> None:
        """A call that began at ``started`` has its whole answer."""
        self.advance(now)
        self.in_flight -= 1
        if started < self._epoch:  # it belongs to the time before the measurement
            return
        microseconds = max(0, int((now - started) * 1e6))
        self._histogram.insert(microseconds)
        if self._deferred and self._histogram.count >= self._settings.min_rtt_requests:
            self._end_measurement(now)

    def cancel(self, now: float) -> None:
        """A call ended without an answer; how long it took says nothing."""
        self.advance(now)
        self.in_flight -= 1

    def advance(self, now: float) -> None:
        """Do what was due until ``now``, in its order."""
        if not self._started:
            self._start(now)
        while min(self._sample_due, self._min_rtt_due) <= now:
            if self._min_rtt_due <= self._sample_due:
                self._begin_measurement(self._min_rtt_due)
            elif self._deferred:
                self._sample_due = inf  # the measurement starts it again
            else:
                self._end_window(now)

    def _start(self, now: float) -> None:
        self._started = True
        self._sample_due = now + self._settings.update_interval_s
        if self._settings.fixed_min_rtt_s is None:
            self._begin_measurement(now)

    def _begin_measurement(self, at: float) -> None:
        self._min_rtt_due = inf
        if self._deferred:
            return
        self._deferred = self.limit
        self._set_limit(self._settings.min_concurrency, at)
        self._histogram.clear()
        self._epoch = at

    def _end_measurement(self, now: float) -> None:
        settings = self._settings
        self.min_rtt_s = self._take_percentile()
        deferred = self._deferred
        self._set_limit(deferred, now)
        self._deferred = 0
        self._min_rtt_due = now + self._jittered(settings.min_rtt_interval_s)
        self._sample_due = now + settings.update_interval_s

    def _jittered(self, interval_s: float) -> float:
        """Up to ``jitter_percent`` longer, in whole milliseconds."""
        spread_ms = ceil(interval_s * 1000 * self._settings.jitter_percent / 100)
        return interval_s + (self._rand() % spread_ms) / 1000 if spread_ms else interval_s

    def _end_window(self, now: float) -> None:
        interval_s, at = self._settings.update_interval_s, self._sample_due
        if self._histogram.count:
            self.sample_rtt_s = self._take_percentile()
            self._set_limit(self._new_limit(), at)
        # The windows that followed without a call change nothing.
        passed = max(0, floor((min(now, self._min_rtt_due) - at) / interval_s))
        self._sample_due = at + (passed + 1) * interval_s

    def _take_percentile(self) -> float:
        microseconds = int(self._histogram.quantile(self._settings.percentile / 100))
        self._histogram.clear()
        return microseconds / 1e6

    def _new_limit(self) -> int:
        settings = self._settings
        buffered = self.min_rtt_s * (1 + settings.buffer_percent / 100)
        raw = buffered / self.sample_rtt_s if self.sample_rtt_s else 2.0
        self.gradient = max(0.5, min(2.0, raw))
        limit = self.limit * self.gradient
        self.burst_queue_size = sqrt(limit)
        new = int(limit + self.burst_queue_size)
        return max(settings.min_concurrency, min(settings.max_concurrency, new))

    def _set_limit(self, new: int, at: float) -> None:
        least = self._settings.min_concurrency
        old, self.limit = self.limit, new
        same = not self._deferred and old == least and new == least
        self._at_min = self._at_min + 1 if same else 0
        if self._at_min >= WINDOWS_AT_MIN and self._settings.fixed_min_rtt_s is None:
            # Probably the least latency is not what it was when it was measured.
            self._min_rtt_due = at


__all__ = ["WINDOWS_AT_MIN", "GradientController"]
