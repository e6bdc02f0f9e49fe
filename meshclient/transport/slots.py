"""How many connections a cluster may have, and who waits for one: a fair, bounded queue.

Pure bookkeeping under one lock: no socket, clock, timer or event loop. Whoever waits
brings a ``Waiter`` that knows how to be woken. Source: Envoy ``conn_pool_base.cc``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from meshclient.model.cluster import UNLIMITED, Limits

if TYPE_CHECKING:
    from meshclient.transport.endpoint_slots import EndpointCounts


class Waiter(Protocol):
    """One request in the queue."""

    #: The pool whose connections can serve it.
    pool: Any

    def grant(self, connection: Any, error: BaseException | None = None) -> bool:
        """It is served: with a free connection of its pool, or None: it has a slot and opens
        one. Or it is refused with ``error``.

        Called under the lock, at most once with the answer True; hands the news over
        and returns. False: nobody is there any more (its event loop is closed).
        """


class PoolMoved(Exception):
    """To be caught by who waits: look for a connection again, in the other pool."""


class ConnectionSlots:
    """The connections of one cluster, over all its endpoints, threads and event loops.

    ``max_connections`` counts those that are open or being opened; a pool without any may
    always open one, so that no endpoint is shut out by the others (hence the
    limit can be exceeded by the number of pools). ``max_pending`` counts the
    requests that have no connection yet, the ones that are opening theirs included.
    The queue is first in, first out. All methods are O(1) and thread-safe.
    ``lock`` (re-entrant) may be held around several of them.
    """

    __slots__ = (
        "_max_connections",
        "_max_pending",
        "_of_pool",
        "_queue",
        "_used",
        "lock",
        "open",
        "pending",
    )

    def __init__(self, limits: Limits) -> None:
        self._max_connections: Final = limits.max_connections
        self._max_pending: Final = limits.max_pending_requests
        self.lock = threading.RLock()
        #: Slots taken: connections open or being opened.
        self.open = 0
        #: Requests without a connection.
        self.pending = 0
        self._used: dict[Any, int] = {}  # slots by pool
        # Linked lists: a dict whose first items keep leaving takes ever longer to find the next.
        self._queue: OrderedDict[Waiter, None] = OrderedDict()
        self._of_pool: dict[Any, OrderedDict[Waiter, None]] = {}

    def enter(self) -> bool:
        """A request without a connection, pending until :meth:`leave`; False: too many."""
        with self.lock:
            if self.pending >= self._max_pending:
                return False
            self.pending += 1
            return True

    def leave(self) -> None:
        """A pending request has its connection, or gave up."""
        with self.lock:
            self.pending -= 1

    def take(self, waiter: Waiter) -> bool:
        """A slot for a new connection of the waiter's pool; False: it has joined the queue."""
        pool = waiter.pool
        with self.lock:
            # Made before looking: making one may run a destructor that gives a slot back,
            # and nobody would tell a waiter who is not in the queue yet.
            mine = self._of_pool.setdefault(pool, OrderedDict())
            if self._has_room_locked(pool) or pool not in self._used:
                if not mine:
                    self._of_pool.pop(pool, None)
                self._take_locked(pool)
                return True
            self._queue[waiter] = mine[waiter] = None
            return False

    def take_spare(self, pool: Any) -> bool:
        """A slot for a connection that no request asked for: only one that nobody wants."""
        with self.lock:
            if self._queue or not self._has_room_locked(pool):
                return False
            self._take_locked(pool)
            return True

    def withdraw(self, waiter: Waiter) -> bool:
        """Leave the queue; False when it was served already (pass on what it got)."""
        with self.lock:
            if waiter not in self._queue:
                return False
            self._remove_locked(waiter)
            return True

    def offer(self, pool: Any, connection: Any) -> bool:
        """Give a connection that became free to the first who waits for one of its pool."""
        with self.lock:
            while mine := self._of_pool.get(pool):
                if self._serve_locked(next(iter(mine)), connection):
                    return True
            return False

    def refuse(self, pool: Any, error: Callable[[], BaseException]) -> None:
        """Fail everybody who waits for ``pool``, each with an error of its own.

        For a failed connect (Envoy fails all pending streams of the pool, since they would
        meet the same end one after the other) and for closing.
        """
        with self.lock:
            while mine := self._of_pool.get(pool):
                waiter = next(iter(mine))
                self._remove_locked(waiter)
                waiter.grant(None, error())

    def give_back(self, pool: Any) -> None:
        """A connection of ``pool`` is closed, or was never opened.

        Its slot goes to the first in the queue; or to the first of its own pool, if that
        has no connection left to wait for.
        """
        with self.lock:
            self._untake_locked(pool)
            while (first := self._next_locked(pool)) is not None:
                self._take_locked(first.pool)
                if self._serve_locked(first, None):
                    return
                self._untake_locked(first.pool)

    def move(self, pool: Any, other: Any) -> None:
        """A connection of ``pool`` turned out to belong to ``other``, and its slot with it.

        Whoever waits for ``pool`` gets :class:`PoolMoved` if nothing is left to wake it.
        """
        with self.lock:
            self._untake_locked(pool)
            self._take_locked(other)
            if pool not in self._used:
                self.refuse(pool, PoolMoved)

    def _next_locked(self, pool: Any) -> Waiter | None:
        """Who gets a slot that ``pool`` gave back."""
        mine = None if pool in self._used else self._of_pool.get(pool)
        if mine:
            return next(iter(mine))
        if self._queue and self.open < self._max_connections:
            return self._first_locked()
        return None

    def _first_locked(self) -> Waiter | None:
        """Who is next where the cluster has room; the queue is not empty."""
        return next(iter(self._queue))

    def _has_room_locked(self, pool: Any) -> bool:  # noqa: ARG002
        """Whether ``pool`` may have one connection more; it may always have one."""
        return self.open < self._max_connections

    def _take_locked(self, pool: Any) -> None:
        self.open += 1
        self._used[pool] = self._used.get(pool, 0) + 1

    def _untake_locked(self, pool: Any) -> None:
        self.open -= 1
        left = self._used[pool] - 1
        if left:
            self._used[pool] = left
        else:
            del self._used[pool]

    def _serve_locked(self, waiter: Waiter, connection: Any) -> bool:
        if waiter not in self._queue:  # a destructor came between and served it
            return False
        self._remove_locked(waiter)
        return waiter.grant(connection)

    def _remove_locked(self, waiter: Waiter) -> None:
        del self._queue[waiter]
        mine = self._of_pool[waiter.pool]
        del mine[waiter]
        if not mine:
            del self._of_pool[waiter.pool]

    @property
    def max_connections(self) -> int:
        """The limit."""
        return self._max_connections

    @property
    def max_pending(self) -> int:
        """The limit of requests without a connection."""
        return self._max_pending

    @property
    def max_per_endpoint(self) -> int:
        """The most that one endpoint may have."""
        return self._max_connections

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def __repr__(self) -> str:
        return f"<ConnectionSlots open={self.open} pending={self.pending} waiting={self.waiting}>"


def slots_for(limits: Limits, per_endpoint: EndpointCounts | None = None) -> ConnectionSlots | None:
    """What connections of a cluster have to ask; None when nothing limits them.

    ``per_endpoint`` counts those of both priorities, where one limits them by endpoint.
    """
    if per_endpoint is not None:
        from meshclient.transport.endpoint_slots import EndpointSlots

        return EndpointSlots(limits, per_endpoint)
    if limits.max_connections >= UNLIMITED and limits.max_pending_requests >= UNLIMITED:
        return None
    return ConnectionSlots(limits)
