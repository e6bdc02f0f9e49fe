"""The engine interface over httpcore2 (else httpcore): HTTP/2, proxies and trio.

One httpcore pool per target, because httpcore's own key ignores the TLS server
name. Nothing imports httpcore before the first request. Connection age and the
request cap of the target's options have no counterpart in httpcore, and it sets
the ALPN list of the context it is given.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from typing import Any

from meshclient.transport.httpcore_bridge import (
    async_stream,
    by_deadline,
    check_deadline,
    errors,
    head_of,
    limit_body,
    load_httpcore,
    run_token,
    to_httpcore,
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


class _Entry:
    """One httpcore pool, and how many responses of it are open."""

    __slots__ = ("active", "leaving", "opened", "pool")

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.active = 0
        self.opened = 0
        self.leaving = False


class _Engine:
    """What both engines share: pools by run loop and target, errors, limits."""

    _pool_class = ""

    def __init__(self, *, http2: bool = False, proxy: str | None = None) -> None:
        self._http2 = http2
        self._proxy = proxy
        self._lock = threading.Lock()
        self._entries: dict[tuple[object, Target], _Entry] = {}
        self._closed = False

    def _enter(self, token: object, target: Target) -> _Entry:
        with self._lock:
            if self._closed:
                raise closed_error(False)
            entry = self._entries.get((token, target))
            if entry is None:
                entry = self._entries[token, target] = _Entry(self._make_pool(target))
            entry.active += 1
            return entry

    def _leave(self, entry: _Entry) -> bool:
        """One response less; True when the pool has to be closed now."""
        with self._lock:
            entry.active -= 1
            return entry.leaving and entry.active == 0

    def _make_pool(self, target: Target) -> Any:
        httpcore = load_httpcore()
        options: dict[str, Any] = {} if self._proxy is None else {"proxy": self._make_proxy()}
        return getattr(httpcore, self._pool_class)(
            ssl_context=None if target.tls is None else target.tls.context,
            max_connections=None,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=target.options.idle_timeout_s,
            http2=self._http2,
            uds=target.unix_path,
            **options,
        )

    def _make_proxy(self) -> Any:
        return load_httpcore().Proxy(self._proxy)

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

    def _take_all(self) -> list[Any]:
        with self._lock:
            self._closed = True
            pools = [entry.pool for entry in self._entries.values()]
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

    def send(self, target: Target, request: WireRequest) -> SyncWireResponse:
        """See SyncEngine.send. The deadline is checked at every read, not inside one."""
        for pool in self._take_leaving(None):
            pool.close()
        prepared = to_httpcore(target, request)
        entry = self._enter(None, target)
        try:
            with errors(request, head=True):
                response = entry.pool.handle_request(prepared)
        except BaseException:
            self._leave(entry)
            raise
        limit_body(prepared, request)
        return _SyncResponse(self, entry, request, response)

    def close(self) -> None:
        """Close every pool; idempotent."""
        for pool in self._take_all():
            pool.close()


class HttpcoreAsyncEngine(_Engine):
    """The interface of AsyncEngine over ``httpcore.AsyncConnectionPool``: asyncio and trio."""

    _pool_class = "AsyncConnectionPool"

    async def send(self, target: Target, request: WireRequest) -> AsyncWireResponse:
        """See AsyncEngine.send."""
        token = run_token()
        for pool in self._take_leaving(token):
            await pool.aclose()
        prepared = to_httpcore(target, request)
        prepared.stream = async_stream(prepared.stream)
        entry = self._enter(token, target)
        try:
            with errors(request, head=True):
                response = await by_deadline(entry.pool.handle_async_request(prepared), request)
        except BaseException:
            self._leave(entry)
            raise
        limit_body(prepared, request)
        return _AsyncResponse(self, entry, request, response)

    async def aclose(self) -> None:
        """Close every pool; those of other loops are dropped. Idempotent."""
        for pool in self._take_all():
            with suppress(RuntimeError):
                await pool.aclose()


class _SyncResponse(SyncWireResponse):
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


class _AsyncResponse(AsyncWireResponse):
    __slots__ = ("_closed", "_engine", "_entry", "_request", "_response")

    def __init__(
        self, engine: HttpcoreAsyncEngine, entry: _Entry, request: WireRequest, response: Any
    ) -> None:
        super().__init__(*head_of(response))
        self._engine, self._entry, self._request, self._response = engine, entry, request, response
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            stream = self._response.stream.__aiter__()
            while True:
                with errors(self._request, head=False):
                    try:
                        piece = await by_deadline(anext(stream), self._request)
                    except StopAsyncIteration:
                        return
                yield piece
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(OSError):
                await self._response.aclose()
        finally:
            self.finish()
            if self._engine._leave(self._entry):
                await self._entry.pool.aclose()
