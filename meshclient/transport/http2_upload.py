"""Streaming a request body over an asyncio HTTP/2 stream, within the peer's windows.

As over HTTP/1.1, the upload runs in a task of its own, so that an answer that
makes it pointless can stop it wherever it waits.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from meshclient.transport.asyncio_upload import pieces_of
from meshclient.transport.http1_request import CHUNKED, EncodedRequest
from meshclient.transport.interface import InvalidRequest

if TYPE_CHECKING:
    from meshclient.transport.http2_exchange import Exchange

_WRITE: Final = 64 * 1024


async def upload(exchange: Exchange, encoded: EncodedRequest) -> None:
    """Send the body; returns when it is written, or when the answer came first.

    Raises what the body's iterator raises, and InvalidRequest when it does not
    keep to its Content-Length. Leaves no task behind, cancelled or not.
    """
    exchange.uploading = True
    waiter = exchange.waiter
    task = exchange.connection.loop.create_task(_write(exchange, encoded))
    try:
        await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not waiter.done():
            task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # retrieved: an answer that came first counts for more


async def _write(exchange: Exchange, encoded: EncodedRequest) -> None:
    exchange.set_limit(exchange.deadline(), "deadline")
    connection, stream = exchange.connection, exchange.stream
    connection.flush()
    left = encoded.length
    pieces = pieces_of(exchange.request.body)
    try:
        async for piece in pieces:
            if exchange.over:
                return
            if left != CHUNKED:
                left -= len(piece)
                if left < 0:
                    message = "the body is longer than its content-length"
                    raise InvalidRequest(message, sent=True)
            await _send(exchange, piece)
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]  # an async generator
    if exchange.over:
        return
    if left not in (CHUNKED, 0):
        raise InvalidRequest("the body is shorter than its content-length", sent=True)
    connection.core.send(stream, b"", True)
    connection.flush_soon()
    # At once, not when the sender wakes: an answer from here on is not early.
    exchange.request_written()


async def _send(exchange: Exchange, piece: bytes) -> None:
    """One piece, as the windows open."""
    connection, stream = exchange.connection, exchange.stream
    view = memoryview(piece)
    while view and not exchange.over:
        window = connection.core.window(stream) if connection.may_write() else 0
        if window > 0:
            # Written at once: an iterator that never waits would pile up what
            # the socket has not been asked to take.
            part = min(window, _WRITE)
            connection.core.send(stream, view[:part], False)
            connection.flush()
            view = view[part:]
        else:
            await _wait(exchange)


async def _wait(exchange: Exchange) -> None:
    write_s = exchange.request.write_timeout_s
    if write_s is not None:
        limit = time.monotonic() + write_s
        if limit < exchange.deadline():
            exchange.set_limit(limit, "write")
    await exchange.connection.window_changes()
    if not exchange.over:
        exchange.set_limit(exchange.deadline(), "deadline")
