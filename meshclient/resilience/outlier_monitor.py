"""What outlier detection counts of one endpoint, on the call path.

Counts and notices thresholds; ejects nobody. A success costs no lock: it is one
step of an ``itertools.count``, whose ``next`` is one indivisible call into C.
Failures take the monitor's lock.

Threads. Consecutive failures are counted one after the other under the lock, and a
threshold fires on *equal*, as in Envoy (``++counter == threshold``): exactly one thread
sees it, none is lost, and it does not fire again before a success or the control thread
sets the counter back. A success that runs beside failures counts as before or after
them; both are true orders of what happened. A success that finds ``dirty`` False was
begun before the failure was counted.
Source: Envoy ``DetectorHostMonitorImpl``.
"""

from __future__ import annotations

import threading
from itertools import count
from typing import Any

from meshclient.model.health import (
    DEGRADED_OUTLIER_DETECTION,
    FAILED_OUTLIER_CHECK,
    OutlierDetection,
)
from meshclient.resilience.outlier_counters import (
    CONSECUTIVE_5XX,
    CONSECUTIVE_GATEWAY,
    CONSECUTIVE_LOCAL,
)
from meshclient.resilience.outlier_spell import Spell

DEGRADED = "degraded"

_GATEWAY = frozenset({502, 503, 504})


class Monitor:
    """The counters of one endpoint. ``good`` and ``local_good`` count a success each.

    Thread-safe. The fields below ``shown`` belong to the control thread.
    """

    __slots__ = (
        "_bad",
        "_fires_5xx",
        "_fires_gateway",
        "_fires_local",
        "_local_bad",
        "_lock",
        "degradation",
        "dirty",
        "ejection",
        "errors",
        "gateway_errors",
        "good",
        "local_errors",
        "local_good",
        "pending",
        "shown",
        "told",
    )

    def __init__(self, settings: OutlierDetection) -> None:
        self._lock = threading.Lock()
        self.good = count().__next__
        self.local_good = count().__next__
        self._bad = self._local_bad = 0
        # 0 is never reached by counting: the check is off.
        self._fires_5xx = settings.consecutive_5xx or 0
        self._fires_gateway = settings.consecutive_gateway_failure or 0
        self._fires_local = settings.consecutive_local_origin_failure
        self.errors = self.gateway_errors = self.local_errors = 0
        #: Whether any of the three is above 0. Read without the lock.
        self.dirty = False
        #: What was noticed and not yet processed; so the queue of it has a bound.
        self.pending: set[str] = set()
        #: Success rates of the last interval: external, and local origin. -1: none.
        self.shown = (-1.0, -1.0)
        #: What was told since the last sweep without an ejection following.
        self.told: set[str] = set()
        self.ejection = Spell(settings)
        self.degradation = Spell(settings)

    # -- in calls ----------------------------------------------------------------

    def succeed(self) -> None:
        """End a row of errors; the success itself is counted by ``good``."""
        with self._lock:
            self.errors = self.gateway_errors = 0
            self.dirty = self.local_errors > 0

    def connect(self) -> None:
        """A connection stood: counts, and ends a row of local failures."""
        self.local_good()
        if self.dirty:
            with self._lock:
                self.local_errors = 0
                # Either row alone may be above 0: each starts anew by itself.
                self.dirty = self.errors > 0 or self.gateway_errors > 0

    def fail(self, status: int) -> tuple[str, ...]:
        """An error response of ``status`` (500 or more); the thresholds it reached.

        A gateway error counts in both rows, any other ends the row of gateway errors.
        """
        reached: tuple[str, ...] = ()
        with self._lock:
            self.dirty = True
            self._bad += 1
            if status in _GATEWAY:
                self.gateway_errors += 1
                if self.gateway_errors == self._fires_gateway:
                    reached = self._notice_locked(CONSECUTIVE_GATEWAY)
            else:
                self.gateway_errors = 0
            self.errors += 1
            if self.errors == self._fires_5xx:
                reached += self._notice_locked(CONSECUTIVE_5XX)
        return reached

    def fail_locally(self) -> tuple[str, ...]:
        """An error on this side of the connection; the threshold it reached."""
        with self._lock:
            self.dirty = True
            self._local_bad += 1
            self.local_errors += 1
            if self.local_errors == self._fires_local:
                return self._notice_locked(CONSECUTIVE_LOCAL)
        return ()

    def degrade(self) -> tuple[str, ...]:
        """The endpoint called itself degraded."""
        with self._lock:
            return self._notice_locked(DEGRADED)

    def _notice_locked(self, what: str) -> tuple[str, ...]:
        if what in self.pending:
            return ()
        self.pending.add(what)
        return (what,)

    # -- on the control thread ---------------------------------------------------

    def taken(self, what: str) -> None:
        """What was noticed is being processed; it may be noticed again."""
        with self._lock:
            self.pending.discard(what)

    def row_of(self, reason: str) -> int:
        """How many errors of a kind came in a row."""
        if reason == CONSECUTIVE_5XX:
            return self.errors
        return self.gateway_errors if reason == CONSECUTIVE_GATEWAY else self.local_errors

    def restart(self, reason: str) -> None:
        """Count this row anew, so that the next bout is seen without a success between."""
        with self._lock:
            if reason == CONSECUTIVE_5XX:
                self.errors = 0
            elif reason == CONSECUTIVE_GATEWAY:
                self.gateway_errors = 0
            else:
                self.local_errors = 0
            self.dirty = self.errors > 0 or self.gateway_errors > 0 or self.local_errors > 0

    def restart_all(self) -> None:
        """After an ejection: a few new errors must not eject it again at once."""
        with self._lock:
            self.errors = self.gateway_errors = self.local_errors = 0
            self.dirty = False

    def finish_interval(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Successes and all calls of the interval that ends: external, and local origin.

        A success that is being counted at this moment may fall between two intervals.
        """
        with self._lock:
            good, self.good = self.good, count().__next__
            local_good, self.local_good = self.local_good, count().__next__
            bad, self._bad = self._bad, 0
            local_bad, self._local_bad = self._local_bad, 0
        # next() of a retired counter tells how often it was called before.
        successes, connects = good(), local_good()
        return (successes, successes + bad), (connects, connects + local_bad)

    def describe(self, flags: int, now: float) -> dict[str, Any]:
        """For explanations and dumps; ``flags`` are the endpoint's."""
        out: dict[str, Any] = {
            "ejections": self.ejection.count,
            "multiplier": self.ejection.multiplier,
            "success_rate": self.shown[0],
            "local_origin_success_rate": self.shown[1],
            CONSECUTIVE_5XX: self.errors,
            CONSECUTIVE_GATEWAY: self.gateway_errors,
            CONSECUTIVE_LOCAL: self.local_errors,
        }
        if flags & FAILED_OUTLIER_CHECK:
            out["for_s"] = self.ejection.left_s(now)
        if flags & DEGRADED_OUTLIER_DETECTION:
            out["degraded_for_s"] = self.degradation.left_s(now)
        return out
