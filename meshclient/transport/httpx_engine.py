"""The engine interface over httpx's own transports, one per target: for comparison only.

Everything but the pools is the httpcore engines' code. What httpx cannot do is refused:
a tunnel through a proxy towards an endpoint other than its URL's host.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from typing import Any

from meshclient.model.outcome import ResetReason
from meshclient.transport.fallback import HttpcoreAsyncEngine, HttpcoreSyncEngine
from meshclient.transport.interface import MAX_IDLE_CONNECTIONS, Target, WireError


class _Pools:
    """How both engines make what they call a pool."""

    _http2: bool
    _adapter: Any

    def _make_pool(self, target: Target) -> Any:
        if target.proxy is not None:
            message = f"the httpx engine has no tunnel through {target.proxy} to {target}"
            raise WireError(ResetReason.CONNECTION_FAILURE, False, message)
        if target.options.proxy_protocol:
            # Left out, the server would take the first bytes for the missing header.
            what = f"{target} asks for the PROXY protocol, which this engine cannot send"
            raise WireError(ResetReason.LOCAL_CONNECTION_FAILURE, False, what)
        return self._adapter(target, self._http2)


class _Response:
    """httpx's response in httpcore's words."""

    def __init__(self, response: Any) -> None:
        self.status = response.status_code
        self.headers = response.headers.raw
        self.extensions = response.extensions
        self.stream = response.stream
        self.close = response.close
        self.aclose = response.aclose


class _Transport:
    """One httpx transport that stands where a pool of httpcore stood."""

    _class = ""

    def __init__(self, target: Target, http2: bool) -> None:
        import httpx

        self._httpx = httpx
        limits = httpx.Limits(
            max_connections=None,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=target.options.idle_timeout_s,
        )
        self._transport = getattr(httpx, self._class)(
            verify=_unused_context() if target.tls is None else target.tls.context,
            http2=http2,
            limits=limits,
            uds=target.unix_path,
            trust_env=False,
        )

    @property
    def connections(self) -> list[Any]:
        return list(self._transport._pool.connections)

    def _request(self, request: Any, stream: Any) -> Any:
        url = request.url
        return self._httpx.Request(
            request.method.decode("ascii"),
            self._httpx.URL(
                scheme=url.scheme.decode(),
                host=url.host.decode(),
                port=url.port,
            ),
            headers=request.headers,
            stream=stream,
            # Not part of the URL: it may be in absolute form.
            extensions={**request.extensions, "target": url.target},
        )


class _SyncTransport(_Transport):
    _class = "HTTPTransport"

    def handle_request(self, request: Any) -> _Response:
        class Body(self._httpx.SyncByteStream):  # type: ignore[name-defined,misc]
            def __iter__(self) -> Iterator[bytes]:
                yield from request.stream

        return _Response(self._transport.handle_request(self._request(request, Body())))

    def close(self) -> None:
        self._transport.close()


class _AsyncTransport(_Transport):
    _class = "AsyncHTTPTransport"

    async def handle_async_request(self, request: Any) -> _Response:
        class Body(self._httpx.AsyncByteStream):  # type: ignore[name-defined,misc]
            async def __aiter__(self) -> AsyncIterator[bytes]:
                async for piece in request.stream:
                    yield piece

        made = self._request(request, Body())
        return _Response(await self._transport.handle_async_request(made))

    async def aclose(self) -> None:
        await self._transport.aclose()


class HttpxSyncEngine(_Pools, HttpcoreSyncEngine):
    """The interface of SyncEngine over ``httpx.HTTPTransport``. Thread-safe."""

    _adapter = _SyncTransport


class HttpxAsyncEngine(_Pools, HttpcoreAsyncEngine):
    """The interface of AsyncEngine over ``httpx.AsyncHTTPTransport``: asyncio and trio."""

    _adapter = _AsyncTransport


@lru_cache(maxsize=1)
def _unused_context() -> ssl.SSLContext:
    """Plain-text targets: spares httpx the reading of roots that nobody asks."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


__all__ = ["HttpxAsyncEngine", "HttpxSyncEngine"]
