"""The ``propagation`` section: what it says, and what it must not say."""

from __future__ import annotations

from typing import Any

import pytest

from meshclient import Mesh
from meshclient.config import load_documents
from meshclient.config.native_budget import DEFAULT_BUDGET
from meshclient.errors import ConfigError
from meshclient.model.cluster import UNLIMITED
from meshclient.model.propagation import DEFAULT_PROPAGATION, DeadlineHeader, Propagation
from meshclient.model.retry import RetryBudget, TokenBudget


def load(*sections: Any) -> Propagation:
    return load_documents([{"version": 1, "propagation": s} for s in sections]).propagation


def refused(*sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*sections)
    return str(caught.value)


def test_without_the_section_the_defaults_hold():
    assert load_documents([{"version": 1}]).propagation == DEFAULT_PROPAGATION
    assert load({}) == DEFAULT_PROPAGATION == Propagation()


def test_everything_that_can_be_said():
    found = load(
        {
            "headers": ["End-User", "x-tenant", "end-user"],
            "trace": False,
            "baggage": False,
            "request_id": False,
            "deadline": {"header": "X-Request-Deadline", "format": "unix_seconds"},
            "unknown_hosts": "none",
        }
    )
    assert found == Propagation(
        headers=("end-user", "x-tenant"),
        trace=False,
        baggage=False,
        request_id=False,
        deadline=True,
        deadline_header=DeadlineHeader("x-request-deadline", "unix_seconds"),
        unknown_hosts="none",
    )


@pytest.mark.parametrize(
    ("given", "on", "header"),
    [
        (True, True, None),
        (False, False, None),
        ({"header": "x-due"}, True, DeadlineHeader("x-due", "milliseconds")),
    ],
)
def test_deadlines_in_short_and_in_long(given, on, header):
    found = load({"deadline": given})
    assert (found.deadline, found.deadline_header) == (on, header)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"headers": ["Host"]}, "host belongs to one connection or hop"),
        ({"headers": ["X-Envoy-Max-Retries"]}, "x-envoy-max-retries belongs to"),
        ({"headers": ["transfer-encoding"]}, "transfer-encoding belongs to"),
        ({"headers": ["no name"]}, "is not a header name"),
        ({"headers": "x-tenant"}, "expected a list"),
        ({"deadline": {"format": "seconds"}}, '"header" is missing'),
        ({"deadline": {"header": "x-due", "format": "minutes"}}, "minutes"),
        ({"deadline": {"header": "content-length"}}, "content-length belongs to"),
        ({"deadline": "soon"}, "soon"),
        ({"unknown_hosts": "some"}, "some"),
        ({"header": ["x-tenant"]}, 'did you mean "headers"'),
    ],
)
def test_mistakes_are_named(section, words):
    assert words in refused(section)


def test_it_stands_in_one_document():
    assert "propagation is already given at" in refused({}, {})


def test_the_snapshot_has_it():
    with Mesh.from_documents([{"version": 1, "propagation": {"trace": False}}]) as mesh:
        assert mesh.snapshot.propagation.trace is False


# -- the default budget ----------------------------------------------------------------


def budget_of(**service: Any) -> Any:
    document = {"version": 1, "services": {"a": {"endpoints": ["h:1"], **service}}}
    policy = load_documents([document]).clusters["a"].policy
    assert policy.limits.retry_budget == policy.high_priority_limits.retry_budget
    return policy.limits.retry_budget


@pytest.mark.parametrize(
    ("service", "budget"),
    [
        ({}, None),
        ({"retries": {"attempts": 0}}, None),
        ({"retries": {"on": [503]}}, DEFAULT_BUDGET),
        ({"routes": [{"retries": {"on": [503]}}]}, DEFAULT_BUDGET),
        ({"retries": {"on": [503]}, "limits": {"max_retries": 3}}, None),
        ({"retries": {"on": [503]}, "limits": {"max_requests": 3}}, DEFAULT_BUDGET),
        ({"retries": {"on": [503], "budget": "none"}}, RetryBudget(min_concurrency=UNLIMITED)),
        ({"retries": {"on": [503], "budget": {}}}, RetryBudget()),
        ({"retries": {"on": [503], "budget": {"ttl": "10s"}}}, TokenBudget()),
    ],
)
def test_services_that_repeat_have_a_budget_unless_they_say_otherwise(service, budget):
    assert budget_of(**service) == budget


def test_a_word_that_is_no_budget_is_an_error():
    with pytest.raises(ConfigError):
        budget_of(retries={"budget": "some"})
