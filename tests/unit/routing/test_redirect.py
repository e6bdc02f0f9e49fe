"""Locations and local answers. Expectations observed on Envoy 1.40."""

from __future__ import annotations

import pytest
from routing_support import head, operations, path, route_of, to

from meshclient.model.headers import HeaderMap
from meshclient.model.matching import PathMatch, RouteMatch
from meshclient.model.request import LocalReply
from meshclient.model.routes import (
    Action,
    DirectResponse,
    PathRewrite,
    RedirectAction,
    WeightedCluster,
)

REGEX = PathRewrite("regex", r"/z/\1", "/r/(.*)")


def reply(action: Action, match: PathMatch | None = None, **request: str) -> LocalReply:
    compiled = route_of(action, RouteMatch(path=match or path("prefix", "/r")))
    answer = compiled.local_reply(head(**request))  # type: ignore[arg-type]
    assert answer is not None
    return answer


AUTHORITIES = ("h.test", "h.test:80", "h.test:443", "h.test:8080", "[::1]:80", "[::1]")
SAME = AUTHORITIES
HTTPS = ("h.test", "h.test", "h.test:443", "h.test:8080", "[::1]", "[::1]")
PORT_80 = ("h.test:80",) * 4 + ("[::1]:80",) * 2
NEW = ("n.test",) * 6


@pytest.mark.parametrize(
    ("action", "scheme", "hosts", "target"),
    [
        (RedirectAction(https=True), "https", HTTPS, "/r/x?q=1"),
        (RedirectAction(scheme="https"), "https", HTTPS, "/r/x?q=1"),
        (RedirectAction(host="n.test"), "http", NEW, "/r/x?q=1"),
        (RedirectAction(https=True, port=80), "https", PORT_80, "/r/x?q=1"),
        (RedirectAction(scheme="http", port=80), "http", PORT_80, "/r/x?q=1"),
        (RedirectAction(path_rewrite=PathRewrite("prefix", "/p")), "http", SAME, "/p/x?q=1"),
        (RedirectAction(path_rewrite=REGEX), "http", SAME, "/z/x?q=1"),
        (RedirectAction(path="/n?z=1"), "http", SAME, "/n?z=1"),
        (RedirectAction(path="/n?z=1", strip_query=True), "http", SAME, "/n?z=1"),
        (RedirectAction(path="/n"), "http", SAME, "/n?q=1"),
        (RedirectAction(path="/n", strip_query=True), "http", SAME, "/n"),
        (RedirectAction(host="n.test", strip_query=True), "http", NEW, "/r/x"),
        (RedirectAction(host="n.test:99", port=5), "http", ("n.test:99:5",) * 6, "/r/x?q=1"),
        (RedirectAction(path_rewrite=PathRewrite("prefix", "/p"), strip_query=True), "http", SAME,
         "/p/x"),
        (RedirectAction(host="n.test:80", https=True), "https", ("n.test:80",) * 6, "/r/x?q=1"),
        (RedirectAction(path_rewrite=PathRewrite("regex", "", "^.*$")), "http", SAME, "/r/x?q=1"),
        (RedirectAction(path="https://abs.test/x"), "http", SAME, "/https://abs.test/x?q=1"),
        (RedirectAction(path="/n#frag"), "http", SAME, "/n#frag?q=1"),
        (RedirectAction(host="n.test", path_rewrite=PathRewrite("prefix", "")), "http", NEW,
         "/r/x?q=1"),
        (RedirectAction(path_rewrite=PathRewrite("full", "/f")), "http", SAME, "/f?q=1"),
    ],
)  # fmt: skip
def test_location(action: RedirectAction, scheme: str, hosts: tuple[str, ...], target: str) -> None:
    for authority, host in zip(AUTHORITIES, hosts, strict=True):
        answer = reply(action, path="/r/x?q=1", authority=authority)
        assert answer.headers.get("location") == f"{scheme}://{host}{target}"


def test_leaving_https_drops_its_default_port() -> None:
    for authority, host in (("h:443", "h"), ("h:80", "h:80")):
        answer = reply(RedirectAction(scheme="http"), authority=authority, scheme="https")
        assert answer.headers.get("location") == f"http://{host}/"


@pytest.mark.parametrize("match", [path("exact", "/r/x"), path("regex", "/r/.*")])
def test_prefix_rewrite_of_a_whole_path_match(match: PathMatch) -> None:
    action = RedirectAction(path_rewrite=PathRewrite("prefix", "/pe"))
    assert reply(action, match, path="/r/x?q").headers.get("location") == "http://h.test/pe?q"


def test_redirect_is_empty_and_has_its_status() -> None:
    answer = reply(RedirectAction(status=308, path="/n"))
    assert (answer.status, answer.body) == (308, b"")
    assert list(answer.headers) == [("location", "http://h.test/n"), ("content-length", "0")]


@pytest.mark.parametrize(
    ("action", "headers", "body"),
    [
        (DirectResponse(200, b"hello"), {"content-type": "text/plain", "content-length": "5"},
         b"hello"),
        (DirectResponse(404), {"content-length": "0"}, b""),
        (DirectResponse(201, b"x"), {"location": "http://h.test/d?q=1", "content-type":
         "text/plain", "content-length": "1"}, b"x"),
        (DirectResponse(302), {"location": "http://h.test/d?q=1", "content-length": "0"}, b""),
        (DirectResponse(304), {"location": "http://h.test/d?q=1"}, b""),
        (DirectResponse(204), {}, b""),
    ],
)  # fmt: skip
def test_direct_response(action: DirectResponse, headers: dict[str, str], body: bytes) -> None:
    answer = reply(action, path="/d?q=1")
    assert (answer.status, dict(answer.headers), answer.body) == (action.status, headers, body)


def test_head_gets_the_length_and_no_body() -> None:
    answer = reply(DirectResponse(200, b"hi"), method="HEAD")
    assert (answer.headers.get("content-length"), answer.body) == ("2", b"")


def test_response_edits_apply_before_the_framing_headers() -> None:
    edits = operations(
        ("content-type", "foo/bar", "overwrite"),
        ("content-length", "77", "overwrite"),
        ("x-r", "%RESPONSE_CODE%|%REQ(x-q)%|%RESP(content-type)%|%UPSTREAM_CLUSTER%"),
    )
    compiled = route_of(
        DirectResponse(200, b"hello"),
        response_headers=edits,
        host_response_headers=operations(("x-vh", "1")),
    )
    answer = compiled.local_reply(head("/", [("x-q", "qq")]))
    assert answer is not None
    assert dict(answer.headers) == {
        "content-type": "foo/bar",
        "x-r": "0|qq||",
        "x-vh": "1",
        "content-length": "5",
    }


def test_response_edits_may_change_the_location() -> None:
    edits = operations(("location", "/z", "overwrite"), ("x-loc", "%RESP(location)%"))
    answer = route_of(RedirectAction(path="/n"), response_headers=edits).local_reply(head("/?q"))
    assert answer is not None
    assert answer.headers.get_all("location") == ["/z"]
    assert answer.headers.get("x-loc") == "http://h.test/n?q"


def test_failures_are_edited_like_responses() -> None:
    """A 503 of Envoy's own carries the route's response headers, too."""
    compiled = route_of(
        to(), response_headers=operations(("x-c", "%RESPONSE_CODE% %UPSTREAM_CLUSTER%"))
    )
    for method, body in (("GET", b"no healthy upstream"), ("HEAD", b"")):
        answer = LocalReply(503, HeaderMap([]), b"no healthy upstream")
        compiled.edit_local_reply(answer, head(method=method), WeightedCluster("a"))
        assert answer.body == body
        assert dict(answer.headers) == {
            "x-c": "0 a",
            "content-type": "text/plain",
            "content-length": "19",
        }


def test_request_edits_do_not_run_for_local_answers() -> None:
    compiled = route_of(
        DirectResponse(200),
        request_headers=operations(("x-z", "1")),
        response_headers=operations(("x-r", "%REQ(x-z)%|")),
    )
    answer = compiled.local_reply(head())
    assert answer is not None
    assert answer.headers.get("x-r") == "|"


def test_forwarding_routes_answer_nothing() -> None:
    assert route_of(to()).local_reply(head()) is None


def test_forward_of_a_local_answer_is_empty() -> None:
    compiled = route_of(DirectResponse(200))
    assert compiled.forward.clusters == ()
    assert repr(route_of(to(), name="r1")) == "<CompiledRoute r1>"
    assert repr(compiled) == "<CompiledRoute unnamed>"
