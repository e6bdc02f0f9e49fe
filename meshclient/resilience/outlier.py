"""Passive health: which endpoints of a cluster fail so often that they get no calls for a while.

Calls only count (:meth:`OutlierDetector.observe`); everything else happens on the
control thread. No clock, no randomness, no sockets; panic, balancing and active
checks are others' business. Source: Envoy
``source/common/upstream/outlier_detection_impl.{h,cc}``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from meshclient.model.events import EndpointEjected, EndpointUnejected, Event
from meshclient.model.health import (
    DEGRADED_OUTLIER_DETECTION,
    FAILED_ACTIVE_HC,
    FAILED_OUTLIER_CHECK,
    OutlierDetection,
)
from meshclient.model.outcome import Outcome
from meshclient.resilience import outlier_counters as counters
from meshclient.resilience.outlier_ejector import Ejector, WatchedState
from meshclient.resilience.outlier_monitor import DEGRADED, Monitor
from meshclient.resilience.outlier_outcome import (
    calls_itself_degraded,
    counts,
    had_connected,
    is_timeout,
    reset_status,
    response_status,
)
from meshclient.resilience.outlier_statistics import NONE, Sample, judge

_FLAGS = FAILED_OUTLIER_CHECK | DEGRADED_OUTLIER_DETECTION


class OutlierDetector:
    """Outlier detection of one cluster, all priorities together.

    :meth:`observe` may be called on any thread; everything else, and every write to
    ``state.flags`` (``FAILED_OUTLIER_CHECK``, ``DEGRADED_OUTLIER_DETECTION``), belongs to the
    control thread. ``rand`` gives a fresh unsigned 64-bit number per call, times are
    monotonic seconds. An endpoint that leaves and comes back starts afresh, as in Envoy.
    """

    __slots__ = (
        "_averages",
        "_codes",
        "_ejector",
        "_noticed",
        "_plain",
        "_split",
        "_states",
        "_sweep_at",
        "_told_at",
        "settings",
    )

    def __init__(
        self,
        settings: OutlierDetection,
        cluster_name: str,
        now: float,
        rand: Callable[[], int],
    ) -> None:
        self.settings = settings
        self._ejector = Ejector(settings, cluster_name, rand)
        self._sweep_at = now + settings.interval_s
        #: When an event began to wait for the next process().
        self._told_at: float | None = None
        self._split = settings.split_external_local_origin_errors
        self._codes = settings.http_error_codes
        # Below 500 without a gRPC error is a success, and no header is of interest.
        self._plain = not (self._codes or settings.detect_degraded_hosts)
        self._states: dict[WatchedState, Monitor] = {}
        self._noticed: deque[tuple[WatchedState, Monitor, str]] = deque()
        self._averages = ((NONE, NONE), (NONE, NONE))

    # -- membership ----------------------------------------------------------------

    def adopt(self, states: Iterable[WatchedState], now: float) -> None:  # noqa: ARG002
        """These are the cluster's endpoints from now on; known ones keep their counts.

        A state that another detector watched is taken over with clean flags.
        """
        current = dict.fromkeys(states)
        for state in [known for known in self._states if known not in current]:
            self._forget(state)
        for state in current:
            if state not in self._states:
                state.flags &= ~_FLAGS
                state.outlier = self._states[state] = Monitor(self.settings)

    def _forget(self, state: WatchedState) -> None:
        monitor = self._states.pop(state)
        # Another detector may have taken it over meanwhile, flags and all.
        if state.outlier is monitor:
            self._ejector.forget(state)
            state.outlier = None
            state.flags &= ~_FLAGS

    # -- in calls ------------------------------------------------------------------

    def observe(
        self,
        state: WatchedState,
        outcome: Outcome,
        started: float,  # noqa: ARG002 - the signature of every watcher of outcomes
        now: float,  # noqa: ARG002
    ) -> bool:
        """A try ended with a response head or a reset. Any thread.

        True: a threshold was just reached, so :meth:`process` should run soon. A success
        takes no lock; an error takes that of the endpoint's counters for a moment.
        """
        monitor: Monitor | None = state.outlier
        if monitor is None:
            return False
        if 0 < outcome.status < 500 and self._plain and outcome.grpc_status <= 0:
            monitor.good()
            if self._split:
                monitor.connect()
            if monitor.dirty:
                monitor.succeed()
            return False
        reset = outcome.reset
        if reset is None:
            return self._weigh_response(state, monitor, outcome)
        if not counts(outcome):
            return False
        if not self._split:
            return self._notice(state, monitor, monitor.fail(reset_status(reset)))
        # There is no separate report of connecting; such a try implies that it succeeded.
        if had_connected(reset):
            monitor.connect()
        return self._notice(state, monitor, monitor.fail_locally())

    def observe_broken_body(self, state: WatchedState, outcome: Outcome) -> bool:
        """A response whose head was observed broke off in its body by ``outcome.reset``.

        Envoy counts such a reset on top of the head's status, but no timeout. Threads and
        result as for :meth:`observe`.
        """
        monitor: Monitor | None = state.outlier
        reset = outcome.reset
        if monitor is None or reset is None or is_timeout(reset) or not counts(outcome):
            return False
        reached = monitor.fail_locally() if self._split else monitor.fail(reset_status(reset))
        return self._notice(state, monitor, reached)

    def _weigh_response(self, state: WatchedState, monitor: Monitor, outcome: Outcome) -> bool:
        if self._split:
            monitor.connect()
        status = response_status(outcome, self._codes)
        if status >= 500:
            return self._notice(state, monitor, monitor.fail(status))
        monitor.good()
        if monitor.dirty:
            monitor.succeed()
        if (
            self.settings.detect_degraded_hosts
            and not state.flags & DEGRADED_OUTLIER_DETECTION
            and calls_itself_degraded(outcome)
        ):
            return self._notice(state, monitor, monitor.degrade())
        return False

    def _notice(self, state: WatchedState, monitor: Monitor, reached: tuple[str, ...]) -> bool:
        for what in reached:
            self._noticed.append((state, monitor, what))
        return bool(reached)

    # -- on the control thread -----------------------------------------------------

    @property
    def next_due(self) -> float:
        """When :meth:`process` has something to do without a call asking for it."""
        told_at = self._told_at
        return self._sweep_at if told_at is None else min(told_at, self._sweep_at)

    def process(self, now: float) -> list[Event]:
        """Enforce what calls noticed and, every ``interval_s``, sweep.

        Returns what happened; without an event no flag changed. The next sweep is due an
        interval after the end of this one, as with Envoy's timer.
        """
        while self._noticed:
            state, monitor, what = self._noticed.popleft()
            monitor.taken(what)
            if self._states.get(state) is monitor:
                self._enforce(state, monitor, what, now)
        if now >= self._sweep_at:
            self._sweep(now)
            self._sweep_at = now + self.settings.interval_s
        events, self._ejector.events = self._ejector.events, []
        self._told_at = None
        return events

    def on_health_check_passed(self, state: WatchedState, now: float) -> bool:
        """An active check passed: an ejected endpoint is back at once, if the policy says so.

        Not while the endpoint still counts as failing its checks. True: a flag changed; the
        event comes with the next :meth:`process`, which is due.
        """
        ejected = state in self._states and state.flags & FAILED_OUTLIER_CHECK
        if (
            not ejected
            or state.flags & FAILED_ACTIVE_HC
            or not self.settings.successful_active_health_check_uneject_host
        ):
            return False
        ejector = self._ejector
        after_s = ejector.uneject(state, now)
        event = EndpointUnejected(ejector.cluster, state.key, "health check", after_s)
        ejector.events.append(event)
        self._told_at = now
        return True

    def _enforce(self, state: WatchedState, monitor: Monitor, what: str, now: float) -> None:
        if what == DEGRADED:
            self._ejector.degrade(state, now)
            return
        if state.flags & FAILED_OUTLIER_CHECK:
            return  # noticed by calls that were on their way when it was ejected
        row = monitor.row_of(what)
        found = EndpointEjected(self._ejector.cluster, state.key, what, False, errors_in_a_row=row)
        self._ejector.eject(state, found, len(self._states), now)
        monitor.restart(what)

    # -- sweeps ----------------------------------------------------------------------

    def _sweep(self, now: float) -> None:
        """Take back whose time is over, judge the interval that ends, let times shrink."""
        intervals = []
        for state, monitor in self._states.items():
            self._ejector.take_back(state, now)
            monitor.shown = (NONE, NONE)
            monitor.told.clear()
            intervals.append((state, monitor.finish_interval()))
        rates, failures = counters.SUCCESS_RATE, counters.FAILURE_PERCENTAGE
        external = self._judge(_samples(intervals, 0), 0, rates, failures, now)
        rates, failures = counters.SUCCESS_RATE_LOCAL, counters.FAILURE_PERCENTAGE_LOCAL
        local = self._judge(_samples(intervals, 1), 1, rates, failures, now)
        self._averages = (external, local)
        for state, monitor in self._states.items():
            if not state.flags & FAILED_OUTLIER_CHECK:
                monitor.ejection.decay(now)
            if not state.flags & DEGRADED_OUTLIER_DETECTION:
                monitor.degradation.decay(now)

    def _judge(
        self,
        samples: list[Sample[WatchedState]],
        place: int,
        rate_reason: str,
        failing_reason: str,
        now: float,
    ) -> tuple[float, float]:
        """Eject who stands out in one of the two statistics; its mean and threshold."""
        endpoints = len(self._states)
        found = judge(samples, endpoints, self.settings)
        cluster = self._ejector.cluster
        average, threshold = found.average, found.threshold
        for sample in found.shown:
            monitor = self._states[sample.who]
            external, local = monitor.shown
            monitor.shown = (external, sample.rate) if place else (sample.rate, local)
        for sample in found.outliers:
            outlier = EndpointEjected(
                cluster,
                sample.who.key,
                rate_reason,
                False,
                success_rate=sample.rate,
                average=average,
                threshold=threshold,
            )
            self._ejector.eject(sample.who, outlier, endpoints, now)
        for sample in found.failing:
            key, rate = sample.who.key, sample.rate
            failing = EndpointEjected(cluster, key, failing_reason, False, success_rate=rate)
            self._ejector.eject(sample.who, failing, endpoints, now)
        return average, threshold

    # -- for people --------------------------------------------------------------------

    @property
    def stats(self) -> dict[str, int]:
        """Envoy's ``cluster.<name>.outlier_detection.*``, by their last names. A copy."""
        return self._ejector.counters.stats()

    @property
    def averages(self) -> dict[str, float]:
        """What Envoy's ``/clusters`` says of the last interval; -1 where there is no number."""
        (average, threshold), (local_average, local_threshold) = self._averages
        return {
            "success_rate_average": average,
            "success_rate_ejection_threshold": threshold,
            "local_origin_success_rate_average": local_average,
            "local_origin_success_rate_ejection_threshold": local_threshold,
        }

    def describe(self, state: WatchedState, now: float) -> dict[str, Any]:
        """One endpoint, for explanations and dumps; empty when it is not watched.

        ``for_s`` and ``degraded_for_s``: seconds before it may come back (0: at the next
        sweep), only while it is set aside. Any thread; the numbers may be of different moments.
        """
        monitor = self._states.get(state)
        if monitor is None:
            return {}
        return {
            "ejected": bool(state.flags & FAILED_OUTLIER_CHECK),
            "degraded": bool(state.flags & DEGRADED_OUTLIER_DETECTION),
            **monitor.describe(state.flags, now),
        }

    def __repr__(self) -> str:
        ejector = self._ejector
        return (
            f"<OutlierDetector {ejector.cluster} {len(self._states)} endpoints, "
            f"{ejector.counters.active} ejected>"
        )


def _samples(
    intervals: list[tuple[WatchedState, tuple[tuple[int, int], tuple[int, int]]]], place: int
) -> list[Sample[WatchedState]]:
    """Who had calls in one of the two statistics, and is not ejected."""
    return [
        Sample(state, *tally[place])
        for state, tally in intervals
        if tally[place][1] and not state.flags & FAILED_OUTLIER_CHECK
    ]
