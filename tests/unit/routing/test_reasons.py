"""What explain says about routes that did not match."""

from __future__ import annotations

import pytest
from routing_support import exact, head, host_of, path, text, to

from meshclient.model.matching import CookieMatch, Fraction, HeaderMatch, QueryMatch, RouteMatch
from meshclient.model.routes import Route

REQUEST = head("/x?q=1", [("end-user", "bob"), ("n", "7"), ("cookie", "s=2"), ("end-user", "eve")])


@pytest.mark.parametrize(
    ("match", "sentence"),
    [
        (RouteMatch(path=path("prefix", "/api")), "path /x does not start with /api"),
        (RouteMatch(path=path("exact", "/api", True)), "path /x is not /api, case ignored"),
        (RouteMatch(path=path("segment_prefix", "/api")), "path /x is not /api or below it"),
        (RouteMatch(path=path("regex", "/a+", True)), "path /x does not match the regex /a+"),
        (RouteMatch(headers=(exact("n", "8"),)), "header n: is '7', wanted exactly '8'"),
        (RouteMatch(headers=(exact("end-user", "jason"),)),
         "header end-user: is 'bob', 'eve', wanted exactly 'jason'"),
        (RouteMatch(headers=(exact("z", "8"),)), "header z: is missing, wanted exactly '8'"),
        (RouteMatch(headers=(exact("n", "7", invert=True),)),
         "header n: is '7', wanted anything but exactly '7'"),
        (RouteMatch(headers=(exact("z", "7", invert=True),)),
         "header z: is missing, wanted a value other than exactly '7'"),
        (RouteMatch(headers=(HeaderMatch("n", text("prefix", "A", True)),)),
         "header n: is '7', wanted a value starting with 'A', case ignored"),
        (RouteMatch(headers=(HeaderMatch("n", range=(1, 5)),)),
         "header n: is '7', wanted a number from 1 to below 5"),
        (RouteMatch(headers=(HeaderMatch("z"),)), "header z: is missing, wanted it present"),
        (RouteMatch(headers=(HeaderMatch("n", present=False),)),
         "header n: is '7', wanted it absent"),
        (RouteMatch(headers=(exact(":method", "POST"),)),
         "header :method: is 'GET', wanted exactly 'POST'"),
        (RouteMatch(query=(QueryMatch("q", text("suffix", "2")),)),
         "query parameter q: is '1', wanted a value ending with '2'"),
        (RouteMatch(query=(QueryMatch("r"),)), "query parameter r: is missing, wanted it present"),
        (RouteMatch(query=(QueryMatch("q", present=False),)),
         "query parameter q: is '1', wanted it absent"),
        (RouteMatch(cookies=(CookieMatch("s", text("contains", "3")),)),
         "cookie s: is '2', wanted a value containing '3'"),
        (RouteMatch(cookies=(CookieMatch("s", text("regex", "."), invert=True),)),
         "cookie s: is '2', wanted anything but a value matching the regex '.'"),
        (RouteMatch(grpc=True), "not a gRPC request (content-type is not application/grpc)"),
        (RouteMatch(fraction=Fraction(5)), "outside the runtime fraction 5/100"),
        (RouteMatch(), ""),
    ],
)  # fmt: skip
def test_sentences(match: RouteMatch, sentence: str) -> None:
    assert host_of(Route(to(), match)).explain(REQUEST, 7)[0][1] == sentence


def test_path_is_named_before_the_other_conditions() -> None:
    match = RouteMatch(path=path("exact", "/y"), headers=(exact("n", "8"),), grpc=True)
    assert host_of(Route(to(), match)).explain(REQUEST, 0)[0][1] == "path /x is not /y"


def test_stops_at_the_match() -> None:
    routes = [Route(to(), RouteMatch(grpc=True)), Route(to()), Route(to())]
    tried = host_of(*routes).explain(REQUEST, 0)
    assert [route for route, _ in tried] == routes[:2]
    assert tried[1][1] == ""


def test_long_values_are_cut() -> None:
    request = head("/" + "p" * 500, [("n", "v" * 500)])
    for match in (RouteMatch(path=path("exact", "/y")), RouteMatch(headers=(exact("n", "8"),))):
        assert len(host_of(Route(to(), match)).explain(request, 0)[0][1]) < 160
