"""Whatever a caller of httpx passes: what we write beside what stock httpx writes.

Both clients get the same request; in place of the network each has a recorder. Where
both send, a server (h11) reads the same request; where stock httpx refuses, so do we.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h11
import httpcore
import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshclient import Mesh
from meshclient.transport.interface import InvalidRequest, SyncWireResponse, Target, WireRequest
from tests.fuzz import oracle, requests

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Recorder:
    """In place of our engine: keeps the bytes that its shell would write."""

    def __init__(self) -> None:
        self.wrote: bytes | None = None

    def send(self, _target: Target, request: WireRequest) -> SyncWireResponse:
        self.wrote = oracle.sends(request)
        if self.wrote is None:
            raise InvalidRequest("refused")
        return SyncWireResponse(200, b"OK", b"HTTP/1.1", [], b"", lambda _name: None)


class Network(httpcore.NetworkBackend, httpcore.NetworkStream):
    """In place of httpcore's network: keeps what is written, and answers 200."""

    def __init__(self) -> None:
        self.wrote = b""
        self._answer = OK

    def connect_tcp(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        answer, self._answer = self._answer, b""
        return answer

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.wrote += buffer

    def close(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return None


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with Mesh.from_documents([{"version": 1}]) as one:
        yield one


def ours(mesh: Mesh, parts: dict[str, Any]) -> tuple[Any, ...] | None:
    """What a server reads of ours; None: refused."""
    transport, recorder = mesh.transport(), Recorder()
    transport._engine = recorder  # type: ignore[attr-defined]
    with httpx.Client(transport=transport) as client:
        try:
            client.send(client.build_request(**parts))
        except (httpx.TransportError, ValueError, TypeError):
            # Whatever refuses it, no byte of it has left.
            assert recorder.wrote is None
            return None
    assert recorder.wrote is not None
    return requests.server_reads(recorder.wrote)


def theirs(parts: dict[str, Any]) -> tuple[Any, ...] | None:
    """What a server reads of stock httpx's; None: refused."""
    network = Network()
    transport = httpx.HTTPTransport(verify=False)  # no certificates to load: it is plain text
    transport._pool = httpcore.ConnectionPool(network_backend=network)
    with httpx.Client(transport=transport) as client:
        try:
            client.send(client.build_request(**parts))
        except (httpx.TransportError, h11.LocalProtocolError, ValueError, TypeError):
            return None
    return requests.server_reads(network.wrote)


def plain(request: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without the order of headers and the letter case of codings."""
    method, target, headers, body, surplus = request
    return method, target, sorted(oracle.plain(headers)), body, surplus


odd = st.text(max_size=6)
token = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8)
value = st.one_of(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12), odd)
pairs = st.lists(st.tuples(st.one_of(token, odd), value), max_size=3)
framing = st.sampled_from(
    [
        [],
        [],
        [],
        [("Content-Length", "2")],
        [("Content-Length", "0")],
        [("content-length", " 2 ")],
        [("Content-Length", "2"), ("Content-Length", "2")],
        [("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "Chunked")],
        [("Transfer-Encoding", "gzip, chunked")],
        [("Transfer-Encoding", "chunked"), ("Content-Length", "2")],
        [("Host", "other")],
        [("Host", "one"), ("Host", "two")],
        [("Connection", "close")],
        [("Expect", "100-continue")],
    ]
)
content = st.one_of(st.none(), st.just(b"hi"), st.binary(max_size=20), st.just("te\u00e9xt"))
paths = st.one_of(st.just("/"), st.text(max_size=10).map("/".__add__))
methods = st.one_of(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "DELETE"]), token, odd)


@settings(max_examples=400, deadline=None)
@given(method=methods, path=paths, headers=pairs, extra=framing, body=content)
@example(method="POST", path="/", headers=[], extra=[("Content-Length", "9")], body=b"hi")
@example(method="GET", path="/\r\nX: y", headers=[], extra=[], body=None)
@example(method="GET", path="/", headers=[("A", "b\r\nX: y")], extra=[], body=None)
@example(method="GET", path="/", headers=[("A", "b\x0bc")], extra=[], body=None)
def test_the_same_request_or_none(
    mesh: Mesh,
    method: str,
    path: str,
    headers: list[tuple[str, str]],
    extra: list[tuple[str, str]],
    body: Any,
) -> None:
    parts: dict[str, Any] = {
        "method": method,
        "url": "http://t" + path,
        "headers": [*headers, *extra],
        "content": body,
    }
    try:
        httpx.Request(**parts)
    except Exception:
        return  # httpx itself cannot make it a request
    mine, stock = ours(mesh, parts), theirs(parts)
    if mine is None:
        return  # stricter is allowed; that good ones are sent is another test's business
    if stock is None and any(v != v.strip() for _, v in parts["headers"]):
        return  # white space around a value belongs to the line, not to the value
    assert stock is not None, parts
    assert plain(mine) == plain(stock), parts


@pytest.mark.parametrize(
    "parts",
    [
        {"method": "GET", "url": "http://t/a b?c=\u00e9#f"},
        {"method": "PROPFIND", "url": "http://t/", "content": b"x" * 70000},
        {"method": "POST", "url": "http://t/", "data": {"a": "b"}},
        {"method": "POST", "url": "http://t/", "files": {"a": b"b"}},
        {"method": "POST", "url": "http://t/", "json": {"a": [1]}},
        {"method": "POST", "url": "http://t/", "content": iter([b"a", b"", b"bc"])},
        {"method": "GET", "url": "http://t:81/", "headers": {"Host": "other"}},
        {"method": "GET", "url": "http://[::1]/", "headers": {"A": b"\xc3\xa9"}},
        {"method": "GET", "url": "http://u:p@t/", "headers": {"A": "", "a-b": "c"}},
    ],
    ids=lambda parts: parts["url"] + str(sorted(parts)),
)
def test_good_requests_are_sent_as_stock_httpx_sends_them(
    mesh: Mesh, parts: dict[str, Any]
) -> None:
    again = dict(parts)
    if "files" in parts:
        boundary = {"Content-Type": "multipart/form-data; boundary=b"}
        parts, again = ({**parts, "headers": boundary} for _ in range(2))
    if hasattr(parts.get("content"), "__next__"):
        parts["content"], again["content"] = iter([b"a", b"", b"bc"]), iter([b"a", b"", b"bc"])
    mine, stock = ours(mesh, parts), theirs(again)
    assert mine is not None
    assert stock is not None
    assert plain(mine) == plain(stock)
