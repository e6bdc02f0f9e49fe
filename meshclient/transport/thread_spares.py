"""Connections opened ahead of need for blocking clients: preconnect and warm-up.

A few daemon threads that exist only while there is something to open or to keep
warm. How many connections is :mod:`meshclient.transport.preconnect`'s word. No call
ever waits for anything in here, and nothing here raises into one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final
from weakref import ref

from meshclient.transport.interface import Target, WireError
from meshclient.transport.preconnect import REFILL_S
from meshclient.transport.socket_shell import SyncConnection

if TYPE_CHECKING:
    from meshclient.transport.sync_engine import LockedPool, SyncEngine

#: Threads that open connections; one to a host that does not answer holds one of them.
MAX_THREADS: Final = 4
#: Seconds that such a thread waits for more work before it ends.
_PATIENCE_S: Final = 2.0

_log = logging.getLogger("meshclient.transport")


class ThreadSpares:
    """One per engine, which it does not keep alive. Thread-safe."""

    def __init__(self, engine: SyncEngine) -> None:
        self._engine = ref(engine)
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Begin anew: threads stay in the parent, and what they held stays held."""
        self._jobs: SimpleQueue[LockedPool] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._openers: set[threading.Thread] = set()
        self._keeper: threading.Thread | None = None
        self._closed = False
        #: Rung when the keeper has to look now.
        self._bell = threading.Event()

    def top_up_locked(self, pool: LockedPool, opened: int = 0) -> None:
        """Have what is missing opened; an event is a request that starts, or a loss."""
        spares, neighbours = pool.spares, pool.target.neighbours
        if spares is None or pool.draining or self._closed:
            return
        if neighbours is not None and not neighbours.is_healthy():
            return
        busy = len(pool.connections) - len(pool.idle)
        for _ in range(spares.missing(len(pool.idle), busy, time.monotonic(), opened)):
            if pool.slots is not None and not pool.slots.take_spare(pool):
                return
            spares.opening += 1
            self._jobs.put(pool)
            self._have_opener()
        if spares.at_least and not spares.begun:
            spares.begun = True
            self._have_keeper()

    def _have_opener(self) -> None:
        with self._lock:
            if self._closed or self._idle >= self._jobs.qsize():
                return
            if len(self._openers) < MAX_THREADS:
                name = "meshclient-preconnect"
                thread = threading.Thread(target=self._open_all, name=name, daemon=True)
                self._openers.add(thread)
                _start(thread, lambda: self._openers.discard(thread))

    def _open_all(self) -> None:
        """One opener's life."""
        while True:
            with self._lock:
                self._idle += 1
            try:
                pool = self._jobs.get(timeout=_PATIENCE_S)
            except Empty:
                with self._lock:
                    self._idle -= 1
                    if self._jobs.empty():
                        self._openers.discard(threading.current_thread())
                        return
                continue
            with self._lock:
                self._idle -= 1
            self._open(pool)

    def _open(self, pool: LockedPool) -> None:
        """One connection, free for whoever comes."""
        spares = pool.spares
        assert spares is not None
        engine, opened = self._engine(), False
        try:
            if engine is not None and not self._closed and not pool.draining:
                engine.open_ahead(pool)
                opened = True
        except Exception as error:  # the thread serves others, too
            _log.debug("no connection ahead of need to %s: %s", pool.target, error)
        finally:
            with pool.lock:
                spares.opening -= 1
                if opened:
                    spares.reached()
                else:
                    spares.failed(time.monotonic())
            if not opened and pool.slots is not None:
                pool.slots.give_back(pool)
        if opened and spares.at_least:
            with pool.lock:
                self.top_up_locked(pool)

    # Warm-up

    def _have_keeper(self) -> None:
        with self._lock:
            self._bell.set()
            if self._keeper is None and not self._closed:
                name = "meshclient-warm-up"
                self._keeper = threading.Thread(target=self._keep, name=name, daemon=True)
                _start(self._keeper, self._forget_keeper)

    def _forget_keeper(self) -> None:
        self._keeper = None

    def _keep(self) -> None:
        """The keeper's life: a look at every warm pool, once per :data:`REFILL_S`."""
        told: set[Target] = set()
        while True:
            self._bell.wait(REFILL_S)
            self._bell.clear()
            engine = self._engine()
            warm = [] if engine is None else engine.warm_pools()
            if engine is None or not warm or self._closed:
                with self._lock:
                    self._keeper = None
                return
            try:
                for pool in warm:
                    self._look_after(engine, pool, told)
            except Exception:  # as quiet as everything in here, but not in the log
                _log.exception("keeping connections warm failed")
            told.intersection_update(pool.target for pool in engine.warm_pools())
            del engine, warm, pool

    def _look_after(self, engine: SyncEngine, pool: LockedPool, told: set[Target]) -> None:
        self._tell(engine, pool, told)
        _drop_ended(pool)
        with pool.lock:
            self.top_up_locked(pool)

    def _tell(self, engine: SyncEngine, pool: LockedPool, told: set[Target]) -> None:
        """Calls to this endpoint have begun: the others of its cluster are due."""
        target = pool.target
        if target in told:
            return
        told.add(target)
        for other in target.neighbours.targets(target) if target.neighbours is not None else ():
            if other not in told:
                told.add(other)
                engine.pool_ahead(other)

    def warm(self, pools: Iterable[LockedPool], count: int, limit: float) -> bool:
        """Have ``count`` connections open in each until ``limit``; True when all have as many.

        For callers who want to wait.
        """
        work: SimpleQueue[LockedPool] = SimpleQueue()
        results: SimpleQueue[bool] = SimpleQueue()
        total = 0
        for pool in pools:
            work.put(pool)
            total += 1

        def worker() -> None:
            while True:
                try:
                    pool = work.get_nowait()
                except Empty:
                    return
                results.put(self._warm_one(pool, count, limit))

        for _ in range(min(total, MAX_THREADS)):
            threading.Thread(target=worker, name="meshclient-preconnect", daemon=True).start()
        try:
            found = [results.get(timeout=max(0.0, limit - time.monotonic())) for _ in range(total)]
        except Empty:
            return False
        return all(found)

    def _warm_one(self, pool: LockedPool, count: int, limit: float) -> bool:
        while time.monotonic() < limit and not self._closed:
            with pool.lock:
                if len(pool.connections) >= count:
                    return True
                if pool.slots is not None and not pool.slots.take_spare(pool):
                    return False
            engine, opened = self._engine(), False
            try:
                if engine is None:
                    return False
                engine.open_ahead(pool, limit)
                opened = True
            except WireError:
                return False
            finally:
                if not opened and pool.slots is not None:
                    pool.slots.give_back(pool)
        return False

    def close(self) -> None:
        """Open nothing more; what is under way is closed when it is there. Idempotent."""
        self._closed = True
        self._bell.set()


def _start(thread: threading.Thread, undo: object) -> None:
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter is ending: it can wait
        undo()  # type: ignore[operator]


def _drop_ended(pool: LockedPool) -> None:
    """Close idle connections that the server closed; nobody else looks until a request comes."""
    with pool.lock:
        pool.expire(time.monotonic())
        ended = [one for one in pool.idle if _has_ended(one)]
        for connection in ended:
            pool.idle.pop(connection, None)
    for connection in ended:
        connection.close()


def _has_ended(connection: SyncConnection) -> bool:
    """HTTP/2 connections look themselves when a request comes."""
    if not isinstance(connection, SyncConnection):
        return False
    readiness = connection.readiness
    return readiness.readable() if connection.requests else readiness.has_ended()


__all__ = ["MAX_THREADS", "ThreadSpares"]
