"""The differential oracle: our parser and writer beside h11, on the same bytes.

h11 is a second opinion, not the law: where the two differ on purpose, the
reason is the one that ``explained`` gives, and stands in docs/wire-contract.md.
Everything else that differs is a finding. No test and no clock in here.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import h11

from meshclient.transport.http1 import MAX_HEAD_BYTES, ResponseParser
from meshclient.transport.http1_request import BodyFraming, encode_request, whole_body
from meshclient.transport.interface import InvalidRequest, WireError, WireRequest

#: ("ok", status, body, reusable), ("refused",) or ("incomplete",).
Verdict = tuple[Any, ...]

_EMPTY_LINE = re.compile(rb"(?:^|\r\n\r\n)[\r\n]+HTTP/")
_REASON = re.compile(rb"HTTP/1\.[01] [0-9]{3} [^\r\n]*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]")
_EXTENSION = re.compile(rb"[0-9a-fA-F];[^\r\n]*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]")
_IDENTITY = re.compile(rb"(?i)transfer-encoding:[ \t]*identity")


def ours(data: bytes, cuts: list[int], head_only: bool = False) -> Verdict:
    """Our verdict on an answer that arrives in pieces, and then the end of the stream."""
    parser = ResponseParser()
    parser.start(head_only)
    body = bytearray()
    surplus = False
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    try:
        for start, end in pairwise(edges):
            if start == end:
                continue
            if parser.complete:
                surplus = True  # a shell reads it on an idle connection, and closes
                break
            parser.feed(data[start:end])
            body += parser.take()
    except WireError:
        return ("refused",)
    rest = not parser.complete
    if not parser.eof():
        return ("incomplete",)
    body += parser.take()
    return ("ok", parser.status, bytes(body), not rest and not surplus and parser.keep_alive)


def h11s(data: bytes, head_only: bool = False) -> Verdict:
    """h11's verdict on the same bytes."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    request = h11.Request(
        method="HEAD" if head_only else "GET", target="/", headers=[("Host", "t")]
    )
    connection.send(request)
    connection.send(h11.EndOfMessage())
    status, body = 0, bytearray()
    try:
        connection.receive_data(data)
        ended = False
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif event is h11.NEED_DATA and not ended:
                connection.receive_data(b"")
                ended = True
            elif (
                event is h11.NEED_DATA
                or event is h11.PAUSED
                or isinstance(event, h11.ConnectionClosed)
            ):
                return ("incomplete",)
    except h11.RemoteProtocolError as error:
        return (
            ("incomplete",) if "peer unexpectedly closed" in str(error) or ended else ("refused",)
        )
    reusable = connection.their_state is h11.DONE and not connection.trailing_data[0] and not ended
    return ("ok", status, bytes(body), reusable)


def explained(data: bytes, mine: Verdict, theirs: Verdict) -> str:
    """Why a difference is meant to be; empty for a finding."""
    if mine == theirs:
        return "equal"
    if mine[0] != "ok":
        # We refuse (or wait for more) where h11 takes it: the safe side. What we may not
        # do is refuse a plainly good answer; that has a property test of its own.
        return "stricter"
    if theirs[0] == "ok" and mine[1:3] == theirs[1:3] and not mine[3]:
        return "closes"
    return _more_lenient(data, mine)


def _more_lenient(data: bytes, mine: Verdict) -> str:
    head = data.partition(b"\r\n\r\n")[0].lower()
    if mine[1] in (204, 304) or b" 204" in head or b" 304" in head:
        return "framing headers mean nothing where no body can be"
    if b"http/1.0" in head:
        return "an HTTP/1.0 peer that chunks is believed"
    if _EMPTY_LINE.search(data):
        return "empty lines before a status line are skipped"
    if _REASON.search(data) or _EXTENSION.search(data):
        return "control characters in a reason or an extension, which nobody reads"
    if _IDENTITY.search(data):
        return "identity, the coding that RFC 2616 had, is none"
    return ""


def sends(request: WireRequest) -> bytes | None:
    """The bytes of a request as the shells write it; None: refused."""
    body = request.body
    try:
        encoded = encode_request(request)
        if body is None:
            return encoded.head
        if isinstance(body, bytes):
            return encoded.head + whole_body(body, encoded.length)
        framing = BodyFraming(encoded.length)
        pieces = [framing.frame(piece) for piece in body]  # type: ignore[union-attr]
        return encoded.head + b"".join(pieces) + framing.end()
    except InvalidRequest:
        return None


def server_reads(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, bytes]:
    """Method, target, headers, body and surplus, as an h11 server reads them. Raises."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request), request
    body = bytearray()
    while True:
        event = connection.next_event()
        if isinstance(event, h11.EndOfMessage):
            break
        assert isinstance(event, h11.Data), event
        body += event.data
    surplus = connection.trailing_data[0]
    return request.method, request.target, list(request.headers), bytes(body), surplus
