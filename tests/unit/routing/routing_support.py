"""Short ways to build routes and requests for the routing tests."""

from __future__ import annotations

from typing import Any, Literal

from meshclient.model.headers import HeaderMap
from meshclient.model.matching import HeaderMatch, PathMatch, RouteMatch, StringMatch
from meshclient.model.request import RequestHead
from meshclient.model.routes import (
    Action,
    ForwardAction,
    HeaderChange,
    HeaderOperations,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)
from meshclient.routing import CompiledHost, CompiledRoute, RouteTable

Pairs = list[tuple[str, str]]


def head(
    path: str = "/", headers: Pairs | None = None, authority: str = "h.test", method: str = "GET",
    scheme: str = "http",
) -> RequestHead:  # fmt: skip
    return RequestHead(method, scheme, authority, 80, path, HeaderMap.of(headers or []))


def text(kind: Any, value: str, ignore_case: bool = False) -> StringMatch:
    return StringMatch(kind, value, ignore_case)


def exact(name: str, value: str, **options: Any) -> HeaderMatch:
    return HeaderMatch(name, text("exact", value), **options)


def path(kind: Any, value: str, ignore_case: bool = False) -> PathMatch:
    return PathMatch(kind, value, ignore_case)


def to(*clusters: WeightedCluster, **options: Any) -> ForwardAction:
    return ForwardAction(clusters=clusters or (WeightedCluster("a"),), **options)


def host_of(*routes: Route, **options: Any) -> CompiledHost:
    """The compiled form of one virtual host for every authority."""
    fields = ("request_headers", "response_headers", "most_specific_wins")
    outer = {f"{k}": options.pop(f"config_{k}") for k in fields if f"config_{k}" in options}
    virtual_host = VirtualHost("v", ("*",), routes, **options)
    compiled = RouteTable(RouteConfiguration("rc", (virtual_host,), **outer)).find_host("h.test")
    assert compiled is not None
    return compiled


def route_of(action: Action, match: RouteMatch | None = None, **options: Any) -> CompiledRoute:
    """One compiled route; options as of Route, or of the host when named ``host_*``."""
    host = {k.removeprefix("host_"): options.pop(k) for k in list(options) if k.startswith("host_")}
    route = Route(action, match or RouteMatch(path=path("prefix", "/")), **options)
    return host_of(route, **host).routes[0]


ActionName = Literal["append", "overwrite", "add_if_absent", "overwrite_if_exists"]


def operations(
    *changes: tuple[str, str] | tuple[str, str, str] | HeaderChange, remove: tuple[str, ...] = ()
) -> HeaderOperations:
    built = tuple(c if isinstance(c, HeaderChange) else HeaderChange(*c) for c in changes)  # type: ignore[arg-type]
    return HeaderOperations(remove, built)
