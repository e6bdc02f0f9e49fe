"""``circuit_breaker`` of the native file: every field, where it may stand, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from meshclient.config import load_documents
from meshclient.errors import ConfigError
from meshclient.model.breaker import CircuitBreaker, Selection, SharedStorage
from meshclient.model.snapshot import MeshConfig


def load(service: dict[str, Any] | None = None, **breaker: Any) -> MeshConfig:
    made = {"endpoints": ["127.0.0.1:1"], **(service or {})}
    if breaker:
        made["circuit_breaker"] = breaker
    return load_documents([{"version": 1, "services": {"a": made}}])


def settings(**breaker: Any) -> CircuitBreaker | None:
    (cluster,) = load(**breaker).clusters.values()
    return cluster.policy.circuit_breaker


TABLE: list[tuple[dict[str, Any], CircuitBreaker]] = [
    ({"open_for": "5s"}, CircuitBreaker(5, 5.0)),
    ({"consecutive_failures": 3}, CircuitBreaker(3)),
    ({"failure_rate": 50}, CircuitBreaker(None, failure_rate_percent=50.0)),
    (
        {"failure_rate": 0.5, "consecutive_failures": 9, "minimum_calls": 7},
        CircuitBreaker(9, failure_rate_percent=0.5, minimum_calls=7),
    ),
    (
        {"slow_calls": {"threshold": "2s"}, "window": {"time": "30s"}},
        CircuitBreaker(None, slow_s=2.0, slow_rate_percent=100.0, window_s=30.0),
    ),
    (
        {"slow_calls": {"threshold": "2s", "rate": 80}, "window": {"calls": 50}},
        CircuitBreaker(None, slow_s=2.0, slow_rate_percent=80.0, window_calls=50),
    ),
    ({"open_for": "10m"}, CircuitBreaker(5, 600.0, max_open_for_s=600.0)),
    ({"back_off": {}}, CircuitBreaker(multiplier=2.0)),
    (
        {"back_off": {"multiplier": 1.5, "max": "1m"}},
        CircuitBreaker(multiplier=1.5, max_open_for_s=60.0),
    ),
    (
        {"half_open": {"requests": 3, "successes": 4}},
        CircuitBreaker(half_open_requests=3, half_open_successes=4),
    ),
    (
        {"failures": {"statuses": [429, "5xx"], "grpc_statuses": ["unavailable", 13]}},
        CircuitBreaker(failures=Selection(frozenset({429, *range(500, 600)}), frozenset({14, 13}))),
    ),
    (
        {"ignore": {"exceptions": ["TimeoutError"], "statuses": [501]}},
        CircuitBreaker(ignored=Selection(frozenset({501}), exceptions=frozenset({"TimeoutError"}))),
    ),
    ({"per": "endpoint"}, CircuitBreaker(per="endpoint")),
    ({"per": "subset"}, CircuitBreaker(per="subset")),
    (
        {"redis": {"url": "redis://:geheim@r:1/0", "timeout": "1s"}},
        CircuitBreaker(shared=SharedStorage("redis://:geheim@r:1/0", timeout_s=1.0)),
    ),
    (
        {"redis": {"url": "unix:///run/redis.sock", "namespace": "x", "poll": "1s"}},
        CircuitBreaker(shared=SharedStorage("unix:///run/redis.sock", "x", poll_s=1.0)),
    ),
]


@pytest.mark.parametrize(("block", "expected"), TABLE)
def test_fields(block: dict[str, Any], expected: CircuitBreaker) -> None:
    assert settings(**block) == expected


def test_nothing_of_it_is_left_unhonoured() -> None:
    (cluster,) = load(consecutive_failures=3).clusters.values()
    assert cluster.not_honoured == ()


def test_a_subset_has_one_of_its_own_and_inherits_the_services() -> None:
    subsets = {"v1": {"labels": {}}, "v2": {"labels": {}, "circuit_breaker": {"open_for": "1s"}}}
    found = load({"subsets": subsets}, consecutive_failures=3)
    by_name = {cluster.name: cluster.policy.circuit_breaker for cluster in found.clusters.values()}
    assert by_name == {
        "a": CircuitBreaker(3),
        "a/v1": CircuitBreaker(3),
        "a/v2": CircuitBreaker(5, 1.0, per="subset"),
    }


def test_per_route_every_route_gets_one_unless_it_has_its_own() -> None:
    routes = [{"match": {"prefix": "/x"}, "circuit_breaker": {"consecutive_failures": 2}}]
    config = load({"routes": routes}, per="route")
    (cluster,) = config.clusters.values()
    assert cluster.policy.circuit_breaker is None
    ((_, table),) = config.route_configurations.items()
    (host,) = table.virtual_hosts
    found = [route.action.circuit_breaker for route in host.routes]  # type: ignore[union-attr]
    assert found == [CircuitBreaker(2, per="route"), CircuitBreaker(per="route")]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"consecutive_failures": 0}, "this breaker never opens"),
    ({"consecutive_failures": -1}, "-1 is less than 0"),
    ({"failure_rate": 0}, "a rate is above 0"),
    ({"failure_rate": 101}, "101 is more than 100"),
    ({"failure_rate": 5, "window": {"calls": 10}}, "no rate ever counts"),
    ({"failure_rate": 5, "window": {"calls": 200, "time": "1s"}}, 'only one of "calls" and "time"'),
    ({"failure_rate": 5, "window": {"calls": 100_001}}, "more than 100000"),
    ({"slow_calls": {"rate": 5}}, '"threshold" is missing'),
    ({"open_for": "0s"}, "too short"),
    ({"back_off": {"multiplier": 0.5}}, "0.5 is less than 1"),
    ({"back_off": {"max": "1s"}}, "max is less than open_for"),
    ({"half_open": {"requests": 0}}, "0 is less than 1"),
    ({"failures": {"statuses": ["3xx"]}}, '"3xx"'),
    ({"failures": {"statuses": [99]}}, "99 is less than 100"),
    ({"ignore": {"grpc_statuses": ["GONE"]}}, "'GONE' is no gRPC status"),
    ({"per": "host"}, 'unknown value "host"'),
    ({"redis": {"url": "http://:geheim@r"}}, "redis://, rediss:// or unix:// is expected"),
    ({"redis": {}}, '"url" is missing'),
    ({"consecutive_failure": 1}, 'did you mean "consecutive_failures"?'),
]


@pytest.mark.parametrize(("block", "message"), REFUSED)
def test_what_is_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**block)
    assert message in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("service", "message"),
    [
        (
            {"subsets": {"v": {"labels": {}, "circuit_breaker": {"per": "service"}}}},
            "a subset's breaker is per subset or per endpoint",
        ),
        (
            {"routes": [{"circuit_breaker": {"per": "endpoint"}}]},
            "a route's breaker is per route",
        ),
        (
            {"routes": [{"redirect": {"path": "/"}, "circuit_breaker": {}}]},
            'has no effect together with "redirect"',
        ),
    ],
)
def test_where_it_may_stand(service: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(service)


def test_a_window_without_a_rate_is_warned_of() -> None:
    found = load(consecutive_failures=3, window={"calls": 9})
    assert any("has no effect without failure_rate" in str(d) for d in found.diagnostics)


def test_a_password_is_not_shown() -> None:
    assert "geheim" not in repr(settings(redis={"url": "redis://:geheim@r:1/0"}))
