"""A circuit breaker: which tries may go out, judged by how the ones before ended.

Closed, everything passes; open, nothing; half_open, a few probes decide. The pybreaker
object beside it is in :mod:`meshclient.resilience.breaker_circuit`. No clock and no I/O:
``now`` is monotonic seconds. No lock is held while a call runs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pybreaker

from meshclient.model.breaker import BreakerScope, CircuitBreaker
from meshclient.model.events import BreakerClosed, BreakerHalfOpen, BreakerOpened, Event
from meshclient.model.outcome import Outcome, OutcomeKind
from meshclient.resilience import breaker_state as words
from meshclient.resilience.breaker_circuit import Circuit, new_circuit
from meshclient.resilience.breaker_rules import Rules
from meshclient.resilience.breaker_state import CLOSED, HALF_OPEN, OPEN, Change, Figures, State
from meshclient.resilience.breaker_window import Window, make_window

_SUCCESS = OutcomeKind.SUCCESS
_REFUSED = -1
#: No generation is this one.
_NEVER = -2


class Breaker:
    """One breaker. Thread-safe; the same for threads and for tasks.

    A try is admitted with :meth:`admit`, and ends with exactly one of :meth:`record` and
    :meth:`abandon`; what was admitted before the last change of state changes nothing any more.
    ``tell`` takes events and must not block. ``circuit`` is a pybreaker object of the
    caller's own, whose ``fail_max``, ``reset_timeout`` and ``success_threshold`` are expected
    in ``settings``; None: one is made.

    A breaker never opens on a success, only on a failed or a slow call (as Polly's).
    Probes that never end do not keep it half_open for ever: after another ``open_for_s``
    (with its back-off) the next ones go out.
    """

    __slots__ = (
        "_calm",
        "_circuit",
        "_failures",
        "_figures",
        "_isolated",
        "_lock",
        "_pass",
        "_probes",
        "_reopened",
        "_rules",
        "_since",
        "_slow_s",
        "_state",
        "_successes",
        "_tell",
        "_tick",
        "_tick_at",
        "_until",
        "_why",
        "_window",
        "generation",
        "news",
        "opened",
        "refused",
        "scope",
        "settings",
        "stale",
        "unsynced",
        "unsynced_reset",
        "urge",
    )

    def __init__(
        self,
        settings: CircuitBreaker,
        scope: BreakerScope,
        tell: Callable[[Event], object] = id,
        circuit: pybreaker.CircuitBreaker | None = None,
    ) -> None:
        self.settings = settings
        self.scope = scope
        self._tell = tell
        self._lock = threading.Lock()
        self._rules = Rules(settings, circuit.is_system_error if circuit is not None else None)
        self._slow_s = math.inf if settings.slow_s is None else settings.slow_s
        self.generation = 0
        #: How often it opened, how many tries it refused, how many outcomes came too late.
        self.opened = self.refused = self.stale = 0
        self._reopened = 0
        self._isolated = False
        self._why = ""
        self._state: State = CLOSED
        #: None: at the next look at the clock.
        self._since: float | None = None
        self._until = 0.0
        self._enter_locked(CLOSED)
        #: What a shared storage has to learn: changes, failures, whether a success reset them.
        self.news: Change | None = None
        self.unsynced = 0
        self.unsynced_reset = False
        #: Called after a change that a shared storage has to learn; None: nothing is shared.
        self.urge: Callable[[], object] | None = None
        self._circuit = Circuit(
            circuit or new_circuit(settings, str(scope)), self.moved_elsewhere, threading.Lock()
        )
        self._adopt_own(circuit)

    def _adopt_own(self, circuit: pybreaker.CircuitBreaker | None) -> None:
        if circuit is None:
            return
        if self._circuit.storage is None and self._circuit.state != CLOSED:
            self.moved_elsewhere(self._circuit.state)
        self._settle_calm_locked()

    # -- in calls ----------------------------------------------------------------

    def admit(self, now: float) -> int:
        """The generation of a try that may go out, or -1. Closed: one attribute read."""
        generation = self._pass
        return generation if generation >= 0 else self._knock(now)

    def record(
        self, generation: int, kind: OutcomeKind, outcome: Outcome, duration_s: float, now: float
    ) -> None:
        """How a try ended that :meth:`admit` gave ``generation``, after ``duration_s``.

        A quick success while closed takes no lock, unless there were failures before it.
        """
        if (
            generation == self._calm
            and kind is _SUCCESS
            and duration_s < self._slow_s
            and now < self._tick_at
        ):
            if self._tick is not None:
                self._tick()
            return
        verdict = self._rules.judge(kind, outcome)
        change = None
        with self._lock:
            if generation != self.generation:
                self.stale += 1
                return
            if verdict is None:
                self._probes = max(0, self._probes - 1)
                return
            slow = duration_s >= self._slow_s
            if self._state == CLOSED:
                change = self._count_locked(verdict, slow, outcome, now)
            elif self._state == HALF_OPEN:
                change = self._judge_probe_locked(verdict or slow, outcome, now)
        self._pass_on(verdict, outcome, change)

    def abandon(self, generation: int, now: float) -> None:  # noqa: ARG002
        """The try was cancelled, or says nothing of the service: a probe's place is free."""
        if generation == self._pass:
            return
        with self._lock:
            if generation == self.generation and self._state == HALF_OPEN:
                self._probes = max(0, self._probes - 1)

    def refuses(self, now: float) -> bool:
        """Whether :meth:`admit` would refuse at ``now``. Changes nothing."""
        if self._pass >= 0:
            return False
        with self._lock:
            if self._isolated:
                return True
            busy = self._state == OPEN or self._probes >= self.settings.half_open_requests
            return busy and (self._since is None or self._since <= now < self._until)

    # -- transitions ---------------------------------------------------------------

    def _knock(self, now: float) -> int:
        """A try arrives while open or half_open."""
        change = None
        with self._lock:
            if self._pass >= 0:
                return self._pass
            self._anchor_locked(now)
            if self._isolated or (self._state == OPEN and now < self._until):
                self.refused += 1
                return _REFUSED
            if self._state == OPEN:
                change = self._half_open_locked(now)
            elif self._probes >= self.settings.half_open_requests:
                if now < self._until:
                    self.refused += 1
                    return _REFUSED
                # Nobody knows what became of the probes: others go out in their place.
                self._enter_locked(HALF_OPEN)
                self._begin_probing_locked(now)
            self._probes += 1
            generation = self.generation
        if change is not None:
            self._pass_on(None, None, change)
        return generation

    def _anchor_locked(self, now: float) -> None:
        """Times count from the first look at the clock, and anew when it has stepped back."""
        if self._since is None:
            self._until += now
            self._since = now
        elif now < self._since:
            self._until -= self._since - now
            self._since = now

    def _half_open_locked(self, now: float) -> Change:
        was_open_s = now - (self._since or 0.0)
        self._enter_locked(HALF_OPEN)
        self._begin_probing_locked(now)
        settings, scope = self.settings, self.scope
        self._tell(
            BreakerHalfOpen(
                scope=str(scope),
                service=scope.service,
                cluster=scope.cluster,
                endpoint=scope.endpoint,
                route=scope.route,
                document=settings.source.short,
                open_s=was_open_s,
                probes=settings.half_open_requests,
                successes_needed=settings.half_open_successes,
            )
        )
        return Change(OPEN, HALF_OPEN, "")

    def _begin_probing_locked(self, now: float) -> None:
        self._since, self._until = now, now + self.open_for_s

    @property
    def open_for_s(self) -> float:
        """How long it stays open now: the settings' time with its back-off, in seconds."""
        settings = self.settings
        most_s = max(settings.open_for_s, settings.max_open_for_s)
        # The exponent is bounded, else the power overflows before min() sees it.
        factor = settings.multiplier ** min(self._reopened, 100)
        return min(most_s, settings.open_for_s * factor)

    def _count_locked(
        self, failed: bool, slow: bool, outcome: Outcome, now: float
    ) -> Change | None:
        """A try of the closed state ended."""
        if failed:
            self._failures += 1
            self.unsynced += 1
        elif self._failures:
            self._failures = self.unsynced = 0
            self.unsynced_reset = True
        if self._window is not None:
            self._figures = self._window.add_locked(failed, slow, now)
            self._tick_at = self._window.tick_at
        self._settle_calm_locked()
        reason = self._reason_locked(failed, slow)
        return self._open_locked(reason, now, outcome.error) if reason else None

    def _reason_locked(self, failed: bool, slow: bool) -> str:
        settings, figures = self.settings, self._figures
        most = settings.consecutive_failures
        if failed and most is not None and self._failures >= most:
            return words.CONSECUTIVE
        if figures.calls < settings.minimum_calls:
            return ""
        rate = settings.failure_rate_percent
        if failed and rate is not None and figures.failed_percent >= rate:
            return words.FAILURE_RATE
        rate = settings.slow_rate_percent
        if slow and rate is not None and figures.slow_percent >= rate:
            return words.SLOW_RATE
        return ""

    def _judge_probe_locked(self, failed: bool, outcome: Outcome, now: float) -> Change | None:
        self._probes = max(0, self._probes - 1)
        if failed:
            self._reopened += 1
            return self._open_locked(words.PROBE_FAILED, now, outcome.error)
        self._successes += 1
        if self._successes < self.settings.half_open_successes:
            return None
        return self._close_locked(words.PROBES_PASSED, now)

    def _open_locked(
        self,
        reason: str,
        now: float | None,
        error: BaseException | None = None,
        for_s: float | None = None,
    ) -> Change:
        old, failures, figures = self._state, self._failures, self._figures
        self._enter_locked(OPEN)
        self.opened += 1
        self._why = reason
        for_s = self.open_for_s if for_s is None else for_s
        self._since, self._until = now, for_s + (now or 0.0)
        settings, scope = self.settings, self.scope
        self._tell(
            BreakerOpened(
                scope=str(scope),
                service=scope.service,
                cluster=scope.cluster,
                endpoint=scope.endpoint,
                route=scope.route,
                document=settings.source.short,
                reason=reason,
                for_s=math.inf if self._isolated else for_s,
                failures_in_a_row=failures,
                calls=figures.calls,
                failed_percent=figures.failed_percent,
                slow_percent=figures.slow_percent,
                cause=type(error).__name__ if error is not None else "",
            )
        )
        return Change(old, OPEN, reason, error)

    def _close_locked(self, reason: str, now: float | None) -> Change:
        old, since = self._state, self._since
        self._isolated = False
        self._reopened = 0
        self._enter_locked(CLOSED)
        settings, scope = self.settings, self.scope
        self._tell(
            BreakerClosed(
                scope=str(scope),
                service=scope.service,
                cluster=scope.cluster,
                endpoint=scope.endpoint,
                route=scope.route,
                document=settings.source.short,
                reason=reason,
                after_s=now - since if now is not None and since is not None else 0.0,
                successes=settings.half_open_successes if reason == words.PROBES_PASSED else 0,
            )
        )
        return Change(old, CLOSED, reason)

    def _enter_locked(self, state: State) -> None:
        """Another state, or another round of probes: what was admitted before is stale."""
        self._state = state
        self.generation += 1
        self._pass = self.generation if state == CLOSED else _REFUSED
        self._failures = self._probes = self._successes = 0
        self._figures = Figures()
        self.unsynced, self.unsynced_reset = 0, False
        self._window: Window | None = make_window(self.settings) if state == CLOSED else None
        self._tick = None if self._window is None else self._window.tick
        self._tick_at = math.inf if self._window is None else self._window.tick_at
        self._calm = _NEVER
        if state == CLOSED:
            self._settle_calm_locked()

    def _settle_calm_locked(self) -> None:
        """Whether a quick success needs no second look: nothing to reset, nobody to tell."""
        circuit: Circuit | None = getattr(self, "_circuit", None)
        heard = circuit is not None and circuit.heard
        quiet = self._state == CLOSED and not self._failures and not heard
        self._calm = self.generation if quiet and self._rules.plain else _NEVER

    # -- pybreaker and shared state --------------------------------------------------

    def _pass_on(
        self, verdict: bool | None, outcome: Outcome | None, change: Change | None
    ) -> None:
        """Without the lock: listeners may do what they like."""
        circuit = self._circuit
        if outcome is not None and (verdict or circuit.heard):
            error = (outcome.error or FailedTry(outcome)) if verdict else None
            circuit.tell(error)
        if change is not None:
            self.news = change
            circuit.tell(change)
        if self.urge is not None and (verdict or change is not None):
            self.urge()

    def moved_elsewhere(
        self, state: State, for_s: float | None = None, now: float | None = None
    ) -> Change | None:
        """Somebody else opened or closed it: the pybreaker object's owner, another process.

        It stays open for ``for_s`` (None: as its settings say). Half_open changes
        nothing: its own time has to pass here.
        """
        with self._lock:
            if state == HALF_OPEN or self._isolated:
                return None
            if state == self._state:
                if state == OPEN and for_s is not None and now is not None:
                    self._until = max(self._until, now + for_s)
                return None
            if state == OPEN:
                return self._open_locked(words.ELSEWHERE, now, None, for_s)
            return self._close_locked(words.ELSEWHERE, now)

    def adopt(self, state: State, for_s: float | None, now: float) -> None:
        """:meth:`moved_elsewhere`, as a shared storage says; the listeners hear of it."""
        change = self.moved_elsewhere(state, for_s, now)
        if change is not None:
            self._circuit.tell(change)

    def stored_again(self, change: Change | None, failures: int, reset: bool) -> None:
        """What :meth:`take_unsynced` gave could not be told; it is not lost."""
        with self._lock:
            if self.news is None:
                self.news = change
            if self._state == CLOSED and not self.unsynced_reset:
                self.unsynced += failures
                self.unsynced_reset = reset

    def left_s(self, now: float) -> float:
        """How long it stays open by itself, in seconds; 0 when it is not open."""
        with self._lock:
            if self._state != OPEN or self._since is None:
                return 0.0
            return max(0.0, self._until - now)

    def share_failures(self, shared: int, now: float) -> None:
        """Failures in a row as all processes count them, those not yet told left out."""
        change = None
        with self._lock:
            if self._state != CLOSED or self.unsynced_reset:
                return
            self._failures = shared + self.unsynced
            self._settle_calm_locked()
            most = self.settings.consecutive_failures
            if most is not None and self._failures >= most:
                change = self._open_locked(words.CONSECUTIVE, now)
        if change is not None:
            self._pass_on(None, None, change)

    def take_unsynced(self) -> tuple[Change | None, int, bool]:
        """What a shared storage has to learn since last time: the last change, failures in
        a row, whether a success came before them."""
        with self._lock:
            told = (self.news, self.unsynced, self.unsynced_reset)
            self.news, self.unsynced, self.unsynced_reset = None, 0, False
            return told

    # -- by hand -------------------------------------------------------------------------

    def open(self, now: float, for_s: float | None = None) -> None:
        """Open it for ``for_s`` seconds; None: as long as the settings say."""
        self._by_hand(lambda: self._open_locked(words.MANUAL, now, None, for_s))

    def isolate(self, now: float) -> None:
        """Keep it open until :meth:`close`."""
        self._by_hand(lambda: self._open_locked(words.ISOLATED, now), isolated=True)

    def close(self, now: float) -> None:
        """Close it, whatever it was, and forget its failures."""
        self._by_hand(lambda: self._close_locked(words.MANUAL, now))

    def _by_hand(self, act: Callable[[], Change], isolated: bool = False) -> None:
        with self._lock:
            self._isolated = isolated
            change = act()
        self._pass_on(None, None, change)

    def add_listener(self, listener: pybreaker.CircuitBreakerListener) -> None:
        """Have a pybreaker listener told of states, failures and successes.

        ``before_call`` is never called: there is no function. Calls become slower by what
        the listener takes.
        """
        self._circuit.object.add_listener(listener)
        with self._lock:
            self._settle_calm_locked()

    # -- to look at ----------------------------------------------------------------------

    @property
    def circuit(self) -> Circuit:
        """The pybreaker side."""
        return self._circuit

    @property
    def state(self) -> State:
        """``closed``, ``open`` or ``half_open``. An open one whose time is over stays
        open until the next try asks."""
        return self._state

    @property
    def isolated(self) -> bool:
        """Whether it is kept open by hand."""
        return self._isolated

    def describe(self, now: float) -> dict[str, Any]:
        """All that is known, as plain values; times in seconds from ``now``."""
        with self._lock:
            shown: dict[str, Any] = {
                "breaker": str(self.scope),
                "state": self._state,
                "isolated": self._isolated,
                "failures_in_a_row": self._failures,
                "opened": self.opened,
                "refused": self.refused,
                "stale": self.stale,
                "document": self.settings.source.short,
            }
            if self._window is not None:
                shown["window"] = {**self._figures._asdict()}
            if self._state != CLOSED:
                since = now if self._since is None else self._since
                until = self._until + (now if self._since is None else 0.0)
                shown["reason"] = self._why
                shown["since_s"] = round(max(0.0, now - since), 3)
                shown["for_s"] = None if self._isolated else round(max(0.0, until - now), 3)
            if self._state == HALF_OPEN:
                shown["probes"], shown["successes"] = self._probes, self._successes
        return shown

    def __repr__(self) -> str:
        return f"<Breaker {self.scope} {self._state}>"


class FailedTry(Exception):
    """Stands for a failed try without an exception, where a pybreaker listener wants one."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"status {outcome.status}")
        self.outcome = outcome


__all__ = ["Breaker", "FailedTry"]
