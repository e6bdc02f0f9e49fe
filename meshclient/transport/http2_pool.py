"""Which HTTP/2 connection takes the next stream: bookkeeping only.

Pure like :mod:`meshclient.transport.pool`, whose rules it keeps: ``now`` is an
argument, and connections are opaque. No socket, timer or event loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from meshclient.transport.interface import PoolStats, Target
from meshclient.transport.pool import MAX_AGE_JITTER


class Multiplexed(Protocol):
    """What the pool reads of a connection."""

    #: Monotonic seconds after which it takes no further stream.
    retire_at: float
    #: Streams it has carried.
    requests: int

    def active(self) -> int:
        """Streams under way."""

    def room(self) -> int:
        """How many more it takes now."""

    def abort(self) -> None:
        """Close it at once."""


C = TypeVar("C", bound=Multiplexed)

#: Streams expected of a connection whose peer has not said anything yet.
FIRST_GUESS = 100


class MultiplexPool(Generic[C]):
    """The HTTP/2 connections of one target. Not thread-safe.

    ``acquire`` costs O(1): those with room are in ``ready``, and one that turns
    out to be full or over leaves it until ``changed`` says otherwise. Streams fill one
    connection before the next, so that a shrinking load leaves the others idle.
    """

    __slots__ = (
        "_jitter",
        "_max_age_s",
        "_max_requests",
        "connections",
        "draining",
        "guess",
        "idle_timeout_s",
        "opened",
        "ready",
        "reused",
        "slots",
        "target",
    )

    def __init__(self, target: Target, jitter: Callable[[], float] = float) -> None:
        options = target.options
        self.target = target
        self.slots = target.connections
        self.idle_timeout_s = _or_forever(options.idle_timeout_s)
        self._max_age_s = _or_forever(options.max_duration_s)
        self._max_requests = options.max_requests or math.inf
        self._jitter = jitter
        self.connections: set[C] = set()
        self.ready: dict[C, None] = {}
        self.draining = False
        self.opened = self.reused = 0
        #: Streams that a connection yet to come will take, as far as known.
        self.guess = min(FIRST_GUESS, options.max_concurrent_streams or FIRST_GUESS)

    def acquire(self, now: float) -> C | None:
        """A connection with room for one more stream, or None."""
        while self.ready:
            connection = next(iter(self.ready))
            if self._takes_more(connection, now):
                self.reused += connection.requests > 0
                return connection
            del self.ready[connection]
            if not connection.active() and self.is_over(connection, now):
                self.end(connection)
        return None

    def _takes_more(self, connection: C, now: float) -> bool:
        return connection.room() > 0 and not self.is_over(connection, now)

    def is_over(self, connection: C, now: float) -> bool:
        """Its age or its count of requests is reached, or nobody wants its target any more."""
        return (
            self.draining
            or now >= connection.retire_at
            or connection.requests >= self._max_requests
        )

    def add(self, connection: C, now: float) -> None:
        """A new connection, and with it a slot where there are limits."""
        connection.retire_at = math.inf
        if self._max_age_s != math.inf:
            connection.retire_at = now + self._max_age_s * (1.0 - MAX_AGE_JITTER * self._jitter())
        self.connections.add(connection)
        self.opened += 1
        self.guess = max(1, connection.room())

    def changed(self, connection: C, now: float) -> None:
        """A stream ended or the peer changed its limits: it may have room, or have to go."""
        if connection not in self.connections:
            return
        room = 0 if self.is_over(connection, now) else connection.room()
        if room <= 0:
            self.ready.pop(connection, None)
            if not connection.active():
                self.end(connection)
            return
        self.ready[connection] = None
        while self.slots is not None and room > 0 and self.slots.offer(self, connection):
            room -= 1

    def end(self, connection: C) -> None:
        """Close, then forget."""
        connection.abort()
        self.discard(connection)

    def discard(self, connection: C) -> None:
        """Forget a connection that is closed; idempotent."""
        self.ready.pop(connection, None)
        if connection in self.connections:
            self.connections.remove(connection)
            if self.slots is not None:
                self.slots.give_back(self)

    def drain(self) -> None:
        """Close what carries nothing; the rest finishes its streams and is closed then."""
        self.draining = True
        self.ready.clear()
        for connection in [c for c in self.connections if not c.active()]:
            self.end(connection)

    def stats(self) -> PoolStats:
        """Connections, not streams: ``active`` ones carry at least one."""
        active = sum(1 for connection in self.connections if connection.active())
        return PoolStats(len(self.connections) - active, active, self.opened, self.reused)


def _or_forever(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
