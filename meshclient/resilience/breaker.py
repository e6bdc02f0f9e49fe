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
from meshclient.model.events import Event
from meshclient.model.outcome import Outcome, OutcomeKind
from meshclient.resilience import breaker_state as words
from meshclient.resilience.breaker_circuit import Circuit, new_circuit
from meshclient.resilience.breaker_core import REFUSED, BreakerCore
from meshclient.resilience.breaker_rules import Rules
from meshclient.resilience.breaker_state import CLOSED, HALF_OPEN, OPEN, Change, State

_SUCCESS = OutcomeKind.SUCCESS


class Breaker(BreakerCore):
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
        "_circuit",
        "_rules",
        "_slow_s",
        "news",
        "refused",
        "stale",
        "urge",
    )

    def __init__(
        self,
        settings: CircuitBreaker,
        scope: BreakerScope,
        tell: Callable[[Event], object] = id,
        circuit: pybreaker.CircuitBreaker | None = None,
    ) -> None:
        self._rules = Rules(settings, circuit.is_system_error if circuit is not None else None)
        self._circuit: Circuit | None = None
        super().__init__(settings, scope, tell, self._rules.plain)
        self._slow_s = math.inf if settings.slow_s is None else settings.slow_s
        #: How many tries it refused, how many outcomes came too late.
        self.refused = self.stale = 0
        #: The last change that a shared storage has to learn.
        self.news: Change | None = None
        #: Called after what a shared storage has to learn; None: nothing is shared.
        self.urge: Callable[[], object] | None = None
        made = circuit or new_circuit(settings, str(scope))
        self._circuit = Circuit(made, self.moved_elsewhere, threading.Lock())
        if self._circuit.storage is None:
            self.moved_elsewhere(self._circuit.state)
        self._settle_calm_locked()

    @property
    def heard(self) -> bool:
        """Whether a pybreaker listener wants to hear of every call."""
        return self._circuit is not None and self._circuit.heard

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
            tick = self._tick  # read once: another thread may open the breaker here
            if tick is not None:
                tick()
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

    def _knock(self, now: float) -> int:
        """A try arrives while open or half_open."""
        change = None
        with self._lock:
            if self._pass >= 0:
                return self._pass
            self._anchor_locked(now)
            if self._isolated or (self._state == OPEN and now < self._until):
                self.refused += 1
                return REFUSED
            if self._state == OPEN:
                change = self._half_open_locked(now)
            elif self._probes >= self.settings.half_open_requests:
                if now < self._until:
                    self.refused += 1
                    return REFUSED
                # Nobody knows what became of the probes: others go out in their place.
                self._enter_locked(HALF_OPEN)
                self._begin_probing_locked(now)
            self._probes += 1
            generation = self.generation
        if change is not None:
            self._pass_on(None, None, change)
        return generation

    # -- pybreaker and shared state --------------------------------------------------

    def _pass_on(
        self, verdict: bool | None, outcome: Outcome | None, change: Change | None
    ) -> None:
        """Without the lock: listeners may do what they like."""
        circuit = self.circuit
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
            self.circuit.tell(change)

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
        self.circuit.object.add_listener(listener)
        with self._lock:
            self._settle_calm_locked()

    # -- to look at ----------------------------------------------------------------------

    @property
    def circuit(self) -> Circuit:
        """The pybreaker side."""
        assert self._circuit is not None
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
                "document": self._named["document"],
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
