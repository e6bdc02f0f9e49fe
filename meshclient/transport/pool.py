"""Which connection serves the next request: bookkeeping only.

Pure: ``now`` is an argument, and connections are opaque objects that are
closed through the callback given. No socket, lock, timer or event loop; the
engines add those. Where ``acquire`` returns None the engine opens a connection; in
a cluster with limits it asks the :mod:`~meshclient.transport.slots` first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from meshclient.transport.interface import MAX_IDLE_CONNECTIONS, PoolStats, Target
from meshclient.transport.preconnect import spares_for

#: Share of the most age that chance may take off.
MAX_AGE_JITTER = 0.1


class Pooled(Protocol):
    """What the pool reads of a connection."""

    #: Monotonic seconds after which it takes no further request.
    retire_at: float
    #: Requests it has taken.
    requests: int


C = TypeVar("C", bound=Pooled)


class Pool(Generic[C]):
    """The connections of one target. O(1) per request at any size; not thread-safe.

    ``jitter`` gives numbers from [0, 1): a connection retires at its most age less up to
    :data:`MAX_AGE_JITTER` of it, so that a fleet which connected at once does not
    reconnect at once.

    Idle connections are a stack (last in, first out): the newest is the least
    likely to be stale, and a shrinking load lets the oldest expire.

    ``spares`` says what is opened ahead of requests (None: nothing); ``on_loss`` is
    then told of each connection that ended.
    """

    __slots__ = (
        "_close",
        "_jitter",
        "_max_age_s",
        "_max_idle",
        "_max_requests",
        "connections",
        "draining",
        "idle",
        "idle_timeout_s",
        "on_loss",
        "opened",
        "reused",
        "slots",
        "spares",
        "target",
    )

    def __init__(
        self,
        target: Target,
        close: Callable[[C], object],
        max_idle: int = MAX_IDLE_CONNECTIONS,
        jitter: Callable[[], float] = float,
    ) -> None:
        options = target.options
        self.target = target
        self.slots = target.connections
        self._jitter = jitter
        self._close = close
        self._max_idle = max_idle
        self.idle_timeout_s = _or_forever(options.idle_timeout_s)
        self._max_age_s = _or_forever(options.max_duration_s)
        self._max_requests = options.max_requests or math.inf
        self.connections: set[C] = set()
        self.idle: dict[C, float] = {}  # insertion order is order of going idle
        self.draining = False
        self.opened = 0
        self.reused = 0
        self.spares = spares_for(options)
        self.on_loss: Callable[[Pool[C]], object] | None = None

    def acquire(self, now: float) -> C | None:
        """The connection that became idle last, or None: open one and ``add`` it."""
        idle = self.idle
        while idle:
            connection, since = idle.popitem()
            if now - since < self.idle_timeout_s and now < connection.retire_at:
                self.reused += 1
                return connection
            self._end(connection)
        return None

    def add(self, connection: C, now: float) -> None:
        """A new connection, which the caller holds, and with it a slot where there are limits."""
        if self._max_age_s != math.inf:
            share = 1.0 - MAX_AGE_JITTER * self._jitter()
            connection.retire_at = now + self._max_age_s * share
        else:
            connection.retire_at = math.inf
        self.connections.add(connection)
        self.opened += 1

    def release(self, connection: C, now: float) -> bool:
        """Back after a response that allows reuse; False when it was closed instead."""
        if (
            self.draining
            or now >= connection.retire_at
            or connection.requests >= self._max_requests
            or len(self.idle) >= self._max_idle
        ):
            self._end(connection)
            return False
        if self.slots is not None and self.slots.offer(self, connection):
            self.reused += 1
            return True
        self.idle[connection] = now
        return True

    def discard(self, connection: C) -> None:
        """Forget a connection that is closed or about to be; idempotent."""
        if connection in self.connections:
            self.connections.remove(connection)
            self.idle.pop(connection, None)
            if self.slots is not None:
                self.slots.give_back(self)
            if self.on_loss is not None and not self.draining:
                self.on_loss(self)

    def _end(self, connection: C) -> None:
        """Close, then forget: its slot must not be another's before its socket is closed."""
        self._close(connection)
        self.discard(connection)

    def due(self) -> float:
        """When ``expire`` has work at the earliest; infinity while nothing is idle."""
        if not self.idle:
            return math.inf
        oldest = next(iter(self.idle.values())) + self.idle_timeout_s
        if self._max_age_s == math.inf:
            return oldest
        return min(oldest, min(connection.retire_at for connection in self.idle))

    def expire(self, now: float) -> None:
        """Close the idle connections whose time is over."""
        limit = now - self.idle_timeout_s
        over = [c for c, since in self.idle.items() if since <= limit or now >= c.retire_at]
        self._close_all(over)

    def drain(self) -> None:
        """Close what is idle; what is busy finishes its response and is closed then."""
        self.draining = True
        self._close_all(list(self.idle))

    def _close_all(self, connections: list[C]) -> None:
        for connection in connections:
            self._end(connection)

    def stats(self) -> PoolStats:
        """Counts of this moment."""
        idle = len(self.idle)
        return PoolStats(idle, len(self.connections) - idle, self.opened, self.reused)


def _or_forever(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
