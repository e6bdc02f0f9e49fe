"""When a try is slow, who may have another beside it, and what that costs of the retries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.cluster import Limits
from meshclient.model.headers import HeaderMap
from meshclient.model.hedging import Hedging
from meshclient.model.retry import IDEMPOTENT_METHODS, RetryBudget, RetryPolicy
from meshclient.resilience import RetryLimiter, RetryState
from meshclient.resilience.hedging import HedgeTimers, may_hedge, merge_hedging, spend_retry

DELAY = Hedging(delay_s=0.05)
AT_TIMEOUT = Hedging(on_per_try_timeout=True)
ANY = RetryPolicy(frozenset({"5xx"}))
SAFE = RetryPolicy(frozenset({"5xx"}), methods=IDEMPOTENT_METHODS)
WITH_POST = RetryPolicy(frozenset({"5xx"}), methods=IDEMPOTENT_METHODS | {"POST"})
KEY = (("Idempotency-Key", "1"),)


@pytest.mark.parametrize(
    ("settings", "header", "merged"),
    [
        (None, None, None),
        (None, True, AT_TIMEOUT),
        (None, False, None),
        (AT_TIMEOUT, None, AT_TIMEOUT),
        (AT_TIMEOUT, False, None),
        (DELAY, True, Hedging(0.05, True)),
        (Hedging(0.05, True, 3), False, Hedging(0.05, False, 3)),
    ],
)
def test_the_request_has_the_last_word_on_the_per_try_timeout(settings, header, merged):
    assert merge_hedging(settings, header) == merged


@pytest.mark.parametrize(
    ("settings", "policy", "per_try_s", "method", "headers", "may"),
    [
        (DELAY, None, None, "GET", (), True),
        (DELAY, SAFE, None, "PUT", (), True),
        (DELAY, None, None, "POST", (), False),
        (DELAY, None, None, "POST", KEY, True),
        (DELAY, SAFE, None, "POST", (), False),
        (DELAY, WITH_POST, None, "POST", (), True),
        (DELAY, ANY, None, "POST", (), False),
        (AT_TIMEOUT, ANY, 1.0, "POST", (), True),
        (AT_TIMEOUT, SAFE, 1.0, "POST", (), False),
        (AT_TIMEOUT, SAFE, 1.0, "POST", KEY, True),
        (AT_TIMEOUT, ANY, None, "GET", (), False),
        (AT_TIMEOUT, None, 1.0, "POST", (), True),
        (Hedging(0.05, True), None, 1.0, "POST", (), False),
    ],
)
def test_only_what_may_be_processed_twice(settings, policy, per_try_s, method, headers, may):
    asked = HeaderMap.of(headers)
    assert may_hedge(settings, policy, per_try_s, method, asked, True) is may
    assert not may_hedge(settings, policy, per_try_s, method, asked, False), "not replayable"


def test_the_delay_runs_from_the_last_start():
    timers = HedgeTimers(Hedging(delay_s=1.0, max_hedges=2), None)
    timers.started("a", 0.0)
    assert (timers.wake_at(), timers.slow(0.99)) == (1.0, None)
    assert timers.slow(1.0) == ("a", False)
    assert timers.wake_at() == math.inf, "each alarm comes once"
    timers.started("b", 1.5)
    assert timers.slow(2.5) == ("b", False)
    timers.started("c", 2.5)
    assert timers.wake_at() == math.inf, "two were allowed"


def test_a_try_that_has_ended_is_not_slow():
    timers = HedgeTimers(Hedging(1.0, True), 2.0)
    timers.started("a", 0.0)
    timers.ended("a")
    assert (timers.wake_at(), timers.slow(9.0)) == (math.inf, None)


def test_every_try_has_its_own_per_try_timeout():
    timers = HedgeTimers(AT_TIMEOUT, 1.0)
    assert timers.soft_per_try
    timers.started("a", 0.0)
    timers.started("b", 0.5)
    assert timers.slow(2.0) == ("a", True)
    assert timers.slow(2.0) == ("b", True)
    assert timers.slow(2.0) is None


def test_without_hedging_nothing_is_ever_due():
    timers = HedgeTimers(Hedging(), 1.0)
    timers.started("a", 0.0)
    assert not timers.soft_per_try
    assert (timers.wake_at(), timers.slow(100.0)) == (math.inf, None)


EVENTS = st.lists(st.tuples(st.sampled_from("+-?"), st.floats(0.0, 2.0)), max_size=40)


@given(EVENTS, st.integers(1, 4))
def test_alarms_are_due_when_they_say_and_never_more_than_allowed(events, most):
    """Property: slow() answers exactly from wake_at() on, for open tries, a bounded number."""
    timers = HedgeTimers(Hedging(delay_s=0.3, max_hedges=most), None)
    now, open_, alarms, number = 0.0, [], 0, 0
    for kind, step in events:
        now += step
        if kind == "+":
            number += 1
            open_.append(number)
            timers.started(number, now)
        elif kind == "-" and open_:
            timers.ended(open_.pop())
        else:
            due = timers.wake_at() <= now
            found = timers.slow(now)
            assert (found is not None) == due
            if found is not None:
                alarms += 1
                assert found[0] in open_
                timers.started(number, now)  # a hedge; the same key serves
    assert alarms <= most


def test_a_hedge_takes_a_retry_and_a_permit():
    limiter = RetryLimiter(Limits(max_retries=1))
    state = RetryState(RetryPolicy(frozenset(), num_retries=2), "GET", True)
    assert spend_retry(state, limiter, None, 0.0)
    assert (state.remaining, state.held, limiter.active) == (1, True, 1)
    assert spend_retry(state, limiter, None, 0.0), "the call's earlier permit goes back first"
    assert limiter.active == 1
    assert not spend_retry(state, limiter, None, 0.0)
    assert (state.flag, state.held, limiter.active) == ("URX", False, 0)
    assert "used up" in state.note


def test_a_spent_budget_uses_up_the_retry_all_the_same():
    limiter = RetryLimiter(Limits(retry_budget=RetryBudget(percent=0.0, min_concurrency=0)))
    state = RetryState(RetryPolicy(frozenset(), num_retries=1), "GET", True)
    assert not spend_retry(state, limiter, None, 0.0)
    assert (state.flag, state.remaining, limiter.active) == ("UO", 0, 0)
