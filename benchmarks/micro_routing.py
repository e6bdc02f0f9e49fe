"""Microseconds per routing decision (``find_host`` and ``find_route``).

Run: ``python benchmarks/micro_routing.py``. Prints the best of several rounds
per table shape, and the plain scan over the same routes for comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from meshclient.model.headers import HeaderMap
from meshclient.model.matching import HeaderMatch, PathMatch, RouteMatch, StringMatch
from meshclient.model.request import RequestHead
from meshclient.model.routes import (
    ForwardAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)
from meshclient.routing import RouteTable
from meshclient.routing.match import compile_conditions, path_test
from meshclient.routing.view import RequestView, ViewTest

Tests = list[ViewTest]

ROUNDS, CALLS, SIZE = 7, 4000, 1000
ACTION = ForwardAction(clusters=(WeightedCluster("c"),))
RAW = [
    (b"Host", b"h500.mesh"),
    (b"Accept", b"*/*"),
    (b"User-Agent", b"bench"),
    (b"x-tenant", b"t500"),
]


def route(match: RouteMatch) -> Route:
    return Route(ACTION, match)


def path(kind: str, value: str) -> Route:
    return route(RouteMatch(path=PathMatch(kind, value)))  # type: ignore[arg-type]


def header(name: str, value: str) -> Route:
    return route(RouteMatch(headers=(HeaderMatch(name, StringMatch("exact", value)),)))


CATCH_ALL = path("prefix", "/")
SHAPES: dict[str, list[Route]] = {
    "one catch-all route": [CATCH_ALL],
    "1000 exact paths": [path("exact", f"/api/item{i}") for i in range(SIZE)] + [CATCH_ALL],
    "1000 prefixes": [path("prefix", f"/api/item{i}/") for i in range(SIZE)] + [CATCH_ALL],
    "1000 segment prefixes": [path("segment_prefix", f"/api/item{i}") for i in range(SIZE)]
    + [CATCH_ALL],
    "1000 regexes with a literal start": [
        path("regex", f"/api/item{i}/[a-z]+") for i in range(SIZE)
    ],
    "1000 header values": [header("x-tenant", f"t{i}") for i in range(SIZE)] + [CATCH_ALL],
}


def head(target: str) -> RequestHead:
    return RequestHead("GET", "http", "h500.mesh", 80, target, HeaderMap(RAW))


def best_us(call: Callable[[RequestHead], object], target: str, calls: int = CALLS) -> float:
    """Each call gets a head of its own, made outside the clock, as in real traffic."""
    best = float("inf")
    for _ in range(ROUNDS):
        heads = [head(target) for _ in range(calls)]
        start = time.perf_counter()
        for one in heads:
            call(one)
        best = min(best, (time.perf_counter() - start) / calls * 1e6)
    return best


def tests_of(match: RouteMatch) -> Tests:
    tests = [path_test(match.path)] if match.path is not None else []
    return tests + [condition.test for condition in compile_conditions(match)]


def table_of(routes: list[Route]) -> RouteTable:
    hosts = tuple(
        VirtualHost(f"v{i}", (f"h{i}.mesh",), tuple(routes) if i == SIZE // 2 else (CATCH_ALL,))
        for i in range(SIZE)
    )
    return RouteTable(RouteConfiguration("bench", hosts))


def main() -> None:
    print(f"{'1000 virtual hosts, and on the one dialled:':<44}{'index':>10}{'scan':>12}")
    for name, routes in SHAPES.items():
        table = table_of(routes)
        target = "/api/item500" + ("/x?q=1" if "exact" not in name else "?q=1")

        def decide(one: RequestHead, table: RouteTable = table) -> object:
            host = table.find_host(one.authority)
            assert host is not None
            return host.find_route(one, 12345)

        tests = [tests_of(r.match) for r in routes]

        def scan(one: RequestHead, tests: list[Tests] = tests) -> object:
            view = RequestView(one, 12345)
            return next((t for t in tests if all(test(view) for test in t)), None)

        assert decide(head(target)) is not None
        slow = best_us(scan, target, calls=20)
        print(f"  {name:<42}{best_us(decide, target):>7.2f} us{slow:>9.0f} us")


if __name__ == "__main__":
    main()
