"""How many connections each endpoint of a cluster may have, besides those of the whole cluster.

Pure bookkeeping, as in :mod:`meshclient.transport.slots`, whose queue it is. Source: Envoy
``upstream_impl.cc`` (``HostImplBase::canCreateConnection``): the connections of a host are
counted over both routing priorities, and each priority has a limit of its own.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from meshclient.model.cluster import UNLIMITED, Limits
from meshclient.transport.slots import ConnectionSlots, Waiter

Place = tuple[str, int]


class EndpointCounts:
    """Connections by endpoint, of all event loops, threads and priorities. Thread-safe."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        # Re-entrant: a destructor that closes a connection may run at any allocation.
        self._lock = threading.RLock()
        self._counts: dict[Place, int] = {}

    def of(self, place: Place) -> int:
        """Those that are open or being opened."""
        return self._counts.get(place, 0)

    def add(self, place: Place, change: int) -> None:
        """One more, or (-1) one less; endpoints without one are forgotten."""
        with self._lock:
            count = self._counts.get(place, 0) + change
            if count > 0:
                self._counts[place] = count
            else:
                self._counts.pop(place, None)


class EndpointSlots(ConnectionSlots):
    """Slots of a cluster whose endpoints have a limit each.

    The queue is first in, first out among those whose endpoint has room. A connection that
    ends under the other priority wakes nobody here, as in Envoy; everybody who waits has at
    least one connection of the own pool to wait for.
    """

    __slots__ = ("_max_per_endpoint", "_next_number", "_numbers", "counts")

    def __init__(self, limits: Limits, counts: EndpointCounts) -> None:
        super().__init__(limits)
        self._max_per_endpoint: Final = limits.max_connections_per_endpoint
        self.counts = counts
        self._numbers: dict[Waiter, int] = {}
        self._next_number = 0

    @property
    def max_per_endpoint(self) -> int:
        """The most that one endpoint may have."""
        return min(self._max_per_endpoint, self._max_connections)

    def take(self, waiter: Waiter) -> bool:
        with self.lock:
            self._next_number += 1
            self._numbers[waiter] = self._next_number
            if super().take(waiter):
                self._numbers.pop(waiter, None)
                return True
            return False

    def _first_locked(self) -> Waiter | None:
        heads = [
            next(iter(mine)) for pool, mine in self._of_pool.items() if mine and self._open_to(pool)
        ]
        return min(heads, key=self._numbers.__getitem__, default=None)

    def _has_room_locked(self, pool: Any) -> bool:
        return super()._has_room_locked(pool) and self._open_to(pool)

    def _open_to(self, pool: Any) -> bool:
        return self.counts.of(_place(pool)) < self._max_per_endpoint

    def _take_locked(self, pool: Any) -> None:
        super()._take_locked(pool)
        self.counts.add(_place(pool), 1)

    def _untake_locked(self, pool: Any) -> None:
        super()._untake_locked(pool)
        self.counts.add(_place(pool), -1)

    def _remove_locked(self, waiter: Waiter) -> None:
        super()._remove_locked(waiter)
        self._numbers.pop(waiter, None)


def _place(pool: Any) -> Place:
    target = pool.target
    return (target.address, target.port)


def counts_for(*limits: Limits) -> EndpointCounts | None:
    """The counts that the priorities of a cluster share; None: neither limits its endpoints."""
    limited = any(one.max_connections_per_endpoint < UNLIMITED for one in limits)
    return EndpointCounts() if limited else None


def counts_of(slots: ConnectionSlots | None) -> EndpointCounts | None:
    """Those that ``slots`` keep."""
    return slots.counts if isinstance(slots, EndpointSlots) else None


__all__ = ["EndpointCounts", "EndpointSlots", "counts_for", "counts_of"]
