"""The HTTP/2 connections of one event loop: who connects, who waits for it, who shares.

For targets that speak HTTP/2 by prior knowledge or choose by ALPN. Everything
runs on the loop's thread. No HTTP in here, and no policy.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from meshclient.model.outcome import ResetReason
from meshclient.transport.asyncio_shell import AsyncConnection, NotWrittenError
from meshclient.transport.dial import connect_limit, open_async
from meshclient.transport.http1_request import EncodedRequest
from meshclient.transport.http2 import speaks_http2
from meshclient.transport.http2_asyncio import Http2Connection
from meshclient.transport.http2_negotiation import Negotiation
from meshclient.transport.http2_pool import MultiplexPool
from meshclient.transport.http2_stream import Unprocessed, no_streams
from meshclient.transport.interface import (
    AsyncWireResponse,
    PoolStats,
    Target,
    WireError,
    WireRequest,
    closed_error,
    timeout_error,
)
from meshclient.transport.preconnect import NO_REQUEST
from meshclient.transport.slot_waiters import (
    LoopWaiter,
    refuse_others,
    same_error,
    too_many_pending,
    wait_limit,
)
from meshclient.transport.slots import PoolMoved

if TYPE_CHECKING:
    from meshclient.transport.loop_shard import LoopShard

_Pool = MultiplexPool[Http2Connection]
_MAX_POOLS = 1024


class Connecting:
    """A connection on its way, and how many requests wait for it."""

    __slots__ = ("task", "waiters")

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.waiters = 0


class Http2Loop:
    """One per loop, made at its first HTTP/2 target.

    Requests that find no room share a connection that is just being opened, as
    many as the last one to that target had room for; the others open more. A
    target of protocol "auto" that turned out to speak HTTP/1.1 is in ``http1``,
    and :meth:`send` leaves it to the engine.
    """

    __slots__ = ("_connecting", "_shard", "http1", "pools")

    def __init__(self, shard: LoopShard) -> None:
        self._shard = shard
        self.pools: dict[Target, _Pool] = {}
        self.http1: set[Target] = set()
        self._connecting: dict[Target, list[Connecting]] = {}

    async def send(
        self, target: Target, request: WireRequest, encoded: EncodedRequest
    ) -> AsyncWireResponse | None:
        """The response; None: the peer speaks HTTP/1.1. Raises WireError."""
        resend, fresh, moved = request.resend, False, False
        while target not in self.http1:
            pool = self.pools.get(target) or self._new_pool(target)
            # With limits a free one has to do: the slot for a fresh one may be in its place.
            skip = fresh and pool.slots is None
            connection = None if skip else pool.acquire(time.monotonic())
            if connection is None:
                await self._wait_for_one(pool, target, request)
                connection = pool.acquire(time.monotonic())
                if connection is None:
                    continue
            try:
                return await connection.exchange(request, encoded)
            except NotWrittenError:
                connection.core.leaving = connection.core.leaving or connection.closed
                pool.changed(connection, time.monotonic())
            except Unprocessed:
                if moved or not (request.body is None or isinstance(request.body, bytes)):
                    raise
                moved = True
            except WireError as error:
                if fresh or not error.reused or resend is None or not resend():
                    raise
                fresh = True
        return None

    def _new_pool(self, target: Target) -> _Pool:
        if self._shard.closed:
            raise closed_error(False)
        if len(self.pools) >= _MAX_POOLS:
            self.pools = {t: p for t, p in self.pools.items() if p.connections}
        if len(self.http1) >= _MAX_POOLS:
            self.http1.clear()
        pool = self.pools[target] = MultiplexPool(target, random.random)
        return pool

    # Connecting

    async def _wait_for_one(self, pool: _Pool, target: Target, request: WireRequest) -> None:
        """Until it is worth looking for a connection again. Raises WireError."""
        slots = pool.slots
        if self._shard.closed:
            raise closed_error(False)
        if slots is None:
            await self._share(pool, target, request)
            return
        if not slots.enter():
            raise too_many_pending(target)
        try:
            await self._share(pool, target, request)
        finally:
            slots.leave()

    async def _share(self, pool: _Pool, target: Target, request: WireRequest) -> None:
        under_way = self._connecting.get(target, ())
        found = next((one for one in under_way if one.waiters < pool.guess), None)
        if found is None:
            if not await self._has_slot(pool, target, request):
                return
            found = self._begin(pool, target, request)
        await self._join(found, target, request)

    async def _has_slot(self, pool: _Pool, target: Target, request: WireRequest) -> bool:
        """A slot is ours; False: somebody's stream ended, look again."""
        slots = pool.slots
        if slots is None:
            return True
        waiter = LoopWaiter(pool, self._shard.loop, self._pass_on)
        if slots.take(waiter):
            return True
        limit, kind = wait_limit(target, request, time.monotonic())
        try:
            return await waiter.wait(slots, limit, kind) is None
        except PoolMoved:
            return False

    def _pass_on(self, connection: Http2Connection) -> None:
        connection.pool.changed(connection, time.monotonic())

    def _begin(self, pool: _Pool, target: Target, request: WireRequest) -> Connecting:
        task = self._shard.loop.create_task(self._connect(pool, target, request))
        one = Connecting(task)
        self._connecting.setdefault(target, []).append(one)
        task.add_done_callback(lambda done: self._connected(target, one, done))
        return one

    def _connected(self, target: Target, one: Connecting, task: asyncio.Task[None]) -> None:
        under_way = self._connecting[target]
        under_way.remove(one)
        if not under_way:
            del self._connecting[target]
        if not task.cancelled():
            task.exception()  # retrieved: those who wait look at it, if any still do

    async def _join(self, one: Connecting, target: Target, request: WireRequest) -> None:
        """Wait for the connection; the last who gives up takes it along."""
        limit, kind = connect_limit(target, request, time.monotonic())
        task = one.task
        one.waiters += 1
        try:
            await asyncio.wait((task,), timeout=max(0.0, limit - time.monotonic()))
        finally:
            one.waiters -= 1
            if not one.waiters and not task.done():
                task.cancel()
                await asyncio.wait((task,))
        if not task.done():
            raise timeout_error(kind, False)
        if task.cancelled():
            raise closed_error(False) if self._shard.closed else timeout_error(kind, False)
        error = task.exception()
        if isinstance(error, WireError):
            if error.timeout and time.monotonic() < limit - 0.005:
                return  # the limit of another request; ours is not over
            raise same_error(error)
        if error is not None:
            raise error

    async def _connect(self, pool: _Pool, target: Target, request: WireRequest) -> None:
        """Open one connection, up to the peer's SETTINGS; it owns a slot where there are any."""
        try:
            await self._open(pool, target, request)
        except BaseException as error:
            if pool.slots is not None:
                refuse_others(pool.slots, pool, error, target, request)
                pool.slots.give_back(pool)
            raise

    async def _open(self, pool: _Pool, target: Target, request: WireRequest) -> None:
        limit, kind = connect_limit(target, request, time.monotonic())
        negotiation = await open_async(
            target, lambda sock: Negotiation(self._shard, pool, sock), limit, kind
        )
        connection = negotiation.connection
        if isinstance(connection, AsyncConnection):
            self._turn_to_http1(target, pool, connection)
            return
        try:
            async with asyncio.timeout(max(0.0, limit - time.monotonic())):
                await connection.settled
        except TimeoutError:
            connection.abort()
            raise timeout_error(kind, False) from None
        except BaseException:
            connection.abort()
            raise
        if connection.closed or not connection.core.settled:
            raise _not_http2(target, connection)
        if connection.room() <= 0:  # another connection would be no better, and come at once
            connection.abort()
            raise no_streams(target)
        self._keep(target, pool, connection)

    def _keep(self, target: Target, pool: _Pool, connection: Http2Connection) -> None:
        if self._shard.closed:
            connection.abort()
            raise closed_error(False)
        now = time.monotonic()
        self._shard.open.add(connection)  # type: ignore[arg-type]
        pool.add(connection, now)
        if self.pools.get(target) is not pool:
            pool.draining = True  # given up meanwhile: nobody would find it again
        connection.in_pool()
        pool.changed(connection, now)

    def _turn_to_http1(self, target: Target, pool: _Pool, connection: AsyncConnection) -> None:
        """ALPN chose HTTP/1.1: the connection goes to the engine's own pool."""
        shard = self._shard
        if shard.closed:
            connection.abort()
            raise closed_error(False)
        self.http1.add(target)
        if pool.slots is not None:
            pool.slots.move(pool, connection.pool)
        connection.pool.add(connection, time.monotonic())
        shard.open.add(connection)
        shard.release(connection)

    def check_http1(self, target: Target, connection: AsyncConnection) -> None:
        """A further connection of an HTTP/1.1 peer: raises WireError if it changed its mind."""
        if speaks_http2(target.protocol, connection.transport.get_extra_info("ssl_object")):
            self.http1.discard(target)
            connection.abort()
            message = f"{target} speaks HTTP/2 now; the next call will"
            raise WireError(ResetReason.CONNECTION_FAILURE, False, message)

    # Ahead of need

    def connections(self, target: Target) -> int:
        """Those that are open or on their way."""
        pool = self.pools.get(target)
        return (len(pool.connections) if pool else 0) + len(self._connecting.get(target, ()))

    def open_ahead(self, target: Target) -> asyncio.Task[None] | None:
        """Open one that no request asked for; None: the limits leave no slot for it."""
        pool = self.pools.get(target) or self._new_pool(target)
        if pool.slots is not None and not pool.slots.take_spare(pool):
            return None
        return self._begin(pool, target, NO_REQUEST).task

    # The engine's calls

    def retain(self, targets: Collection[Target]) -> None:
        """Drain the pools of all other targets."""
        for target in [target for target in self.pools if target not in targets]:
            self.pools.pop(target).drain()
        self.http1.intersection_update(targets)

    def stats(self) -> dict[Target, PoolStats]:
        """Counts per target; from any thread."""
        return {target: pool.stats() for target, pool in list(self.pools.items())}

    def close(self) -> None:
        """End what is being opened; the connections themselves are the shard's to end."""
        for pool in self.pools.values():
            if pool.slots is not None:
                pool.slots.refuse(pool, lambda: closed_error(False))
        for under_way in list(self._connecting.values()):
            for one in under_way:
                one.task.cancel()


def _not_http2(target: Target, connection: Http2Connection) -> WireError:
    """It ended, or said something else, before its SETTINGS."""
    broken = connection.core.broken
    reason = ResetReason.CONNECTION_FAILURE if broken is None else broken.reason
    if reason is ResetReason.CONNECTION_TERMINATION:
        reason = ResetReason.CONNECTION_FAILURE
    return WireError(reason, False, f"{target} does not answer as an HTTP/2 server: {broken}")
