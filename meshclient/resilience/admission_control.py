"""Admission control: while too many calls fail, a share of them is refused here.

Source: Envoy ``filters/http/admission_control/{admission_control,thread_local_controller}.cc``;
the idea is the client-side throttling of the SRE book, chapter 21.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from meshclient.model.concurrency import AdmissionControl
from meshclient.model.request import RequestHead
from meshclient.resilience.filter import ENTERED, NeverHolds, Verdict
from meshclient.resilience.local_reply import local_reply

_GRANULARITY_S = 1.0
#: The probability is drawn in steps of 0.01 %.
_ACCURACY = 10_000


class SuccessWindow:
    """Requests and successes of the last ``window_s`` seconds, in buckets of one second.

    Not thread-safe; it holds one bucket per second of the window at most.
    """

    __slots__ = ("_buckets", "_window_s", "requests", "successes")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        #: begin, requests, successes
        self._buckets: deque[list[float]] = deque()
        self.requests = 0
        self.successes = 0

    def record(self, success: bool, now: float) -> None:
        """One call is over."""
        self.roll(now)
        newest = self._buckets[-1]
        newest[1] += 1
        newest[2] += success
        self.requests += 1
        self.successes += success

    def roll(self, now: float) -> None:
        """Forget what is too old."""
        buckets = self._buckets
        while buckets and now - buckets[0][0] >= self._window_s:
            _, requests, successes = buckets.popleft()
            self.requests -= int(requests)
            self.successes -= int(successes)
        if not buckets or now - buckets[-1][0] >= _GRANULARITY_S:
            buckets.append([now, 0, 0])

    def average_rps(self, now: float) -> int:
        """Whole requests per second since the oldest bucket began, at least one second."""
        if not self._buckets or not self.requests:
            return 0
        return self.requests // max(1, int(now - self._buckets[0][0]))


def rejection_probability(requests: int, successes: int, settings: AdmissionControl) -> float:
    """0 to ``max_rejection_percent`` / 100."""
    threshold = settings.success_threshold_percent / 100.0
    probability = (requests - successes / threshold) / (requests + 1)
    if probability <= 0.0:
        return 0.0
    aggression = max(1.0, settings.aggression)
    if aggression != 1.0:
        probability = probability ** (1.0 / aggression)
    return float(min(probability, settings.max_rejection_percent / 100.0))


class AdmissionControlFilter(NeverHolds):
    """The successes of one scope. Thread-safe.

    ``rq_rejected``, ``rq_success`` and ``rq_failure`` are Envoy's statistics of these names.
    """

    __slots__ = ("_lock", "_settings", "_window", "rq_failure", "rq_rejected", "rq_success")

    def __init__(self, settings: AdmissionControl) -> None:
        self._settings = settings
        # Re-entrant: a destructor that ends a call may run at any allocation.
        self._lock = threading.RLock()
        self._window = SuccessWindow(settings.sampling_window_s)
        self.rq_rejected = 0
        self.rq_success = 0
        self.rq_failure = 0

    def enter(self, head: RequestHead, now: float, rand: Callable[[], int]) -> Verdict | None:
        """Let the call in, or refuse it; a refused one does not count as a failure."""
        settings = self._settings
        with self._lock:
            window = self._window
            window.roll(now)
            if window.average_rps(now) < settings.rps_threshold:
                return ENTERED
            requests, successes = window.requests, window.successes
            probability = rejection_probability(requests, successes, settings)
            if not probability or _ACCURACY * probability <= rand() % _ACCURACY:
                return ENTERED
            self.rq_rejected += 1
        why = (
            f"admission control of {settings.scope}: {successes} of {requests} calls succeeded "
            f"in the last {settings.sampling_window_s:g} s, {100 * probability:.4g} % are refused"
        )
        return Verdict(reply=local_reply(head, 503), why=why)

    def leave(self, status: int, grpc_status: int, started: float, now: float) -> None:  # noqa: ARG002
        """Count how the call ended; one that its caller gave up says nothing."""
        if status == 0 and grpc_status < 0:
            return
        settings = self._settings
        if grpc_status >= 0:
            success = grpc_status in settings.grpc_success
        else:
            success = any(first <= status < end for first, end in settings.http_success)
        with self._lock:
            self._window.record(success, now)
            if success:
                self.rq_success += 1
            else:
                self.rq_failure += 1

    def describe(self) -> dict[str, Any]:
        """Statistics and the window as it last was, for dumps."""
        with self._lock:
            requests, successes = self._window.requests, self._window.successes
            return {
                "scope": self._settings.scope,
                "window_requests": requests,
                "window_successes": successes,
                "rejection_probability": rejection_probability(requests, successes, self._settings),
                "rq_rejected": self.rq_rejected,
                "rq_success": self.rq_success,
                "rq_failure": self.rq_failure,
            }

    def __str__(self) -> str:
        settings = self._settings
        return (
            f"admission control of {settings.scope}: under "
            f"{settings.success_threshold_percent:g} % successes in "
            f"{settings.sampling_window_s:g} s, up to {settings.max_rejection_percent:g} % of the "
            "calls are refused"
        )


__all__ = ["AdmissionControlFilter", "SuccessWindow", "rejection_probability"]
