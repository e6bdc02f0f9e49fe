"""Upgraded connections of the httpcore engines: the raw stream after a 101.

The same methods as the streams of the mesh's own engines; errors are ours.
"""

from __future__ import annotations

import ssl
from typing import Any

from meshclient.transport.fallback import AsyncHttpcoreResponse, SyncHttpcoreResponse
from meshclient.transport.httpcore_bridge import errors


class SyncUpgraded(SyncHttpcoreResponse):
    """A 101 of the blocking engine. One thread may read while another writes."""

    __slots__ = ("_stream",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._stream = self._response.extensions["network_stream"]

    def read(self, max_bytes: int, timeout_s: float | None = None) -> bytes:
        """At most ``max_bytes``; empty at the end. Raises WireError."""
        with errors(self._request, head=False):
            return self._stream.read(max_bytes, timeout_s)  # type: ignore[no-any-return]

    def write(self, data: bytes, timeout_s: float | None = None) -> None:
        """All of ``data``. Raises WireError."""
        with errors(self._request, head=False):
            self._stream.write(data, timeout_s)

    def start_tls(
        self, context: ssl.SSLContext, hostname: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Continue with TLS. Raises WireError."""
        with errors(self._request, head=False):
            self._stream = self._stream.start_tls(context, hostname, timeout_s)


class AsyncUpgraded(AsyncHttpcoreResponse):
    """A 101 under asyncio or trio. One task may read while another writes."""

    __slots__ = ("_stream",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._stream = self._response.extensions["network_stream"]

    async def read(self, max_bytes: int, timeout_s: float | None = None) -> bytes:
        """At most ``max_bytes``; empty at the end. Raises WireError."""
        with errors(self._request, head=False):
            return await self._stream.read(max_bytes, timeout_s)  # type: ignore[no-any-return]

    async def write(self, data: bytes, timeout_s: float | None = None) -> None:
        """All of ``data``. Raises WireError."""
        with errors(self._request, head=False):
            await self._stream.write(data, timeout_s)

    async def start_tls(
        self, context: ssl.SSLContext, hostname: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Continue with TLS. Raises WireError."""
        with errors(self._request, head=False):
            self._stream = await self._stream.start_tls(context, hostname, timeout_s)
