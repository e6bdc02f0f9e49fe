"""Streaming a request body over an asyncio connection, with back-pressure.

The upload runs in a task of its own, so that an answer that makes it pointless
can stop it wherever it waits. Framing is :mod:`meshclient.transport.http1_request`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from meshclient.transport.http1_request import EXPECT_S, SLICE, BodyFraming, EncodedRequest
from meshclient.transport.interface import WireRequest

if TYPE_CHECKING:
    from meshclient.transport.asyncio_shell import AsyncConnection


async def upload(
    connection: AsyncConnection,
    request: WireRequest,
    encoded: EncodedRequest,
    waiter: asyncio.Future[Any],
) -> None:
    """Send head and body; returns when both are written, or when the answer came first.

    Raises what the body's iterator raises, and InvalidRequest when it does not
    keep to its Content-Length. Leaves no task behind, cancelled or not.
    """
    task = connection.loop.create_task(_write(connection, request, encoded))
    connection.uploading = True
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


async def _write(
    connection: AsyncConnection, request: WireRequest, encoded: EncodedRequest
) -> None:
    connection.set_limit(_or_forever(request.deadline), "deadline")
    connection.transport.write(encoded.head)
    if encoded.expects:
        await _wait_for_100(connection)
    framing = BodyFraming(encoded.length)
    pieces = pieces_of(request.body)
    try:
        async for piece in pieces:
            if connection.closed:
                return
            data = framing.frame(piece)
            if data:
                connection.transport.write(data)
            if connection.write_paused:
                await _drain(connection, request)
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]  # an async generator
    if not connection.closed:
        connection.transport.write(framing.end())
        # At once, not when the sender wakes: an answer from here on is not early.
        connection.uploading = False
        connection.request_written(request)


async def _wait_for_100(connection: AsyncConnection) -> None:
    """A final answer instead ends the upload from outside. A server that says nothing
    gets the body after a while (RFC 9110 section 10.1.1)."""
    continued = connection.continued = connection.loop.create_future()
    try:
        await asyncio.wait((continued,), timeout=EXPECT_S)
    finally:
        connection.continued = None


async def _drain(connection: AsyncConnection, request: WireRequest) -> None:
    """Wait until the peer has taken most of what is buffered."""
    deadline = _or_forever(request.deadline)
    write_s = request.write_timeout_s
    limit = math.inf if write_s is None else time.monotonic() + write_s
    if limit < deadline:
        connection.set_limit(limit, "write")
    drained = connection.drained = connection.loop.create_future()
    try:
        await drained
    finally:
        connection.drained = None
    connection.set_limit(deadline, "deadline")


async def pieces_of(body: Any) -> AsyncIterator[bytes]:
    """A body of any kind, piece by piece."""
    """The body piece by piece, whatever kind it is; close it when done."""
    if isinstance(body, bytes):
        view = memoryview(body)
        for start in range(0, len(view), SLICE):
            yield bytes(view[start : start + SLICE])
    elif isinstance(body, Iterable):
        for piece in body:
            yield piece
    else:
        iterator = body.__aiter__()
        try:
            async for piece in iterator:
                yield piece
        finally:
            aclose = getattr(iterator, "aclose", None)
            if aclose is not None:
                await aclose()


def _or_forever(when: float | None) -> float:
    return math.inf if when is None else when
