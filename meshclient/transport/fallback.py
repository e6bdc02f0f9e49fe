"""The engine interface over httpcore2 (else httpcore): trio, and for comparison.

One httpcore pool per target, because httpcore's own key ignores the TLS server
name. Nothing imports httpcore before the first request. Connections live as the policy says
(:mod:`meshclient.transport.httpcore_streams`); ``max_connections`` holds per pool, since
httpcore binds a request that waits to its pool. It dials one address of a logical
endpoint, and opens nothing ahead of need.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

from meshclient.model.cluster import UNLIMITED, ConnectionOptions
from meshclient.transport.dial import context_at
from meshclient.transport.httpcore_bridge import (
    async_stream,
    by_deadline,
    by_pieces,
    check_deadline,
    close_soon,
    errors,
    head_of,
    is_raw,
    limit_body,
    load_httpcore,
    run_token,
    to_httpcore,
)
from meshclient.transport.httpcore_pending import Pending
from meshclient.transport.httpcore_proxy import AsyncTunnels, SyncTunnels
from meshclient.transport.httpcore_streams import (
    AsyncBackend,
    SyncBackend,
    count_request,
    needs_backend,
)
from meshclient.transport.interface import (
    MAX_IDLE_CONNECTIONS,
    AsyncWireResponse,
    PoolStats,
    SyncWireResponse,
    Target,
    WireRequest,
    closed_error,
)
from meshclient.transport.proxy import Proxy


class _Entry:
    """One httpcore pool, and how many responses of it are open."""

    __slots__ = ("active", "leaving", "opened", "pool", "token")

    def __init__(self, pool: Any, token: object) -> None:
        self.pool = pool
        self.token = token
        self.active = 0
        self.opened = 0
        self.leaving = False


class _Engine:
    """What both engines share: pools by run loop and target, errors, limits."""

    _pool_class = ""
    _tunnels: Callable[[ModuleType, Proxy], Any]
    _backend: Callable[[ModuleType, Any, ConnectionOptions], Any]

    def __init__(self, *, http2: bool = False) -> None:
        self._http2 = http2
        self._lock = threading.Lock()
        self._entries: dict[tuple[object, Target], _Entry] = {}
        self._closed = False

    def _enter(self, token: object, target: Target) -> _Entry:
        with self._lock:
            if self._closed:
                raise closed_error(False)
            entry = self._entries.get((token, target))
            if entry is None:
                entry = self._entries[token, target] = _Entry(self._make_pool(target), token)
            entry.active += 1
            return entry

    def _leave(self, entry: _Entry) -> bool:
        """One response less; True when the pool has to be closed now."""
        with self._lock:
            entry.active -= 1
            return entry.leaving and entry.active == 0

    def _make_pool(self, target: Target) -> Any:
        httpcore = load_httpcore()
        options: dict[str, Any] = {}
        backend: Any = None
        if target.proxy is not None:
            backend = self._tunnels(httpcore, target.proxy)
        if needs_backend(target.options):
            backend = self._backend(httpcore, backend, target.options)
        if backend is not None:
            options["network_backend"] = backend
        slots = target.connections
        limited = slots is not None and slots.max_per_endpoint < UNLIMITED
        return getattr(httpcore, self._pool_class)(
            ssl_context=context_at(target),
            max_connections=slots.max_per_endpoint if slots is not None and limited else None,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=target.options.idle_timeout_s,
            http1=target.protocol != "h2",
            http2=self._http2 or target.protocol != "http1",
            uds=target.unix_path,
            **options,
        )

    def retain(self, targets: Collection[Target]) -> None:
        """Drain all other targets. Idle httpcore pools are closed by the next call or close."""
        with self._lock:
            for key, entry in self._entries.items():
                entry.leaving = key[1] not in targets

    def _take_leaving(self, token: object) -> list[Any]:
        with self._lock:
            gone = [
                key
                for key, entry in self._entries.items()
                if key[0] is token and entry.leaving and not entry.active
            ]
            return [self._entries.pop(key).pool for key in gone]

    def _take_all(self) -> list[tuple[object, Any]]:
        with self._lock:
            self._closed = True
            pools = [(key[0], entry.pool) for key, entry in self._entries.items()]
            self._entries = {}
            return pools

    def stats(self) -> dict[Target, PoolStats]:
        """Counts per target; ``active`` counts open responses."""
        total: dict[Target, PoolStats] = {}
        with self._lock:
            for (_, target), entry in self._entries.items():
                idle = sum(1 for c in entry.pool.connections if c.is_idle())
                total.setdefault(target, PoolStats()).add(PoolStats(idle, entry.active, 0, 0))
        return total

    def after_fork_in_child(self) -> None:
        """Forget every pool of the parent."""
        self._lock = threading.Lock()
        self._entries = {}


class HttpcoreSyncEngine(_Engine):
    """The interface of SyncEngine over ``httpcore.ConnectionPool``. Thread-safe."""

    _pool_class = "ConnectionPool"
    _tunnels = SyncTunnels
    _backend = SyncBackend

    def send(self, target: Target, request: WireRequest) -> SyncWireResponse:
        """See SyncEngine.send. The deadline bounds each wait, and is checked between them."""
        for pool in self._take_leaving(None):
            pool.close()
        prepared = to_httpcore(target, request)
        prepared.stream = by_pieces(prepared.stream, request)
        pending = Pending.of(target)
        entry = self._enter(None, target)
        try:
            with pending, errors(request, head=True):
                pending.watch(prepared, pending.sync_trace)
                response = entry.pool.handle_request(prepared)
        except BaseException:
            self._leave(entry)
            raise
        count_request(response)
        limit_body(prepared, request)
        if is_raw(request, response.status):
            from meshclient.transport.httpcore_upgrade import SyncUpgraded

            return SyncUpgraded(self, entry, request, response)
        return SyncHttpcoreResponse(self, entry, request, response)

    def close(self) -> None:
        """Close every pool; idempotent."""
        for _, pool in self._take_all():
            pool.close()


class HttpcoreAsyncEngine(_Engine):
    """The interface of AsyncEngine over ``httpcore.AsyncConnectionPool``: asyncio and trio."""

    _pool_class = "AsyncConnectionPool"
    _tunnels = AsyncTunnels
    _backend = AsyncBackend

    async def send(self, target: Target, request: WireRequest) -> AsyncWireResponse:
        """See AsyncEngine.send."""
        token = run_token()
        for pool in self._take_leaving(token):
            await pool.aclose()
        prepared = to_httpcore(target, request)
        prepared.stream = async_stream(prepared.stream)
        pending = Pending.of(target)
        entry = self._enter(token, target)
        try:
            with pending, errors(request, head=True):
                pending.watch(prepared, pending.async_trace)
                response = await by_deadline(entry.pool.handle_async_request(prepared), request)
        except BaseException:
            self._leave(entry)
            raise
        count_request(response)
        limit_body(prepared, request)
        if is_raw(request, response.status):
            from meshclient.transport.httpcore_upgrade import AsyncUpgraded

            return AsyncUpgraded(self, entry, request, response)
        return AsyncHttpcoreResponse(self, entry, request, response)

    def close(self) -> None:
        """End everything soon, from any thread: each loop closes its own pools. Idempotent."""
        for token, pool in self._take_all():
            close_soon(token, pool.aclose)

    async def aclose(self) -> None:
        """Close every pool; other loops are told to close theirs. Idempotent."""
        own = run_token()
        for token, pool in self._take_all():
            if token is own:
                await pool.aclose()
            else:
                close_soon(token, pool.aclose)


class SyncHttpcoreResponse(SyncWireResponse):
    """A response of httpcore, or of httpx in its words."""

    __slots__ = ("_closed", "_engine", "_entry", "_request", "_response")

    def __init__(
        self, engine: HttpcoreSyncEngine, entry: _Entry, request: WireRequest, response: Any
    ) -> None:
        super().__init__(*head_of(response))
        self._engine, self._entry, self._request, self._response = engine, entry, request, response
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            with errors(self._request, head=False):
                for piece in self._response.stream:
                    yield piece
                    check_deadline(self._request)
        finally:
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(OSError):
                self._response.close()
        finally:
            if self._engine._leave(self._entry):
                self._entry.pool.close()
            self.finish()


class AsyncHttpcoreResponse(AsyncWireResponse):
    """A response of httpcore, or of httpx in its words, under asyncio or trio."""

    __slots__ = ("_closed", "_engine", "_entry", "_pieces", "_request", "_response")

    def __init__(
        self, engine: HttpcoreAsyncEngine, entry: _Entry, request: WireRequest, response: Any
    ) -> None:
        super().__init__(*head_of(response))
        self._engine, self._entry, self._request, self._response = engine, entry, request, response
        self._pieces: Any = None
        self._closed = False

    # No generator: trio complains about each that is left before its end.
    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._pieces is None:
            self._pieces = self._response.stream.__aiter__()
        return self

    async def __anext__(self) -> bytes:
        try:
            with errors(self._request, head=False):
                return await by_deadline(anext(self._pieces), self._request)  # type: ignore[no-any-return]
        except BaseException:  # the end of the body, too
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(OSError):
                await self._response.aclose()
        finally:
            self.finish()
            if hasattr(self._pieces, "aclose"):
                with suppress(RuntimeError):  # another task is reading: that one ends it
                    await self._pieces.aclose()
            if self._engine._leave(self._entry):
                await self._entry.pool.aclose()

    def drop(self) -> None:
        if not self._closed:
            close_soon(self._entry.token, self.aclose)
