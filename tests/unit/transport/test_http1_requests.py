"""Request heads: what is written, and what never reaches the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.transport.http1_request import CHUNKED, BodyFraming, encode_request, whole_body
from meshclient.transport.interface import Headers, InvalidRequest, WireRequest

HOST = (b"Host", b"a")


def encode(
    method: bytes = b"GET",
    target: bytes = b"/",
    headers: Headers | None = None,
    body: object = None,
) -> tuple[bytes, int, bool]:
    encoded = encode_request(
        WireRequest(method, target, [HOST] if headers is None else headers, body)  # type: ignore[arg-type]
    )
    return encoded.head, encoded.length, encoded.close


def test_a_head_is_exactly_what_the_caller_gave() -> None:
    head, length, close = encode(target=b"/a?b=%20", headers=[HOST, (b"x-A", b" b\t\xff")])
    assert head == b"GET /a?b=%20 HTTP/1.1\r\nHost: a\r\nx-A:  b\t\xff\r\n\r\n"
    assert (length, close) == (0, False)


@pytest.mark.parametrize(
    "headers", [[], [(b"X-Host", b"a")], [HOST, HOST], [HOST, (b"hOST", b"b")]]
)
def test_a_request_has_one_host(headers: Headers) -> None:
    with pytest.raises(InvalidRequest, match="one Host"):
        encode(headers=headers)


@pytest.mark.parametrize("target", [b"db:443", b"10.0.0.1:1", b"[::1]:5432", b"a_b.c:65535"])
def test_a_tunnel(target: bytes) -> None:
    encoded = encode_request(WireRequest(b"CONNECT", target, [HOST]))
    assert encoded.head == b"CONNECT " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert (encoded.tunnel, encoded.upgrade, encoded.expects) == (True, False, False)


@pytest.mark.parametrize(
    ("target", "headers", "body"),
    [
        (b"/", [], None),
        (b"db", [], None),
        (b"db:", [], None),
        (b"db:443/x", [], None),
        (b"user@db:443", [], None),
        (b"a:b:443", [], None),
        (b"http://db:443", [], None),
        (b"[::1]", [], None),
        (b"db:443", [], b"x"),
        (b"db:443", [], b""),
        (b"db:443", [(b"Content-Length", b"0")], None),
        (b"db:443", [(b"Transfer-Encoding", b"chunked")], [b"x"]),
    ],
)
def test_what_could_not_become_a_tunnel(target: bytes, headers: Headers, body: object) -> None:
    with pytest.raises(InvalidRequest):
        encode(b"CONNECT", target, [HOST, *headers], body)


@pytest.mark.parametrize(
    ("headers", "body", "length", "added"),
    [
        ([HOST], b"hi", CHUNKED, True),
        ([HOST], [b"hi"], CHUNKED, True),
        ([HOST, (b"content-length", b"2")], b"hi", 2, False),
        ([HOST, (b"Content-Length", b"2")], [b"h", b"i"], 2, False),
        ([HOST, (b"Transfer-Encoding", b"Chunked")], [b"hi"], CHUNKED, False),
        ([HOST, (b"Content-Length", b"0")], None, 0, False),
        ([HOST, (b"Content-Length", b"0")], b"", 0, False),
    ],
)
def test_framing(headers: Headers, body: object, length: int, added: bool) -> None:
    head, got, _ = encode(b"POST", headers=headers, body=body)
    assert got == length
    assert head.endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n") is added


@pytest.mark.parametrize(
    ("value", "close"), [(b"close", True), (b"x, Close", True), (b"keep-alive", False)]
)
def test_the_callers_connection_close_is_seen(value: bytes, close: bool) -> None:
    assert encode(headers=[HOST, (b"connection", value)])[2] is close
    assert encode(headers=[HOST, (b"x-other", b"close")])[2] is False


@pytest.mark.parametrize(
    "bad",
    [
        {"method": b"GE T"},
        {"method": b""},
        {"method": b"GET\r\n"},
        {"target": b"/\xc3\xbc"},
        {"headers": [(b"A", b"b\x1b[0m")]},
        {"headers": [(b"A", b"b\x0bc")]},
        {"headers": [(b"A", b"b\x7f")]},
        {"target": b""},
        {"target": b"/a b"},
        {"target": b"/a\r\nX: y"},
        {"target": b"/a\x00"},
        {"target": b"/a\tb"},
        {"headers": [(b"A", b"b\r\nX: y")]},
        {"headers": [(b"A", b"b\nX: y")]},
        {"headers": [(b"A", b"b\rX: y")]},
        {"headers": [(b"A", b"b\0")]},
        {"headers": [(b"A:", b"b")]},
        {"headers": [(b"A b", b"b")]},
        {"headers": [(b"", b"b")]},
        {"headers": [(b"A\r\nB", b"b")]},
        {"headers": [(b"Content-Length", b"3")], "body": b"hi"},
        {"headers": [(b"Content-Length", b"3")], "body": None},
        {"headers": [(b"Content-Length", b"-3")], "body": b"hi"},
        {"headers": [(b"Content-Length", b"2"), (b"content-length", b"2")], "body": b"hi"},
        {"headers": [(b"Content-Length", b"2"), (b"Transfer-Encoding", b"chunked")], "body": b"hi"},
        {"headers": [(b"Transfer-Encoding", b"gzip")], "body": b"hi"},
        {"headers": [(b"Transfer-Encoding", b"chunked")], "body": None},
    ],
    ids=str,
)
def test_refused_before_a_byte_is_sent(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode(**{**bad, "headers": [HOST, *bad.get("headers", [])]})  # type: ignore
    assert "one Host" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert not caught.value.sent


@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=8)), max_size=4))
def test_no_header_ever_becomes_two(headers: Headers) -> None:
    """Whatever the bytes: the head has one line per header, or is refused."""
    try:
        head = encode(headers=[HOST, *((b"n" + n, b"v" + v) for n, v in headers)])[0]
    except InvalidRequest:
        return
    lines = head.split(b"\r\n")
    assert lines[2:-2] == [b"n" + n + b": v" + v for n, v in headers]
    assert lines[-2:] == [b"", b""]


def test_a_chunk_size_counts_bytes_whatever_the_piece_is() -> None:
    framing = BodyFraming(CHUNKED)
    wide = memoryview(b"12345678").cast("I")
    assert framing.frame(wide) == b"8\r\n12345678\r\n"  # type: ignore[arg-type]
    assert framing.frame(bytearray(b"ab")) == b"2\r\nab\r\n"  # type: ignore[arg-type]
    for piece in ("text", 5, [1, 2], None):
        with pytest.raises(TypeError):
            framing.frame(piece)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="longer"):
        BodyFraming(2).frame(wide)  # type: ignore[arg-type]


def test_whole_bodies() -> None:
    assert whole_body(b"hi", 2) == b"hi"
    assert whole_body(b"hi", CHUNKED) == b"2\r\nhi\r\n0\r\n\r\n"
    assert whole_body(b"", CHUNKED) == b"0\r\n\r\n"


def test_chunked_framing_drops_empty_pieces() -> None:
    framing = BodyFraming(CHUNKED)
    wire = [framing.frame(b"a" * 17), framing.frame(b""), framing.end()]
    assert wire == [b"11\r\n" + b"a" * 17 + b"\r\n", b"", b"0\r\n\r\n"]


def test_a_streamed_body_is_held_to_its_length() -> None:
    framing = BodyFraming(3)
    assert framing.frame(b"ab") == b"ab"
    with pytest.raises(InvalidRequest, match="shorter"):
        framing.end()
    with pytest.raises(InvalidRequest, match="longer"):
        framing.frame(b"cd")
