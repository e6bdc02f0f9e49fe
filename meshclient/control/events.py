"""Delivery of events to subscribers, in order and away from everybody's way.

The publishing side never waits and never runs a subscriber's code. The thread
that delivers exists only while there is something to deliver.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from meshclient.control import after_fork
from meshclient.errors import ClosedError
from meshclient.model.events import Event

#: Events that may wait for slow subscribers; then the oldest are dropped.
QUEUE_LIMIT = 1000
_LINGER_S = 1.0

_log = logging.getLogger("meshclient.control")


class _Subscription:
    __slots__ = ("active", "callback")

    def __init__(self, callback: Callable[[Event], object]) -> None:
        self.callback = callback
        self.active = True


class Subscriptions:
    """Callbacks and the bounded queue before them. Thread-safe.

    Events reach every callback in the order of :meth:`publish`, one at a time,
    on the thread ``meshclient-events``. A callback receives what is published
    after it subscribed. One that raises is logged; one that is slow delays the
    others, and when ``limit`` events wait, the oldest are dropped with a
    warning that counts them.
    """

    __slots__ = (
        "__weakref__",
        "_changed",
        "_closed",
        "_dropped",
        "_limit",
        "_queue",
        "_subscriptions",
        "_worker",
    )

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._queue: deque[tuple[Event, tuple[_Subscription, ...]]] = deque()
        self._subscriptions: tuple[_Subscription, ...] = ()
        self._worker: threading.Thread | None = None
        self._dropped = 0
        self._closed = False
        after_fork.register(self)

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Add ``callback``; the result removes it again (idempotent).

        Raises :class:`ClosedError` after :meth:`close`.
        """
        subscription = _Subscription(callback)
        with self._changed:
            if self._closed:
                raise ClosedError("no more events: the mesh is closed")
            self._subscriptions = (*self._subscriptions, subscription)

        def unsubscribe() -> None:
            with self._changed:
                subscription.active = False
                self._subscriptions = tuple(s for s in self._subscriptions if s.active)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Queue ``event`` for the present subscribers. Never waits for one."""
        with self._changed:
            if self._closed or not self._subscriptions:
                return
            if len(self._queue) >= self._limit:
                self._queue.popleft()
                self._dropped += 1
            self._queue.append((event, self._subscriptions))
            self._ensure_worker_locked()
            self._changed.notify_all()

    def close(self, timeout: float = 1.0) -> None:
        """Accept no more events; wait up to ``timeout`` seconds for the queued ones."""
        with self._changed:
            self._closed = True
            worker = self._worker
            self._changed.notify_all()
        if worker is not None and worker is not threading.current_thread():
            worker.join(max(0.0, timeout))

    def after_fork_in_child(self) -> None:
        """Subscribers stay; what was queued is the parent's to deliver."""
        self._changed = threading.Condition()
        self._queue = deque()
        self._worker = None

    def _ensure_worker_locked(self) -> None:
        if self._worker is not None:
            return
        worker = threading.Thread(target=self._deliver, name="meshclient-events", daemon=True)
        try:
            worker.start()
        except RuntimeError:  # no thread to be had; the next event tries again
            return
        self._worker = worker

    def _deliver(self) -> None:
        while (item := self._next()) is not None:
            event, subscriptions = item
            for subscription in subscriptions:
                if not subscription.active:
                    continue
                try:
                    subscription.callback(event)
                except Exception:
                    _log.exception("a subscriber failed on %r", event)

    def _next(self) -> tuple[Event, tuple[_Subscription, ...]] | None:
        with self._changed:
            if not self._queue and not self._closed:
                self._changed.wait(_LINGER_S)
            dropped, self._dropped = self._dropped, 0
            item = self._queue.popleft() if self._queue else None
            if item is None:
                self._worker = None
        if dropped:
            _log.warning("%d events were dropped: a subscriber is too slow", dropped)
        return item
