"""What routes do: rewrite, redirect, direct response, headers, fault, mirror."""

from __future__ import annotations

import pytest
from istio_yaml import Result, service, translate, virtual_service

from meshclient.model.matching import Fraction, PathMatch
from meshclient.model.routes import (
    DirectResponse,
    Fault,
    HeaderChange,
    HeaderOperations,
    HostRewrite,
    Mirror,
    PathRewrite,
    RedirectAction,
    Route,
)

_A = "a.default.svc.cluster.local"


def load(entry: str, port: int = 80) -> Result:
    ports = f"[{{port: {port}, name: http}}]"
    return translate(
        service("a", ports=ports), service("b"), virtual_service("vs", "[a]", f"[{{{entry}}}]")
    )


def route(entry: str, port: int = 80) -> Route:
    made = load(entry, port)
    assert made.errors == []
    return made.route("a", port)


_TO_A = "route: [{destination: {host: a}}]"


def test_timeout_absent_or_zero_is_none() -> None:
    assert route(_TO_A).action.timeout_s is None
    assert route(f"{_TO_A}, timeout: 0s").action.timeout_s is None
    assert route(f"{_TO_A}, timeout: 1.5s").action.timeout_s == 1.5


@pytest.mark.parametrize(
    ("rewrite", "path", "host"),
    [
        ("{uri: /b}", PathRewrite("prefix", "/b"), None),
        ("{authority: b.test}", None, HostRewrite("literal", "b.test")),
        (
            "{uriRegexRewrite: {match: '/a/(.*)', rewrite: '/b/\\1'}}",
            PathRewrite("regex", "/b/\\1", "/a/(.*)"),
            None,
        ),
    ],
)
def test_rewrite(rewrite: str, path: PathRewrite | None, host: HostRewrite | None) -> None:
    action = route(f"{_TO_A}, rewrite: {rewrite}").action
    assert (action.path_rewrite, action.host_rewrite) == (path, host)


def test_a_prefix_rewrite_without_a_uri_replaces_the_leading_slash() -> None:
    assert route(f"{_TO_A}, rewrite: {{uri: /b}}").match.path == PathMatch("prefix", "/")


@pytest.mark.parametrize(
    ("redirect", "port", "expected"),
    [
        ("{uri: /x}", 80, RedirectAction(301, path="/x")),
        ("{authority: b, redirectCode: 308}", 80, RedirectAction(308, host="b")),
        ("{scheme: https, port: 443}", 80, RedirectAction(301, scheme="https")),
        ("{scheme: https, port: 8443}", 80, RedirectAction(301, scheme="https", port=8443)),
        ("{port: 80}", 80, RedirectAction(301)),
        ("{port: 443}", 80, RedirectAction(301, port=443)),
        ("{derivePort: FROM_REQUEST_PORT}", 8080, RedirectAction(301, port=8080)),
        ("{derivePort: FROM_REQUEST_PORT}", 80, RedirectAction(301)),
        ("{derivePort: FROM_PROTOCOL_DEFAULT}", 8080, RedirectAction(301)),
        ("{prefixRewrite: /n}", 80, RedirectAction(301, path_rewrite=PathRewrite("prefix", "/n"))),
    ],
)
def test_redirect(redirect: str, port: int, expected: RedirectAction) -> None:
    assert route(f"redirect: {redirect}", port).action == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", DirectResponse(503)),
        (", body: {string: hällo}", DirectResponse(503, "hällo".encode())),
        (", body: {bytes: aGk=}", DirectResponse(503, b"hi")),
    ],
)
def test_direct_response(body: str, expected: DirectResponse) -> None:
    assert route(f"directResponse: {{status: 503{body}}}").action == expected


def test_headers_of_a_single_destination_follow_the_route_s() -> None:
    made = route(
        "headers: {request: {set: {x: '1'}, add: {y: '2'}, remove: [z]}},"
        " route: [{destination: {host: a}, headers:"
        " {request: {set: {x: '3'}}, response: {add: {r: '4'}, remove: [s]}}}]"
    )
    assert made.request_headers == HeaderOperations(
        ("z",),
        (
            HeaderChange("x", "1", "overwrite"),
            HeaderChange("y", "2", "append"),
            HeaderChange("x", "3", "overwrite"),
        ),
    )
    assert made.response_headers == HeaderOperations(("s",), (HeaderChange("r", "4", "append"),))


def test_headers_of_a_split_stay_with_each_destination() -> None:
    made = route(
        "route: [{destination: {host: a}, weight: 1, headers: {request: {set: {x: '1', Host: h}}}},"
        " {destination: {host: b}, weight: 1}]"
    )
    first, second = made.action.clusters
    assert first.request_headers.changes == (HeaderChange("x", "1", "overwrite"),)
    assert (first.host_rewrite, second.host_rewrite) == ("h", "")
    assert not second.request_headers
    assert not made.request_headers


@pytest.mark.parametrize(
    ("entry", "authority"),
    [
        (f"headers: {{request: {{set: {{':authority': s}}}}}}, {_TO_A}", "s"),
        (f"headers: {{request: {{add: {{host: d}}}}}}, {_TO_A}", "d"),
        (f"headers: {{request: {{set: {{Host: s}}}}}}, rewrite: {{authority: r}}, {_TO_A}", "r"),
        (
            "headers: {request: {set: {host: s}}},"
            " route: [{destination: {host: a}, headers: {request: {set: {host: t}}}}]",
            "s",
        ),
        ("route: [{destination: {host: a}, headers: {request: {set: {host: t}}}}]", "t"),
    ],
)
def test_who_decides_on_the_authority(entry: str, authority: str) -> None:
    made = route(entry)
    assert made.action.host_rewrite == HostRewrite("literal", authority)
    assert not made.request_headers


def test_pseudo_headers_are_left_out() -> None:
    made = route(f"headers: {{request: {{set: {{':path': /x, a: b}}}}}}, {_TO_A}")
    assert made.request_headers.changes == (HeaderChange("a", "b", "overwrite"),)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            "{delay: {fixedDelay: 5s, percentage: {value: 0.1}}}",
            Fault(5.0, Fraction(1000, 1_000_000)),
        ),
        (
            "{abort: {httpStatus: 555, percentage: {value: 100}}}",
            Fault(abort_status=555, abort_fraction=Fraction(1_000_000, 1_000_000)),
        ),
        (
            "{abort: {grpcStatus: UNAVAILABLE, percentage: {value: 50}}}",
            Fault(abort_grpc_status=14, abort_fraction=Fraction(500_000, 1_000_000)),
        ),
        ("{delay: {fixedDelay: 5s, percent: 10}}", Fault(5.0, Fraction(10))),
        ("{abort: {httpStatus: 500}}", Fault(abort_status=500)),
    ],
)
def test_faults_are_read(fault: str, expected: Fault) -> None:
    made = route(f"fault: {fault}, {_TO_A}")
    assert made.fault == expected
    assert made.not_honoured == ()


def test_a_fault_without_percentage_is_named() -> None:
    assert "fault-never-fires" in load(f"fault: {{abort: {{httpStatus: 500}}}}, {_TO_A}").codes()


_B = "outbound|80||b.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        ("mirror: {host: b}", (Mirror(_B, Fraction(100)),)),
        (
            "mirror: {host: b}, mirrorPercentage: {value: 12.5}",
            (Mirror(_B, Fraction(125_000, 1_000_000)),),
        ),
        ("mirror: {host: b}, mirrorPercentage: {value: 0}", ()),
        ("mirror: {host: b}, mirror_percent: 5", (Mirror(_B, Fraction(5)),)),
        (
            "mirrors: [{destination: {host: b}}, {destination: {host: b}, percentage: {value: 0}}]",
            (Mirror(_B, Fraction(100)),),
        ),
    ],
)
def test_mirrors_are_kept(mirror: str, expected: tuple[Mirror, ...]) -> None:
    made = route(f"{mirror}, {_TO_A}")
    assert made.action.mirrors == expected
    assert made.not_honoured == ()


def test_cors_is_noted() -> None:
    made = route(f"corsPolicy: {{allowOrigins: [{{exact: x}}]}}, {_TO_A}")
    assert "corsPolicy" in made.not_honoured[0].message


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("name: x", "HTTP route, redirect or direct_response is required"),
        ("route: []", "HTTP route, redirect or direct_response is required"),
        (f"redirect: {{uri: /x}}, {_TO_A}", "cannot contain both route and redirect"),
        ("redirect: {uri: /x}, rewrite: {uri: /y}", "cannot contain both rewrite and redirect"),
        (
            f"directResponse: {{status: 200}}, {_TO_A}",
            "cannot contain both route and direct_response",
        ),
        ("directResponse: {status: 99}", "99 is less than 200"),
        ("directResponse: {status: 200, body: {bytes: '#'}}", "not base64"),
        ("redirect: {redirectCode: 200}", "200 is not a valid redirect code, must be 3xx"),
        ("redirect: {redirectCode: 304}", "Istio makes no redirect of 304"),
        ("redirect: {port: 1, derivePort: FROM_REQUEST_PORT}", "only one of port and derivePort"),
        (
            f"rewrite: {{uri: /x, uriRegexRewrite: {{match: a, rewrite: b}}}}, {_TO_A}",
            "rewrite may only contain one of URI or UriRegexRewrite",
        ),
        (f"rewrite: {{}}, {_TO_A}", "rewrite must specify path, host, or both"),
        ("route: [{destination: {host: a}, weight: -1}]", "weight -1 < 0"),
        (
            "route: [{destination: {host: a}}, {destination: {host: b}}]",
            "total destination weight = 0",
        ),
        ("route: [{weight: 1}]", "destination is missing"),
        ("route: [{destination: {subset: v1}}]", "host is missing"),
        ("route: [{destination: {host: '*.a'}}]", "cannot be a wildcard"),
        (f"mirror: {{host: b}}, mirrors: [], {_TO_A}", "cannot contain both mirror and mirrors"),
        (
            f"mirror: {{host: b}}, mirrorPercentage: {{value: 101}}, {_TO_A}",
            "neither 0.0, nor in range [0.0001, 100.0]",
        ),
        (f"fault: {{}}, {_TO_A}", "must have an abort and/or a delay"),
        (f"fault: {{abort: {{grpcStatus: NOPE}}}}, {_TO_A}", 'gRPC status "NOPE"'),
        (f"fault: {{delay: {{exponentialDelay: 1s}}}}, {_TO_A}", "exponentialDelay not supported"),
        (f"fault: {{abort: {{http2Error: X}}}}, {_TO_A}", "http2Error is not supported"),
        (f"headers: {{response: {{set: {{host: x}}}}}}, {_TO_A}", "cannot set Host header"),
        (f"headers: {{request: {{remove: [Host]}}}}, {_TO_A}", "cannot set Host header"),
        (
            f"headers: {{request: {{set: {{host: x}}, add: {{':authority': y}}}}}}, {_TO_A}",
            "the authority is set twice",
        ),
        (f"headers: {{request: {{set: {{'a b': x}}}}}}, {_TO_A}", "not a header name"),
        (f"headers: {{request: {{set: {{a: '%NOPE'}}}}}}, {_TO_A}", "invalid header value"),
        (f"timeouts: 1s, {_TO_A}", 'unknown field "timeouts"'),
        (f"timeout: 5, {_TO_A}", "expected a duration"),
        ("delegate: {name: x}, redirect: {uri: /}", "cannot contain route or redirect"),
        ("delegate: {namespace: x}", "name is missing"),
    ],
)
def test_what_validation_refuses(entry: str, message: str) -> None:
    errors = load(entry).errors
    assert any(message in text for text in errors), errors
