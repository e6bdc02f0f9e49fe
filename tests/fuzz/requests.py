"""Requests of any shape as bytes, and the verdict on what goes over the wire for each.

A request is kept as one string of bytes, so that the same damage fits answers and
requests: method, target, kind of body, body and headers, with 0x1E between them
and 0x1F between name and value and between the pieces of a body. What leaves must be
read by h11, as a server, as exactly the one request that was asked for. No clock.
"""

from __future__ import annotations

import re
import socket
from itertools import takewhile
from typing import Any

import h11

from meshclient.transport.http1_request import encode_request
from meshclient.transport.interface import InvalidRequest, WireError, WireRequest
from tests.fuzz import exchange, oracle

FIELD, PART = b"\x1e", b"\x1f"

#: What framing and routing bugs of requests are made of.
TOKENS = (
    FIELD, PART, FIELD + b"Content-Length" + PART + b"0", FIELD + b"Content-Length" + PART + b"5",
    FIELD + b"content-length" + PART + b"2", FIELD + b"Transfer-Encoding" + PART + b"chunked",
    FIELD + b"transfer-encoding" + PART + b" Chunked ", FIELD + b"Host" + PART + b"b",
    FIELD + b"Expect" + PART + b"100-continue", FIELD + b"Connection" + PART + b"Upgrade, close",
    FIELD + b"Upgrade" + PART + b"websocket", b"CONNECT", b"HEAD", b"a:1", b"[::1]:1",
    b"http://h/", b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"0\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: t\r\n\r\n", b" HTTP/1.1", b"n", b"b", b"s", b"+1", b"0x2",
    b"\x0b", b"\x7f", b"\xff", b"identity",
)  # fmt: skip

_GOOD_TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_GOOD_VALUE = re.compile(rb"[\t \x21-\x7e\x80-\xff]*")
_GOOD_TARGET = re.compile(rb"/[\x21-\x7e]*|\*")

Parts = tuple[bytes, bytes, list[tuple[bytes, bytes]], Any]


def decode(data: bytes) -> Parts:
    """Any bytes as method, target, headers and body."""
    method, target, kind, body, *headers = (data + FIELD * 3).split(FIELD)
    # The three separators at the end are those that a short text lacks.
    while headers and not headers[-1]:
        headers.pop()
    pairs = [tuple(one.split(PART, 1)) if PART in one else (one, b"") for one in headers]
    content = {b"b": body, b"s": body.split(PART)}.get(kind)
    return method, target, pairs, content  # type: ignore[return-value]


def encode(parts: Parts) -> bytes:
    """The other way round."""
    method, target, headers, body = parts
    kind = b"n" if body is None else b"b" if isinstance(body, bytes) else b"s"
    text = PART.join(body) if kind == b"s" else body or b""
    return FIELD.join([method, target, kind, text, *(n + PART + v for n, v in headers)])


def judge(data: bytes) -> tuple[str, str]:
    """The class of one request, and what is wrong with what we sent ("" for nothing)."""
    parts = decode(data)
    wire = oracle.sends(WireRequest(*parts))
    if wire is None:
        return "refused", "refused, but plainly good" if plainly_good(parts) else ""
    if not isinstance(parts[3], list) and (real := through_the_shell(parts)) != wire:
        return "sent", f"the shell wrote {real!r}, not {wire!r}"
    try:
        got = server_reads(wire)
    except h11.RemoteProtocolError as error:
        return "sent", f"h11 refuses {wire!r}: {error}"
    return "sent", _difference(parts, got)


def _difference(parts: Parts, got: tuple[Any, ...]) -> str:
    method, target, headers, body = parts
    content = b"".join(body) if isinstance(body, list) else body or b""
    asked = [(n.lower(), v.strip(b" \t")) for n, v in headers]
    names = [name for name, _ in asked]
    read = got[2]
    if body is not None and not {b"content-length", b"transfer-encoding"} & set(names):
        if read[-1:] != [(b"transfer-encoding", b"chunked")]:
            return f"no framing was added: {read}"
        read = read[:-1]
    asked = [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in asked]
    wanted = (method, target, asked, content, b"")
    found = (*got[:2], read, *got[3:])
    return "" if found == wanted else f"asked for {wanted}, a server reads {found}"


def server_reads(data: bytes) -> tuple[Any, ...]:
    """Method, target, headers, body and surplus, as an h11 server reads them.

    Raises h11.RemoteProtocolError, also when the request never ends.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request = connection.next_event()
    if not isinstance(request, h11.Request):
        raise h11.RemoteProtocolError(f"no whole request: {request}")
    body = bytearray()
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if not isinstance(event, h11.Data):
            raise h11.RemoteProtocolError(f"no whole body: {event}")
        body += event.data
    surplus = connection.trailing_data[0]
    return request.method, request.target, list(request.headers), bytes(body), surplus


def through_the_shell(parts: Parts) -> bytes | None:
    """What a blocking connection really writes; its server has answered already. None: refused."""
    request = WireRequest(*parts, read_timeout_s=0.0, write_timeout_s=1.0)
    try:
        encoded = encode_request(request)
    except InvalidRequest:
        return None
    ours, theirs = socket.socketpair()
    with theirs:
        connection = exchange.connection_on(ours)
        try:
            encoded.expects = False  # nobody is there to continue it
            connection.exchange(request, encoded).close()
        except WireError:
            pass  # no answer: only what was written counts
        connection.close()
        return b"".join(takewhile(bool, iter(lambda: theirs.recv(65536), None)))


def plainly_good(parts: Parts) -> bool:
    """A request that nobody could object to, by rules of its own: it must be sent."""
    method, target, headers, body = parts
    names = [name.lower() for name, _ in headers]
    return (
        _GOOD_TOKEN.fullmatch(method) is not None
        and method != b"CONNECT"
        and _GOOD_TARGET.fullmatch(target) is not None
        and names.count(b"host") == 1
        and not {b"content-length", b"transfer-encoding"} & set(names)
        and all(_GOOD_TOKEN.fullmatch(n) and _GOOD_VALUE.fullmatch(v) for n, v in headers)
        and (body is None or isinstance(body, bytes | list))
    )
