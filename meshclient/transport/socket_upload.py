"""Streaming a request body over a socket, watching for an answer that comes early.

Runs the socket non-blocking, because a server that refuses stops reading: a
blocked write would never see its answer. Framing is
:mod:`meshclient.transport.http1_request`.
"""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from meshclient.transport.http1_request import SLICE, BodyFraming, EncodedRequest
from meshclient.transport.interface import InvalidRequest, WireRequest

if TYPE_CHECKING:
    from meshclient.transport.socket_shell import SyncConnection

_SEND: Final = 64 * 1024
#: Body bytes of an answer that came early, held before the socket is no longer read.
_HIGH_WATER: Final = 256 * 1024
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def upload(connection: SyncConnection, request: WireRequest, encoded: EncodedRequest) -> bool:
    """Send head and body. False when the server answered or left before the end.

    Raises what the body's iterator raises, InvalidRequest when it does not keep
    to its Content-Length, and WireError for time limits.
    """
    connection.set_timeout(0.0)
    framing = BodyFraming(encoded.length)
    if not _push(connection, request, encoded.head):
        return False
    for piece in _pieces(request.body):
        if not _push(connection, request, framing.frame(piece)):
            return False
    return _push(connection, request, framing.end())


def _push(connection: SyncConnection, request: WireRequest, data: bytes) -> bool:
    view = memoryview(data)
    limit = _limit(request)
    while view:
        if _answered(connection):
            return False
        try:
            sent = connection.sock.send(view[:_SEND])
        except _WOULD_BLOCK as error:
            left = limit - time.monotonic()
            reading = isinstance(error, ssl.SSLWantReadError) or _may_read(connection)
            wait_s = None if left == math.inf else left
            if left <= 0 or not connection.readiness.wait(reading, True, wait_s):
                raise connection.write_timeout(request) from None
        except OSError:
            return False  # broken; an answer may still stand in the receive buffer
        else:
            view = view[sent:]
            limit = _limit(request)
    return True


def _limit(request: WireRequest) -> float:
    limit = math.inf if request.deadline is None else request.deadline
    if request.write_timeout_s is not None:
        limit = min(limit, time.monotonic() + request.write_timeout_s)
    return limit


def _may_read(connection: SyncConnection) -> bool:
    return connection.parser.untaken() <= _HIGH_WATER


def _answered(connection: SyncConnection) -> bool:
    """Whether to stop: a refusal, a whole answer, or the end of the stream is there.

    Other answers (an echo's) are read along, so that both sides can go on.
    """
    parser = connection.parser
    if not _may_read(connection) or not connection.readiness.readable():
        return False
    try:
        data = connection.sock.recv(_SEND)
    except _WOULD_BLOCK:
        return False  # half a TLS record, or a session ticket
    except OSError:
        return True
    if not data:
        parser.eof()
        return True
    parser.feed(data)
    return parser.complete or (parser.head_complete and parser.status >= 400)


def _pieces(body: Any) -> Iterator[bytes]:
    if isinstance(body, bytes):
        view = memoryview(body)
        for start in range(0, len(view), SLICE):
            yield bytes(view[start : start + SLICE])
    elif isinstance(body, Iterable):
        yield from body
    else:
        raise InvalidRequest("the body of a synchronous request cannot be an async iterable")
