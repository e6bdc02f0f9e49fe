"""Path and host rewrites. Expectations observed on Envoy 1.40."""

from __future__ import annotations

import pytest
from routing_support import Pairs, head, operations, path, route_of, to

from meshclient.model.matching import PathMatch, RouteMatch
from meshclient.model.regex import RegexError
from meshclient.model.request import RequestHead
from meshclient.model.routes import HostRewrite, PathRewrite, WeightedCluster

A = WeightedCluster("a")


def rewritten(match: PathMatch | None, rewrite: PathRewrite, target: str) -> RequestHead:
    request = head(target)
    compiled = route_of(to(path_rewrite=rewrite), RouteMatch(path=match))
    assert compiled.has_request_edits is (rewrite.kind == "regex" or bool(rewrite.value))
    compiled.edit_request(request, A)
    return request


@pytest.mark.parametrize(
    ("match", "rewrite", "target", "result"),
    [
        (path("prefix", "/hr"), PathRewrite("prefix", "/zz"), "/hr/x?y=/hr", "/zz/x?y=/hr"),
        (path("exact", "/ex"), PathRewrite("prefix", "/exn"), "/ex?x=1", "/exn?x=1"),
        (path("regex", "/rx/.*"), PathRewrite("prefix", "/rxn"), "/rx/a?x=/rx", "/rxn?x=/rx"),
        (path("segment_prefix", "/psp"), PathRewrite("prefix", "/n"), "/psp/a?x", "/n/a?x"),
        (path("segment_prefix", "/psp"), PathRewrite("prefix", "/n"), "/psp", "/n"),
        (path("segment_prefix", "/pss/"), PathRewrite("prefix", "/"), "/pss/a", "//a"),
        (path("prefix", "/CIR", True), PathRewrite("prefix", "/x"), "/cir/a?q", "/x/a?q"),
        (path("prefix", "/pq"), PathRewrite("prefix", "/new?z=1"), "/pq/a?x", "/new?z=1/a?x"),
        (path("prefix", "/no"), PathRewrite("prefix", "x"), "/no/x", "x/x"),
        (None, PathRewrite("prefix", "/new"), "/foo", "/newfoo"),
        (path("prefix", "/a"), PathRewrite("full", "/whole"), "/a/b?c#d", "/whole?c#d"),
        (path("prefix", "/h"), PathRewrite("regex", r"/r/\1", "^/hh/(.*)$"), "/hh/x?y", "/r/x?y"),
        (path("prefix", "/r"), PathRewrite("regex", r"<\1>", "(a*)"), "/rx/baac?q",
         "<>/<>r<>x<>/<>b<aa>c<>?q"),
        (path("prefix", "/norw"), PathRewrite("regex", "y", "zzz"), "/norw", "/norw"),
        (path("prefix", "/rq"), PathRewrite("regex", "", "/rq"), "/rq/a", "/a"),
    ],
)  # fmt: skip
def test_path(match: PathMatch | None, rewrite: PathRewrite, target: str, result: str) -> None:
    request = rewritten(match, rewrite, target)
    assert request.path == result
    assert request.headers.get("x-envoy-original-path") == target


@pytest.mark.parametrize(
    "rewrite", [PathRewrite("prefix", ""), PathRewrite("regex", "", ".*"), PathRewrite("full", "")]
)
def test_empty_results_are_no_rewrite(rewrite: PathRewrite) -> None:
    request = rewritten(path("prefix", "/rq"), rewrite, "/rq?x")
    assert request.path == "/rq?x"
    assert list(request.headers) == []


def test_bad_rewrite_is_refused_when_compiled() -> None:
    with pytest.raises(RegexError, match="1 group"):
        route_of(to(path_rewrite=PathRewrite("regex", r"\2", "(a)")))
    with pytest.raises(RegexError, match="0 groups"):
        route_of(to(host_rewrite=HostRewrite("path_regex", r"\1", "a")))


@pytest.mark.parametrize(
    ("rewrite", "target", "headers", "host"),
    [
        (HostRewrite("literal", "new.test"), "/", [], "new.test"),
        (HostRewrite("literal", "h.test"), "/", [], "h.test"),
        (HostRewrite("header", "X-Host"), "/", [("x-host", "hdr.test")], "hdr.test"),
        (HostRewrite("path_regex", r"\1", "^/hp/([^/]+)/.*$"), "/hp/f.test/x?y", [], "f.test"),
    ],
)
def test_host(rewrite: HostRewrite, target: str, headers: Pairs, host: str) -> None:
    request = head(target, headers)
    route_of(to(host_rewrite=rewrite)).edit_request(request, A)
    assert request.authority == host
    assert request.headers.get("x-envoy-original-host") == "h.test"
    assert "x-forwarded-host" not in request.headers


@pytest.mark.parametrize(
    ("rewrite", "headers"),
    [
        (HostRewrite("header", "x-host"), []),
        (HostRewrite("header", "x-host"), [("x-host", "")]),
        (HostRewrite("literal", ""), []),
        (HostRewrite("endpoint"), []),
    ],
)
def test_host_stays_without_a_new_one(rewrite: HostRewrite, headers: Pairs) -> None:
    request = head("/", headers)
    compiled = route_of(to(host_rewrite=rewrite))
    compiled.edit_request(request, A)
    assert request.authority == "h.test"
    assert "x-envoy-original-host" not in request.headers
    assert compiled.host_from_endpoint is (rewrite.kind == "endpoint")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], "h.test"),
        (["q.test,h.test"], "q.test,h.test"),
        (["q.test, h.test"], "q.test, h.test,h.test"),
        (["q.test, h.test", "z"], "q.test, h.test,z,h.test"),
        ([""], "h.test"),
    ],
)
def test_forwarded_host(before: list[str], after: str) -> None:
    """Appended unless it is the last value already, on one line."""
    request = head("/", [("X-Forwarded-Host", value) for value in before])
    action = to(host_rewrite=HostRewrite("literal", "n"), append_x_forwarded_host=True)
    route_of(action).edit_request(request, A)
    assert request.headers.get_all("x-forwarded-host") == [after]


def test_weighted_host_leaves_no_trace_and_the_route_has_the_last_word() -> None:
    weighted = WeightedCluster("b", host_rewrite="wc.test")
    request = head()
    route_of(to(weighted, append_x_forwarded_host=True)).edit_request(request, weighted)
    assert request.authority == "wc.test"
    assert list(request.headers) == []

    request = head()
    action = to(
        weighted, append_x_forwarded_host=True, host_rewrite=HostRewrite("literal", "route.test")
    )
    route_of(action).edit_request(request, weighted)
    assert request.authority == "route.test"
    assert request.headers.get("x-envoy-original-host") == "wc.test"
    assert request.headers.get("x-forwarded-host") == "wc.test"


def test_endpoint_host_is_set_by_the_caller() -> None:
    request = head()
    compiled = route_of(to(host_rewrite=HostRewrite("endpoint"), append_x_forwarded_host=True))
    compiled.set_host(request, "pod-0.test")
    assert request.authority == "pod-0.test"
    assert list(request.headers) == [
        ("x-forwarded-host", "h.test"),
        ("x-envoy-original-host", "h.test"),
    ]


def test_header_edits_come_before_host_and_path() -> None:
    edits = operations(("x-path", "%REQ(:path)% %REQ(:authority)%"), ("x-host", "added.test"))
    action = to(
        path_rewrite=PathRewrite("prefix", "/new"), host_rewrite=HostRewrite("header", "x-host")
    )
    request = head("/old")
    route_of(action, RouteMatch(path=path("prefix", "/old")), request_headers=edits).edit_request(
        request, A
    )
    assert request.headers.get("x-path") == "/old h.test"
    assert (request.authority, request.path) == ("added.test", "/new")


def test_old_values_of_the_original_headers_are_replaced() -> None:
    request = head("/oh", [("x-envoy-original-host", "a"), ("x-envoy-original-path", "b"),
                           ("x-envoy-original-path", "c")])  # fmt: skip
    action = to(path_rewrite=PathRewrite("full", "/n"), host_rewrite=HostRewrite("literal", "n"))
    route_of(action).edit_request(request, A)
    assert request.headers.get_all("x-envoy-original-host") == ["h.test"]
    assert request.headers.get_all("x-envoy-original-path") == ["/oh"]
