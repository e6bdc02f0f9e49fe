"""The raw stream of an upgraded connection, as httpcore's ``NetworkStream`` is used.

WebSocket libraries take it from ``response.extensions["network_stream"]`` and catch
the exceptions of httpcore (httpcore2 under httpx2), so each error of the wire goes
out as one of these. Nothing here reads a protocol.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from meshclient.transport.interface import WireError

if TYPE_CHECKING:
    import ssl

#: Which httpcore goes with a family: the one its own transport is made of.
_CORES = {"httpx": "httpcore", "httpx2": "httpcore2"}


class _Errors:
    """Turns wire errors into the exceptions that the family's users catch."""

    __slots__ = ("_core",)

    def __init__(self, family: str) -> None:
        # Its own transport needs it, so it is there whenever the family is.
        self._core: Any = importlib.import_module(_CORES[family])

    @contextmanager
    def of(self, operation: str) -> Iterator[None]:
        """``operation``: Read, Write or Connect."""
        try:
            yield
        except WireError as error:
            self._throw(operation, error)

    def _throw(self, operation: str, error: WireError) -> NoReturn:
        kind = "Timeout" if error.timeout else "Error"
        raise getattr(self._core, operation + kind)(str(error)) from error


class SyncNetworkStream:
    """For ``httpx.Client``; one thread may read while another writes."""

    def __init__(self, wire: Any, family: str) -> None:
        self._wire = wire
        self._errors = _Errors(family)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At most ``max_bytes``; empty at the end of the stream. Raises ReadTimeout, ReadError."""
        with self._errors.of("Read"):
            return self._wire.read(max_bytes, timeout)  # type: ignore[no-any-return]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of ``buffer``. Raises WriteTimeout, WriteError."""
        with self._errors.of("Write"):
            self._wire.write(buffer, timeout)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> SyncNetworkStream:
        """Continue with TLS on the same connection. Raises ConnectTimeout, ConnectError."""
        with self._errors.of("Connect"):
            self._wire.start_tls(ssl_context, server_hostname, timeout)
        return self

    def close(self) -> None:
        """End the connection; idempotent."""
        self._wire.close()

    def get_extra_info(self, info: str) -> Any:
        """``client_addr``, ``server_addr``, ``socket`` or ``ssl_object``; None when unknown."""
        return self._wire.get_extra_info(info)


class AsyncNetworkStream:
    """For ``httpx.AsyncClient``; one task may read while another writes."""

    def __init__(self, wire: Any, family: str) -> None:
        self._wire = wire
        self._errors = _Errors(family)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At most ``max_bytes``; empty at the end of the stream. Raises ReadTimeout, ReadError."""
        with self._errors.of("Read"):
            return await self._wire.read(max_bytes, timeout)  # type: ignore[no-any-return]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of ``buffer``. Raises WriteTimeout, WriteError."""
        with self._errors.of("Write"):
            await self._wire.write(buffer, timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> AsyncNetworkStream:
        """Continue with TLS on the same connection. Raises ConnectTimeout, ConnectError."""
        with self._errors.of("Connect"):
            await self._wire.start_tls(ssl_context, server_hostname, timeout)
        return self

    async def aclose(self) -> None:
        """End the connection; idempotent."""
        await self._wire.aclose()

    def get_extra_info(self, info: str) -> Any:
        """``client_addr``, ``server_addr``, ``socket`` or ``ssl_object``; None when unknown."""
        return self._wire.get_extra_info(info)
