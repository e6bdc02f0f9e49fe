"""The asyncio engine: sends requests on whatever event loop runs, each with its own pools.

May be used from several event loops and told to retain or close from any
thread; the connections of a loop are :mod:`meshclient.transport.loop_shard`'s and
only ever touched on its own thread. No HTTP and no policy in here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshclient.transport.asyncio_shell import NotWrittenError
from meshclient.transport.http1_request import encode_request
from meshclient.transport.interface import (
    MAX_IDLE_CONNECTIONS,
    AsyncWireResponse,
    PoolStats,
    Target,
    WireError,
    WireRequest,
    closed_error,
    timeout_error,
)
from meshclient.transport.loop_end import abandon, inherit
from meshclient.transport.loop_shard import LoopShard
from meshclient.transport.preconnect import Neighbour

if TYPE_CHECKING:
    from meshclient.transport.fallback import HttpcoreAsyncEngine


class AsyncEngine:
    """Sends requests on whatever asyncio loop runs. Thread-safe; close it when done.

    ``max_idle`` idle connections are kept per target and loop (default 256).
    A loop that ends through ``asyncio.run`` takes its connections with it.
    Without a running asyncio loop (trio) ``fallback`` makes the engine that serves the call.
    """

    def __init__(
        self,
        *,
        max_idle: int = MAX_IDLE_CONNECTIONS,
        fallback: Callable[[], HttpcoreAsyncEngine] | None = None,
    ) -> None:
        self._max_idle = max_idle
        self._lock = threading.Lock()
        self._shards: dict[asyncio.AbstractEventLoop, LoopShard] = {}
        self._closed = False
        self._make_fallback = fallback or _default_fallback
        self._fallback: HttpcoreAsyncEngine | None = None

    async def send(self, target: Target, request: WireRequest) -> AsyncWireResponse:
        """One request to one target, tried again only where ``request.resend`` says so.

        Raises WireError (InvalidRequest before anything was sent), and what an
        iterator that streams the body raises. Cancel it at any time.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return await self._other_engine().send(target, request)
        encoded = encode_request(request)
        shard = self._shards.get(loop) or await self._new_shard(loop)
        now = time.monotonic()
        if request.deadline is not None and request.deadline <= now:
            raise timeout_error("deadline", False)
        if target.protocol != "http1" and (
            found := await shard.http2_for(target).send(target, request, encoded)
        ):
            return found
        resend = request.resend
        fresh = False
        while True:
            pool = shard.pools.get(target)
            if pool is None:
                pool = shard.new_pool(target)
            # With limits a free one has to do: the slot for a fresh one may be in its place.
            connection = None if fresh and pool.slots is None else pool.acquire(now)
            if connection is None:
                connection = await shard.new_connection(pool, target, request)
                if connection.closed and pool.slots is not None:
                    continue  # in the moment between its release and our turn
            elif pool.spares is not None:
                shard.open_ahead(pool)
            try:
                return await connection.exchange(request, encoded)
            except NotWrittenError:
                # Not a byte left this machine: the next connection is no retry. It
                # ends, since a fresh connection does not raise this.
                continue
            except WireError as error:
                if fresh or not error.reused or resend is None or not resend():
                    raise
                fresh = True

    async def _new_shard(self, loop: asyncio.AbstractEventLoop) -> LoopShard:
        with self._lock:
            if self._closed:
                raise closed_error(False)
            self._drop_dead()
            shard = self._shards.setdefault(loop, LoopShard(loop, self._max_idle))
        await shard.guard()
        return shard

    def _drop_dead(self) -> None:
        """Forget loops that were closed without telling anybody."""
        for loop in [loop for loop in self._shards if loop.is_closed()]:
            for connection in self._shards.pop(loop).connections():
                abandon(connection)

    async def warm(self, targets: Collection[Target], count: int) -> bool:
        """Have ``count`` connections open to each target on the running asyncio loop.

        True when all have as many; failures are quiet. The caller bounds the time.
        """
        loop = asyncio.get_running_loop()
        shard = self._shards.get(loop) or await self._new_shard(loop)
        return await shard.loop_spares().warm(targets, count)

    def join(self, places: Collection[tuple[Any, ...]], newcomers: Sequence[Neighbour]) -> None:
        """Endpoints that joined a cluster whose others are at ``places``. From any thread."""
        with self._lock:
            shards = list(self._shards.values())
        for shard in shards:
            shard.post(shard.join, places, newcomers)

    def _other_engine(self) -> HttpcoreAsyncEngine:
        with self._lock:
            if self._closed:
                raise closed_error(False)
            if self._fallback is None:
                self._fallback = self._make_fallback()
            return self._fallback

    def retain(self, targets: Collection[Target]) -> None:
        """Drain all other targets: idle connections close at once, busy ones after
        their response. From any thread; takes effect on the loops' own threads."""
        keep = frozenset(targets)
        with self._lock:
            shards = list(self._shards.values())
            fallback = self._fallback
        for shard in shards:
            shard.post(shard.retain, keep)
        if fallback is not None:
            fallback.retain(keep)

    def stats(self) -> dict[Target, PoolStats]:
        """Counts per target over all loops; a moment's view, from any thread."""
        total: dict[Target, PoolStats] = {}
        with self._lock:
            shards = list(self._shards.values())
        for shard in shards:
            for target, pool in list(shard.pools.items()):
                total.setdefault(target, PoolStats()).add(pool.stats())
            if shard.http2 is not None:
                for target, stats in shard.http2.stats().items():
                    total.setdefault(target, PoolStats()).add(stats)
        return total

    def close(self) -> None:
        """End idle connections and calls in flight (with WireError CANCELLED); idempotent.

        From any thread; the loops do it as soon as they run.
        """
        if self._fallback is not None:
            self._fallback.close()
        for shard in self._take_shards():
            if shard.loop.is_closed():
                for connection in shard.connections():
                    abandon(connection)
            elif shard.loop is asyncio._get_running_loop():
                shard.close()
            else:
                shard.post(shard.close)

    async def aclose(self) -> None:
        """``close``, and wait for the sockets of the running loop to be gone."""
        with self._lock:
            fallback, self._fallback = self._fallback, None
        try:
            own = self._shards.get(asyncio.get_running_loop())
        except RuntimeError:
            own = None
        self.close()
        if own is not None:
            await own.aclose()
        if fallback is not None:
            await fallback.aclose()

    def _take_shards(self) -> list[LoopShard]:
        with self._lock:
            self._closed = True
            shards = list(self._shards.values())
            self._shards = {}
        return shards

    def __del__(self) -> None:
        # An engine nobody closed, with connections of a loop that nobody shut
        # down: last chance to close them quietly. (Nothing refers back to the
        # engine, so this comes before the collector finds their transports.)
        with suppress(Exception):
            self._drop_dead()

    def after_fork_in_child(self) -> None:
        """Forget every connection of the parent without a word to its peers."""
        self._lock = threading.Lock()
        shards, self._shards = list(self._shards.values()), {}
        self._fallback = None
        for shard in shards:
            connections = shard.connections()
            for connection in connections:  # the lock of the parent's slots may be held for ever
                connection.pool.slots = None
            inherit(shard, connections)


def _default_fallback() -> HttpcoreAsyncEngine:
    from meshclient.transport.fallback import HttpcoreAsyncEngine

    return HttpcoreAsyncEngine()
