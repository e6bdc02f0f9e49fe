"""One breaker and its copy in a storage that other processes see, too.

Pushes what happened here, takes over what happened elsewhere. Blocks as long as the
storage does, and raises what it raises: never called in a call. No clock: ``now`` is
monotonic seconds, ``unix_now`` the time of day.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pybreaker

from meshclient.resilience.breaker import Breaker
from meshclient.resilience.breaker_circuit import STATES
from meshclient.resilience.breaker_state import CLOSED, ISOLATED, OPEN, Change, State

_Seen = tuple[State, datetime | None]


class SharedState:
    """Keeps ``breaker`` and ``storage`` (pybreaker's, one that raises when it fails) in step.

    Shared are the state, when it was opened, and the failures in a row. Windows of rates
    are each process's own, and so are probes: each process may send as many. Isolation
    stays where it was asked for.
    """

    __slots__ = ("_again", "_breaker", "_seen", "_storage")

    def __init__(self, breaker: Breaker, storage: pybreaker.CircuitBreakerStorage) -> None:
        self._breaker = breaker
        self._storage = storage
        self._seen: _Seen | None = None
        #: After a failure: what is stored may be older than what is known here.
        self._again = False

    def sync(self, now: float, unix_now: float) -> None:
        """One exchange. What could not be told is told next time."""
        breaker = self._breaker
        change, failures, reset = breaker.take_unsynced()
        try:
            self._sync_state(change, now, unix_now)
            self._sync_failures(failures, reset, now)
        except BaseException:
            self._again = True
            breaker.stored_again(change, failures, reset)
            raise
        self._again = False
        breaker.circuit.refresh()

    def _sync_state(self, change: Change | None, now: float, unix_now: float) -> None:
        breaker, storage = self._breaker, self._storage
        if breaker.isolated or (change is not None and change.reason == ISOLATED):
            return
        stored: _Seen = (STATES.get(storage.state, CLOSED), storage.opened_at)
        lost = self._seen is not None and self._seen[1] is not None and stored[1] is None
        if change is not None:
            self._push(change.new, stored[0], now, unix_now)
        elif (self._again or lost) and breaker.state == OPEN:
            self._push(OPEN, stored[0], now, unix_now)
        else:
            if stored != self._seen:
                self._pull(stored, now, unix_now)
            # What was looked at, not what stands there by now: another process may have
            # changed it since, and that must still be seen.
            self._seen = stored
            return
        self._seen = (STATES.get(storage.state, CLOSED), storage.opened_at)

    def _push(self, state: State, stored: State, now: float, unix_now: float) -> None:
        storage = self._storage
        if state == OPEN:
            breaker = self._breaker
            left_s = breaker.left_s(now)
            elapsed_s = max(0.0, breaker.open_for_s - left_s)
            # pybreaker stores whole seconds: up, so that nobody probes too early.
            opened = datetime.fromtimestamp(unix_now - elapsed_s, UTC) + timedelta(seconds=0.999999)
            storage.opened_at = opened.replace(microsecond=0)
            storage.reset_success_counter()
            storage.state = pybreaker.STATE_OPEN
        elif state == CLOSED:
            storage.reset_counter()
            storage.reset_success_counter()
            storage.state = pybreaker.STATE_CLOSED
        elif stored == OPEN:
            # Where another process has closed it meanwhile, its word stands.
            storage.state = pybreaker.STATE_HALF_OPEN

    def _pull(self, stored: _Seen, now: float, unix_now: float) -> None:
        breaker = self._breaker
        state, opened_at = stored
        if state == OPEN and opened_at is not None:
            if opened_at.tzinfo is None:
                opened_at = opened_at.replace(tzinfo=UTC)
            age_s = unix_now - opened_at.timestamp()
            # A clock that runs ahead of ours must not keep it open longer than it may be.
            left_s = min(breaker.open_for_s, breaker.open_for_s - age_s)
            if left_s > 0.0:
                breaker.adopt(OPEN, left_s, now)
        elif state == CLOSED and self._seen is not None and self._seen[0] != CLOSED:
            breaker.adopt(CLOSED, None, now)

    def _sync_failures(self, failures: int, reset: bool, now: float) -> None:
        breaker, storage = self._breaker, self._storage
        most = breaker.settings.consecutive_failures
        if most is None or breaker.state != CLOSED:
            return
        if reset:
            storage.reset_counter()
        for _ in range(min(failures, most)):
            storage.increment_counter()
        breaker.share_failures(storage.counter, now)


__all__ = ["SharedState"]
