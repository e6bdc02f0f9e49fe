"""httpcore's connections through proxies: a network backend that tunnels first.

httpcore's own proxy support takes the TLS name from the address that is dialled, so
an endpoint behind a proxy could not be verified by its service's name. With the
tunnel made below it, httpcore sees a plain connection. Which proxy is decided elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from meshclient.transport.proxy import Handshake, Proxy, ProxyError


class SyncTunnels:
    """A ``NetworkBackend`` whose TCP connections are tunnels through ``proxy``."""

    def __init__(self, httpcore: ModuleType, proxy: Proxy) -> None:
        self._httpcore = httpcore
        self._inner = httpcore.SyncBackend()
        self._proxy = proxy

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> Any:
        """See httpcore."""
        proxy = self._proxy
        stream = self._inner.connect_tcp(proxy.host, proxy.port, timeout, **options)
        left = _countdown(timeout)
        steps = proxy.tunnel(host, port)
        try:
            send, count = next(steps)
            while True:
                if send:
                    stream.write(send, left())
                send, count = steps.send(stream.read(count, left()))
        except StopIteration:
            return stream
        except BaseException as error:
            stream.close()
            _raise_as_connect_error(self._httpcore, error)
            raise


class AsyncTunnels:
    """:class:`SyncTunnels` for asyncio and trio."""

    def __init__(self, httpcore: ModuleType, proxy: Proxy) -> None:
        self._httpcore = httpcore
        self._proxy = proxy
        self._inner: Any = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """See httpcore."""
        if self._inner is None:
            self._inner = self._httpcore.AnyIOBackend()
        proxy = self._proxy
        stream = await self._inner.connect_tcp(proxy.host, proxy.port, timeout, **options)
        try:
            await _shake_hands(stream, proxy.tunnel(host, port), _countdown(timeout))
        except BaseException as error:
            import anyio

            with anyio.CancelScope(shield=True):  # a plain socket: nothing is waited for
                await stream.aclose()
            _raise_as_connect_error(self._httpcore, error)
            raise
        return stream

    async def sleep(self, seconds: float) -> None:
        """See httpcore."""
        import anyio

        await anyio.sleep(seconds)


async def _shake_hands(stream: Any, steps: Handshake, left: Callable[[], float | None]) -> None:
    send, count = next(steps)
    while True:
        if send:
            await stream.write(send, left())
        got = await stream.read(count, left())
        try:
            send, count = steps.send(got)
        except StopIteration:
            return


def _countdown(timeout_s: float | None) -> Callable[[], float | None]:
    """One limit over all steps, as each step's own."""
    if timeout_s is None:
        return lambda: None
    limit = time.monotonic() + timeout_s
    return lambda: max(0.001, limit - time.monotonic())


def _raise_as_connect_error(httpcore: ModuleType, error: BaseException) -> None:
    """What fails before the tunnel stands is a failure to connect: nothing was sent."""
    if isinstance(error, ProxyError):
        raise httpcore.ProxyError(str(error)) from error
    if isinstance(error, (httpcore.ReadTimeout, httpcore.WriteTimeout)):
        raise httpcore.ConnectTimeout(str(error)) from error
    if isinstance(error, (httpcore.ReadError, httpcore.WriteError)):
        raise httpcore.ConnectError(str(error)) from error
