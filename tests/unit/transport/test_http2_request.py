"""Header lists of HTTP/2 from the headers that HTTP/1.1 would send."""

from __future__ import annotations

import pytest
from hpack import NeverIndexedHeaderTuple

from meshclient.transport.http2_request import header_list
from meshclient.transport.interface import InvalidRequest, WireRequest


def mapped(*headers: tuple[bytes, bytes], target: bytes = b"/p?q=1") -> list[tuple[bytes, bytes]]:
    return header_list(WireRequest(b"GET", target, list(headers)), b"https")


def test_pseudo_headers_come_first_and_host_becomes_the_authority() -> None:
    assert mapped((b"Accept", b"*/*"), (b"Host", b"a.b:1")) == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/p?q=1"),
        (b":authority", b"a.b:1"),
        (b"accept", b"*/*"),
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(b"Connection", b"keep-alive")], []),
        (
            [(b"Connection", b"close, X-Hop"), (b"x-hop", b"1"), (b"x-end", b"2")],
            [(b"x-end", b"2")],
        ),
        ([(b"Keep-Alive", b"timeout=5"), (b"Proxy-Connection", b"x")], []),
        ([(b"Transfer-Encoding", b"chunked")], []),
        ([(b"TE", b"trailers")], [(b"te", b"trailers")]),
        ([(b"TE", b"gzip, Trailers;q=1")], []),
        ([(b"TE", b"gzip, trailers")], [(b"te", b"trailers")]),
        ([(b"X", b" padded\t")], [(b"x", b"padded")]),
        ([(b"Content-Length", b"3")], [(b"content-length", b"3")]),
        (
            [(b"Cookie", b"a=1; b=2;c=3")],
            [(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"cookie", b"c=3")],
        ),
    ],
)
def test_headers(given: list[tuple[bytes, bytes]], expected: list[tuple[bytes, bytes]]) -> None:
    assert mapped(*given)[3:] == expected


def test_secrets_stay_out_of_the_compression_table() -> None:
    found = mapped((b"Authorization", b"Bearer x"), (b"Cookie", b"s=1; long=" + b"x" * 30))[3:]
    assert [isinstance(pair, NeverIndexedHeaderTuple) for pair in found] == [True, True, False]


@pytest.mark.parametrize("target", [b"http://a/b", b"a:443"])
def test_other_targets_than_paths_are_refused(target: bytes) -> None:
    with pytest.raises(InvalidRequest):
        mapped(target=target)


def test_an_upgrade_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Upgrade"):
        mapped((b"Upgrade", b"websocket"))
