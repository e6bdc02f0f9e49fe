"""Sets endpoints aside and takes them back: flags, counters and events move together.

Whom to set aside, others say; this knows only the rules that hold an ejection back.
Control thread only. Source: Envoy ``DetectorImpl::ejectHost``, ``unejectHost``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from meshclient.model.events import (
    EndpointDegraded,
    EndpointEjected,
    EndpointUndegraded,
    EndpointUnejected,
    Event,
)
from meshclient.model.health import (
    DEGRADED_OUTLIER_DETECTION,
    FAILED_OUTLIER_CHECK,
    OutlierDetection,
)
from meshclient.resilience.outlier_counters import OutlierCounters
from meshclient.resilience.outlier_enforcement import enforcing_percent, is_allowed
from meshclient.resilience.outlier_monitor import Monitor


class WatchedState(Protocol):
    """What outlier detection needs of an endpoint's run-time state."""

    flags: int
    outlier: Any
    key: str


class Ejector:
    """The ejections of one cluster. ``events`` collects what happened, in order."""

    __slots__ = ("cluster", "counters", "events", "rand", "settings")

    def __init__(self, settings: OutlierDetection, cluster: str, rand: Callable[[], int]) -> None:
        self.settings = settings
        self.cluster = cluster
        self.rand = rand
        self.counters = OutlierCounters()
        self.events: list[Event] = []

    def eject(
        self, state: WatchedState, found: EndpointEjected, endpoints: int, now: float
    ) -> None:
        """An outlier was detected: eject it, unless a rule holds that back.

        ``found`` carries the reason and the numbers, ``endpoints`` is the cluster's size.
        """
        reason = found.reason
        self.counters.detected(reason)
        withheld = self._withheld(state, reason, endpoints)
        monitor: Monitor = state.outlier
        if not withheld:
            self.counters.enforced(reason)
            state.flags |= FAILED_OUTLIER_CHECK
            for_s = monitor.ejection.begin(now, self.rand)
            count = monitor.ejection.count
            self.events.append(replace(found, enforced=True, for_s=for_s, ejections=count))
        # Not again before the next sweep: an endpoint that only fails would flood readers.
        elif reason not in monitor.told:
            monitor.told.add(reason)
            self.events.append(replace(found, withheld=withheld))

    def _withheld(self, state: WatchedState, reason: str, endpoints: int) -> str:
        """Why it stays in use; empty when it is to be ejected."""
        if state.flags & FAILED_OUTLIER_CHECK:
            # Two statistics may find the same endpoint in one sweep. Envoy then counts two
            # active ejections, of which only one ever ends; that is not copied.
            return "already ejected"
        if not is_allowed(self.settings, self.counters.active, endpoints):
            self.counters.overflowed()
            return "max_ejection_percent"
        self.counters.permitted(reason)
        if self.rand() % 100 < enforcing_percent(self.settings, reason):
            return ""
        return "enforcing percentage"

    def uneject(self, state: WatchedState, now: float) -> float:
        """It gets calls again; seconds it did not."""
        monitor: Monitor = state.outlier
        self.counters.active -= 1
        state.flags &= ~FAILED_OUTLIER_CHECK
        monitor.restart_all()
        return monitor.ejection.end(now)

    def degrade(self, state: WatchedState, now: float) -> None:
        """It called itself degraded; no percentage limits this."""
        if state.flags & DEGRADED_OUTLIER_DETECTION:
            return
        monitor: Monitor = state.outlier
        self.counters.degraded()
        state.flags |= DEGRADED_OUTLIER_DETECTION
        for_s = monitor.degradation.begin(now, self.rand)
        self.events.append(EndpointDegraded(self.cluster, state.key, for_s))

    def take_back(self, state: WatchedState, now: float) -> None:
        """At a sweep: end what has lasted long enough."""
        monitor: Monitor = state.outlier
        if state.flags & FAILED_OUTLIER_CHECK and monitor.ejection.is_over(now):
            after_s = self.uneject(state, now)
            self.events.append(EndpointUnejected(self.cluster, state.key, "time", after_s))
        if state.flags & DEGRADED_OUTLIER_DETECTION and monitor.degradation.is_over(now):
            state.flags &= ~DEGRADED_OUTLIER_DETECTION
            after_s = monitor.degradation.end(now)
            self.events.append(EndpointUndegraded(self.cluster, state.key, after_s))

    def forget(self, state: WatchedState) -> None:
        """It left the cluster."""
        if state.flags & FAILED_OUTLIER_CHECK:
            self.counters.active -= 1
