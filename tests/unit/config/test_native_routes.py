"""Native routes: matches, destinations, rewrites, answers, header edits; values and mistakes."""

from __future__ import annotations

import pytest

from meshclient.config import load_documents
from meshclient.errors import ConfigError
from meshclient.model.matching import (
    CookieMatch,
    Fraction,
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
)
from meshclient.model.routes import (
    DirectResponse,
    ForwardAction,
    HeaderChange,
    HeaderOperations,
    HostRewrite,
    PathRewrite,
    RedirectAction,
    Route,
    WeightedCluster,
)
from meshclient.model.snapshot import ANY_PORT, MeshConfig, Node

SUBSETS = {"v1": {"labels": {"v": "1"}}, "v2": {"labels": {"v": "2"}}}
ENDPOINTS = [{"address": f"h:{n}", "labels": {"v": str(n)}} for n in (1, 2)]


def load(*routes: object, node: Node | None = None) -> MeshConfig:
    service = {"endpoints": ENDPOINTS, "subsets": SUBSETS, "routes": list(routes)}
    other = {"endpoints": ["o:1"], "subsets": {"v1": {"labels": {}}, "x": {"labels": {}}}}
    document = {"version": 1, "services": {"a": service, "other": other}}
    return load_documents([document], node=node)


def routes(*written: object, node: Node | None = None) -> tuple[Route, ...]:
    return load(*written, node=node).route_configurations[ANY_PORT].virtual_hosts[0].routes


def match(**block: object) -> RouteMatch:
    return routes({"match": block})[0].match


def forward(**route: object) -> ForwardAction:
    found = routes(route)[0].action
    assert isinstance(found, ForwardAction)
    return found


def problem(*written: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*written)
    return "\n".join(str(d) for d in caught.value.diagnostics)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"path": "/a"}, PathMatch("exact", "/a")),
        ({"prefix": "/a"}, PathMatch("prefix", "/a")),
        ({"segment_prefix": "/a/"}, PathMatch("segment_prefix", "/a")),
        ({"segment_prefix": "/"}, PathMatch("segment_prefix", "/")),
        ({"regex": "/a[0-9]+"}, PathMatch("regex", "/a[0-9]+")),
        ({"path": "/a", "ignore_case": True}, PathMatch("exact", "/a", True)),
        ({"path": "/é"}, PathMatch("exact", "/Ã©")),
        ({"path": "*"}, PathMatch("exact", "*")),
    ],
)
def test_paths(block: dict[str, object], expected: PathMatch) -> None:
    assert match(**block) == RouteMatch(path=expected)


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        ("x", HeaderMatch("h", StringMatch("exact", "x"))),
        ({"exact": "x", "ignore_case": True}, HeaderMatch("h", StringMatch("exact", "x", True))),
        ({"prefix": "x"}, HeaderMatch("h", StringMatch("prefix", "x"))),
        ({"suffix": "x"}, HeaderMatch("h", StringMatch("suffix", "x"))),
        ({"contains": "x"}, HeaderMatch("h", StringMatch("contains", "x"))),
        ({"regex": "x+"}, HeaderMatch("h", StringMatch("regex", "x+"))),
        ({"range": [-5, 10]}, HeaderMatch("h", range=(-5, 10))),
        ({"present": True}, HeaderMatch("h")),
        ({"present": False}, HeaderMatch("h", present=False)),
        ({"present": True, "invert": True}, HeaderMatch("h", invert=True)),
        (
            {"exact": "x", "invert": True, "missing_as_empty": True},
            HeaderMatch("h", StringMatch("exact", "x"), None, True, True, True),
        ),
    ],
)
def test_headers(matcher: object, expected: HeaderMatch) -> None:
    assert match(headers={"H": matcher}) == RouteMatch(headers=(expected,))


def test_pseudo_headers() -> None:
    found = match(method=["GET", "HEAD"], scheme="https", authority="A.com")
    assert found.headers == (
        HeaderMatch(":method", StringMatch("regex", "GET|HEAD")),
        HeaderMatch(":scheme", StringMatch("exact", "https")),
        HeaderMatch(":authority", StringMatch("exact", "A.com", True)),
    )
    assert match(method="GET").headers == (HeaderMatch(":method", StringMatch("exact", "GET")),)
    suffix = match(authority={"suffix": ".com"}).headers
    assert suffix == (HeaderMatch(":authority", StringMatch("suffix", ".com", True)),)


def test_query_and_cookies() -> None:
    query = {"a": "1", "b": {"present": True}, "c": {"present": False}, "d": {"regex": "x*"}}
    cookies = {"a": {"exact": "1", "invert": True}, "b": {"present": True}, "c": {"present": False}}
    found = match(query=query, cookies=cookies)
    assert found.query == (
        QueryMatch("a", StringMatch("exact", "1")),
        QueryMatch("b"),
        QueryMatch("c", None, False),
        QueryMatch("d", StringMatch("regex", "x*")),
    )
    anything = StringMatch("prefix", "")
    assert found.cookies == (
        CookieMatch("a", StringMatch("exact", "1"), True),
        CookieMatch("b", anything),
        CookieMatch("c", anything, True),
    )


def test_fraction_and_grpc() -> None:
    assert match(percentage=25).fraction == Fraction(25)
    assert match(percentage=0.0001).fraction == Fraction(1, 1_000_000)
    assert match(grpc=True).grpc


def test_a_list_of_matches_is_any_of_them() -> None:
    found = routes({"match": [{"path": "/a"}, {"path": "/b"}], "to": "v1", "name": "n"})
    assert [r.name for r in found] == ["n", "n", "(default)"]
    assert [r.match.path.value for r in found if r.match.path] == ["/a", "/b"]


def test_the_caller_decides_once() -> None:
    mine = {"match": {"source_labels": {"app": "web"}, "source_namespace": "prod"}, "name": "m"}
    web = Node(namespace="prod", labels=(("app", "web"), ("x", "y")))
    assert [r.name for r in routes(mine, node=web)] == ["m"]
    for other in (Node(namespace="prod"), Node(labels=(("app", "web"),))):
        assert [r.name for r in routes(mine, node=other)] == ["(default)"]
    assert [d.code for d in load(mine).diagnostics] == ["other-caller"]


def test_destinations() -> None:
    cases: list[tuple[object, tuple[WeightedCluster, ...]]] = [
        (None, (WeightedCluster("a"),)),
        ("v1", (WeightedCluster("a/v1"),)),
        ("a", (WeightedCluster("a"),)),
        ("other", (WeightedCluster("other"),)),
        ("other/x", (WeightedCluster("other/x"),)),
        ({"v1": 9, "other": 1}, (WeightedCluster("a/v1", 9), WeightedCluster("other", 1))),
        ({"v1": 0, "v2": 1}, (WeightedCluster("a/v1", 0), WeightedCluster("a/v2", 1))),
    ]
    for to, expected in cases:
        assert forward(to=to).clusters == expected


def test_shares_with_edits() -> None:
    share = {"weight": 2, "host": "h.x", "request_headers": {"set": {"a": "b"}}}
    (found,) = forward(to={"v1": share}).clusters
    edits = HeaderOperations(changes=(HeaderChange("a", "b", "overwrite"),))
    assert found == WeightedCluster("a/v1", 2, edits, HeaderOperations(), "h.x")


def test_header_driven_destinations() -> None:
    assert forward(to={"v1": 1, "v2": 1}, split_by_header="X-B").weight_header == "x-b"
    named = forward(to_header="X-Service")
    assert (named.cluster_header, named.clusters) == ("x-service", ())


def test_rewrites() -> None:
    assert forward(rewrite={"path": "/x"}).path_rewrite == PathRewrite("full", "/x")
    found = forward(match={"prefix": "/a"}, rewrite={"prefix": "/b"})
    assert found.path_rewrite == PathRewrite("prefix", "/b")
    block = {"regex": {"pattern": "a(b)", "value": r"\1"}}
    assert forward(rewrite=block).path_rewrite == PathRewrite("regex", r"\1", "a(b)")
    hosts: list[tuple[object, HostRewrite]] = [
        ("x.com", HostRewrite("literal", "x.com")),
        ({"header": "X-H"}, HostRewrite("header", "x-h")),
        ({"endpoint": True}, HostRewrite("endpoint")),
        (
            {"path_regex": {"pattern": "/(.*)", "value": r"\1"}},
            HostRewrite("path_regex", r"\1", "/(.*)"),
        ),
    ]
    for host, expected in hosts:
        assert forward(rewrite={"host": host}).host_rewrite == expected


def test_redirects() -> None:
    block = {"status": 308, "scheme": "https", "host": "x", "port": 8443, "path": "/p?q=1"}
    assert routes({"redirect": block})[0].action == RedirectAction(
        308, "https", False, "x", 8443, "/p?q=1"
    )
    rewritten = routes({"match": {"prefix": "/a"}, "redirect": {"prefix": "/b"}})[0].action
    assert rewritten == RedirectAction(path_rewrite=PathRewrite("prefix", "/b"))
    assert routes({"redirect": {"strip_query": True}})[0].action == RedirectAction(strip_query=True)


def test_direct_responses() -> None:
    found = routes({"respond": {"status": 418, "body": "é"}})[0]
    assert found.action == DirectResponse(418, "é".encode())


def test_header_edits() -> None:
    edits = {"remove": ["X-A"], "set": {"B": "%REQ(c)%"}, "add": {"D": ["1", "2"], "e": "100%%"}}
    found = routes({"request_headers": edits, "response_headers": {"remove": ["server"]}})[0]
    assert found.request_headers == HeaderOperations(
        ("x-a",),
        (
            HeaderChange("b", "%REQ(c)%", "overwrite"),
            HeaderChange("d", "1"),
            HeaderChange("d", "2"),
            HeaderChange("e", "100%%"),
        ),
    )
    assert found.response_headers == HeaderOperations(("server",))


def test_a_catch_all_is_added_only_where_none_is() -> None:
    assert [r.name for r in routes({"match": {"path": "/"}})] == ["routes[0]", "(default)"]
    assert [r.name for r in routes({"to": "v1"})] == ["routes[0]"]
    assert [r.name for r in routes()] == ["(default)"]


def test_a_route_behind_a_catch_all_is_suspicious() -> None:
    (found,) = load({"to": "v1"}, {"to": "v2"}).diagnostics
    assert found.severity == "warning"
    assert "never used" in found.message
    assert found.field == "services.a.routes[1]"


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ({"match": {"path": "/a", "prefix": "/b"}}, 'give only one of "path" and "prefix"'),
        ({"match": {"path": "a"}}, 'a path begins with / (write "/a")'),
        ({"match": {"path": "/a?b=1"}}, "compared without query"),
        ({"match": {"regex": "("}}, "invalid regular expression"),
        ({"match": {"regex": "/a", "ignore_case": True}}, "begin the regex with (?i)"),
        ({"match": {"ignore_case": True}}, "ignore_case needs path"),
        ({"match": {"uri": "/a"}}, 'did you mean "path"?'),
        ({"match": []}, "an empty list never matches"),
        ({"match": {"headers": {"a b": "x"}}}, "'a b' is not a header name"),
        ({"match": {"headers": {"a": {}}}}, "a condition is missing"),
        ({"match": {"headers": {"a": {"exact": "x", "prefix": "y"}}}}, 'one of "exact" and'),
        ({"match": {"headers": {"a": {"exact": "x", "present": True}}}}, "only one kind"),
        ({"match": {"headers": {"a": {"range": [1]}}}}, "two whole numbers"),
        ({"match": {"headers": {"a": {"range": [5, 5]}}}}, "the range is empty"),
        ({"match": {"headers": {"a": {"regex": "(a", "invert": True}}}}, "invalid regular"),
        ({"match": {"headers": {"a": {"exakt": "x"}}}}, 'did you mean "exact"?'),
        ({"match": {"headers": {"a": 1}}}, 'write "1"'),
        ({"match": {"query": {"a": {"range": [1, 2]}}}}, "not for this kind of match"),
        ({"match": {"query": {"a": {"exact": "x", "invert": True}}}}, "not for this kind"),
        ({"match": {"cookies": {"a": {"exact": "x", "missing_as_empty": True}}}}, "not for this"),
        ({"match": {"cookies": {"a": {}}}}, "a condition is missing"),
        ({"match": {"scheme": "ftp"}}, "known are http, https"),
        ({"match": {"method": ["G T"]}}, "is not a header name"),
        ({"match": {"percentage": 101}}, "101 is more than 100"),
        ({"match": {"port": 70000}}, "70000 is more than 65535"),
        ({"to": "othr"}, 'did you mean "other"?'),
        ({"to": "other/y"}, 'service other has no subset "y" (subsets of other: v1, x)'),
        ({"to": {"v1": 0}}, "the weights sum to 0"),
        ({"to": {"v1": -1}}, "-1 is less than 0"),
        ({"to": {"v1": {"host": "x"}}}, '"weight" is missing'),
        ({"to": {}}, "the weights sum to 0"),
        ({"to": 5}, "expected a text, found the number 5"),
        ({"to": "v1", "to_header": "x"}, 'only one of "to" and "to_header"'),
        ({"to": "v1", "split_by_header": "x"}, "split_by_header needs weights"),
        ({"to": "v1", "redirect": {}}, 'no effect together with "redirect"'),
        ({"respond": {"status": 200}, "timeout": "1s"}, 'no effect together with "respond"'),
        ({"respond": {}}, '"status" is missing'),
        ({"respond": {"status": 999}}, "999 is more than 599"),
        ({"redirect": {"status": 304}}, "304 is not one of"),
        ({"redirect": {"path": "/a", "prefix": "/b"}}, "only one of path, prefix and regex"),
        ({"rewrite": {"prefix": "/b"}}, "no prefix is matched"),
        ({"rewrite": {"path": "b"}}, 'write "/b"'),
        ({"rewrite": {"path": "/a b"}}, "white space"),
        ({"rewrite": {"regex": {"pattern": "a", "value": r"\1"}}}, "the pattern has 0 groups"),
        ({"rewrite": {"regex": {"pattern": "a"}}}, '"value" is missing'),
        ({"rewrite": {"host": "http://x/"}}, "not a host name"),
        ({"rewrite": {"host": {}}}, "exactly one of header, path_regex and endpoint"),
        ({"request_headers": {"set": {"host": "x"}}}, "use rewrite: {host: ...}"),
        ({"request_headers": {"set": {":path": "x"}}}, "cannot be edited"),
        ({"request_headers": {"set": {"a": "x\ny"}}}, "line breaks"),
        ({"request_headers": {"set": {"a": "100%"}}}, "write %% for a percent sign"),
        ({"request_headers": {"remove": ["a b"]}}, "is not a header name"),
        ({"request_headers": {"append": {"a": "b"}}}, 'unknown field "append" in header edits'),
        ("v1", "expected a mapping"),
        ({"route": "v1"}, 'did you mean "to"?'),
    ],
)
def test_mistakes(route: object, expected: str) -> None:
    assert expected in problem(route)
