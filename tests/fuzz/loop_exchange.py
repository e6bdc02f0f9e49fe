"""Whole exchanges on our asyncio connection, without a network: the other shell's second opinion.

The answer arrives in pieces that the caller chooses, then the end of the stream. What
both shells make of an answer has to be the same. No clock.
"""

from __future__ import annotations

import asyncio
import socket
from functools import cache
from itertools import pairwise
from typing import Any

from meshclient.transport.asyncio_shell import AsyncConnection
from meshclient.transport.asyncio_upgrade import AsyncUpgradedResponse
from meshclient.transport.http1_request import encode_request
from meshclient.transport.interface import Target, WireError, WireRequest
from meshclient.transport.loop_shard import LoopShard
from meshclient.transport.pool import Pool
from tests.fuzz import exchange, oracle


class Wire(asyncio.Transport):
    """Takes what is written, and hands on what the test says arrived."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__()
        self._protocol: Any = connection
        self._closed = False
        connection.connection_made(self)

    def arrives(self, data: bytes) -> None:
        if not self._closed:
            self._protocol.data_received(data)

    def ends(self) -> None:
        if not self._closed:
            self._protocol.eof_received()

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closed

    def abort(self) -> None:
        self._closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@cache
def _loop() -> tuple[asyncio.AbstractEventLoop, socket.socket, socket.socket]:
    """One loop, and a connected socket that stays silent, for all cases of this process."""
    return asyncio.new_event_loop(), *socket.socketpair()


def close() -> None:
    """Of what :func:`ours` keeps; the next call makes new ones."""
    if _loop.cache_info().currsize:
        loop, *ends = _loop()
        _loop.cache_clear()
        loop.close()
        for end in ends:
            end.close()


def ours(data: bytes, method: bytes, cuts: list[int]) -> exchange.Verdict:
    """Our verdict on an answer that arrives in pieces, as :func:`exchange.ours` gives it."""
    loop, sock, _ = _loop()
    return loop.run_until_complete(_ours(loop, sock, data, method, cuts))


async def _ours(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    data: bytes,
    method: bytes,
    cuts: list[int],
) -> exchange.Verdict:
    pool: Pool[AsyncConnection] = Pool(Target("t", 80), AsyncConnection.abort, 1, lambda: 0.0)
    connection = AsyncConnection(LoopShard(loop, 1), pool, sock)
    pool.add(connection, 0.0)
    wire = Wire(connection)
    request = WireRequest(*exchange.request_of(method))
    call = asyncio.ensure_future(connection.exchange(request, encode_request(request)))
    await asyncio.sleep(0)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    for start, end in pairwise(edges):
        wire.arrives(data[start:end])
        if start % 3 == 0:
            await asyncio.sleep(0)  # the caller may have its answer before the rest comes
    wire.ends()
    try:
        return await _read(await call)
    except WireError:
        return ("refused",)
    finally:
        connection.abort()


async def _read(response: Any) -> exchange.Verdict:
    kind, body = "ok", b""
    if isinstance(response, AsyncUpgradedResponse):
        kind = "raw"
        while piece := await response.read(65536, None):
            body += piece
    else:
        body = b"".join([piece async for piece in response])
    headers = oracle.plain(response.headers)
    await response.aclose()
    return (kind, response.status, body, headers)


def judge(data: bytes, method: bytes, cuts: list[int]) -> tuple[str, str]:
    """The class of one exchange, and how the two shells differ ("" for not at all)."""
    here, there = ours(data, method, cuts), exchange.ours(data, method)
    if here == there:
        return f"shells: {here[0]}", ""
    return "shells", f"{method!r} {data!r} at {cuts}: on a loop {here}, blocking {there}"
