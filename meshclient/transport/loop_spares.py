"""Connections opened ahead of need on one event loop: preconnect and warm-up.

One task per connection under way and at most one timer. How many is
:mod:`meshclient.transport.preconnect`'s word. No call ever waits for anything in
here, and nothing here raises into one. Everything runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from meshclient.model.outcome import ResetReason
from meshclient.transport.asyncio_shell import AsyncConnection
from meshclient.transport.dial import open_async
from meshclient.transport.interface import Target, WireError
from meshclient.transport.preconnect import MAX_OPENING, REFILL_S, Spares

if TYPE_CHECKING:
    from meshclient.transport.loop_shard import LoopShard
    from meshclient.transport.pool import Pool

#: Spare connections under way at a time, over all endpoints.
MAX_UNDER_WAY: Final = 16


class LoopSpares:
    """One per loop, made at its first target that has something ahead."""

    __slots__ = ("_backlog", "_shard", "_tasks", "_timer", "_warm_http2")

    def __init__(self, shard: LoopShard) -> None:
        self._shard = shard
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        #: Pools whose turn comes when less is under way.
        self._backlog: dict[Pool[AsyncConnection], None] = {}
        #: Targets that are kept warm over HTTP/2, whose pools tell nobody of a loss.
        self._warm_http2: set[Target] = set()

    def top_up(self, pool: Pool[AsyncConnection], opened: int = 0) -> None:
        """Open what is missing now; an event is a request that starts, or a loss."""
        spares = pool.spares
        if spares is None or pool.draining or self._shard.closed or not _is_healthy(pool.target):
            return
        busy = len(pool.connections) - len(pool.idle)
        for _ in range(spares.missing(len(pool.idle), busy, time.monotonic(), opened)):
            if len(self._tasks) >= MAX_UNDER_WAY:
                self._backlog[pool] = None
                return
            if pool.slots is not None and not pool.slots.take_spare(pool):
                return
            spares.opening += 1
            task = self._begin(self._open_one(pool))
            task.add_done_callback(partial(self._opened, pool, spares))

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._shard.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open_one(self, pool: Pool[AsyncConnection]) -> None:
        """A connection, free for whoever comes. The slot it needs is the caller's to give back."""
        shard, target = self._shard, pool.target
        limit = time.monotonic() + target.options.connect_timeout_s
        connection = await open_async(
            target, lambda sock: AsyncConnection(shard, pool, sock), limit, "connect"
        )
        if connection.closed:  # before the pool could hear of it
            message = f"{target} closed the connection at once"
            raise WireError(ResetReason.CONNECTION_TERMINATION, False, message)
        connection.ahead = True
        shard.adopt(pool, connection)
        shard.release(connection)

    def _opened(self, pool: Pool[AsyncConnection], spares: Spares, task: asyncio.Task[Any]) -> None:
        """Also when the task was cancelled before it began."""
        spares.opening -= 1
        failed = task.cancelled() or task.exception() is not None
        if failed and pool.slots is not None:
            pool.slots.give_back(pool)
        if task.cancelled():  # the loop or the mesh ends: begin nothing more
            return
        if failed:
            spares.failed(time.monotonic())
            self.lost(pool)
        else:
            spares.reached()
            if spares.at_least:
                self.top_up(pool)
        while self._backlog and len(self._tasks) < MAX_UNDER_WAY:
            self.top_up(self._backlog.popitem()[0])

    # Warm-up

    def keep_warm(self, target: Target) -> None:
        """Calls to ``target`` have begun: all endpoints of its cluster are due, soon."""
        if target.options.warm_up:
            self._shard.loop.call_soon(self._keep_warm, target)

    def _keep_warm(self, target: Target) -> None:
        neighbours = target.neighbours
        self.join([target] if neighbours is None else [target, *neighbours.targets(target)])

    def join(self, targets: Iterable[Target]) -> None:
        """Begin to keep these warm."""
        for target in targets:
            if self._shard.closed:
                return
            if target.protocol == "http1":
                pool = self._pool(target)
                if pool.spares is not None:
                    pool.spares.begun = True
                self.top_up(pool)
            elif target not in self._warm_http2:
                self._warm_http2.add(target)
                self._look_in(0.0)

    def _pool(self, target: Target) -> Pool[AsyncConnection]:
        return self._shard.pools.get(target) or self._shard.new_pool(target)

    def knows(self, target: Target) -> bool:
        """Whether it is kept warm over HTTP/2 already."""
        return target in self._warm_http2

    def lost(self, pool: Pool[AsyncConnection]) -> None:
        """A connection ended, or could not be opened."""
        if pool.spares is not None and pool.spares.at_least:
            self._look_in(REFILL_S)

    def _look_in(self, seconds: float) -> None:
        """Have :meth:`_look` run; the one that is due already will do."""
        loop = self._shard.loop
        if self._timer is None and not self._shard.closed and not loop.is_closed():
            self._timer = loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Open what is missing anywhere, and come again while something is."""
        self._timer = None
        again = bool(self._warm_http2)
        for pool in list(self._shard.pools.values()):
            spares = pool.spares
            if spares is not None and spares.at_least:
                self.top_up(pool)
                again = again or len(pool.connections) + spares.opening < spares.at_least
        for target in list(self._warm_http2):
            self._top_up_http2(target)
        if again:
            self._look_in(REFILL_S)

    def _top_up_http2(self, target: Target) -> None:
        http2 = self._shard.http2_loop()
        if target in http2.http1:  # ALPN chose HTTP/1.1: its connections are the engine's own
            self._warm_http2.discard(target)
            self.top_up(self._pool(target))
        elif _is_healthy(target):
            missing = target.options.warm_up - http2.connections(target)
            for _ in range(min(missing, MAX_OPENING)):
                http2.open_ahead(target)

    async def warm(self, targets: Iterable[Target], count: int) -> bool:
        """Have ``count`` connections open to each; True when all have as many.

        For callers who want to wait. Cancelled, it takes what is under way along.
        """
        gate = asyncio.Semaphore(MAX_UNDER_WAY)

        async def one(target: Target) -> bool:
            async with gate:
                return await self._warm_one(target, count)

        tasks = [self._begin(one(target)) for target in targets]
        try:
            found = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
        for result in found:
            if isinstance(result, Exception) and not isinstance(result, WireError):
                raise result
        return all(result is True for result in found)

    async def _warm_one(self, target: Target, count: int) -> bool:
        if target.protocol != "http1":
            http2 = self._shard.http2_loop()
            opening = [http2.open_ahead(target) for _ in range(count - http2.connections(target))]
            tasks = [task for task in opening if task is not None]
            if tasks:
                await asyncio.wait(tasks)
            if target not in http2.http1:
                return http2.connections(target) >= count
        pool = self._pool(target)
        for _ in range(count - len(pool.connections)):
            if pool.slots is not None and not pool.slots.take_spare(pool):
                return False
            try:
                await self._open_one(pool)
            except BaseException as error:
                if pool.slots is not None:
                    pool.slots.give_back(pool)
                if isinstance(error, WireError):
                    return False
                raise
        return True

    def retain(self, targets: Collection[Target]) -> None:
        """Keep nothing else warm."""
        self._warm_http2.intersection_update(targets)

    def close(self) -> None:
        """End what is under way; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._backlog.clear()
        self._warm_http2.clear()
        for task in list(self._tasks):
            task.cancel()


def _is_healthy(target: Target) -> bool:
    return target.neighbours is None or target.neighbours.is_healthy()


__all__ = ["MAX_UNDER_WAY", "LoopSpares"]
