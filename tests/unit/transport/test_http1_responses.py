"""The response parser: what it accepts, refuses, and says about the connection."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.outcome import ResetReason
from meshclient.transport.http1 import MAX_HEAD_BYTES, MAX_HEADERS, MAX_INTERIM, ResponseParser
from meshclient.transport.interface import WireError

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

# name: (bytes, HEAD?, status, body, keep_alive)
WHOLE = {
    "content-length": (OK + b"Content-Length: 2\r\n\r\nhi", False, 200, b"hi", True),
    "body ends in newlines": (
        OK + b"Content-Length: 4\r\n\r\n\r\n\r\n",
        False,
        200,
        b"\r\n\r\n",
        True,
    ),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", False, 200, b"", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", False, 200, b"", True),
    "chunked": (CHUNKED + b"2;x=y\r\nhi\r\n3\r\n!\r\n\r\n0\r\n\r\n", False, 200, b"hi!\r\n", True),
    "trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nA: b\r\nC: d\r\n\r\n", False, 200, b"hi", True),
    "connection close": (
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi",
        False,
        200,
        b"hi",
        False,
    ),
    "close among options": (
        OK + b"Connection: x, Close\r\nContent-Length: 0\r\n\r\n",
        False,
        200,
        b"",
        False,
    ),
    "http/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", False, 200, b"hi", False),
    "http/1.0 keep-alive": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        False,
        200,
        b"hi",
        True,
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", False, 204, b"", True),
    "304 with length": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        False,
        304,
        b"",
        True,
    ),
    "HEAD with length": (OK + b"Content-Length: 5\r\n\r\n", True, 200, b"", True),
    "HEAD chunked": (CHUNKED, True, 200, b"", True),
    "HEAD without framing": (OK + b"A: b\r\n\r\n", True, 200, b"", True),
    "HEAD close": (OK + b"Connection: close\r\n\r\n", True, 200, b"", False),
    "HEAD after interim": (INTERIM + OK + b"Content-Length: 5\r\n\r\n", True, 200, b"", True),
    "interim": (
        INTERIM + INTERIM + OK + b"Content-Length: 3\r\n\r\nhi\n",
        False,
        200,
        b"hi\n",
        True,
    ),
    "100 with length": (
        b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx",
        False,
        200,
        b"x",
        True,
    ),
}

REFUSED = {
    "101 without asking": b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "length and coding": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nhi",
    "signed length": OK + b"Content-Length: +2\r\n\r\nhi",
    "huge length": OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "gzip coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "bad chunk size": CHUNKED + b"2 \r\nhi\r\n0\r\n\r\n",
    "chunk overrun": CHUNKED + b"2\r\nhiX",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "folded header": OK + b"A: b\r\n c\r\n\r\n",
    "space before colon": OK + b"A : b\r\n\r\n",
    "NUL in value": OK + b"A: b\x00c\r\n\r\n",
    "http/2 preface": b"HTTP/2.0 200 OK\r\n\r\n",
    "http/0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "status 099": b"HTTP/1.1 099 No\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9\r\n",
    "tls alert": b"\x15\x03\x03\x00\x02\x02\x46",
}


def parse(*pieces: bytes, head: bool = False) -> ResponseParser:
    parser = ResponseParser()
    parser.start(head)
    for piece in pieces:
        parser.feed(piece)
    return parser


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "bytewise"])
def test_whole_responses(name: str, split: bool) -> None:
    data, head, status, body, keep_alive = WHOLE[name]
    pieces = [data[i : i + 1] for i in range(len(data))] if split else [data]
    parser = parse(*pieces, head=head)
    assert parser.complete
    assert (parser.status, parser.take(), parser.keep_alive) == (status, body, keep_alive)
    assert all(name != b"Link" for name, _ in parser.headers), "interim headers leak"
    assert all(name != b"C" for name, _ in parser.headers), "trailers leak"


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "bytewise"])
def test_refused(name: str, split: bool) -> None:
    data = REFUSED[name]
    pieces = [data[i : i + 1] for i in range(len(data))] if split else [data]
    with pytest.raises(WireError) as caught:
        parse(*pieces)
    assert caught.value.reason is ResetReason.PROTOCOL_ERROR
    assert caught.value.sent


@pytest.mark.parametrize(
    "surplus", [b"H", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n", b"\n", b"\r", b"\0"]
)
@pytest.mark.parametrize("name", [n for n, case in WHOLE.items() if case[4]])
@pytest.mark.parametrize("apart", [False, True])
def test_surplus_bytes_end_the_connection_and_nothing_else(
    name: str, surplus: bytes, apart: bool
) -> None:
    data, head, status, body, _ = WHOLE[name]
    pieces = (data[:-1], data[-1:] + surplus) if apart else (data + surplus,)
    parser = parse(*pieces, head=head)
    assert (parser.status, parser.take()) == (status, body)
    assert not parser.keep_alive


@given(st.sampled_from(sorted(WHOLE)), st.lists(st.integers(0, 400), max_size=6))
def test_every_split_gives_the_same(name: str, cuts: list[int]) -> None:
    data, head, status, body, keep_alive = WHOLE[name]
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges) if a < b]
    parser = parse(*pieces, head=head)
    assert parser.complete
    assert (parser.status, parser.take(), parser.keep_alive) == (status, body, keep_alive)


@given(st.binary(max_size=300))
def test_rubbish_is_refused_or_incomplete_but_never_crashes(data: bytes) -> None:
    parser = ResponseParser()
    parser.start(False)
    try:
        if data:
            parser.feed(data)
    except WireError:
        return
    assert not parser.complete or parser.status >= 100


@given(st.binary(max_size=2000), st.lists(st.integers(1, 500), min_size=1, max_size=8))
def test_any_body_survives_chunking(body: bytes, sizes: list[int]) -> None:
    data, at = CHUNKED, 0
    for size in sizes:
        piece = body[at : at + size]
        at += size
        if piece:
            data += b"%x\r\n%b\r\n" % (len(piece), piece)
    parser = parse(data + b"0\r\n\r\n")
    assert parser.take() == body[: sum(sizes)]
    assert parser.keep_alive


def test_one_parser_serves_many_responses() -> None:
    parser = ResponseParser()
    for name, (data, head, status, body, keep_alive) in WHOLE.items():
        if keep_alive:
            parser.start(head)
            parser.feed(data)
            assert (parser.status, parser.take(), parser.keep_alive) == (status, body, True), name


def test_header_values_lose_the_white_space_around_them() -> None:
    parser = parse(OK + b"A:\t b \t\r\nEmpty:\r\nContent-Length: 0\r\n\r\n")
    assert parser.headers == [(b"A", b"b"), (b"Empty", b""), (b"Content-Length", b"0")]


def test_body_until_the_end_of_the_stream() -> None:
    parser = parse(OK + b"\r\nab", b"c")
    assert not parser.complete
    assert parser.eof()
    assert parser.complete
    assert parser.take() == b"abc"
    assert not parser.keep_alive


@pytest.mark.parametrize(
    "data",
    [OK, OK + b"Content-Length: 3\r\n\r\nab", CHUNKED + b"2\r\nhi\r\n", INTERIM, b"H"],
)
def test_a_stream_that_ends_inside_a_response_is_no_response(data: bytes) -> None:
    assert not parse(data).eof()


def test_identity_coding_runs_to_the_end_of_the_stream() -> None:
    parser = parse(OK + b"Transfer-Encoding: identity\r\n\r\nhello")
    assert parser.eof()
    assert parser.take() == b"hello"


@pytest.mark.parametrize("step", [1000, 10**6])
def test_head_size_is_limited(step: int) -> None:
    data = OK + b"A: " + b"x" * MAX_HEAD_BYTES + b"\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(WireError, match="head over"):
        parse(*(data[i : i + step] for i in range(0, len(data), step)))


def test_header_count_is_limited() -> None:
    lines = b"".join(b"a%d: b\r\n" % i for i in range(MAX_HEADERS + 1))
    with pytest.raises(WireError, match="too many headers"):
        parse(OK + lines + b"\r\n")


def test_endless_trailers_are_limited() -> None:
    with pytest.raises(WireError, match="over"):
        parse(CHUNKED + b"0\r\nA: ", *([b"x" * 8192] * 11))


def test_interim_responses_are_limited() -> None:
    assert parse(INTERIM * MAX_INTERIM).status == 0
    with pytest.raises(WireError, match="informational"):
        parse(INTERIM * (MAX_INTERIM + 1))


def test_a_large_body_is_not_mistaken_for_a_head() -> None:
    body = b"\n" * (3 * MAX_HEAD_BYTES)
    parser = parse(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert parser.take() == body
    assert parser.keep_alive


SWITCH = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"


@pytest.mark.parametrize("first", [b"", b"\x81\x02hi", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n"])
def test_a_101_that_was_asked_for_hands_over_what_follows(first: bytes) -> None:
    parser = ResponseParser()
    parser.start(False, upgrade=True)
    parser.feed(SWITCH + first)
    assert (parser.status, parser.upgraded, parser.take()) == (101, first, b"")
    assert parser.complete
    assert not parser.keep_alive


def test_a_101_in_pieces() -> None:
    parser = ResponseParser()
    parser.start(False, upgrade=True)
    for at in range(len(SWITCH)):
        assert not parser.complete
        parser.feed(SWITCH[at : at + 1])
    assert parser.upgraded == b""


@pytest.mark.parametrize("line", [b"Connection: upgrade\r\n", b"Upgrade: x\r\n"])
def test_a_101_has_to_name_its_protocol(line: bytes) -> None:
    parser = ResponseParser()
    parser.start(False, upgrade=True)
    with pytest.raises(WireError):
        parser.feed(SWITCH.replace(line, b""))


def test_a_101_never_answers_a_head_request() -> None:
    parser = ResponseParser()
    parser.start(True, upgrade=True)
    with pytest.raises(WireError):
        parser.feed(SWITCH)


def test_an_upgrade_that_is_refused_is_an_ordinary_response() -> None:
    parser = ResponseParser()
    parser.start(False, upgrade=True)
    parser.feed(OK + b"Upgrade: x\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nhi")
    assert (parser.upgraded, parser.take(), parser.keep_alive) == (None, b"hi", True)


def test_a_100_is_told() -> None:
    parser = ResponseParser()
    parser.start(False)
    parser.feed(INTERIM)
    assert not parser.continued
    parser.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert parser.continued
    assert not parser.head_complete
