"""Matches of VirtualService routes, seen through the routes they make."""

from __future__ import annotations

import pytest
from istio_yaml import Result, service, translate, virtual_service

from meshclient.model.matching import (
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
)


def load(match: str, **caller: object) -> Result:
    entries = (
        f"[{{name: one, match: [{match}], route: [{{destination: {{host: a}}}}]}},"
        " {name: two, route: [{destination: {host: a}}]}]"
    )
    return translate(service("a"), virtual_service("vs", "[a]", entries), **caller)  # type: ignore[arg-type]


def exact(text: str) -> StringMatch:
    return StringMatch("exact", text)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("{uri: {prefix: /foo}}", RouteMatch(PathMatch("prefix", "/foo"))),
        ("{uri: {exact: /foo}}", RouteMatch(PathMatch("exact", "/foo"))),
        ("{uri: {regex: '/v[0-9]+'}}", RouteMatch(PathMatch("regex", "/v[0-9]+"))),
        (
            "{uri: {prefix: /Foo}, ignoreUriCase: true}",
            RouteMatch(PathMatch("prefix", "/Foo", ignore_case=True)),
        ),
        ("{method: {exact: GET}}", RouteMatch(headers=(HeaderMatch(":method", exact("GET")),))),
        (
            "{authority: {prefix: a.}, scheme: {exact: https}}",
            RouteMatch(
                headers=(
                    HeaderMatch(":authority", StringMatch("prefix", "a.")),
                    HeaderMatch(":scheme", exact("https")),
                )
            ),
        ),
        (
            "{headers: {b: {exact: x}, a: {}, c: null, d: {regex: '*'}}}",
            RouteMatch(
                headers=(
                    HeaderMatch("a"),
                    HeaderMatch("b", exact("x")),
                    HeaderMatch("c"),
                    HeaderMatch("d"),
                )
            ),
        ),
        (
            "{withoutHeaders: {a: {exact: x}, b: {}}}",
            RouteMatch(
                headers=(
                    HeaderMatch("a", exact("x"), invert=True, treat_missing_as_empty=True),
                    HeaderMatch("b", invert=True),
                )
            ),
        ),
        (
            "{queryParams: {q: {exact: '1'}, p: {}}}",
            RouteMatch(query=(QueryMatch("p"), QueryMatch("q", exact("1"), present=False))),
        ),
    ],
)
def test_conditions(match: str, expected: RouteMatch) -> None:
    made = load(match)
    assert made.errors == []
    route = made.route("a")
    assert route.name == "one"
    assert route.match == expected


def test_entries_are_alternatives_and_the_name_is_joined() -> None:
    made = load("{name: x, uri: {exact: /a}}, {name: y, uri: {exact: /b}}")
    assert [r.name for r in made.host("a").routes] == ["one.x", "one.y", "two"]


@pytest.mark.parametrize("uri", ["{uri: {prefix: /}}", "{uri: {regex: '.*'}}", "{}"])
def test_a_match_of_everything_ends_the_list(uri: str) -> None:
    assert [r.name for r in load(uri).host("a").routes] == ["one"]


def test_source_conditions_are_decided_for_this_caller() -> None:
    match = "{uri: {prefix: /x}, sourceLabels: {app: web}, sourceNamespace: default}"
    assert load(match, labels={"app": "web", "v": "1"}).route("a").name == "one"
    assert load(match, labels={"app": "api"}).route("a").name == "two"
    other = load("{uri: {prefix: /x}, sourceNamespace: prod}")
    assert other.route("a").name == "two"


def test_gateways_hide_the_source_conditions() -> None:
    made = load("{uri: {prefix: /x}, gateways: [mesh], sourceLabels: {app: other}}")
    assert made.route("a").name == "one"
    assert "hidden-source-match" in made.codes()
    assert load("{uri: {prefix: /x}, gateways: [gw]}").route("a").name == "two"


def test_the_dialled_port_is_compared() -> None:
    assert load("{uri: {prefix: /x}, port: 80}").route("a").name == "one"
    assert load("{uri: {prefix: /x}, port: 81}").route("a").name == "two"


def test_headers_named_like_fields_are_ignored_with_a_warning() -> None:
    made = load("{headers: {method: {exact: GET}, x: {exact: y}}}")
    assert made.route("a").match.headers == (HeaderMatch("x", exact("y")),)
    assert "ignored-header" in made.codes()


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("{headers: {x: {prefix: ''}}}", "prefix string match should not be empty"),
        ("{headers: {X-A: {exact: a}}}", "lower case"),
        ("{uri: {regex: '(('}}", "invalid regex"),
        ("{uri: {regex: '" + "a" * 1025 + "'}}", "longer than 1024"),
        ("{uri: {exact: /a, prefix: /b}}", "only one of exact, prefix and regex"),
        ("{uri: {suffix: /a}}", 'unknown field "suffix"'),
        ("{url: {exact: /a}}", 'unknown field "url"'),
        ("{port: 70000}", "70000 is more than 65535"),
        ("{uri: /a}", "expected a mapping"),
    ],
)
def test_bad_matches_are_errors(match: str, message: str) -> None:
    assert any(message in text for text in load(match).errors)


def test_an_empty_uri_prefix_is_allowed() -> None:
    made = load("{uri: {prefix: ''}}")
    assert made.errors == []
    assert made.route("a").match == RouteMatch(PathMatch("prefix", ""))
