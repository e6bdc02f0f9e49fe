"""Periodic work on the clusters of the plane in force, away from every call.

Outlier ejections and their end, weights that change with time, balancers to make
anew. What is due, and what then happens, the clusters say; this is only the
loop that comes back in time. It runs on the control thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshclient.cluster_state import ClusterState
    from meshclient.model.events import Event
    from meshclient.plane import Plane

#: Never come back sooner than this: a thousand clusters must not make a busy loop.
MIN_PAUSE_S = 0.001

#: Look again at the latest after this, whatever the clusters say.
MAX_PAUSE_S = 60.0

#: Clusters that may be urgent at a time; more of them are found at their next tick.
MAX_URGENT = 4096

_log = logging.getLogger("meshclient.upkeep")


class Upkeep:
    """Looks after the clusters of ``plane()``, when they are due or urgent.

    ``clock`` gives monotonic seconds; ``emit`` takes what shall be told. :meth:`urge` is
    thread-safe and never waits; the rest belongs to the control loop.
    """

    __slots__ = ("_clock", "_emit", "_loop", "_plane", "_urgent", "_wake")

    def __init__(
        self,
        plane: Callable[[], Plane],
        clock: Callable[[], float],
        emit: Callable[[Event], object],
    ) -> None:
        self._plane = plane
        self._clock = clock
        self._emit = emit
        self._urgent: deque[ClusterState] = deque(maxlen=MAX_URGENT)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    @property
    def needed(self) -> bool:
        """Whether any cluster has to be looked after."""
        return bool(self._plane().tended())

    @property
    def warming(self) -> bool:
        """Nothing here has to be waited for."""
        return False

    def urge(self, cluster: ClusterState) -> None:
        """Look after ``cluster`` at once. Called in calls; costs a wake-up of the loop."""
        self._urgent.append(cluster)
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            with suppress(RuntimeError):  # the loop is closed: the mesh is, too
                loop.call_soon_threadsafe(wake.set)

    def changed(self) -> None:
        """Another plane is in force: what is due when may be different."""
        if self._wake is not None:
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        while True:
            self._wake.clear()
            pause_s = self.work()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    def work(self) -> float:
        """Do what is due now; seconds until the next time."""
        now = self._clock()
        plane = self._plane()
        urgent = {id(self._urgent.popleft()) for _ in range(len(self._urgent))}
        next_due = now + MAX_PAUSE_S
        for cluster in plane.tended():
            due_at = cluster.due_at
            if id(cluster) in urgent or (due_at is not None and due_at <= now):
                self._tend(cluster, now)
                due_at = cluster.due_at
            if due_at is not None and due_at < next_due:
                next_due = due_at
        return max(MIN_PAUSE_S, next_due - now)

    def _tend(self, cluster: ClusterState, now: float) -> None:
        try:
            events = cluster.tend(now)
        except Exception:
            # One cluster's trouble must not end the care for all others.
            _log.exception("upkeep of cluster %s failed", cluster.cluster.name)
            return
        for event in events:
            self._emit(event)

    def after_fork_in_child(self) -> None:
        """The parent's loop is not ours."""
        self._loop = self._wake = None
        self._urgent.clear()


__all__ = ["Upkeep"]
