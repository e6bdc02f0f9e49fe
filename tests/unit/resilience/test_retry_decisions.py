"""One call's retries: order of the checks, notes, flags, permits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.cluster import Limits
from meshclient.model.headers import HeaderMap
from meshclient.model.matching import HeaderMatch, StringMatch
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.retry import (
    IDEMPOTENT_METHODS,
    BackOff,
    RateLimitedBackOff,
    ResetHeader,
    RetryBudget,
    RetryPolicy,
)
from meshclient.resilience import RetryLimiter, RetryState

R = ResetReason
REFUSED = Outcome(reset=R.CONNECTION_FAILURE, sent=False)
TERMINATED = Outcome(reset=R.CONNECTION_TERMINATION)
UNAVAILABLE = Outcome(503)
ALL = frozenset({"5xx", "reset", "retriable-4xx"})


class Cluster:
    """Stands for the cluster whose load the budget asks for."""

    def __init__(self, active_requests: int) -> None:
        self.active_requests = active_requests


def state_of(method: str = "GET", replayable: bool = True, **settings: Any) -> RetryState:
    settings.setdefault("retry_on", ALL)
    return RetryState(RetryPolicy(**settings), method, replayable)


@pytest.fixture
def limiter() -> RetryLimiter:
    return RetryLimiter(Limits())


def test_retries_up_to_the_number_then_urx(limiter: RetryLimiter) -> None:
    state = state_of(num_retries=2)
    assert state.decide(UNAVAILABLE, limiter, lambda: 24, 0.0) == 0.024
    assert state.decide(UNAVAILABLE, limiter, lambda: 49, 0.1) == 0.049
    assert (state.note, state.flag) == ("", "")
    assert state.decide(UNAVAILABLE, limiter, lambda: 0, 0.2) is None
    assert state.flag == "URX"
    assert state.note == "not retried: all 2 retries are used up"
    assert limiter.active == 0


def test_no_retries_at_all_is_urx_at_once(limiter: RetryLimiter) -> None:
    state = state_of(num_retries=0)
    assert state.decide(UNAVAILABLE, limiter, lambda: 0, 0.0) is None
    assert state.flag == "URX"


def test_back_off_follows_envoys_caps(limiter: RetryLimiter) -> None:
    """r = cap - 1 each time: 24, 49, 99, 199, 249, 249 ms."""
    state = state_of(num_retries=6)
    caps = [25, 50, 100, 200, 250, 250]
    draws = iter([cap - 1 for cap in caps])
    waits = [state.decide(UNAVAILABLE, limiter, draws.__next__, 0.0) for _ in caps]
    assert waits == [0.024, 0.049, 0.099, 0.199, 0.249, 0.249]


@pytest.mark.parametrize("outcome", [Outcome(200), Outcome(302)])
def test_a_success_is_final_and_gives_the_permit_back(
    limiter: RetryLimiter, outcome: Outcome
) -> None:
    state = state_of()
    assert state.decide(REFUSED, limiter, lambda: 0, 0.0) == 0.0
    assert (state.held, limiter.active) == (True, 1)
    assert state.decide(outcome, limiter, lambda: 0, 0.1) is None
    assert (state.note, state.flag, state.held, limiter.active) == ("", "", False, 0)


def test_release_is_idempotent(limiter: RetryLimiter) -> None:
    other = RetryState(RetryPolicy(ALL), "GET", True)
    state = state_of()
    other.decide(REFUSED, limiter, lambda: 0, 0.0)
    state.decide(REFUSED, limiter, lambda: 0, 0.0)
    assert limiter.active == 2
    state.release(limiter)
    state.release(limiter)
    assert limiter.active == 1


def test_a_refused_permit_uses_up_the_retry() -> None:
    """Envoy decrements before it looks at the limit, so the next failure is URX."""
    limiter = RetryLimiter(Limits(max_retries=1))
    assert limiter.try_acquire(0, 0.0)
    state = state_of(num_retries=1)
    assert state.decide(UNAVAILABLE, limiter, lambda: 0, 0.0) is None
    assert state.flag == "UO"
    assert state.note == (
        "not retried: the cluster has as many retries under way as it allows: 1 of max_retries 1"
    )
    assert not state.held
    limiter.release()
    assert state.decide(UNAVAILABLE, limiter, lambda: 0, 0.0) is None
    assert state.flag == "URX"


def test_own_permit_is_given_back_before_the_next_decision() -> None:
    limiter = RetryLimiter(Limits(max_retries=1))
    state = state_of(num_retries=5)
    for _ in range(5):
        assert state.decide(UNAVAILABLE, limiter, lambda: 0, 0.0) is not None
        assert limiter.active == 1


def test_budget_sees_the_load_of_the_cluster() -> None:
    limits = Limits(retry_budget=RetryBudget(percent=10, min_concurrency=0))
    limiter = RetryLimiter(limits)
    state = state_of(num_retries=5)
    assert state.decide(UNAVAILABLE, limiter, lambda: 0, 0.0, load=Cluster(9)) is None
    assert state.flag == "UO"
    assert state.decide(UNAVAILABLE, limiter, lambda: 0, 0.0, load=Cluster(10)) == 0.0


@pytest.mark.parametrize("reset", [R.OVERFLOW, R.ROUTE_TIMEOUT, R.CANCELLED])
def test_some_ends_are_never_retried(limiter: RetryLimiter, reset: ResetReason) -> None:
    state = state_of(num_retries=3)
    assert state.decide(Outcome(reset=reset, sent=False), limiter, lambda: 0, 0.0) is None
    assert state.note == f"not retried: {reset.value} is never retried"
    assert state.flag == ""
    assert state.remaining == 3


def test_uncovered_failures_say_so(limiter: RetryLimiter) -> None:
    state = state_of(retry_on=frozenset({"connect-failure"}))
    assert state.decide(Outcome(503), limiter, lambda: 0, 0.0) is None
    assert state.note == "not retried: no condition of the policy covers status 503"
    assert state.decide(TERMINATED, limiter, lambda: 0, 0.0) is None
    assert state.note == "not retried: no condition of the policy covers connection termination"
    assert state.remaining == 1


@pytest.mark.parametrize(
    ("outcome", "replayable", "retried"),
    [
        (REFUSED, False, True),
        (Outcome(reset=R.CONNECTION_TIMEOUT, sent=True), False, True),  # nothing can be sent
        (Outcome(reset=R.REMOTE_RESET, sent=False), False, True),
        (TERMINATED, False, False),
        (UNAVAILABLE, False, False),
        (UNAVAILABLE, True, True),
    ],
)
def test_bodies_that_cannot_be_replayed(
    limiter: RetryLimiter, outcome: Outcome, replayable: bool, retried: bool
) -> None:
    state = state_of(replayable=replayable)
    assert (state.decide(outcome, limiter, lambda: 0, 0.0) is not None) is retried
    assert state.note == ("" if retried else "not retried: the request body cannot be replayed")


@pytest.mark.parametrize(
    ("method", "methods", "outcome", "retried"),
    [
        ("POST", None, UNAVAILABLE, True),  # Envoy's and Istio's meaning
        ("POST", IDEMPOTENT_METHODS, UNAVAILABLE, False),
        ("POST", IDEMPOTENT_METHODS, TERMINATED, False),
        ("POST", IDEMPOTENT_METHODS, REFUSED, True),
        ("PUT", IDEMPOTENT_METHODS, TERMINATED, True),
        ("POST", IDEMPOTENT_METHODS | {"POST"}, TERMINATED, True),
    ],
)
def test_methods_that_may_have_had_an_effect(
    limiter: RetryLimiter,
    method: str,
    methods: frozenset[str] | None,
    outcome: Outcome,
    retried: bool,
) -> None:
    state = state_of(method, methods=methods)
    assert (state.decide(outcome, limiter, lambda: 0, 0.0) is not None) is retried
    if not retried:
        assert state.note == "not retried: the server may have acted on the POST request"


def test_the_gate_on_request_headers(limiter: RetryLimiter) -> None:
    gate = (
        HeaderMatch("x-may-retry", StringMatch("exact", "1")),
        HeaderMatch(":method", StringMatch("exact", "PATCH")),
    )
    policy = RetryPolicy(ALL, request_headers=gate)

    def retried(method: str, headers: HeaderMap | None) -> bool:
        state = RetryState(policy, method, True, headers)
        decision = state.decide(UNAVAILABLE, limiter, lambda: 0, 0.0)
        state.release(limiter)
        assert bool(state.note) is (decision is None)
        return decision is not None

    assert retried("GET", HeaderMap.of([("X-May-Retry", "1")]))
    assert retried("PATCH", None)
    assert not retried("GET", HeaderMap.of([("X-May-Retry", "0")]))
    assert not retried("GET", None)


def test_reset_before_request_looks_at_all_tries(limiter: RetryLimiter) -> None:
    """Once any try has written something, an unsent one is not covered any more."""
    tokens = frozenset({"reset-before-request", "refused-stream"})
    state = state_of(retry_on=tokens, num_retries=9)
    unsent = Outcome(reset=R.CONNECTION_TERMINATION, sent=False)
    assert state.decide(unsent, limiter, lambda: 0, 0.0) is not None
    assert state.decide(Outcome(reset=R.REFUSED_STREAM), limiter, lambda: 0, 0.0) is not None
    assert state.decide(unsent, limiter, lambda: 0, 0.0) is None


@pytest.mark.parametrize(
    ("token", "retried"),
    [("5xx", 1), ("gateway-error", 1), ("reset", 1), ("connect-failure", 0), ("refused-stream", 0)],
)
def test_per_try_timeouts_are_resets(limiter: RetryLimiter, token: str, retried: int) -> None:
    state = state_of(retry_on=frozenset({token}))
    decision = state.decide(Outcome(reset=R.PER_TRY_TIMEOUT), limiter, lambda: 0, 0.0)
    assert (decision is not None) == bool(retried)


def test_retry_after_is_used_only_when_the_policy_says_so(limiter: RetryLimiter) -> None:
    limited = Outcome(503, HeaderMap.of([("Retry-After", "2")]))
    asked = RateLimitedBackOff((ResetHeader("Retry-After"),))
    plain = state_of()
    assert plain.decide(limited, limiter, lambda: 24, 0.0) == 0.024
    state = state_of(num_retries=3, rate_limited=asked)
    assert state.decide(limited, limiter, lambda: 24, 0.0) == 2.024
    # A reset has no header; the exponential sequence has not moved meanwhile.
    assert state.decide(REFUSED, limiter, lambda: 24, 0.0) == 0.024


@given(
    num_retries=st.integers(0, 5),
    max_retries=st.integers(0, 3),
    base_ms=st.integers(0, 200),
    max_ms=st.integers(0, 2000),
    outcomes=st.lists(
        st.one_of(
            st.builds(Outcome, st.sampled_from([200, 404, 409, 500, 503])),
            st.builds(Outcome, reset=st.sampled_from(list(R)), sent=st.booleans()),
        ),
        max_size=12,
    ),
    draw=st.integers(0, 2**64 - 1),
)
def test_permits_and_retries_always_balance(
    num_retries: int,
    max_retries: int,
    base_ms: int,
    max_ms: int,
    outcomes: list[Outcome],
    draw: int,
) -> None:
    limiter = RetryLimiter(Limits(max_retries=max_retries))
    back_off = BackOff(base_ms / 1000, max_ms / 1000)
    state = state_of(num_retries=num_retries, back_off=back_off)
    retries = 0
    for outcome in outcomes:
        delay_s = state.decide(outcome, limiter, lambda: draw, 0.0)
        assert limiter.active == int(state.held) == int(delay_s is not None)
        if delay_s is None:
            assert bool(state.note) is (outcome.reset is not None or outcome.status >= 400)
            continue
        retries += 1
        assert 0 <= delay_s < max(base_ms, max_ms, 1) / 1000
        assert (state.note, state.flag) == ("", "")
    assert retries <= min(num_retries, 99 if max_retries else 0)
    state.release(limiter)
    assert limiter.active == 0


def test_repr_tells_where_it_stands(limiter: RetryLimiter) -> None:
    state = state_of(num_retries=2)
    state.decide(UNAVAILABLE, limiter, lambda: 0, 0.0)
    assert repr(state) == "<RetryState failures=1 remaining=1 held>"
