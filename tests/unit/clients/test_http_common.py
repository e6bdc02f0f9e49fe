"""From a client's request to the core's words and back, for httpx and httpx2 alike."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import httpx2
import pytest

from meshclient import errors
from meshclient.call import Call
from meshclient.clients import http_common as common
from meshclient.clients.families import family_of
from meshclient.model.cluster import Cluster, ClusterPolicy, ConnectionOptions
from meshclient.model.endpoint import Endpoint
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.request import LocalReply
from meshclient.model.routes import (
    NO_OPERATIONS,
    ForwardAction,
    HeaderChange,
    HeaderOperations,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)
from meshclient.model.snapshot import ANY_PORT, Snapshot
from meshclient.plane import build_plane
from meshclient.testing import request as head_for
from meshclient.transport.interface import WireError, timeout_error

both = pytest.mark.parametrize("library", [httpx, httpx2])


def call_of(
    connect_s: float = 10.0, response_headers: HeaderOperations = NO_OPERATIONS, **action: Any
) -> Call:
    forward = ForwardAction(clusters=(WeightedCluster("a"),), **action)
    host = VirtualHost("v", ("a.test",), (Route(forward, response_headers=response_headers),))
    policy = ClusterPolicy(connection=ConnectionOptions(connect_timeout_s=connect_s))
    cluster = Cluster("a", endpoints=(Endpoint("10.0.0.1", 80),), policy=policy)
    snapshot = Snapshot(
        1,
        route_configurations={ANY_PORT: RouteConfiguration("rc", (host,))},
        clusters={"a": cluster},
    )
    plane = build_plane(snapshot, None, lambda: 0)
    return Call(plane, head_for("GET", "http://a.test/x?q=1"), 0.0, lambda: 0)


# -- the head -----------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("url", "headers", "authority", "port", "path", "dialled"),
    [
        ("http://a.test", {}, "a.test", 80, "/", "a.test"),
        ("https://a.test/x", {}, "a.test", 443, "/x", "a.test"),
        ("http://a.test:80/x?q=1#f", {}, "a.test", 80, "/x?q=1", "a.test"),
        ("http://a.test:8080/", {}, "a.test:8080", 8080, "/", "a.test"),
        ("http://A.Test/", {}, "a.test", 80, "/", "a.test"),
        ("http://[::1]:8080/", {}, "[::1]:8080", 8080, "/", "::1"),
        ("http://10.0.0.1/", {"HOST": "a.test"}, "a.test", 80, "/", "10.0.0.1"),
        ("http://a.test/%7E ü", {}, "a.test", 80, "/%7E%20%C3%BC", "a.test"),
        ("http://bücher.test/", {}, "xn--bcher-kva.test", 80, "/", "xn--bcher-kva.test"),
    ],
)
def test_a_request_becomes_a_head(library, url, headers, authority, port, path, dialled):
    head = common.request_head(library.Request("GET", url, headers=headers))
    assert (head.authority, head.port, head.path, head.dialled) == (authority, port, path, dialled)
    assert head.method == "GET"
    assert head.headers.get("host") == authority


@both
def test_a_head_agrees_with_what_explain_makes_of_the_same_url(library):
    for url in ("http://a.test", "http://a.test:80/x?q=1", "https://a.test:8443/", "http://[::1]/"):
        real, told = common.request_head(library.Request("GET", url)), head_for("GET", url)
        for name in ("method", "scheme", "authority", "port", "path", "dialled"):
            assert getattr(real, name) == getattr(told, name), (url, name)


@both
def test_a_request_whose_host_header_was_taken_away_still_has_an_authority(library):
    request = library.Request("GET", "http://a.test:8080/")
    del request.headers["host"]
    head = common.request_head(request)
    assert head.authority == "a.test:8080"
    assert "host" not in head.headers


@both
def test_the_target_extension_is_the_path(library):
    request = library.Request("OPTIONS", "http://a.test/x", extensions={"target": b"*"})
    assert common.request_head(request).path == "*"


# -- bodies -------------------------------------------------------------------


def generator() -> Iterator[bytes]:
    yield b"ab"
    yield b"c"


async def async_generator() -> AsyncIterator[bytes]:
    yield b"ab"
    yield b"c"


class Again:
    """Starts afresh at every pass."""

    def __iter__(self) -> Iterator[bytes]:
        return generator()


class AsyncAgain:
    def __aiter__(self) -> AsyncIterator[bytes]:
        return async_generator()


class AsyncFile:
    """As anyio and aiofiles have them: iterable, and read from where they stand."""

    async def aread(self, size: int) -> bytes:
        return b""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return async_generator()


class Pipe(io.RawIOBase):
    """Has ``seek`` as every io object, but cannot."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return 0


class Duck:
    """The least that multipart needs of a file."""

    def read(self, size: int = -1) -> bytes:
        return b""


class SeekingDuck(Duck):
    def seek(self, offset: int) -> None:
        pass


WHOLE: list[tuple[str, dict[str, Any], bytes | None]] = [
    ("nothing", {}, None),
    ("empty bytes", {"content": b""}, None),
    ("bytes", {"content": b"abc"}, b"abc"),
    ("text", {"content": "ü"}, "ü".encode()),
    ("form", {"data": {"a": "1"}}, b"a=1"),
    ("json", {"json": [1]}, b"[1]"),
]
STREAMED: list[tuple[str, dict[str, Any], bool]] = [
    ("list", {"content": [b"ab", b"c"]}, True),
    ("tuple", {"content": (b"ab", b"c")}, True),
    ("re-iterable", {"content": Again()}, True),
    ("generator", {"content": generator()}, False),
    ("iterator", {"content": iter([b"ab"])}, False),
    ("map", {"content": map(bytes, [b"ab"])}, False),
    ("file", {"content": io.BytesIO(b"abc")}, False),
    ("async re-iterable", {"content": AsyncAgain()}, True),
    ("async generator", {"content": async_generator()}, False),
    ("async file", {"content": AsyncFile()}, False),
    ("multipart bytes", {"files": {"f": b"abc"}}, True),
    ("multipart text", {"files": {"f": ("n", "abc")}, "data": {"a": "1"}}, True),
    ("multipart seekable", {"files": {"f": io.BytesIO(b"abc")}}, True),
    ("multipart seekable duck", {"files": {"f": ("n", SeekingDuck())}}, True),
    ("multipart pipe", {"files": {"f": ("n", Pipe())}}, False),
    ("multipart duck", {"files": {"f": ("n", Duck())}}, False),
    ("multipart mixed", {"files": {"f": b"abc", "g": ("n", Pipe())}}, False),
]


@both
@pytest.mark.parametrize(("name", "options", "body"), WHOLE)
def test_whole_bodies_are_bytes_and_replayable(library, name, options, body):
    request = library.Request("POST", "http://a.test/", **options)
    assert common.body_of(request, family_of(request)) == (body, True)


@both
@pytest.mark.parametrize(("name", "options", "replayable"), STREAMED)
def test_streamed_bodies_say_whether_they_can_be_sent_twice(library, name, options, replayable):
    request = library.Request("POST", "http://a.test/", **options)
    stream, answer = common.body_of(request, family_of(request))
    assert stream is request.stream
    assert answer is replayable


SYNC_AGAIN = [
    name for name, _, again in STREAMED if again and "async" not in name and "duck" not in name
]


@both
@pytest.mark.parametrize("name", SYNC_AGAIN)
def test_what_is_called_replayable_gives_the_same_bytes_twice(library, name):
    options = next(options for found, options, _ in STREAMED if found == name)
    stream = library.Request("POST", "http://a.test/", **options).stream
    assert b"".join(stream) == b"".join(stream) != b""


@both
def test_an_async_re_iterable_gives_the_same_bytes_twice(library):
    stream = library.Request("POST", "http://a.test/", content=AsyncAgain()).stream

    async def whole() -> bytes:
        return b"".join([chunk async for chunk in stream])

    assert asyncio.run(whole()) == asyncio.run(whole()) == b"abc"


@both
def test_a_file_that_cannot_seek_would_have_been_sent_empty(library):
    read, write = os.pipe()
    os.write(write, b"abc")
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        request = library.Request("POST", "http://a.test/", files={"f": ("n", pipe)})
        assert common.body_of(request, family_of(request)) == (request.stream, False)
        assert b"abc" in b"".join(request.stream)
        assert b"abc" not in b"".join(request.stream)


@both
def test_a_streamed_body_that_was_read_is_whole(library):
    request = library.Request("POST", "http://a.test/", content=generator())
    request.read()
    assert common.body_of(request, family_of(request)) == (b"abc", True)


@both
def test_a_stream_class_of_the_callers_own_counts_as_spent(library):
    class Own(library.SyncByteStream):
        """Attributes that happen to be named as the library's own."""

        def __init__(self) -> None:
            self._stream = [b"abc"]
            self.fields = 3

        def __iter__(self) -> Iterator[bytes]:
            yield b"abc"

    request = library.Request("POST", "http://a.test/", stream=Own())
    assert common.body_of(request, family_of(request)) == (request.stream, False)


# -- timeouts -----------------------------------------------------------------

STATED = {"connect": 1.0, "read": 2.0, "write": 3.0, "pool": 4.0}


def asking(timeouts: dict[str, float | None] | None) -> httpx.Request:
    extensions = {} if timeouts is None else {"timeout": timeouts}
    return httpx.Request("GET", "http://a.test/", extensions=extensions)


@pytest.mark.parametrize(
    ("given", "timeout_s", "yields", "expected"),
    [
        (None, None, True, {}),
        (STATED, 1.0, True, STATED),
        (common.UNSTATED_TIMEOUT, 1.0, True, {}),
        (common.UNSTATED_TIMEOUT, None, True, common.UNSTATED_TIMEOUT),
        (common.UNSTATED_TIMEOUT, 1.0, False, common.UNSTATED_TIMEOUT),
    ],
)
def test_what_nobody_stated_gives_way_to_a_route_with_a_timeout(given, timeout_s, yields, expected):
    call = call_of(timeout_s=timeout_s)
    assert common.caller_timeouts(asking(given), call, yields) == expected


def test_the_unstated_timeout_is_the_librarys_default():
    for library in (httpx, httpx2):
        with library.Client() as client:
            assert client.timeout.as_dict() == common.UNSTATED_TIMEOUT


@pytest.mark.parametrize(
    ("timeouts", "connect_s", "idle_s", "expected"),
    [
        ({}, 10.0, None, (10.0, None, None)),
        (STATED, 10.0, None, (1.0, 2.0, 3.0)),
        (STATED, 0.5, None, (0.5, 2.0, 3.0)),
        (STATED, 10.0, 1.5, (1.0, 1.5, 3.0)),
        ({}, 10.0, 1.5, (10.0, 1.5, None)),
        ({"connect": None, "read": None}, 10.0, None, (10.0, None, None)),
    ],
)
def test_the_shorter_of_two_limits_goes_to_the_wire(timeouts, connect_s, idle_s, expected):
    call = call_of(connect_s, idle_timeout_s=idle_s, timeout_s=5.0)
    attempt = call.next_attempt(0.0)
    wire = common.wire_request(call, attempt, b"x", timeouts)
    assert (wire.connect_timeout_s, wire.read_timeout_s, wire.write_timeout_s) == expected
    assert (wire.method, wire.target, wire.body) == (b"GET", b"/x?q=1", b"x")
    assert wire.headers is attempt.headers
    assert (wire.response_timeout_s, wire.deadline) == (None, 5.0)


# -- ends ---------------------------------------------------------------------


def test_a_wire_error_becomes_an_outcome():
    error = WireError(ResetReason.CONNECTION_FAILURE, False, "refused")
    outcome = common.failure(call_of().next_attempt(0.0), error)
    assert (outcome.status, outcome.reset, outcome.sent) == (0, error.reason, False)
    assert outcome.error is error


@pytest.mark.parametrize(
    ("idle_s", "kind", "reason"),
    [
        (1.5, "read", ResetReason.ROUTE_TIMEOUT),
        (1.5, "response", ResetReason.PER_TRY_TIMEOUT),
        (2.5, "read", ResetReason.PER_TRY_TIMEOUT),  # the caller's own is shorter
        (None, "read", ResetReason.PER_TRY_TIMEOUT),
    ],
)
def test_the_routes_idle_timeout_ends_the_call_and_the_callers_only_the_try(idle_s, kind, reason):
    call = call_of(idle_timeout_s=idle_s)
    attempt = call.next_attempt(0.0)
    common.wire_request(call, attempt, None, {"read": 2.0})
    assert common.failure(attempt, timeout_error(kind, True)).reset is reason


@both
@pytest.mark.parametrize(
    ("kind", "counterpart"),
    [
        ("connect", "ConnectTimeout"),
        ("response", "ReadTimeout"),
        ("deadline", "ReadTimeout"),
        ("read", "ReadTimeout"),
        ("write", "WriteTimeout"),
        ("pool", "PoolTimeout"),
    ],
)
def test_a_limit_that_ends_a_call_is_the_librarys_own_timeout(library, kind, counterpart):
    call = call_of()
    request = library.Request("GET", "http://a.test/")
    attempt = call.next_attempt(0.0)
    call.settle(attempt, common.failure(attempt, timeout_error(kind, True)), 1.0)
    assert call.error is not None
    made = family_of(request).error(call.error, request)
    assert isinstance(made, getattr(library, counterpart))
    assert isinstance(made, errors.CallError)


@both
def test_an_error_of_its_own_status_keeps_it_through_pickling(library):
    call = call_of(cluster_not_found_status=404)
    error = errors.UnknownCluster("gone", call.report)
    error.status, error.flag, error.body = 404, "NC", "text"
    request = library.Request("GET", "http://a.test/")
    made: Any = pickle.loads(pickle.dumps(family_of(request).error(error, request)))
    assert (made.status, made.flag, made.body) == (404, "NC", "text")
    assert str(made) == "gone"


def test_a_body_error_names_endpoint_and_cause():
    call = call_of()
    call.settle(call.next_attempt(0.0), Outcome(200), 0.0)
    made = common.body_error(call, timeout_error("read", True))
    assert type(made) is errors.DeadlineExceeded
    assert str(made) == (
        "GET http://a.test/x at 10.0.0.1:80: the response body broke off: "
        "no byte of the response in time"
    )


@both
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_local_response_is_the_librarys_own(library, method):
    request = library.Request(method, "http://a.test/")
    reply = LocalReply(404, HeaderMap.of([("content-length", "3")]), b"abc")
    response = common.local_response(family_of(request), request, reply, call_of())
    assert type(response) is library.Response
    assert response.read() == (b"abc" if method == "GET" else b"")
    assert (response.status_code, response.headers["content-length"]) == (404, "3")
    assert response.extensions["meshclient"].host == "a.test"
    assert response.http_version == "HTTP/1.1"


@pytest.mark.parametrize(
    ("kind", "status", "body", "overloaded"),
    [
        (errors.NoRoute, 404, b"", None),
        (errors.NoHealthyEndpoint, 503, b"no healthy upstream", None),
        (errors.RouteTimeout, 504, b"upstream request timeout", None),
        (errors.Overflow, 503, b"", "true"),
    ],
)
def test_a_failure_as_the_response_envoy_would_give(kind, status, body, overloaded):
    call = call_of()
    reply = common.reply_to(kind("text", call.report), call)
    assert (reply.status, reply.body) == (status, body)
    assert reply.headers.get("content-length") == str(len(body))
    assert reply.headers.get("content-type") == ("text/plain" if body else None)
    assert reply.headers.get("x-envoy-overloaded") == overloaded


def test_a_failure_carries_the_routes_response_edits():
    edits = HeaderOperations(changes=(HeaderChange("x-mesh", "yes"),))
    call = call_of(response_headers=edits)
    reply = common.reply_to(errors.RouteTimeout("text", call.report), call)
    assert reply.headers.get("x-mesh") == "yes"


# -- targets ------------------------------------------------------------------


def test_plain_targets_live_on_the_endpoints_state():
    def unused() -> ssl.SSLContext:
        raise AssertionError("no TLS, no context")

    call = call_of()
    attempt = call.next_attempt(0.0)
    targets = common.Targets(unused)
    request = httpx.Request("GET", "http://a.test/")
    target = targets.of(call, attempt, request)
    assert (target.address, target.port, target.tls) == ("10.0.0.1", 80, None)
    assert targets.of(call, attempt, request) is target


def test_tls_targets_are_per_name_and_bounded(monkeypatch):
    monkeypatch.setattr(common, "_MAX_TLS_TARGETS", 3)
    context = ssl.create_default_context()
    call = call_of()
    attempt = call.next_attempt(0.0)
    call.head.scheme = "https"
    targets = common.Targets(lambda: context)

    def of(name: str) -> Any:
        request = httpx.Request("GET", "https://a.test/", extensions={"sni_hostname": name})
        return targets.of(call, attempt, request)

    assert of("one") is of("one") != of("two")
    for number in range(10):
        assert of(f"n{number}").tls is not None
        assert len(targets._tls) <= 3
    plain = targets.of(call, attempt, httpx.Request("GET", "https://a.test/"))
    assert "a.test" in repr(plain.tls)
