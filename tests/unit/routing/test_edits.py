"""Header edits: actions, order inside a scope, order of scopes. As seen on Envoy 1.40."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routing_support import Pairs, head, host_of, operations, route_of, to

from meshclient.model.format_string import FormatError
from meshclient.model.headers import HeaderMap
from meshclient.model.routes import HeaderChange, HeaderOperations, Route, WeightedCluster


def edited(edits: HeaderOperations, headers: Pairs, path: str = "/e?q=1") -> Pairs:
    request = head(path, headers)
    route_of(to(), request_headers=edits, name="rn").edit_request(request, WeightedCluster("a"))
    return list(request.headers)


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        ([("x-a", "1"), ("x-a", "2")], [("X-A", "0")], [("X-A", "0"), ("x-a", "1"), ("x-a", "2")]),
        ([("X-A", "n", "overwrite")], [("x-a", "1"), ("b", "2"), ("x-a", "3")],
         [("b", "2"), ("x-a", "n")]),
        ([("x-a", "n", "overwrite")], [], [("x-a", "n")]),
        ([("x-a", "n", "overwrite"), ("x-a", "m", "overwrite")], [], [("x-a", "m")]),
        ([("x-a", "n", "overwrite_if_exists")], [], []),
        ([("x-a", "a", "overwrite_if_exists"), ("x-a", "b", "overwrite_if_exists")],
         [("x-a", "0"), ("x-a", "1")], [("x-a", "b")]),
        ([("x-a", "n", "add_if_absent")], [("x-a", "0")], [("x-a", "0")]),
        ([("x-i", "1", "add_if_absent"), ("x-i", "2", "add_if_absent")], [],
         [("x-i", "1"), ("x-i", "2")]),
        ([("x-g", "1"), ("x-g", "2", "overwrite")], [], [("x-g", "2"), ("x-g", "1")]),
        ([("x-k", "")], [], []),
        ([("x-k", "", "overwrite")], [("x-k", "0")], [("x-k", "0")]),
        ([("x-k", "%REQ(x-no)%", "overwrite")], [("x-k", "0")], [("x-k", "0")]),
        ([HeaderChange("x-k", "", "overwrite", True)], [("x-k", "0")], [("x-k", "")]),
        ([HeaderChange("x-k", "%REQ(x-no)%", "append", True)], [], [("x-k", "")]),
        ([("x-s", "%REQ(x-a)%"), ("x-a", "1")], [], [("x-a", "1")]),
        ([("x-s", "%REQ(:path)% %ROUTE_NAME% %UPSTREAM_CLUSTER% %RESPONSE_CODE%")], [],
         [("x-s", "/e?q=1 rn a 0")]),
        ([(":path", "/z"), ("host", "z"), ("Host", "z", "overwrite")], [], []),
    ],
)  # fmt: skip
def test_changes(changes: list[tuple[str, str]], before: Pairs, after: Pairs) -> None:
    assert edited(operations(*changes), before) == after


def test_removals_come_first_and_formatters_see_them() -> None:
    edits = operations(("x-r", "new"), ("x-n", "%REQ(x-r)%|"), remove=("X-R", ":path", "host"))
    assert edited(edits, [("x-r", "o"), ("x-r", "p"), ("Host", "h")]) == [
        ("Host", "h"),
        ("x-r", "new"),
        ("x-n", "|"),
    ]


def marker(scope: str) -> HeaderOperations:
    return operations(("x-o", f"{scope}%REQ(x-o)%", "overwrite"))


def response_marker(scope: str) -> HeaderOperations:
    return operations(("x-o", f"{scope}%RESP(x-o)%", "overwrite"))


@pytest.mark.parametrize(("most_specific_wins", "result"), [(False, "cvrw0"), (True, "rvcw0")])
def test_order_of_scopes(most_specific_wins: bool, result: str) -> None:
    """Each scope puts its letter in front; the weighted cluster is always first."""
    weighted = WeightedCluster(
        "b", request_headers=marker("w"), response_headers=response_marker("w")
    )
    compiled = host_of(
        Route(to(weighted), request_headers=marker("r"), response_headers=response_marker("r")),
        request_headers=marker("v"),
        response_headers=response_marker("v"),
        config_request_headers=marker("c"),
        config_response_headers=response_marker("c"),
        config_most_specific_wins=most_specific_wins,
    ).routes[0]
    request = head("/", [("x-o", "0")])
    compiled.edit_request(request, weighted)
    assert request.headers.get_all("x-o") == [result]
    response = HeaderMap.of([("x-o", "0")])
    compiled.edit_response(response, request, weighted, 200)
    assert response.get_all("x-o") == [result]


def test_edits_of_the_cluster_that_was_picked() -> None:
    a = WeightedCluster("a", request_headers=operations(("x-c", "a")))
    b = WeightedCluster("b", response_headers=operations(("x-c", "b")))
    compiled = route_of(to(a, b))
    request = head()
    compiled.edit_request(request, b)
    assert "x-c" not in request.headers
    compiled.edit_request(request, WeightedCluster("a", request_headers=a.request_headers))
    assert request.headers.get("x-c") == "a"
    response = HeaderMap([])
    compiled.edit_response(response, request, a, 200)
    assert list(response) == []
    compiled.edit_response(response, request, b, 200)
    assert list(response) == [("x-c", "b")]


def test_response_edits_see_the_request_as_sent_and_the_response() -> None:
    edits = operations(
        ("x-c", "%RESPONSE_CODE% %RESP(x-up)% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %REQ(:path)%")
    )
    compiled = route_of(to(), response_headers=edits)
    response = HeaderMap.of([("x-up", "1")])
    compiled.edit_response(response, head("/new"), WeightedCluster("a"), 200, "127.0.0.1:80")
    assert response.get("x-c") == "200 1 127.0.0.1:80 a /new"


def test_flags_tell_the_driver_what_to_skip() -> None:
    plain = route_of(to())
    assert not plain.has_request_edits
    assert not plain.has_response_edits
    request_only = route_of(to(), host_request_headers=operations(remove=("x",)))
    assert request_only.has_request_edits
    assert not request_only.has_response_edits
    weighted = WeightedCluster("a", response_headers=operations(("x", "1")))
    assert route_of(to(weighted)).has_response_edits
    assert not route_of(to(weighted)).has_request_edits
    assert route_of(to(WeightedCluster("a", host_rewrite="h"))).has_request_edits
    assert not route_of(to(), request_headers=operations(("host", "x"))).has_request_edits


def test_wall_clock_feeds_start_time() -> None:
    from meshclient.model.routes import RouteConfiguration, VirtualHost
    from meshclient.routing import RouteTable

    route = Route(to(), request_headers=operations(("x-t", "%START_TIME(%s)%")))
    configuration = RouteConfiguration("rc", (VirtualHost("v", ("*",), (route,)),))
    for clock, expected in ((lambda: 1795223891.5, "1795223891"), (None, None)):
        host = RouteTable(configuration, wall_clock=clock).find_host("h")
        assert host is not None
        request = head()
        host.routes[0].edit_request(request, None)
        assert request.headers.get("x-t") == expected


def test_bad_format_is_refused_when_compiled() -> None:
    with pytest.raises(FormatError, match="unknown command"):
        route_of(to(), request_headers=operations(("x", "%NOPE%")))


def test_the_callers_list_is_never_changed() -> None:
    raw = [(b"x-a", b"1")]
    request = head()
    request.headers = HeaderMap(raw)
    route_of(to(), request_headers=operations(("x-b", "2"), remove=("x-a",))).edit_request(
        request, None
    )
    assert raw == [(b"x-a", b"1")]
    assert list(request.headers) == [("x-b", "2")]


NAMES = st.sampled_from(["x-a", "x-b", "x-c"])
CHANGES = st.builds(
    HeaderChange,
    NAMES,
    st.sampled_from(["", "1", "2", "%REQ(x-a)%", "<%REQ(x-b)%>"]),
    st.sampled_from(["append", "overwrite", "add_if_absent", "overwrite_if_exists"]),
    st.booleans(),
)


def model(edits: HeaderOperations, headers: Pairs) -> Pairs:
    """The rules of header_parser.cc, one step after the other."""
    headers = [pair for pair in headers if pair[0] not in edits.remove]
    first = dict(reversed(headers))
    overwrites, appends = [], []
    for change in edits.changes:
        value = change.value.replace("%REQ(x-a)%", first.get("x-a", ""))
        value = value.replace("%REQ(x-b)%", first.get("x-b", ""))
        if not value and not change.keep_empty:
            continue
        if change.action == "append" or (
            change.action == "add_if_absent" and change.name not in first
        ):
            appends.append((change.name, value))
        elif change.action == "overwrite" or (
            change.action == "overwrite_if_exists" and change.name in first
        ):
            overwrites.append((change.name, value))
    for name, value in overwrites:
        headers = [pair for pair in headers if pair[0] != name] + [(name, value)]
    return headers + appends


@given(
    st.builds(
        HeaderOperations,
        st.lists(NAMES, max_size=2).map(tuple),
        st.lists(CHANGES, max_size=6).map(tuple),
    ),
    st.lists(st.tuples(NAMES, st.sampled_from(["0", ""])), max_size=5),
)
def test_edits_equal_the_plain_rules(edits: HeaderOperations, headers: Pairs) -> None:
    """Compared per name: Envoy gives no order between different names."""
    found, expected = edited(edits, headers), model(edits, headers)
    for name in ("x-a", "x-b", "x-c"):
        assert [v for n, v in found if n == name] == [v for n, v in expected if n == name]
