"""The moment between the TLS handshake and the first byte: which protocol object takes over.

A server may send its SETTINGS with the end of the handshake, so the choice has
to be made inside ``connection_made``, before any data is delivered.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from meshclient.transport.asyncio_shell import AsyncConnection
from meshclient.transport.http2 import speaks_http2
from meshclient.transport.http2_asyncio import Http2Connection

if TYPE_CHECKING:
    from meshclient.transport.http2_pool import MultiplexPool
    from meshclient.transport.loop_shard import LoopShard


class Negotiation(asyncio.Protocol):
    """``connection`` is what the peer's ALPN answer, or prior knowledge, asks for."""

    connection: AsyncConnection | Http2Connection

    def __init__(
        self, shard: LoopShard, pool: MultiplexPool[Http2Connection], sock: socket.socket
    ) -> None:
        self._shard = shard
        self._pool = pool
        self._sock = sock

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        target = self._pool.target
        if speaks_http2(target.protocol, transport.get_extra_info("ssl_object")):
            self.connection = Http2Connection(self._shard, self._pool, self._sock)
        else:
            pools = self._shard.pools
            pool = pools.get(target) or self._shard.new_pool(target)
            self.connection = AsyncConnection(self._shard, pool, self._sock)
        transport.set_protocol(self.connection)
        self.connection.connection_made(transport)
