"""The differential oracle: our parser and writer beside h11, on the same bytes.

h11 is a second opinion, not the law: where the two differ on purpose, the
reason is the one that ``explained`` gives, and stands in docs/wire-contract.md.
Everything else that differs is a finding. No test and no clock in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import h11

from meshclient.transport.http1 import MAX_HEAD_BYTES, ResponseParser
from meshclient.transport.http1_request import BodyFraming, encode_request, whole_body
from meshclient.transport.interface import InvalidRequest, WireError, WireRequest
from meshclient.transport.trailers import may_be_trailer

#: ("ok", status, body, reusable, headers, trailers), ("refused",) or ("incomplete",).
Verdict = tuple[Any, ...]

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]")
_EMPTY_LINE = re.compile(rb"(^|\r\n\r\n)[\r\n]+(?=HTTP/)")
_REASON = re.compile(rb"(HTTP/1\.[01] [0-9]{3} )([^\r\n]*)")
_EXTENSION = re.compile(rb"([0-9a-fA-F];)([^\r\n]*)")
_LEADING_ZEROS = re.compile(rb"(\n)0{5,}(?=[0-9a-fA-F]+[;\r])")
_IDENTITY = re.compile(rb"(?i)()\r\ntransfer-encoding:[ \t]*identity[ \t]*(?=\r\n)")

#: What we let pass and h11 does not: the reason, and the answer without it.
_TIDIED: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    (
        "empty lines before a status line are skipped",
        lambda data: _EMPTY_LINE.sub(rb"\1", data),
    ),
    (
        "control characters in a reason or an extension, which nobody reads",
        lambda data: _EXTENSION.sub(_readable, _REASON.sub(_readable, data)),
    ),
    (
        "a chunk size with many leading zeros is the number that it is",
        lambda data: _LEADING_ZEROS.sub(rb"\1", data),
    ),
    (
        "identity, the coding that RFC 2616 had, is none",
        lambda data: _IDENTITY.sub(rb"\1", data),
    ),
)


def _readable(found: re.Match[bytes]) -> bytes:
    return found[1] + _CONTROL.sub(b"x", found[2])


def tidied(data: bytes) -> tuple[bytes, str]:
    """The answer without what we alone let pass, and what that was; "" for nothing."""
    reasons = []
    for reason, tidy in _TIDIED:
        before, data = data, tidy(data)
        if data != before:
            reasons.append(reason)
    return data, "; ".join(reasons)


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
    reusable = not rest and not surplus and parser.keep_alive
    fields = (plain(parser.headers), plain(parser.trailers or []))
    return ("ok", parser.status, bytes(body), reusable, *fields)


def plain(fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Names, and the values that have no case, in lower case."""
    pairs = [(name.lower(), value) for name, value in fields]
    return [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in pairs]


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
                status, headers = event.status_code, plain(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                trailers = [pair for pair in event.headers if may_be_trailer(pair[0])]
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
    return ("ok", status, bytes(body), reusable, headers, trailers)


def explained(data: bytes, mine: Verdict, theirs: Verdict, head_only: bool = False) -> str:
    """Why a difference is meant to be; empty for a finding."""
    reason = strict(mine, theirs)
    if reason:
        return reason
    tidy, why = tidied(data)
    again = ours(tidy, [], head_only)
    if why and again[:2] == mine[:2] and strict(again, h11s(tidy, head_only)):
        return why  # without it, both read the same
    return more_lenient(data, mine)


def strict(mine: Verdict, theirs: Verdict) -> str:
    """Why a difference is no risk; empty where it is one."""
    if mine == theirs:
        return "equal"
    if mine[0] != "ok":
        # We refuse (or wait for more) where h11 takes it: the safe side. What we may not
        # do is refuse a plainly good answer; that has a property test of its own.
        return "stricter"
    same = theirs[0] == "ok" and mine[1:3] + mine[4:] == theirs[1:3] + theirs[4:]
    return "closes" if same and not mine[3] else ""


def more_lenient(data: bytes, mine: Verdict) -> str:
    """Why we may take an answer that h11 refuses, of the reasons that no tidying shows."""
    if mine[1] in (204, 304) and mine[2] == b"":
        return "framing headers mean nothing where no body can be"
    if b"http/1.0" in data.lower():
        return "an HTTP/1.0 peer that chunks is believed"
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
