"""What calls say of their refusals and repetitions: the rule, the numbers, the document."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshclient.config import load_documents
from meshclient.model.cluster import Limits
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.retry import RateBudget, RetryBudget, RetryPolicy, TokenBudget
from meshclient.model.source import Source
from meshclient.resilience.conditions import RetryConditions, may_retry
from meshclient.resilience.retry_limits import retry_limiter

REFUSED = Outcome(reset=ResetReason.REFUSED_STREAM)


@pytest.mark.parametrize(
    ("words", "outcome", "covering"),
    [
        ({"5xx", "gateway-error", "reset"}, Outcome(503), "5xx, gateway-error"),
        ({"5xx", "retriable-4xx"}, Outcome(409), "retriable-4xx"),
        ({"reset", "refused-stream"}, REFUSED, "refused-stream, reset"),
        ({"unavailable"}, Outcome(200, HeaderMap([(b"grpc-status", b"14")])), "unavailable"),
        ({"5xx"}, Outcome(404), ""),
    ],
)
def test_the_words_that_cover_an_outcome_are_named(words, outcome, covering):
    conditions = RetryConditions(RetryPolicy(frozenset(words)))
    assert conditions.covering(outcome, True) == covering


@pytest.mark.parametrize(
    ("policy", "passes"),
    [
        (RetryPolicy(frozenset({"5xx", "reset", "retriable-4xx"})), True),
        (RetryPolicy(frozenset({"5xx"}), status_codes=frozenset({202})), True),
        (RetryPolicy(frozenset({"retriable-status-codes"}), status_codes=frozenset({429})), True),
        (RetryPolicy(frozenset({"retriable-status-codes"}), status_codes=frozenset({202})), False),
        (RetryPolicy(frozenset({"unavailable"})), False),
        (RetryPolicy(frozenset({"retriable-headers"})), False),
        (RetryPolicy(frozenset({"envoy-ratelimited"})), False),
    ],
)
def test_policies_that_never_repeat_a_success_are_known(policy, passes):
    assert policy.passes_success is passes
    assert replace(policy, num_retries=5).passes_success is passes
    headers = HeaderMap([(b"grpc-status", b"14"), (b"x-envoy-ratelimited", b"true")])
    if passes:
        assert not any(may_retry(policy, Outcome(status, headers)) for status in range(100, 400))


def test_a_policy_is_the_same_wherever_it_stands():
    policy = RetryPolicy(frozenset({"5xx"}))
    moved = replace(policy, source=Source("policy.yaml", 7))
    assert (moved, hash(moved)) == (policy, hash(policy))


def test_the_place_is_cited_with_file_line_and_document():
    assert Source("a.yaml", 3, 1, "VirtualService x/y").cited == "  [a.yaml:3 (VirtualService x/y)]"
    assert Source("a.yaml", 3).cited == "  [a.yaml:3]"
    assert Source().cited == ""


@pytest.mark.parametrize(
    ("limits", "numbers"),
    [
        (Limits(max_retries=2), "2 of max_retries 2"),
        (
            Limits(retry_budget=RetryBudget(20, 2)),
            "2 of 2 (budget: 20 % of the requests, at least 2)",
        ),
        (
            Limits(retry_budget=TokenBudget(1, 0.2, 2)),
            "0.2 for each answer of the last 1 s, 2 per second besides",
        ),
        (
            Limits(retry_budget=RateBudget(20, 10, 2, 1)),
            "2 retries beside 0 requests in 10 s (20 %, and 2 in 1 s besides)",
        ),
    ],
)
def test_a_refused_permit_is_told_with_its_numbers(limits, numbers):
    limiter = retry_limiter(limits)
    assert [limiter.try_acquire(0, 0.0) for _ in range(3)] == [True, True, False]
    assert numbers in limiter.refusal(0, 0.0)


def test_the_status_of_an_injected_fault_may_be_given_by_name():
    def fault(status):
        service = {"endpoints": ["127.0.0.1:1"], "fault": {"abort": {"grpc_status": status}}}
        config = load_documents([{"version": 1, "services": {"a": service}}])
        (table,) = config.route_configurations.values()
        return table.virtual_hosts[0].routes[0].fault

    assert fault("unavailable").abort_grpc_status == fault(14).abort_grpc_status == 14
