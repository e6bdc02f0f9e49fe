"""Trailers, tunnels and informational answers: what the parser makes of their bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.transport.http1 import ResponseParser
from meshclient.transport.interface import WireError
from meshclient.transport.trailers import FORBIDDEN, may_be_trailer

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"


def parse(data: bytes, step: int = 10**9, **kind: bool) -> ResponseParser:
    parser = ResponseParser()
    parser.start(False, **kind)
    for start in range(0, len(data), step):
        parser.feed(data[start : start + step])
    return parser


@pytest.mark.parametrize("step", [1, 7, 10**9])
def test_trailers_stand_apart_from_headers(step: int) -> None:
    parser = parse(CHUNKED + b"X-Sum: 1 \r\nx-sum:\t2\r\nE:\r\n\r\n", step)
    assert parser.complete
    assert parser.keep_alive
    assert parser.trailers == [(b"X-Sum", b"1"), (b"x-sum", b"2"), (b"E", b"")]
    assert parser.headers == [(b"Transfer-Encoding", b"chunked")]


def test_the_next_response_has_none_of_them() -> None:
    parser = parse(CHUNKED + b"A: b\r\n\r\n")
    kept = parser.trailers
    parser.start(False)
    parser.feed(OK + b"Content-Length: 0\r\n\r\n")
    assert (parser.trailers, kept) == (None, [(b"A", b"b")])


@pytest.mark.parametrize("name", sorted(FORBIDDEN - {b"transfer-encoding", b"content-length"}))
def test_a_field_that_is_no_trailer_is_dropped(name: bytes) -> None:
    parser = parse(CHUNKED + b"A: 1\r\n" + name.title() + b": x\r\nB: 2\r\n\r\n")
    assert parser.trailers == [(b"A", b"1"), (b"B", b"2")]


def test_only_forbidden_trailers_are_none() -> None:
    assert parse(CHUNKED + b"Set-Cookie: a=b\r\n\r\n").trailers == []


@given(st.binary(max_size=20))
def test_the_rule_has_no_case(name: bytes) -> None:
    assert may_be_trailer(name.upper()) is may_be_trailer(name.lower())


@pytest.mark.parametrize("step", [4096, 10**9])
@pytest.mark.parametrize(
    "trailers", [b"A: b\r\n" * 101, b"A: " + b"b" * 82_000 + b"\r\n"], ids=["lines", "bytes"]
)
def test_trailers_have_the_limits_of_heads(step: int, trailers: bytes) -> None:
    """Also where all of them come in one piece with the end."""
    with pytest.raises(WireError):
        parse(CHUNKED + trailers + b"\r\n", step)


def test_limits_are_settings() -> None:
    lines = b"".join(b"A%d: b\r\n" % number for number in range(150))
    roomy, narrow = ResponseParser(200 * 1024, 151), ResponseParser(1024, 10)
    roomy.feed(OK + lines + b"B: " + b"x" * 100_000 + b"\r\n\r\n")
    assert len(roomy.headers) == 151
    with pytest.raises(WireError, match="too many headers"):
        narrow.feed(OK + b"A: b\r\n" * 11 + b"\r\n")
    narrow = ResponseParser(1024, 10)
    with pytest.raises(WireError, match="over 1024 bytes"):
        narrow.feed(OK + b"A: " + b"x" * 1024 + b"\r\n\r\n")
    narrow = ResponseParser(1024, 10)
    with pytest.raises(WireError, match="too many trailers"):
        narrow.feed(CHUNKED + b"A: b\r\n" * 11 + b"\r\n")


@pytest.mark.parametrize("step", [1, 10**9])
@pytest.mark.parametrize("status", [104, 111, 150, 199])
@pytest.mark.parametrize(
    ("line", "body"), [(b"Content-Length: 38", b""), (b"Transfer-Encoding: chunked", b"0\r\n\r\n")]
)
def test_an_informational_answer_with_a_body_is_refused(
    step: int, status: int, line: bytes, body: bytes
) -> None:
    """What one party takes for that body is the final answer to another."""
    data = b"HTTP/1.1 %d I\r\n%b\r\n\r\n" % (status, line) + body
    with pytest.raises(WireError, match="with a body"):
        parse(data + OK + b"Content-Length: 0\r\n\r\n", step)


@pytest.mark.parametrize("status", [100, 102, 103, 104, 199])
def test_an_informational_answer_without_one_is_skipped(status: int) -> None:
    head = b"HTTP/1.1 %d I\r\nContent-Length: 0\r\n\r\n" % status
    parser = parse(head + OK + b"Content-Length: 2\r\n\r\nhi")
    assert (parser.status, parser.take(), parser.keep_alive) == (200, b"hi", True)


@pytest.mark.parametrize("step", [1, 5, 10**9])
@pytest.mark.parametrize(
    "lines", [b"", b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"]
)
@pytest.mark.parametrize("first", [b"", b"\r\n", b"hello", OK + b"\r\n"])
def test_a_tunnel_begins_right_after_its_head(step: int, lines: bytes, first: bytes) -> None:
    """Bytes that come later are not the parser's any more."""
    head = b"HTTP/1.1 100 C\r\n\r\n" + OK + lines + b"\r\n"
    parser = parse(head, step, tunnel=True)
    assert (parser.status, parser.upgraded, parser.keep_alive) == (200, b"", False)
    parser = parse(head + first, tunnel=True)
    assert parser.complete
    assert (parser.upgraded, parser.take()) == (first, b"")


@pytest.mark.parametrize("step", [1, 5, 10**9])
def test_a_refused_tunnel_is_an_ordinary_response(step: int) -> None:
    data = b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno"
    parser = parse(data, step, tunnel=True)
    assert (parser.status, parser.complete, parser.upgraded) == (407, True, None)
    assert (parser.take(), parser.keep_alive) == (b"no", True)
    surplus = parse(data + b"!", tunnel=True)
    assert (surplus.take(), surplus.keep_alive) == (b"no", False)
    empty = parse(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n!", tunnel=True)
    assert (empty.complete, empty.keep_alive) == (True, False)
