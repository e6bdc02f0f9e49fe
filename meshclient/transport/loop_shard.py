"""The connections of one event loop: pools, slots, expiry, and what is opened ahead.

Only ever touched on its loop's thread. No HTTP and no policy in here; which request goes
where is :mod:`meshclient.transport.async_engine`'s business.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshclient.transport.asyncio_decrypted import TlsBuffers
from meshclient.transport.asyncio_shell import AsyncConnection
from meshclient.transport.dial import connect_limit, open_async
from meshclient.transport.interface import (
    Target,
    WireRequest,
    closed_error,
)
from meshclient.transport.loop_end import at_loop_end
from meshclient.transport.opening import LoopOpenings
from meshclient.transport.pool import Pool
from meshclient.transport.preconnect import Neighbour, models, sibling
from meshclient.transport.slot_waiters import (
    LoopWaiter,
    refuse_others,
    too_many_pending,
    wait_limit,
)
from meshclient.transport.slots import ConnectionSlots

if TYPE_CHECKING:
    from meshclient.transport.http2_loop import Http2Loop
    from meshclient.transport.loop_spares import LoopSpares

#: Pools without a connection are dropped when this many exist.
_MAX_POOLS = 1024
#: asyncio reads plain text into a new object of 256 KiB each time. glibc asks the kernel for
#: such memory, three system calls per read, until a larger piece has been freed once.
_LARGE = 1 << 20


class LoopShard:
    """The pools of one event loop. Everything but ``post`` runs on its thread."""

    __slots__ = (
        "_guard",
        "_max_idle",
        "_max_pools",
        "_sweep_at",
        "_sweeper",
        "closed",
        "http2",
        "loop",
        "open",
        "opening",
        "pools",
        "spares",
        "tls_buffers",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, max_idle: int) -> None:
        self.loop = loop
        self.closed = False
        self.pools: dict[Target, Pool[AsyncConnection]] = {}
        self.open: set[AsyncConnection] = set()
        self.opening = LoopOpenings()
        self.tls_buffers = TlsBuffers(loop)
        bytearray(_LARGE)  # and dropped at once
        #: Made at the first target that speaks HTTP/2; nothing imports h2 before.
        self.http2: Http2Loop | None = None
        #: Made at the first target that has connections opened ahead.
        self.spares: LoopSpares | None = None
        self._max_idle = max_idle
        self._max_pools = _MAX_POOLS
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf
        self._guard: AsyncGenerator[None, None] | None = None

    async def guard(self) -> None:
        """Have the connections closed with the loop, if it ends the way asyncio.run ends it."""
        self._guard = await at_loop_end(self.close)

    def new_pool(self, target: Target) -> Pool[AsyncConnection]:
        """The pool of a target that has none."""
        if len(self.pools) >= self._max_pools:
            self.pools = {t: p for t, p in self.pools.items() if p.connections}
            self._max_pools = max(_MAX_POOLS, 2 * len(self.pools))
        pool = self.pools[target] = Pool(
            target, AsyncConnection.abort, self._max_idle, random.random
        )
        if pool.spares is not None:
            pool.on_loss = self.loop_spares().lost
        return pool

    def loop_spares(self) -> LoopSpares:
        """What this loop opens ahead of need."""
        if self.spares is None:
            from meshclient.transport.loop_spares import LoopSpares

            self.spares = LoopSpares(self)
        return self.spares

    def http2_loop(self) -> Http2Loop:
        """The HTTP/2 connections of this loop."""
        if self.http2 is None:
            from meshclient.transport.http2_loop import Http2Loop

            self.http2 = Http2Loop(self)
        return self.http2

    def http2_for(self, target: Target) -> Http2Loop:
        """:meth:`http2_loop`, for a call to ``target``."""
        if target.options.warm_up and not self.loop_spares().knows(target):
            self.loop_spares().keep_warm(target)
        return self.http2_loop()

    def new_connection(
        self, pool: Pool[AsyncConnection], target: Target, request: WireRequest
    ) -> Awaitable[AsyncConnection]:
        """What a call gets where nothing is idle. Raises WireError."""
        if pool.slots is None:
            return self.connect(pool, target, request)
        return self.connect_in_turn(pool, pool.slots, target, request)

    async def connect_in_turn(
        self,
        pool: Pool[AsyncConnection],
        slots: ConnectionSlots,
        target: Target,
        request: WireRequest,
    ) -> AsyncConnection:
        """A connection of a cluster that has limits: a free one, or a new one in its turn."""
        if self.closed:
            raise closed_error(False)
        if not slots.enter():
            raise too_many_pending(target)
        try:
            waiter = LoopWaiter(pool, self.loop, self.release)
            if not slots.take(waiter):
                limit, kind = wait_limit(target, request, time.monotonic())
                connection: AsyncConnection | None = await waiter.wait(slots, limit, kind)
                if connection is not None:
                    return connection
            try:
                return await self.connect(pool, target, request)
            except BaseException as error:
                refuse_others(slots, pool, error, target, request)
                slots.give_back(pool)
                raise
        finally:
            slots.leave()

    async def connect(
        self, pool: Pool[AsyncConnection], target: Target, request: WireRequest
    ) -> AsyncConnection:
        """A new connection, counted in the pool. Raises WireError."""
        if self.closed:
            raise closed_error(False)
        limit, kind = connect_limit(target, request, time.monotonic())
        spares = pool.spares
        if spares is not None:
            spares.pending += 1
            self.open_ahead(pool, 1)
        try:
            connection = await open_async(
                target, lambda sock: AsyncConnection(self, pool, sock), limit, kind, self.opening
            )
        finally:
            if spares is not None:
                spares.pending -= 1
        self.adopt(pool, connection)
        if spares is not None:
            spares.reached()
        return connection

    def open_ahead(self, pool: Pool[AsyncConnection], opened: int = 0) -> None:
        """A request begins that opens ``opened`` connections of its own."""
        spares = self.loop_spares()
        spares.top_up(pool, opened)
        if pool.spares is not None and not pool.spares.begun:
            pool.spares.begun = True
            spares.keep_warm(pool.target)

    def adopt(self, pool: Pool[AsyncConnection], connection: AsyncConnection) -> None:
        """Count a new connection in the pool. Raises WireError, and closes it then."""
        target = pool.target
        if self.closed:
            connection.abort()
            raise closed_error(False)
        if target.protocol != "http1":
            self.http2_loop().check_http1(target, connection)
        pool.add(connection, time.monotonic())
        self.open.add(connection)
        if self.pools.get(target) is not pool:
            pool.draining = True  # given up meanwhile: nobody would find it again

    def release(self, connection: AsyncConnection) -> None:
        """A connection whose exchange is over and that may serve another."""
        pool = connection.pool
        now = time.monotonic()
        if pool.release(connection, now):
            due = now + pool.idle_timeout_s
            if due < self._sweep_at:
                self._sweep_by(due)

    def _sweep_by(self, due: float) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_at = due
        self._sweeper = self.loop.call_later(max(0.01, due - time.monotonic()), self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle too long; goes on only while something is idle."""
        self._sweeper, self._sweep_at = None, math.inf
        now = time.monotonic()
        due = math.inf
        for pool in self.pools.values():
            pool.expire(now)
            due = min(due, pool.due())
        if due != math.inf:
            self._sweep_by(due)

    def retain(self, targets: Collection[Target]) -> None:
        """Drain the pools of all other targets."""
        for target in [target for target in self.pools if target not in targets]:
            self.pools.pop(target).drain()
        if self.http2 is not None:
            self.http2.retain(targets)
        if self.spares is not None:
            self.spares.retain(targets)

    def join(self, places: Collection[tuple[Any, ...]], newcomers: Sequence[Neighbour]) -> None:
        """Endpoints that joined those at ``places``: keep them warm where those are dialled."""
        known = [*self.pools, *(self.http2.pools if self.http2 is not None else ())]
        for model in models(known, places):
            self.loop_spares().join([sibling(model, *newcomer) for newcomer in newcomers])

    def close(self) -> None:
        """End every connection and refuse new ones; idempotent."""
        self.closed = True
        self.opening.close()
        if self.spares is not None:
            self.spares.close()
        if self.http2 is not None:
            self.http2.close()
        for pool in self.pools.values():
            if pool.slots is not None:
                pool.slots.refuse(pool, lambda: closed_error(False))
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper, self._sweep_at = None, math.inf
        for connection in self.connections():
            connection.cancel()

    async def aclose(self) -> None:
        """``close``, and wait until the transports have let go of their sockets."""
        self.close()
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.aclose()

    def connections(self) -> list[AsyncConnection]:
        """Every open connection, those of drained pools included."""
        return list(self.open)

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Run on the loop's thread; nothing happens when the loop is closed."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(callback, *args)
