"""Retry permits of a cluster: plain limit, budget, window, reserve, threads."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.cluster import Limits
from meshclient.model.retry import RetryBudget
from meshclient.resilience import RetryLimiter
from meshclient.resilience.budget import RequestWindow


def budget(**settings: float) -> RetryLimiter:
    return RetryLimiter(Limits(retry_budget=RetryBudget(**settings)))  # type: ignore[arg-type]


def granted(limiter: RetryLimiter, active_requests: int, now: float, tries: int = 50) -> int:
    return sum(limiter.try_acquire(active_requests, now) for _ in range(tries))


def test_max_retries() -> None:
    limiter = RetryLimiter(Limits(max_retries=3))
    assert granted(limiter, 1000, 0.0) == 3
    limiter.release()
    assert granted(limiter, 0, 0.0) == 1
    assert limiter.active == 3


def test_no_limit_is_the_default() -> None:
    assert granted(RetryLimiter(Limits()), 0, 0.0, 500) == 500


def test_zero_allows_none() -> None:
    assert granted(RetryLimiter(Limits(max_retries=0)), 10, 0.0) == 0


def test_release_never_goes_below_zero() -> None:
    limiter = RetryLimiter(Limits(max_retries=1))
    limiter.release()
    assert limiter.active == 0
    assert granted(limiter, 0, 0.0) == 1


@pytest.mark.parametrize(
    ("percent", "minimum", "active", "allowed"),
    [
        (20.0, 3, 0, 3),
        (20.0, 3, 15, 3),
        (20.0, 3, 19, 3),
        (20.0, 3, 20, 4),
        (20.0, 3, 100, 20),
        (33.3, 0, 10, 3),
        (0.0, 0, 1000, 0),
        (100.0, 0, 7, 7),
        (0.1, 1, 999, 1),
        (29.0, 0, 100, 29),  # 0.29 * 100 is 28.999999999999996
    ],
)
def test_budget_of_active_requests(percent: float, minimum: int, active: int, allowed: int) -> None:
    limiter = budget(percent=percent, min_concurrency=minimum)
    assert not limiter.counts_requests
    limiter.on_request(0.0)
    assert limiter.limit(active, 0.0) == allowed
    assert granted(limiter, active, 0.0, allowed + 5) == allowed


def test_windowed_budget_counts_started_requests() -> None:
    limiter = budget(percent=50, min_concurrency=0, interval_s=10)
    assert limiter.counts_requests
    for second in range(20):
        limiter.on_request(100.0 + second)
    # The running slot and nine before it: seconds 110 to 119.
    assert limiter.limit(10_000, 119.9) == 5
    assert limiter.limit(0, 121.0) == 4
    assert limiter.limit(0, 128.5) == 0
    assert limiter.limit(0, 1e9) == 0


@given(
    starts=st.lists(st.floats(0, 100), max_size=60).map(sorted),
    later=st.floats(0, 50),
    interval_s=st.floats(0.5, 30),
)
def test_window_equals_counting_by_hand(
    starts: list[float], later: float, interval_s: float
) -> None:
    window = RequestWindow(interval_s)
    for start in starts:
        window.add(start)
    now = (starts[-1] if starts else 0.0) + later
    window.advance(now)
    slot_s = interval_s / 10
    assert window.total == sum(int(now / slot_s) - int(s / slot_s) < 10 for s in starts)


def test_a_clock_that_goes_back_changes_nothing() -> None:
    window = RequestWindow(1.0)
    window.add(10.0)
    window.add(3.0)
    window.advance(3.0)
    assert window.total == 2


def test_reserve_allows_retries_per_second_on_top() -> None:
    limiter = budget(percent=0, min_concurrency=0, min_per_second=10)
    assert granted(limiter, 0, 1000.0) == 10
    assert granted(limiter, 0, 1000.0) == 0
    assert granted(limiter, 0, 1000.5) == 5
    assert granted(limiter, 0, 1060.0) == 10  # no more than a second's worth is saved up
    assert granted(limiter, 0, 999.0) == 0  # time going back gives nothing


def test_reserve_below_one_per_second_still_gives_one() -> None:
    limiter = budget(percent=0, min_concurrency=0, min_per_second=0.5)
    assert granted(limiter, 0, 0.0) == 1
    assert granted(limiter, 0, 1.9) == 0
    assert granted(limiter, 0, 2.0) == 1


def test_reserve_is_spent_only_when_the_budget_refuses() -> None:
    limiter = budget(percent=0, min_concurrency=2, min_per_second=5)
    assert granted(limiter, 0, 0.0) == 7


def test_limits_hold_under_100_threads() -> None:
    limiter = RetryLimiter(Limits(max_retries=7))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    peaks = [0] * 100

    def work(index: int) -> None:
        for _ in range(100):
            if limiter.try_acquire(0, 0.0):
                peaks[index] = max(peaks[index], limiter.active)
                limiter.release()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    sys.setswitchinterval(before)
    assert limiter.active == 0
    assert 1 <= max(peaks) <= 7


def test_repr_shows_count_and_rule() -> None:
    assert repr(RetryLimiter(Limits(max_retries=3))) == "<RetryLimiter active=0 max_retries=3>"
    assert "min_per_second=10" in repr(budget(min_per_second=10))
