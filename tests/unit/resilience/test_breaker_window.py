"""What a window still knows, against a list of all calls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.breaker import CircuitBreaker
from meshclient.resilience.breaker_state import Figures
from meshclient.resilience.breaker_window import PARTS, CountWindow, TimeWindow, make_window

CALLS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(CALLS, st.integers(1, 20))
def test_a_count_window_knows_the_last_calls_exactly(calls, size):
    window = CountWindow(size)
    for at, (failed, slow) in enumerate(calls, 1):
        if not failed and not slow and at < len(calls):
            window.tick()
            continue
        found = window.add_locked(failed, slow, 0.0)
        last = calls[max(0, at - size) : at]
        assert found == Figures(len(last), sum(f for f, _ in last), sum(s for _, s in last))


TIMED = st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), min_size=1, max_size=60)


@given(TIMED)
def test_a_time_window_knows_at_least_nine_tenths_and_nothing_older(calls):
    """A part is forgotten as a whole: between 9/10 and 11/10 of the time, to rounding."""
    window, now, seen = TimeWindow(10.0), 0.0, []
    for wait, failed in calls:
        now += wait
        seen.append((now, failed))
        if not failed and now < window.tick_at:
            window.tick()
            continue
        found = window.add_locked(failed, False, now)
        part_s = 10.0 / PARTS
        surely = [f for at, f in seen if at > now - 10.0 + part_s + 1e-6]
        perhaps = [f for at, f in seen if at > now - 10.0 - part_s - 1e-6]
        assert len(surely) <= found.calls <= len(perhaps)
        assert sum(surely) <= found.failed <= sum(perhaps)


def test_percentages():
    assert Figures().failed_percent == Figures().slow_percent == 0.0
    assert Figures(8, 2, 4).failed_percent == 25.0
    assert Figures(8, 2, 4).slow_percent == 50.0


def test_no_rate_no_window():
    assert make_window(CircuitBreaker()) is None
    assert isinstance(make_window(CircuitBreaker(failure_rate_percent=1.0)), CountWindow)
    timed = CircuitBreaker(slow_rate_percent=1.0, slow_s=1.0, window_s=5.0)
    assert isinstance(make_window(timed), TimeWindow)


def test_memory_is_bounded_by_the_window():
    window = CountWindow(10)
    for _ in range(1000):
        window.add_locked(True, True, 0.0)
    assert len(window._failed) == len(window._slow) == 10
