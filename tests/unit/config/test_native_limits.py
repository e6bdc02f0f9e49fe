"""Limits of both priorities, per endpoint, and the three kinds of retry budget."""

from __future__ import annotations

from typing import Any

import pytest

from meshclient.config import load_documents
from meshclient.errors import ConfigError
from meshclient.model.cluster import ClusterPolicy, Limits
from meshclient.model.retry import RateBudget, RetryBudget, TokenBudget
from meshclient.model.routes import ForwardAction
from meshclient.model.snapshot import ANY_PORT, MeshConfig


def load(**service: Any) -> MeshConfig:
    services = {"a": {"endpoints": ["127.0.0.1:1"], **service}}
    return load_documents([{"version": 1, "services": services}])


def policy(**service: Any) -> ClusterPolicy:
    return load(**service).clusters["a"].policy


def problem(**service: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**service)
    return str(caught.value)


def test_limits_of_both_priorities() -> None:
    found = policy(
        limits={
            "max_requests": 9,
            "max_connections_per_endpoint": 2,
            "high_priority": {
                "max_requests": 3,
                "max_retries": 0,
                "max_connections_per_endpoint": 1,
            },
        }
    )
    assert found.limits == Limits(max_requests=9, max_connections_per_endpoint=2)
    high = Limits(max_requests=3, max_retries=0, max_connections_per_endpoint=1)
    assert found.high_priority_limits == high
    assert policy().high_priority_limits == Limits()


def test_high_priority_knows_no_higher_one() -> None:
    assert "high_priority" in problem(limits={"high_priority": {"high_priority": {}}})


def test_priority_of_service_and_route() -> None:
    loaded = load(
        priority="high",
        routes=[
            {"match": {"prefix": "/x"}, "priority": "default"},
            {"match": {"prefix": "/y"}},
        ],
    )
    (host,) = loaded.route_configurations[ANY_PORT].virtual_hosts
    actions = [route.action for route in host.routes]
    priorities = [a.priority for a in actions if isinstance(a, ForwardAction)]
    assert priorities == ["default", "high", "high"]
    assert "known are default, high" in problem(priority="urgent")


def test_priority_means_nothing_to_a_direct_response() -> None:
    assert "no effect" in problem(routes=[{"respond": {"status": 200}, "priority": "high"}])


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({}, RetryBudget()),
        ({"percent": 5, "interval": "1s"}, RetryBudget(5.0, 3, 1.0)),
        ({"min_per_second": 2}, RetryBudget(min_per_second=2.0)),
        ({"ttl": "5s"}, TokenBudget(5.0, 0.2, 10)),
        ({"ratio": 0.5, "min_per_second": 0}, TokenBudget(10.0, 0.5, 0)),
        ({"ttl": "60s", "ratio": 0, "min_per_second": 3}, TokenBudget(60.0, 0.0, 3)),
        ({"min_retry_rate": {}}, RateBudget()),
        (
            {"percent": 30, "interval": "1h", "min_retry_rate": {"count": 3, "interval": "2s"}},
            RateBudget(30.0, 3600.0, 3, 2.0),
        ),
    ],
)
def test_the_keys_say_whose_budget_it_is(budget: dict[str, Any], expected: object) -> None:
    found = policy(retries={"budget": budget})
    assert found.limits.retry_budget == expected
    assert found.high_priority_limits.retry_budget == expected


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"ttl": "10s", "min_concurrency": 1}, "different budgets"),
        ({"ratio": 0.2, "min_retry_rate": {}}, "different budgets"),
        ({"ttl": "10s", "percent": 20}, '"percent" is not known'),
        ({"ttl": "500ms"}, "from 1s to 60s"),
        ({"ttl": "61s"}, "from 1s to 60s"),
        ({"ratio": 1001}, "1000"),
        ({"min_retry_rate": {}, "interval": "100ms"}, "from 1s to 1h"),
        ({"min_retry_rate": {}, "min_per_second": 1}, "only one of"),
        ({"min_retry_rate": {"interval": "2h"}}, "at most 1h"),
        ({"min_retry_rate": {"rate": 2}}, "rate"),
    ],
)
def test_mixed_and_wrong_budgets(budget: dict[str, Any], words: str) -> None:
    assert words in problem(retries={"budget": budget})


def test_a_subset_with_limits_of_its_own_keeps_the_budget() -> None:
    loaded = load_documents(
        [
            {
                "version": 1,
                "services": {
                    "a": {
                        "endpoints": [{"address": "127.0.0.1:1", "labels": {"v": "2"}}],
                        "retries": {"budget": {"ttl": "10s"}},
                        "subsets": {"v2": {"labels": {"v": "2"}, "limits": {"max_requests": 1}}},
                    }
                },
            }
        ]
    )
    found = loaded.clusters["a/v2"].policy
    assert found.limits == Limits(max_requests=1, retry_budget=TokenBudget())
    assert found.high_priority_limits == Limits(retry_budget=TokenBudget())


def test_streams_of_a_connection() -> None:
    assert policy().connection.max_concurrent_streams == 0
    found = policy(protocol="h2", connection={"max_concurrent_streams": 7})
    assert found.connection.max_concurrent_streams == 7
