"""The synchronous engine: one pool per target, shared by threads, opened and closed here.

No HTTP and no policy in here; no thread of its own either: expiry happens on
the way, when somebody sends.
"""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from meshclient.transport.dial import connect_limit, open_sync
from meshclient.transport.http1_request import encode_request
from meshclient.transport.interface import (
    MAX_IDLE_CONNECTIONS,
    PoolStats,
    SyncWireResponse,
    Target,
    TimeoutKind,
    WireError,
    WireRequest,
    closed_error,
    timeout_error,
)
from meshclient.transport.opening import Opening
from meshclient.transport.pool import Pool
from meshclient.transport.preconnect import NO_REQUEST, Neighbour, models, sibling
from meshclient.transport.readiness import RECEIVE_BODY
from meshclient.transport.slot_waiters import (
    ThreadWaiter,
    refuse_others,
    too_many_pending,
    wait_limit,
)
from meshclient.transport.slots import ConnectionSlots
from meshclient.transport.socket_shell import NotWrittenError, SyncConnection
from meshclient.transport.thread_spares import ThreadSpares

#: Pools without a connection are dropped when this many exist.
_MAX_POOLS = 1024
#: Least seconds between two looks at the idle connections of all targets.
_SWEEP_S = 1.0


class LockedPool(Pool[SyncConnection]):
    """A pool and the lock that every use of it needs."""

    __slots__ = ("lock",)

    def __init__(self, target: Target, max_idle: int) -> None:
        super().__init__(target, SyncConnection.close, max_idle, random.random)
        # Re-entrant: closing a connection under the lock discards it from the pool.
        # With limits it is the cluster's lock: "nothing is idle, so I queue" is one step.
        self.lock = threading.RLock() if self.slots is None else self.slots.lock

    def discard(self, connection: SyncConnection) -> None:
        with self.lock:
            super().discard(connection)


class SyncEngine:
    """Sends requests over blocking sockets. Thread-safe; close it when done.

    ``max_idle`` idle connections are kept per target (default 256).
    """

    def __init__(self, *, max_idle: int = MAX_IDLE_CONNECTIONS) -> None:
        self._max_idle = max_idle
        self._max_pools = _MAX_POOLS
        self._lock = threading.Lock()
        self._pools: dict[Target, LockedPool] = {}
        self._drained: list[LockedPool] = []
        self._closed = False
        self._sweep_at = 0.0
        # And dropped at once. Bodies are read into objects of a quarter of that, for which glibc
        # asks the kernel each time until a larger one has been freed once.
        bytearray(4 * RECEIVE_BODY)
        self._opening: set[Opening] = set()
        self._spares = ThreadSpares(self)

    def send(self, target: Target, request: WireRequest) -> SyncWireResponse:
        """One request to one target, tried again only where ``request.resend`` says so.

        Raises WireError (InvalidRequest before anything was sent), and what an
        iterator that streams the body raises.
        """
        encoded = encode_request(request)
        now = time.monotonic()
        if request.deadline is not None and request.deadline <= now:
            raise timeout_error("deadline", False)
        if now >= self._sweep_at:
            self._sweep(now)
        resend = request.resend
        fresh = False
        while True:
            pool = self._pools.get(target)
            if pool is None:
                pool = self._new_pool(target)
            connection = None if fresh else self._idle(pool, now)
            if connection is None and pool.slots is None:
                connection = self._connect(pool, target, request)
            elif connection is None:
                connection = self._in_turn(pool, pool.slots, target, request)  # type: ignore[arg-type]
            if request.abort is not None:
                request.abort.takes(connection)
            try:
                return connection.exchange(request, encoded)
            except NotWrittenError:
                # Not a byte left this machine: the next connection is no retry. It
                # ends, since a fresh connection does not raise this.
                continue
            except WireError as error:
                if fresh or not error.reused or resend is None or not resend():
                    raise
                fresh = True

    def _idle(self, pool: LockedPool, now: float) -> SyncConnection | None:
        with pool.lock:
            found = pool.acquire(now)
            if pool.spares is not None and found is not None:
                self._spares.top_up_locked(pool)
            return found

    def _in_turn(
        self, pool: LockedPool, slots: ConnectionSlots, target: Target, request: WireRequest
    ) -> SyncConnection:
        """A connection of a cluster that has limits: a free one, or a new one in its turn."""
        waiter = ThreadWaiter(pool)
        with slots.lock:
            if self._closed:  # close() set it before it refused those who wait
                raise closed_error(False)
            connection = pool.acquire(time.monotonic())
            if connection is not None:
                return connection
            if not slots.enter():
                raise too_many_pending(target)
            has_slot = slots.take(waiter)
        try:
            if not has_slot:
                limit, kind = wait_limit(target, request, time.monotonic())
                if request.abort is not None:
                    request.abort.waits(slots, waiter)
                connection = waiter.wait(slots, limit, kind)
            return connection or self._connect_in_slot(pool, slots, target, request)
        finally:
            slots.leave()

    def _connect_in_slot(
        self, pool: LockedPool, slots: ConnectionSlots, target: Target, request: WireRequest
    ) -> SyncConnection:
        try:
            return self._connect(pool, target, request)
        except BaseException as error:
            refuse_others(slots, pool, error, target, request)
            slots.give_back(pool)
            raise

    def _connect(self, pool: LockedPool, target: Target, request: WireRequest) -> SyncConnection:
        """A connection of a request's own."""
        spares = pool.spares
        if spares is None:
            return self._open(pool, target, request)
        with pool.lock:
            spares.pending += 1
            self._spares.top_up_locked(pool, 1)
        connection = None
        try:
            connection = self._open(pool, target, request)
            return connection
        finally:
            with pool.lock:
                spares.pending -= 1
                if connection is not None:
                    spares.reached()

    def _open(
        self,
        pool: LockedPool,
        target: Target,
        request: WireRequest,
        until: float = math.inf,
    ) -> SyncConnection:
        """A new connection, counted in the pool. Raises WireError."""
        opening = Opening()
        self._opening.add(opening)
        try:
            if request.abort is not None:
                request.abort.holds(opening)
            # close() sets the flag before it looks for what is being opened.
            if self._closed:
                raise closed_error(False)
            return self._open_by(pool, target, request, until, opening)
        except WireError as error:
            if opening.cancelled:
                raise closed_error(False) from error
            raise
        finally:
            self._opening.discard(opening)

    def _open_by(
        self,
        pool: LockedPool,
        target: Target,
        request: WireRequest,
        until: float,
        opening: Opening,
    ) -> SyncConnection:
        limit, kind = connect_limit(target, request, time.monotonic())
        sock = open_sync(target, min(limit, until), kind, opening)
        if target.protocol == "http1":
            connection = SyncConnection(sock, pool, self._release)
        else:
            connection = self._negotiated(sock, pool, limit, kind)
        with pool.lock:
            # close() takes the same lock after it set the flag: one of us sees the other.
            if not self._closed:
                pool.add(connection, time.monotonic())
                if self._pools.get(target) is not pool:
                    pool.draining = True  # given up meanwhile: nobody would find it again
                return connection
        connection.close()
        raise closed_error(False)

    def _negotiated(
        self, sock: socket.socket, pool: LockedPool, limit: float, kind: TimeoutKind
    ) -> SyncConnection:
        """A connection that speaks what the target asks for, or what ALPN chose."""
        from meshclient.transport.http2 import speaks_http2
        from meshclient.transport.http2_socket import SyncHttp2Connection

        if not speaks_http2(pool.target.protocol, sock):
            return SyncConnection(sock, pool, self._release)
        connection = SyncHttp2Connection(sock, pool, self._release)
        connection.settle(limit, kind)
        return connection  # type: ignore[return-value]  # the same interface

    def _release(self, connection: SyncConnection) -> None:
        pool: LockedPool = connection.pool  # type: ignore[assignment]
        with pool.lock:
            pool.release(connection, time.monotonic())

    # Ahead of need

    def open_ahead(self, pool: LockedPool, until: float = math.inf) -> None:
        """Open a connection that waits for a request. Raises WireError.

        With limits, the slot it takes is the caller's, who gives it back after an error.
        """
        connection = self._open(pool, pool.target, NO_REQUEST, until)
        connection.ahead = True
        self._release(connection)

    def pool_ahead(self, target: Target) -> LockedPool | None:
        """The pool of a target that nobody has called yet; None once the engine is closed."""
        with suppress(WireError):
            return self._pools.get(target) or self._new_pool(target)
        return None

    def warm_pools(self) -> list[LockedPool]:
        """Those that are kept at a number of connections."""
        with self._lock:
            pools = list(self._pools.values())
        return [pool for pool in pools if pool.spares is not None and pool.spares.at_least]

    def warm(self, targets: Collection[Target], count: int, timeout: float) -> bool:
        """Have ``count`` connections open to each target, for at most ``timeout`` seconds.

        True when all have as many; failures are quiet.
        """
        pools = [pool for pool in map(self.pool_ahead, targets) if pool is not None]
        enough = self._spares.warm(pools, count, time.monotonic() + timeout)
        return enough and len(pools) == len(targets)

    def join(self, places: Collection[tuple[Any, ...]], newcomers: Sequence[Neighbour]) -> None:
        """Endpoints that joined a cluster whose others are at ``places``: keep them warm."""
        with self._lock:
            known = list(self._pools)
        for model in models(known, places):
            for newcomer in newcomers:
                pool = self.pool_ahead(sibling(model, *newcomer))
                if pool is not None:
                    with pool.lock:
                        self._spares.top_up_locked(pool)

    def _new_pool(self, target: Target) -> LockedPool:
        with self._lock:
            if self._closed:
                raise closed_error(False)
            if len(self._pools) >= self._max_pools:
                self._pools = {t: p for t, p in self._pools.items() if p.connections}
                self._max_pools = max(_MAX_POOLS, 2 * len(self._pools))
            pool = self._pools.get(target)
            if pool is None:
                pool = self._pools[target] = LockedPool(target, self._max_idle)
            return pool

    def _sweep(self, now: float) -> None:
        """Close what has been idle too long, on every target."""
        self._sweep_at = now + _SWEEP_S
        with self._lock:
            pools = list(self._pools.values())
            self._drained = [pool for pool in self._drained if pool.connections]
        for pool in pools:
            with pool.lock:
                pool.expire(now)

    def retain(self, targets: Collection[Target]) -> None:
        """Drain all other targets: idle connections close at once, busy ones after
        their response. From any thread."""
        with self._lock:
            leaving = [self._pools.pop(t) for t in list(self._pools) if t not in targets]
            self._drained = [p for p in (*self._drained, *leaving) if p.connections]
        for pool in leaving:
            with pool.lock:
                pool.drain()

    def stats(self) -> dict[Target, PoolStats]:
        """Counts per target; a moment's view, from any thread."""
        with self._lock:
            pools = dict(self._pools)
        return {target: pool.stats() for target, pool in pools.items()}

    def close(self) -> None:
        """End idle connections, and calls in flight with WireError CANCELLED; idempotent."""
        self._spares.close()
        with self._lock:
            self._closed = True
            pools = [*self._pools.values(), *self._drained]
            self._pools, self._drained = {}, []
        for opening in list(self._opening):
            opening.cancel()
        for pool in pools:
            with pool.lock:
                pool.drain()
                if pool.slots is not None:
                    pool.slots.refuse(pool, lambda: closed_error(False))
                # A copy: a destructor may close one in the middle of it.
                for connection in list(pool.connections):
                    connection.cancel()

    def after_fork_in_child(self) -> None:
        """Forget every connection of the parent without a word to its peers.

        Only file descriptors are closed; no lock of the parent is waited for,
        since the thread that held it does not exist here.
        """
        pools = [*self._pools.values(), *self._drained]
        self._lock = threading.Lock()
        self._spares.after_fork_in_child()
        self._pools, self._drained, self._opening = {}, [], set()
        self._sweep_at = 0.0
        for pool in pools:
            pool.lock, pool.slots = threading.RLock(), None
            for connection in list(pool.connections):
                connection.closed = True
                with suppress(OSError):
                    connection.sock.close()
