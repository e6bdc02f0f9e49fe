"""Conditions of routes. Header, query and cookie tables observed on Envoy 1.40."""

from __future__ import annotations

from typing import Any

import pytest
from routing_support import Pairs, exact, head, host_of, path, text, to

from meshclient.model.matching import (
    CookieMatch,
    Fraction,
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
)
from meshclient.model.routes import Route


def matches(match: RouteMatch, random64: int = 0, **request: Any) -> bool:
    return host_of(Route(to(), match)).find_route(head(**request), random64) is not None


LINES: list[Pairs] = [
    [],
    [("x-a", "v")],
    [("X-A", "w")],
    [("x-a", "")],
    [("x-a", "w"), ("x-a", "v")],
    [("x-a", "w"), ("x-a", "z")],
    [("x-a", "v,w")],
]
PRESENT = HeaderMatch("x-a")
ABSENT = HeaderMatch("x-a", present=False)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (exact("x-a", "v"), "-y--y--"),
        (exact("X-A", "v"), "-y--y--"),
        (exact("x-a", "v", invert=True), "--yy-yy"),
        (exact("x-a", "v", invert=True, treat_missing_as_empty=True), "y-yy-yy"),
        (exact("x-a", "", treat_missing_as_empty=True), "y--y---"),
        (PRESENT, "-yyyyyy"),
        (HeaderMatch("x-a", invert=True), "y------"),
        (ABSENT, "y------"),
        (HeaderMatch("x-a", present=False, invert=True), "-yyyyyy"),
        (HeaderMatch("x-a", treat_missing_as_empty=True), "yyyyyyy"),
        (HeaderMatch("x-a", present=False, treat_missing_as_empty=True), "-------"),
        (HeaderMatch("x-a", invert=True, treat_missing_as_empty=True), "-------"),
        (HeaderMatch("x-a", text("prefix", "V", True)), "-y--y-y"),
        (HeaderMatch("x-a", text("suffix", "w")), "--y-yyy"),
        (HeaderMatch("x-a", text("contains", ",")), "------y"),
        (HeaderMatch("x-a", text("regex", "[vw]")), "-yy-yy-"),
        (HeaderMatch("x-a", text("exact", "V", True)), "-y--y--"),
        (HeaderMatch("x-a", text("suffix", "W", True)), "--y-yyy"),
        (HeaderMatch("x-a", text("contains", "V", True)), "-y--y-y"),
        (HeaderMatch("x-a", text("regex", "V", True)), "-------"),
    ],
)
def test_header_matrix(match: HeaderMatch, expected: str) -> None:
    """One mark per request of LINES: several lines are tested one by one."""
    found = "".join(
        "y" if matches(RouteMatch(headers=(match,)), headers=lines) else "-" for lines in LINES
    )
    assert found == expected


@pytest.mark.parametrize(
    ("value", "inside"),
    [("5", True), ("10", False), ("-5", True), ("+5", True), ("5x", False), ("005", True),
     ("0x5", False), ("5.0", False), ("", False), ("99999999999999999999", False), ("1_0", False),
     ("\t5", True), ("0" * 5000 + "5", True), ("9" * 5000, False), ("-", False), ("٣", False)],
)  # fmt: skip
def test_range(value: str, inside: bool) -> None:
    """[-5, 10) on a full base-10 signed 64-bit integer; inverted exactly the opposite."""
    if not value.isascii():
        value = value.encode().decode("latin-1")
    lines = [("x-a", value)]
    plain = HeaderMatch("x-a", range=(-5, 10))
    inverted = HeaderMatch("x-a", range=(-5, 10), invert=True)
    assert matches(RouteMatch(headers=(plain,)), headers=lines) is inside
    assert matches(RouteMatch(headers=(inverted,)), headers=lines) is not inside
    assert not matches(RouteMatch(headers=(plain,)))
    assert not matches(RouteMatch(headers=(inverted,)))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("host", "h.test", True), ("host", "H.test", False), (":authority", "h.test", True),
     (":path", "/p?q=1", True), (":path", "/p", False), (":method", "GET", True),
     (":method", "get", False), (":scheme", "http", True)],
)  # fmt: skip
def test_pseudo_headers(name: str, value: str, expected: bool) -> None:
    assert matches(RouteMatch(headers=(exact(name, value),)), path="/p?q=1") is expected
    inverted = RouteMatch(headers=(exact(name, value, invert=True),))
    assert matches(inverted, path="/p?q=1") is not expected


def test_empty_authority_is_a_missing_header() -> None:
    assert not matches(RouteMatch(headers=(HeaderMatch("host"),)), authority="")
    assert not matches(RouteMatch(headers=(exact(":authority", "x", invert=True),)), authority="")


QUERIES = ["", "?", "?a=1", "?a", "?a=", "?a=2&a=1", "?a=1&a=2", "?b&a=1", "?A=1", "?a=%31",
           "?&a=1", "?a==1", "?x?a=1", "?a=1;b", "?=1"]  # fmt: skip


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (QueryMatch("a", text("exact", "1")), "--y---yy--y----"),
        (QueryMatch("a"), "--yyyyyy-yyy-y-"),
        (QueryMatch("a", present=False), "yy------y---y-y"),
        (QueryMatch("a", text("exact", "")), "---yy----------"),
        (QueryMatch("a", text("prefix", "1")), "--y---yy--y--y-"),
        (QueryMatch("a", text("regex", "[12]")), "--y--yyy--y----"),
    ],
)
def test_query_matrix(match: QueryMatch, expected: str) -> None:
    found = "".join(
        "y" if matches(RouteMatch(query=(match,)), path="/p" + query) else "-" for query in QUERIES
    )
    assert found == expected


COOKIES: list[list[str]] = [[], ["s=1"], ["s=2"], ["a=b; s=1"], ["a=b;s=1"], ['s="1"'],
    ["s=2; s=1"], ["s=1; s=2"], ["a=b", "s=1"], ["S=1"], ["s =1"], ["s= 1"], ["s=1 ;a=b"], ["s"],
    ["s;s=1"], ["s=1=2"], ["x;;s=1"]]  # fmt: skip


def test_cookie_matrix() -> None:
    """A missing cookie passes an inverted match, unlike a missing header."""
    plain = RouteMatch(cookies=(CookieMatch("s", text("exact", "1")),))
    inverted = RouteMatch(cookies=(CookieMatch("s", text("exact", "1"), invert=True),))
    expected = "-y-yyy-yy-----y-y"
    for lines, mark in zip(COOKIES, expected, strict=True):
        headers = [("cookie", line) for line in lines]
        assert matches(plain, headers=headers) is (mark == "y"), lines
        assert matches(inverted, headers=headers) is (mark != "y"), lines


@pytest.mark.parametrize(
    ("match", "target", "expected"),
    [
        (path("prefix", "/foo"), "/foobar", True),
        (path("prefix", "/foo"), "/fo?/foo", False),
        (path("prefix", ""), "*", True),
        (path("exact", "/foo"), "/foo?a=/", True),
        (path("exact", "/foo"), "/foo#x", True),
        (path("exact", "/foo"), "/foo/", False),
        (path("segment_prefix", "/psp"), "/psp", True),
        (path("segment_prefix", "/psp"), "/psp/x?y", True),
        (path("segment_prefix", "/psp"), "/pspx", False),
        (path("segment_prefix", "/psp/"), "/psp", True),
        (path("segment_prefix", "/"), "/anything", True),
        (path("regex", "/rx/.*"), "/rx/a?b", True),
        (path("regex", "/rx/.*"), "/RX/a", False),
        (path("regex", "/RX/.*", True), "/rx/a", False),
        (path("prefix", "/Ci", True), "/cI1", True),
        (path("exact", "/Ci", True), "/CI", True),
        (path("segment_prefix", "/SeP", True), "/sep", True),
        (path("segment_prefix", "/SeP", True), "/sepx", False),
        (path("prefix", "/É", True), "/é", False),
    ],
)
def test_path(match: PathMatch, target: str, expected: bool) -> None:
    assert matches(RouteMatch(path=match), path=target) is expected


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [("application/grpc", True), ("application/grpc+proto", True), ("application/grpc-web", False),
     ("application/grpcx", False), ("application/grpc;x", False), ("Application/grpc", False)],
)  # fmt: skip
def test_grpc(content_type: str, expected: bool) -> None:
    headers = [("content-type", content_type)]
    assert matches(RouteMatch(grpc=True), headers=headers) is expected
    assert not matches(RouteMatch(grpc=True))


def test_fraction_is_random_modulo_denominator() -> None:
    half = RouteMatch(fraction=Fraction(50))
    assert matches(half, random64=149)
    assert not matches(half, random64=150)
    assert matches(RouteMatch(fraction=Fraction(200)), random64=2**64 - 1)
    assert not matches(RouteMatch(fraction=Fraction(0)), random64=0)


def test_headers_are_not_read_when_no_route_asks() -> None:
    """The index of the header list is not even built."""
    compiled = host_of(Route(to(), RouteMatch(path=path("exact", "/a"))), Route(to()))
    request = head("/a", [("x", "1")])
    assert compiled.find_route(request, 0) is compiled.routes[0]
    assert request.headers._index is None
