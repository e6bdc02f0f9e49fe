"""Streaming a request body over a socket, watching for an answer that comes early.

The socket never blocks, because a server that refuses stops reading: a
blocked write would never see its answer. Framing is
:mod:`meshclient.transport.http1_request`.
"""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from meshclient.transport.http1_request import EXPECT_S, SLICE, BodyFraming, EncodedRequest
from meshclient.transport.interface import InvalidRequest, WireRequest
from meshclient.transport.readiness import WOULD_BLOCK

if TYPE_CHECKING:
    from meshclient.transport.socket_shell import SyncConnection

_SEND: Final = 64 * 1024
#: Body bytes of an answer that came early, held before the socket is no longer read.
_HIGH_WATER: Final = 256 * 1024


def upload(connection: SyncConnection, request: WireRequest, encoded: EncodedRequest) -> bool:
    """Send head and body. False when the server answered or left before the end.

    Raises what the body's iterator raises, InvalidRequest when it does not keep
    to its Content-Length, and WireError for time limits.
    """
    framing = BodyFraming(encoded.length)
    if not _push(connection, request, encoded.head):
        return False
    if encoded.expects and not _wait_for_100(connection, request):
        return False
    for piece in pieces_of(request.body):
        if not _push(connection, request, framing.frame(piece)):
            return False
    return _push(connection, request, framing.end())


def _wait_for_100(connection: SyncConnection, request: WireRequest) -> bool:
    """False when a final answer came instead. A server that says nothing gets the body
    after a while (RFC 9110 section 10.1.1)."""
    parser = connection.parser
    until = min(_limit(request), time.monotonic() + EXPECT_S)
    while not parser.continued:
        left = until - time.monotonic()
        if left <= 0 or not connection.readiness.wait(True, False, left):
            return True
        if _answered(connection) or parser.head_complete:
            return False
    return True


def _push(connection: SyncConnection, request: WireRequest, data: bytes) -> bool:
    view = memoryview(data)
    limit = _limit(request)
    while view:
        if _answered(connection):
            return False
        try:
            sent = connection.sock.send(view[:_SEND])
        except WOULD_BLOCK as error:
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
    except WOULD_BLOCK:
        return False  # half a TLS record, or a session ticket
    except OSError:
        return True
    if not data:
        parser.eof()
        return True
    parser.feed(data)
    return parser.complete or (parser.head_complete and parser.status >= 400)


def pieces_of(body: Any) -> Iterator[bytes]:
    """The body piece by piece, whatever kind it is."""
    if isinstance(body, bytes):
        view = memoryview(body)
        for start in range(0, len(view), SLICE):
            yield bytes(view[start : start + SLICE])
    elif isinstance(body, Iterable):
        yield from body
    else:
        raise InvalidRequest("the body of a synchronous request cannot be an async iterable")
