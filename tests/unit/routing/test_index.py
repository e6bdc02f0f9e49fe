"""The index finds what the plain scan finds, and does not try every route."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_support import exact, head, host_of, path, to

from meshclient.model.matching import (
    CookieMatch,
    Fraction,
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
)
from meshclient.model.request import RequestHead
from meshclient.model.routes import Route, WeightedCluster
from meshclient.routing import index, table
from meshclient.routing.reasons import reason
from meshclient.routing.view import RequestView

PATHS = st.text(alphabet="/abA", max_size=4).map("/{}".format)
VALUES = st.sampled_from(["", "1", "2", "12", "A", "a"])
NAMES = st.sampled_from(["x-a", "x-b", ":method", "host"])
TEXT_MATCHES = st.one_of(
    st.builds(StringMatch, st.sampled_from(["exact"]), VALUES),
    st.builds(
        StringMatch,
        st.sampled_from(["exact", "prefix", "suffix", "contains", "regex"]),
        st.one_of(VALUES, st.sampled_from(["GET", "h.test"])),
        st.booleans(),
    ),
)
HEADER_MATCHES = st.one_of(
    st.builds(HeaderMatch, NAMES, TEXT_MATCHES),
    st.builds(
        HeaderMatch,
        NAMES,
        st.none() | TEXT_MATCHES,
        st.none(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
)
PATH_MATCHES = st.one_of(
    st.builds(
        PathMatch, st.sampled_from(["exact", "prefix", "segment_prefix"]), PATHS, st.booleans()
    ),
    st.builds(PathMatch, st.just("regex"), PATHS.map("{}.*".format)),
)
MATCHES = st.builds(
    RouteMatch,
    path=st.none() | PATH_MATCHES,
    headers=st.lists(HEADER_MATCHES, max_size=2).map(tuple),
    query=st.lists(st.builds(QueryMatch, st.sampled_from("ab"), st.none() | TEXT_MATCHES),
                   max_size=1).map(tuple),
    cookies=st.lists(st.builds(CookieMatch, st.just("s"), TEXT_MATCHES, st.booleans()),
                     max_size=1).map(tuple),
    fraction=st.none() | st.builds(Fraction, st.integers(0, 100)),
    grpc=st.sampled_from([False, False, False, True]),
)  # fmt: skip
LINES = st.lists(
    st.tuples(st.sampled_from(["x-a", "X-A", "x-b"]), VALUES)
    | st.sampled_from([("cookie", "s=1"), ("content-type", "application/grpc")]),
    max_size=4,
)
TARGETS = st.builds("{}{}".format, PATHS, st.sampled_from(["", "?a=1", "?b=2&a", "?a=12"]))
HEADS = st.builds(head, TARGETS, LINES, st.sampled_from(["h.test", "1"]),
                  st.sampled_from(["GET", "1"]))  # fmt: skip


def numbered(matches: list[RouteMatch]) -> list[Route]:
    return [Route(to(WeightedCluster(str(i))), match) for i, match in enumerate(matches)]


def scan(routes: list[Route], request: RequestHead, random64: int) -> Route | None:
    view = RequestView(request, random64)
    return next((route for route in routes if not reason(route.match, view)), None)


@settings(max_examples=200, deadline=None)
@given(st.lists(MATCHES, max_size=25), st.lists(HEADS, min_size=1, max_size=5), st.integers(0, 99))
def test_index_equals_plain_scan(
    matches: list[RouteMatch], requests: list[RequestHead], random64: int
) -> None:
    routes = numbered(matches)
    compiled = host_of(*routes)
    for request in requests:
        expected = scan(routes, request, random64)
        found = compiled.find_route(request, random64)
        assert (None if found is None else found.route) is expected
        tried = compiled.explain(request, random64)
        if expected is not None:
            assert tried[-1] == (expected, "")
        assert all(why for _, why in tried[:-1])


SIMILAR = st.one_of(
    st.builds(lambda v: RouteMatch(headers=(exact("x-a", v),)), VALUES),
    st.builds(lambda v, w: RouteMatch(headers=(exact("x-a", v), exact("x-b", w))), VALUES, VALUES),
    st.builds(lambda v: RouteMatch(query=(QueryMatch("a", StringMatch("exact", v)),)), VALUES),
    MATCHES,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SIMILAR, min_size=8, max_size=40), st.lists(HEADS, min_size=1, max_size=5))
def test_divided_shelves_equal_plain_scan(
    matches: list[RouteMatch], requests: list[RequestHead]
) -> None:
    """Many routes that differ by header or query values: the tables are in play."""
    routes = numbered(matches)
    compiled = host_of(*routes)
    for request in requests:
        found = compiled.find_route(request, 7)
        assert (None if found is None else found.route) is scan(routes, request, 7)


SHAPES = {
    "exact": [RouteMatch(path=path("exact", f"/r{i}")) for i in range(1000)],
    "prefix": [RouteMatch(path=path("prefix", f"/r{i:04}")) for i in range(1000)],
    "segment": [RouteMatch(path=path("segment_prefix", f"/r{i}")) for i in range(1000)],
    "folded": [RouteMatch(path=path("prefix", f"/R{i:04}", True)) for i in range(1000)],
    "regex": [RouteMatch(path=path("regex", f"/r{i:04}[a-z]*")) for i in range(1000)],
    "header": [RouteMatch(headers=(exact("x-a", f"v{i}"),)) for i in range(1000)],
    "method": [RouteMatch(headers=(exact(":method", f"M{i}"),)) for i in range(1000)],
    "authority": [RouteMatch(headers=(exact("host", f"h{i}"),)) for i in range(1000)],
    "query": [RouteMatch(query=(QueryMatch("q", StringMatch("exact", f"{i}")),))
              for i in range(1000)],
    "path and header": [
        RouteMatch(path=path("prefix", f"/r{i // 10:04}"), headers=(exact("x-a", f"v{i}"),))
        for i in range(1000)
    ],
}  # fmt: skip
REQUESTS = {
    "exact": head("/r777"),
    "prefix": head("/r0777/x"),
    "segment": head("/r777/x"),
    "folded": head("/r0777/x"),
    "regex": head("/r0777x"),
    "header": head("/", [("x-a", "v777")]),
    "method": head("/", method="M777"),
    "authority": head("/", authority="h777"),
    "query": head("/?q=777"),
    "path and header": head("/r0077", [("x-a", "v777")]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thousand_routes_cost_a_handful_of_tests(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts the conditions that run for one decision: at most three."""
    ran = 0

    def counted(test: object) -> object:
        def run(*args: object) -> object:
            nonlocal ran
            ran += 1
            return test(*args)  # type: ignore[operator]

        return run

    compile_conditions = index.compile_conditions
    path_test = index.path_test
    monkeypatch.setattr(
        index,
        "compile_conditions",
        lambda match: [c._replace(test=counted(c.test)) for c in compile_conditions(match)],
    )
    monkeypatch.setattr(index, "path_test", lambda match: counted(path_test(match)))
    compiled = host_of(*numbered(SHAPES[shape]))
    found = compiled.find_route(REQUESTS[shape], 0)
    assert found is compiled.routes[777]
    assert ran <= 3


def test_nested_prefixes_keep_list_order() -> None:
    matches = [RouteMatch(path=path("prefix", "/" + "a" * n)) for n in range(50, -1, -1)]
    compiled = host_of(*numbered(matches))
    found = compiled.find_route(head("/" + "a" * 20 + "b"), 0)
    assert found is compiled.routes[30]
    backwards = host_of(*numbered(matches[::-1]))
    assert backwards.find_route(head("/aaaa"), 0) is backwards.routes[0]


def test_no_route_matches() -> None:
    compiled = host_of(*numbered(SHAPES["exact"]))
    assert compiled.find_route(head("/other"), 0) is None
    assert len(compiled.explain(head("/other"), 0)) == 1000


def test_host_without_routes() -> None:
    assert host_of().find_route(head("/"), 0) is None


def test_lone_catch_all_skips_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = host_of(Route(to(), RouteMatch(path=path("prefix", "/"))), Route(to()))
    with monkeypatch.context() as patch:
        patch.setattr(table, "RequestView", None)  # calling it would raise
        assert compiled.find_route(head("/x?y"), 0) is compiled.routes[0]
    assert compiled.find_route(head("*"), 0) is compiled.routes[1]


def test_catch_all_prefix_is_compared_without_the_query() -> None:
    compiled = host_of(Route(to(), RouteMatch(path=path("prefix", "/a?b"))))
    assert compiled.find_route(head("/a?b"), 0) is None
