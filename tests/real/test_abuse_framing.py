"""Answers that two readers could understand differently: each has one stated outcome.

``(status, body, reused)``: accepted, and whether the connection serves the next
request. REFUSED: an error, the connection closed. Whatever it is, the next
request gets its own answer.
"""

from __future__ import annotations

from typing import Any

import pytest
from abuse_support import CHUNKED, CUT, OK, REFUSED, SHELLS, both, half_close, hang_up, hostile
from engine_support import answer

from meshclient.transport.interface import WireRequest

FORGED = answer(b"FORGED")

CASES: dict[str, tuple[bytes, Any]] = {
    # Two framings
    "content-length and chunked": (
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + FORGED,
        REFUSED,
    ),
    "chunked and content-length": (
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + FORGED,
        REFUSED,
    ),
    "two equal lengths": (OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "two different lengths": (
        OK + b"Content-Length: 2\r\nContent-Length: 60\r\n\r\nhi" + FORGED,
        REFUSED,
    ),
    "a list of equal lengths": (OK + b"Content-Length: 2, 2\r\n\r\nhi", REFUSED),
    "negative length": (OK + b"Content-Length: -1\r\n\r\n", REFUSED),
    "signed length": (OK + b"Content-Length: +2\r\n\r\nhi", REFUSED),
    "hex length": (OK + b"Content-Length: 0x2\r\n\r\nhi", REFUSED),
    "length over 64 bits": (OK + b"Content-Length: 18446744073709551618\r\n\r\nhi", REFUSED),
    "empty length": (OK + b"Content-Length:\r\n\r\nhi", REFUSED),
    "space inside a length": (OK + b"Content-Length: 1 2\r\n\r\nhi", REFUSED),
    "gzip, chunked": (
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        REFUSED,
    ),
    "chunked twice": (
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        REFUSED,
    ),
    "chunked, identity": (
        OK + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        REFUSED,
    ),
    "xchunked": (OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", REFUSED),
    "chunked in capitals": (
        OK + b"Transfer-Encoding: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        (200, b"hi", True),
    ),
    # Line ends and folding
    "bare LF in the head": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", REFUSED),
    "bare LF between headers": (OK + b"A: b\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "bare CR in a value": (
        OK + b"A: b\rContent-Length: 60\r\nContent-Length: 2\r\n\r\nhi",
        REFUSED,
    ),
    "bare CR ends the head": (OK + b"Content-Length: 2\r\n\rhi", REFUSED),
    "obs-fold": (OK + b"A: b\r\n c\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "folded framing": (OK + b"A: b\r\n Content-Length: 60\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "space before the colon": (OK + b"Content-Length : 2\r\n\r\nhi", REFUSED),
    "a line without a colon": (OK + b"nonsense\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "no name": (OK + b": x\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "NUL in a value": (OK + b"A: b\0c\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "NUL in a name": (OK + b"A\0: b\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "invalid UTF-8 in a value": (
        OK + b"A: \xff\xfe\r\nContent-Length: 2\r\n\r\nhi",
        (200, b"hi", True),
    ),
    "invalid UTF-8 in a name": (OK + b"A\xff: b\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.0\r\n", REFUSED),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
    "HTTP/0.9": (b"<html>hi</html>", REFUSED),
    "HTTP/3.7": (b"HTTP/3.7 200 OK\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "status of two digits": (b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "status of four digits": (b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    "status 099": (b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nhi", REFUSED),
    # Chunks
    "chunk extensions": (CHUNKED + b'2;a=b;c="d"\r\nhi\r\n0;x\r\n\r\n', (200, b"hi", True)),
    "LF in a chunk extension": (CHUNKED + b"2;a\nhi\r\n0\r\n\r\n", REFUSED),
    "chunk size with 0x": (CHUNKED + b"0x2\r\nhi\r\n0\r\n\r\n", REFUSED),
    "negative chunk size": (CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n", REFUSED),
    "signed chunk size": (CHUNKED + b"+2\r\nhi\r\n0\r\n\r\n", REFUSED),
    "chunk size over 64 bits": (CHUNKED + b"10000000000000002\r\nhi\r\n0\r\n\r\n", REFUSED),
    "hex garbage": (CHUNKED + b"2g\r\nhi\r\n0\r\n\r\n", REFUSED),
    "empty chunk size": (CHUNKED + b"\r\nhi\r\n0\r\n\r\n", REFUSED),
    "space before a chunk size": (CHUNKED + b" 2\r\nhi\r\n0\r\n\r\n", REFUSED),
    "chunk longer than its size": (CHUNKED + b"2\r\nhiX\r\n0\r\n\r\n", REFUSED),
    "chunk ended by LF": (CHUNKED + b"2\r\nhi\n0\r\n\r\n", REFUSED),
    "chunk size ended by LF": (CHUNKED + b"2\nhi\r\n0\r\n\r\n", REFUSED),
    "trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nA: b\r\n\r\n", (200, b"hi", True)),
    "framing in the trailers": (
        CHUNKED + b"2\r\nhi\r\n0\r\nContent-Length: 60\r\nTransfer-Encoding: gzip\r\n\r\n",
        REFUSED,
    ),
    "trailers that close": (
        CHUNKED + b"2\r\nhi\r\n0\r\nConnection: close\r\n\r\n",
        (200, b"hi", None),
    ),
    "bare LF in the trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nA: b\n\r\n", REFUSED),
    # After the end
    "a second answer": (answer(b"hi") + FORGED, (200, b"hi", False)),
    "a second answer after chunks": (
        CHUNKED + b"2\r\nhi\r\n0\r\n\r\n" + FORGED,
        (200, b"hi", False),
    ),
    "one byte too many": (answer(b"hi") + b"!", (200, b"hi", False)),
    "a line end too many": (answer(b"hi") + b"\r\n", (200, b"hi", False)),
    "204 with a body": (b"HTTP/1.1 204 N\r\nContent-Length: 5\r\n\r\nhello", (204, b"", False)),
    "304 with a body": (b"HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\nhello", (304, b"", False)),
    "204 with chunks": (
        b"HTTP/1.1 204 N\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        (204, b"", False),
    ),
    "304 and a second answer": (b"HTTP/1.1 304 N\r\n\r\n" + FORGED, (304, b"", False)),
    "101 without asking": (
        b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + FORGED,
        REFUSED,
    ),
    "interim answers": (
        b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n" + answer(b"hi"),
        (200, b"hi", True),
    ),
    "interim answer with a length": (
        b"HTTP/1.1 103 E\r\nContent-Length: 60\r\n\r\n" + answer(b"hi"),
        (200, b"hi", True),
    ),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", (200, b"hi", False)),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", CASES)
def test_outcome(shell: str, name: str) -> None:
    payload, expected = CASES[name]
    with hostile(payload) as server:
        first, second, found = both(shell, server)
    reused = expected[2] if isinstance(expected, tuple) else False
    assert first == (expected[:2] if isinstance(expected, tuple) else expected)
    if reused is None:
        assert second in ((200, b"same"), (200, b"fresh"))
    else:
        assert second == (200, b"same" if reused else b"fresh")
    assert found == (1, 0)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("payload", "reused"),
    [
        (OK + b"Content-Length: 5\r\n\r\n", True),
        (OK + b"Content-Length: 5\r\n\r\nhello", False),
        (CHUNKED, True),
        (CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", False),
        (OK + b"Content-Length: 5\r\n\r\n" + FORGED, False),
    ],
)
def test_head(shell: str, payload: bytes, reused: bool) -> None:
    """The answer to HEAD ends with its head; what follows is nobody's."""
    with hostile(payload) as server:
        first, second, _ = both(shell, server, WireRequest(b"HEAD", b"/", [(b"Host", b"t")]))
    assert first == (200, b"")
    assert second == (200, b"same" if reused else b"fresh")


UNTIL_CLOSE = OK + b"\r\nuntil the end"
WHOLE = {
    "length": (OK + b"A: b\r\nContent-Length: 10\r\n\r\n0123456789", b"0123456789"),
    "chunked": (CHUNKED + b"4\r\n0123\r\n6\r\n456789\r\n0\r\nA: b\r\n\r\n", b"0123456789"),
    "interim": (b"HTTP/1.1 103 E\r\nA: b\r\n\r\n" + answer(b"0123456789"), b"0123456789"),
}


@pytest.mark.parametrize("shell", ["sync", "asyncio"])
@pytest.mark.parametrize("ending", [hang_up, half_close, lambda peer: peer.reset()])
@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_cut_at_every_byte_is_never_a_whole_one(
    shell: str, ending: Any, name: str
) -> None:
    data, body = WHOLE[name]
    for length in range(len(data)):
        with hostile(data[:length], ending) as server:
            first, second, _ = both(shell, server)
        assert first == CUT, length
        assert second == (200, b"fresh"), length
    with hostile(data, ending) as server:
        first, second, _ = both(shell, server)
    # A reset may overtake the bytes that it follows; an end that comes after a whole
    # answer may cross the next request on its way.
    assert first in ((200, body), CUT)
    assert second in ((200, b"fresh"), CUT)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_body_without_a_length_ends_with_the_connection(shell: str) -> None:
    with hostile(UNTIL_CLOSE, half_close) as server:
        first, second, _ = both(shell, server)
    assert (first, second) == ((200, b"until the end"), (200, b"fresh"))
