"""Ending a blocking exchange from another thread: the handle, and a request that carries it.

The engine says what the request holds at each moment (a place in a queue, a connection that
is opening, a connection); nothing here waits, opens or sends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from meshclient.transport.interface import WireError, WireRequest, closed_error
from meshclient.transport.slot_waiters import ThreadWaiter
from meshclient.transport.slots import ConnectionSlots


class Cancellable(Protocol):
    """What a thread may be waiting on."""

    def cancel(self) -> None:
        """From any thread: who waits fails at once."""


class Abort:
    """The handle of one exchange. Thread-safe; :meth:`abort` may come at any time, and often.

    An exchange whose response is there already is not touched: its connection may serve
    another request by then.
    """

    __slots__ = ("_held", "_lock", "aborted")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Cancellable | None = None
        self.aborted = False

    def abort(self) -> None:
        """Whoever waits for the exchange gets WireError CANCELLED, soon."""
        # Under the lock: what is held cannot be handed on before it is cancelled.
        with self._lock:
            self.aborted = True
            held, self._held = self._held, None
            if held is not None:
                held.cancel()

    def holds(self, held: Cancellable | None) -> None:
        """The exchange depends on ``held`` from here on. Raises WireError once aborted."""
        with self._lock:
            self._held = held
            if self.aborted:
                self._held = None
                raise aborted_error()

    def takes(self, connection: Any) -> None:
        """The exchange runs on ``connection`` until that is given back.

        Raises WireError once aborted; the connection is closed then: it may have been
        cancelled while it opened.
        """
        try:
            self.holds(connection)
        except WireError:
            connection.close()
            raise
        connection._done = _GivingBack(self, connection._done)

    def waits(self, slots: ConnectionSlots, waiter: ThreadWaiter) -> None:
        """The exchange stands in the queue of a cluster that limits its connections."""
        try:
            self.holds(_QueuedWaiter(slots, waiter))
        except WireError:
            if slots.withdraw(waiter):
                waiter.grant(None, aborted_error())

    def lets_go(self) -> None:
        """What was held is another's now."""
        with self._lock:
            self._held = None


class _GivingBack:
    """In place of a connection's way back to the pool, for one exchange."""

    __slots__ = ("_abort", "_done")

    def __init__(self, abort: Abort, done: Callable[[Any], None]) -> None:
        self._abort = abort
        self._done = done

    def __call__(self, connection: Any) -> None:
        self._abort.lets_go()
        connection._done = self._done
        self._done(connection)


class _QueuedWaiter:
    """A place in a cluster's queue that can be given up from outside."""

    __slots__ = ("_slots", "_waiter")

    def __init__(self, slots: ConnectionSlots, waiter: ThreadWaiter) -> None:
        self._slots = slots
        self._waiter = waiter

    def cancel(self) -> None:
        """See :class:`Cancellable`."""
        if self._slots.withdraw(self._waiter):
            self._waiter.grant(None, aborted_error())


class AbortableRequest(WireRequest):
    """A request whose exchange may be ended through ``abort``."""

    __slots__ = ("abort",)

    def __init__(self, request: WireRequest, abort: Abort) -> None:
        for name in WireRequest.__slots__:
            setattr(self, name, getattr(request, name))
        self.abort = abort


def aborted_error() -> WireError:
    """The error of an exchange that was ended through its handle."""
    return closed_error(False)


__all__ = ["Abort", "AbortableRequest", "aborted_error"]
