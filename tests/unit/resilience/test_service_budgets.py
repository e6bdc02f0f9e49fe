"""Linkerd's and the Gateway API's retry budgets: who pays, who is refused, when it is forgotten."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.cluster import Limits
from meshclient.model.retry import RateBudget, RetryBudget, TokenBudget
from meshclient.resilience import RetryLimiter, retry_limiter, shared_as
from meshclient.resilience.rate_budget import RateBudgetLimiter
from meshclient.resilience.token_budget import TokenBudgetLimiter, amounts


def tokens(ttl_s: float = 1.0, ratio: float = 1.0, minimum: int = 0) -> TokenBudgetLimiter:
    return TokenBudgetLimiter(TokenBudget(ttl_s, ratio, minimum))


def take(limiter: RetryLimiter, now: float) -> bool:
    return limiter.try_acquire(0, now)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.0, (0, 1)),
        (0.1, (1, 10)),
        (0.2, (1, 5)),
        (0.3, (1, 3)),
        (0.7, (1, 1)),
        (1.0, (1, 1)),
        (1.5, (1000, 666)),
        (2.0, (1000, 500)),
        (1000.0, (1000, 1)),
    ],
)
def test_amounts_are_towers_whole_numbers(ratio: float, expected: tuple[int, int]) -> None:
    assert amounts(ratio) == expected


def test_nothing_was_paid_in() -> None:
    assert not take(tokens(), 0.0)


def test_a_deposit_is_forgotten_after_the_ttl() -> None:
    limiter = tokens()
    limiter.on_answer(0.0)
    assert not take(limiter, 3.0)


def test_slots_move_on_as_in_tower() -> None:
    """The scenario of tower's own test of its slots."""
    limiter = tokens(ratio=0.5)
    limiter.on_answer(0.0)
    limiter.on_answer(0.0)
    assert take(limiter, 0.901)
    limiter.on_answer(2.902)
    limiter.on_answer(3.203)
    limiter.on_answer(4.004)
    assert take(limiter, 4.004), "the first is forgotten, the second and third are there"


def test_the_reserve_comes_back_with_the_ttl() -> None:
    limiter = tokens(ttl_s=2.0, minimum=5)
    assert [take(limiter, 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert not take(limiter, 1.9)
    assert take(limiter, 4.3)


def test_a_ratio_of_nothing_leaves_the_reserve() -> None:
    limiter = tokens(ratio=0.0, minimum=1)
    for _ in range(100):
        limiter.on_answer(0.0)
    assert [take(limiter, 0.0) for _ in range(3)] == [True, False, False]


def test_a_release_gives_no_token_back() -> None:
    limiter = tokens(minimum=1)
    assert take(limiter, 0.0)
    assert limiter.active == 1
    limiter.release()
    assert limiter.active == 0
    assert not take(limiter, 0.0)
    assert limiter.is_spent(0)


@given(
    st.lists(st.tuples(st.floats(0, 0.4), st.booleans()), max_size=200),
    st.sampled_from([0.1, 0.2, 0.5, 1.0, 2.0]),
)
def test_retries_never_exceed_what_answers_pay_for(
    steps: list[tuple[float, bool]], ratio: float
) -> None:
    """Over any run: withdrawals <= deposits x ratio + reserve."""
    limiter, now, answers, retries = tokens(60.0, ratio, 1), 0.0, 0, 0
    for step, is_answer in steps:
        now += step
        if is_answer:
            answers += 1
            limiter.on_answer(now)
        else:
            retries += take(limiter, now)
    deposit, withdrawal = amounts(ratio)
    assert retries <= answers * deposit / withdrawal + 60


def test_time_that_goes_backwards_stands_still() -> None:
    limiter = tokens()
    limiter.on_answer(100.0)
    assert limiter.limit(0, 50.0) == 1
    assert take(limiter, 40.0)


def rates(percent: float = 20.0, count: int = 0) -> RateBudgetLimiter:
    return RateBudgetLimiter(RateBudget(percent, 10.0, count, 1.0))


@pytest.mark.parametrize(
    ("percent", "requests", "allowed"),
    [(20.0, 800, 200), (50.0, 10, 10), (0.0, 1000, 0), (20.0, 3, 0), (20.0, 4, 1), (20.0, 40, 10)],
)
def test_retries_are_a_share_of_all_requests(percent: float, requests: int, allowed: int) -> None:
    """Those of the retries included: 200 of 1,000 at 20 percent."""
    limiter = rates(percent)
    for _ in range(requests):
        limiter.on_request(5.0)
    assert sum(take(limiter, 5.0) for _ in range(allowed + 50)) == allowed
    assert limiter.is_spent(0)


def test_requests_leave_the_interval() -> None:
    limiter = rates()
    for _ in range(100):
        limiter.on_request(0.0)
    assert take(limiter, 9.0)
    assert not take(limiter, 20.0)


def test_the_least_rate_passes_in_any_case() -> None:
    limiter = rates(0.0, count=2)
    assert [take(limiter, 0.5) for _ in range(3)] == [True, True, False]
    assert take(limiter, 1.6)


def test_the_least_rate_counts_in_the_share() -> None:
    limiter = rates(20.0, count=5)
    for _ in range(20):
        limiter.on_request(0.0)
    assert sum(take(limiter, 0.0) for _ in range(20)) == 5


def test_each_budget_has_its_limiter() -> None:
    assert type(retry_limiter(Limits())) is RetryLimiter
    assert type(retry_limiter(Limits(retry_budget=RetryBudget()))) is RetryLimiter
    assert type(retry_limiter(Limits(retry_budget=TokenBudget()))) is TokenBudgetLimiter
    assert type(retry_limiter(Limits(retry_budget=RateBudget()))) is RateBudgetLimiter
    with pytest.raises(TypeError, match="limiter of its own"):
        RetryLimiter(Limits(retry_budget=TokenBudget()))


def test_what_is_shared() -> None:
    assert shared_as("a", 80, Limits(retry_budget=RetryBudget())) is None
    assert shared_as("a", 80, Limits()) is None
    one = shared_as("a", 80, Limits(retry_budget=TokenBudget()))
    assert one == shared_as("a", 80, Limits(1, 2, retry_budget=TokenBudget()))
    assert one != shared_as("b", 80, Limits(retry_budget=TokenBudget()))
    assert one != shared_as("a", 80, Limits(retry_budget=TokenBudget(ratio=0.5)))


def test_repr_tells_which() -> None:
    assert repr(tokens()).startswith("<TokenBudgetLimiter active=0 TokenBudget(ttl_s=1.0")
    assert repr(rates()).startswith("<RateBudgetLimiter active=0 RateBudget(percent=20.0")


@pytest.mark.parametrize(
    "limiter", [tokens(60.0, 1.0, 10), RateBudgetLimiter(RateBudget(0.0, 10.0, 600, 10.0))]
)
def test_threads_take_exactly_what_is_there(limiter: RetryLimiter) -> None:
    got: list[int] = []

    def run() -> None:
        got.append(sum(take(limiter, 1.0) for _ in range(100)))

    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(old)
    assert sum(got) == limiter.active == 600
