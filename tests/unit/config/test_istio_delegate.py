"""Delegation: the child's routes under the root's conditions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from istio_yaml import Result, service, targets, translate, virtual_service

from meshclient.config.istio_delegate import in_conflict, merge_match, merge_matches
from meshclient.config.istio_match import HttpMatch
from meshclient.model.matching import StringMatch
from meshclient.model.source import UNKNOWN_SOURCE


def match(**fields: object) -> HttpMatch:
    return HttpMatch(UNKNOWN_SOURCE, **fields)  # type: ignore[arg-type]


def prefix(text: str) -> StringMatch:
    return StringMatch("prefix", text)


def exact(text: str) -> StringMatch:
    return StringMatch("exact", text)


def regex(text: str) -> StringMatch:
    return StringMatch("regex", text)


@pytest.mark.parametrize(
    ("root", "child", "conflict"),
    [
        (match(uri=prefix("/a")), match(uri=prefix("/a/b")), False),
        (match(uri=prefix("/a")), match(uri=exact("/a/b")), False),
        (match(uri=prefix("/a")), match(uri=prefix("/b")), True),
        (match(uri=exact("/a")), match(uri=prefix("/a")), True),
        (match(uri=exact("/a")), match(uri=exact("/a")), False),
        (match(uri=exact("/a")), match(uri=exact("/b")), True),
        (match(uri=regex("/a.*")), match(uri=prefix("/a")), True),
        (match(uri=prefix("/a")), match(uri=regex("/a.*")), True),
        (match(uri=regex("/a.*")), match(), False),
        (match(), match(uri=regex("/a.*")), False),
        (
            match(uri=prefix("/a"), ignore_uri_case=True),
            match(uri=prefix("/a")),
            True,
        ),
        (match(port=80), match(port=81), True),
        (match(port=80), match(), False),
        (match(source_namespace="a"), match(source_namespace="b"), True),
        (match(source_namespace="a"), match(), False),
        (match(), match(source_namespace="b"), False),
        (match(source_labels=(("a", "1"),)), match(source_labels=(("a", "2"),)), True),
        (match(source_labels=(("a", "1"),)), match(source_labels=(("b", "2"),)), False),
        (match(gateways=("mesh",)), match(gateways=("gw",)), True),
        (match(gateways=("mesh", "gw")), match(gateways=("gw",)), False),
        (match(headers=(("h", exact("1")),)), match(headers=(("h", exact("2")),)), True),
        (match(headers=(("h", exact("1")),)), match(headers=(("i", exact("2")),)), False),
        (match(query=(("q", prefix("1")),)), match(query=(("q", exact("12")),)), False),
        (match(method=exact("GET")), match(method=exact("POST")), True),
    ],
)
def test_conflicts(root: HttpMatch, child: HttpMatch, conflict: bool) -> None:
    assert in_conflict(root, child) is conflict


def test_both_conditions_hold_in_the_merged_match() -> None:
    merged = merge_match(
        match(name="r", uri=prefix("/a"), headers=(("h", exact("1")),), port=80),
        match(name="c", uri=prefix("/a/b"), headers=(("i", None),)),
    )
    assert merged == match(
        name="r-c",
        uri=prefix("/a/b"),
        headers=(("h", exact("1")), ("i", None)),
        port=80,
    )


def test_matches_are_crossed_without_the_pairs_in_conflict() -> None:
    roots = (match(uri=prefix("/a")), match(uri=prefix("/b")))
    children = (match(uri=exact("/a/1")), match(uri=exact("/b/1")), match(uri=exact("/c")))
    merged = merge_matches(roots, children)
    assert merged is not None
    assert [m.uri for m in merged] == [exact("/a/1"), exact("/b/1")]
    assert merge_matches(roots, (match(uri=exact("/c")),)) is None
    assert merge_matches((), children) == children
    assert merge_matches(roots, ()) == roots


_paths = st.text("ab", max_size=3).map(lambda text: "/" + text)
_uris = st.one_of(st.none(), st.builds(StringMatch, st.sampled_from(["exact", "prefix"]), _paths))


def _holds(condition: StringMatch | None, path: str) -> bool:
    if condition is None:
        return True
    if condition.kind == "exact":
        return path == condition.value
    return path.startswith(condition.value)


@given(_uris, _uris, _paths)
def test_a_merged_match_never_asks_for_less_than_both(
    root: StringMatch | None, child: StringMatch | None, path: str
) -> None:
    one, two = match(uri=root), match(uri=child)
    if not in_conflict(one, two):
        merged = merge_match(one, two)
        assert _holds(merged.uri, path) == (_holds(root, path) and _holds(child, path))


def _delegate(name: str, http: str, namespace: str = "default", more: str = "") -> str:
    text = virtual_service(name, "[]", http, namespace, more)
    return text.replace("hosts: [], ", "")


def _load(root: str, *delegates: str) -> Result:
    return translate(service("a"), virtual_service("root", "[a]", root), *delegates)


_ROOT = (
    "[{name: r, match: [{uri: {prefix: /x}}], timeout: 3s, delegate: {name: child}},"
    " {route: [{destination: {host: a}}]}]"
)


def test_the_child_s_routes_stand_where_the_root_delegates() -> None:
    child = _delegate(
        "child",
        "[{name: c, match: [{uri: {exact: /x/1}}], route: [{destination: {host: one.test}}]},"
        " {match: [{uri: {prefix: /y}}], route: [{destination: {host: two.test}}]},"
        " {timeout: 1s, route: [{destination: {host: three.test}}]}]",
    )
    made = _load(_ROOT, child)
    host = made.host("a")
    assert host is not None
    assert [targets(r) for r in host.routes] == [
        {"80||one.test": 1},
        {"80||three.test": 1},
        {"80||a.default.svc.cluster.local": 1},
    ]
    assert [r.action.timeout_s for r in host.routes] == [3.0, 1.0, None]
    assert [r.name for r in host.routes] == ["r-c", "r", ""]


def test_a_missing_or_hidden_delegate_drops_only_its_route() -> None:
    assert len(_load(_ROOT).host("a").routes) == 1
    assert "IST0101" in _load(_ROOT).codes()
    hidden = _delegate("child", "[{route: [{destination: {host: a}}]}]", "other", 'exportTo: ["."]')
    root = _ROOT.replace("{name: child}", "{name: child, namespace: other}")
    assert len(_load(root, hidden).host("a").routes) == 1


@pytest.mark.parametrize(
    ("http", "more", "message"),
    [
        ("[{delegate: {name: x}}]", "", "cannot contain delegate"),
        ("[{route: [{destination: {host: a}}]}]", "gateways: [gw]", "no gateways"),
        (
            "[{route: [{destination: {host: a}}]}]",
            "tcp: [{route: [{destination: {host: a}}]}]",
            "no tcp or tls routes",
        ),
    ],
)
def test_what_a_delegate_may_not_have(http: str, more: str, message: str) -> None:
    errors = _load(_ROOT, _delegate("child", http, more=more)).errors
    assert any(message in text for text in errors), errors
