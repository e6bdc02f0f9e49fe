"""The pybreaker object beside a breaker: its listeners hear, its state follows, and where
it is the caller's own, what is done to it is heeded.

The breaker decides and counts; the object is driven through ``open()``, ``half_open()`` and
``close()`` only, never through ``call()``, which would hold its lock while the call runs.
Nothing here may raise into a call.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pybreaker

from meshclient.model.breaker import CircuitBreaker
from meshclient.resilience.breaker_state import CLOSED, HALF_OPEN, OPEN, Change, State

#: pybreaker's words and ours.
STATES: dict[str, State] = {
    pybreaker.STATE_CLOSED: CLOSED,
    pybreaker.STATE_OPEN: OPEN,
    pybreaker.STATE_HALF_OPEN: HALF_OPEN,
}

#: Reports of single calls that wait for a listener; then the oldest are dropped.
MAX_WAITING = 1000

_log = logging.getLogger("meshclient.breaker")


def new_circuit(settings: CircuitBreaker, name: str) -> pybreaker.CircuitBreaker:
    """A pybreaker object for a breaker without one of the caller's."""
    return pybreaker.CircuitBreaker(
        fail_max=settings.consecutive_failures or 1,
        reset_timeout=settings.open_for_s,
        success_threshold=settings.half_open_successes,
        name=name,
    )


class Circuit:
    """Keeps a pybreaker object in step. Thread-safe; takes no lock of the breaker.

    ``on_change`` is told when the object was opened or closed by somebody else.
    Changes are carried out in order, by whichever thread comes first; a listener may
    therefore run in a call, as pybreaker's do, and what it raises is logged.
    """

    __slots__ = ("_following", "_inline", "_news", "_on_change", "_turn", "object")

    def __init__(
        self,
        circuit: pybreaker.CircuitBreaker,
        on_change: Callable[[State], object],
        turn: Any,
    ) -> None:
        self.object = circuit
        #: A storage that is not in memory may block: only the control side may touch it.
        self._inline = isinstance(circuit._state_storage, pybreaker.CircuitMemoryStorage)
        self._news: deque[Change | BaseException | None] = deque(maxlen=MAX_WAITING)
        self._turn = turn
        #: The thread that is carrying out changes; what the watcher hears there is our own.
        self._following = 0
        self._on_change = on_change
        circuit.add_listener(_Watcher(self))  # type: ignore[no-untyped-call, unused-ignore]

    @property
    def storage(self) -> pybreaker.CircuitBreakerStorage | None:
        """The storage of the caller's own object, where it is not in memory."""
        return None if self._inline else self.object._state_storage

    @property
    def heard(self) -> bool:
        """Whether somebody listens to single calls."""
        return len(self.object.listeners) > 1

    def leave(self) -> None:
        """The breaker is no more; the caller's object is left as it was found."""
        for listener in self.object.listeners:
            if isinstance(listener, _Watcher) and listener.circuit is self:
                self.object.remove_listener(listener)

    def tell(self, news: Change | BaseException | None) -> None:
        """A change of state, a failure, or (None) a success, to be passed on."""
        self._news.append(news)
        if self._inline:
            self.deliver()

    def deliver(self) -> None:
        """Carry out what waits. May block where the storage does."""
        while self._news and self._turn.acquire(blocking=False):
            try:
                self._following = threading.get_ident()
                while self._news:
                    self._carry_out(self._news.popleft())
            except IndexError:  # the bounded queue was cut from the other end
                pass
            finally:
                self._following = 0
                self._turn.release()

    def refresh(self) -> None:
        """:meth:`deliver`, where the storage is elsewhere and was just brought up to date."""
        self.deliver()
        if self._inline:
            return
        with self._turn:
            self._following = threading.get_ident()
            try:
                _ = self.object.state  # reads what is stored, and tells its listeners
            except Exception:
                _log.exception("a listener of the breaker %s failed", self.object.name)
            finally:
                self._following = 0

    def _carry_out(self, news: Change | BaseException | None) -> None:
        circuit = self.object
        try:
            if isinstance(news, Change):
                if self._inline:
                    self._move(news)
            elif news is None:
                if self._inline:
                    circuit._state_storage.reset_counter()
                for listener in circuit.listeners:
                    listener.success(circuit)
            else:
                if self._inline:
                    circuit._state_storage.increment_counter()
                for one in circuit.listeners:
                    one.failure(circuit, news)
        except Exception:
            _log.exception("a listener of the breaker %s failed", circuit.name)

    def _move(self, change: Change) -> None:
        if change.new == OPEN:
            self.object.open()
        elif change.new == HALF_OPEN:
            self.object.half_open()
        else:
            self.object.close()

    def moved_elsewhere(self, name: str) -> None:
        """Told by the watcher."""
        if self._following != threading.get_ident() and name in STATES:
            self._on_change(STATES[name])

    @property
    def state(self) -> State:
        """The state in its storage."""
        return STATES.get(self.object.current_state, CLOSED)


class _Watcher(pybreaker.CircuitBreakerListener):
    """Notices that somebody else opened or closed the object."""

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,  # noqa: ARG002
        old_state: Any,  # noqa: ARG002
        new_state: Any,
    ) -> None:
        self.circuit.moved_elsewhere(new_state.name)


__all__ = ["STATES", "Circuit", "new_circuit"]
