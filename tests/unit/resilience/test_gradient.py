"""The gradient controller and its histogram, in scripted time."""

from __future__ import annotations

import math
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.concurrency import AdaptiveConcurrency
from meshclient.model.headers import HeaderMap
from meshclient.model.request import RequestHead
from meshclient.resilience.adaptive_concurrency import AdaptiveConcurrencyFilter
from meshclient.resilience.filter import ENTERED
from meshclient.resilience.gradient import GradientController
from meshclient.resilience.latency_histogram import LatencyHistogram

HEAD = RequestHead("GET", "http", "shop", 80, "/", HeaderMap([]))


def settings(**options):
    given_ = {"min_rtt_requests": 3, "jitter_percent": 0.0, **options}
    return AdaptiveConcurrency("service shop", **given_)


def calls(controller, start, latency_s, count=1):
    """``count`` calls, one after the other; when the last is over."""
    now = start
    for _ in range(count):
        assert controller.admit(now, lambda: 0)
        now += latency_s
        controller.release(now - latency_s, now)
    return now


def measured(latency_s=0.010, **options):
    """A controller whose least latency is known, and the time."""
    controller = GradientController(settings(**options))
    return controller, calls(controller, 0.0, latency_s, controller._settings.min_rtt_requests)


def test_while_measuring_only_the_least_concurrency_is_let_in():
    controller = GradientController(settings())
    assert [controller.admit(0.0, int) for _ in range(5)] == [True] * 3 + [False] * 2
    assert controller.min_rtt_calculation_active
    assert (controller.in_flight, controller.rq_blocked) == (3, 2)


def test_enough_calls_end_the_measurement():
    controller, _ = measured(0.010)
    assert not controller.min_rtt_calculation_active
    # The middle of three values in the bin [10 ms, 11 ms).
    assert controller.min_rtt_s == pytest.approx(0.0105)


def test_steady_latency_lets_the_limit_grow_by_buffer_and_headroom():
    controller, now = measured()
    limits = []
    for _ in range(4):
        calls(controller, now, 0.010, 2)
        now += 0.101
        controller.advance(now)
        limits.append(controller.limit)
    # 3 * 1.25 + sqrt(3.75) = 5.7; 5 * 1.25 + sqrt(6.25) = 8.75; and so on
    assert limits == [5, 8, 13, 20]
    assert controller.gradient == pytest.approx(1.25)
    assert controller.burst_queue_size == pytest.approx(math.sqrt(13 * 1.25))


@pytest.mark.parametrize(
    ("latency_s", "limits"),
    [(0.001, [8, 20, 46, 101, 200, 200]), (1.0, [3, 3, 3])],
)
def test_the_gradient_is_held_between_a_half_and_two(latency_s, limits):
    """With a fixed least latency of 60 ms: the limits that a real Envoy goes through."""
    controller = GradientController(settings(fixed_min_rtt_s=0.06, max_concurrency=200))
    found, now = [], 0.0
    for _ in limits:
        calls(controller, now, latency_s)
        now += max(0.1, latency_s) + 0.001
        controller.advance(now)
        found.append(controller.limit)
    assert found == limits
    assert controller.min_rtt_s == 0.06


def test_slow_answers_bring_the_limit_down_step_by_step():
    controller = GradientController(settings(fixed_min_rtt_s=0.06, update_interval_s=1.0))
    controller.limit = 200
    found, now = [], 0.0
    for _ in range(10):
        calls(controller, now, 0.5)
        now += 1.0
        controller.advance(now)
        found.append(controller.limit)
    assert found == [110, 62, 36, 22, 14, 9, 6, 4, 3, 3]


def test_a_window_without_calls_changes_nothing():
    controller, now = measured()
    calls(controller, now, 0.010)
    controller.advance(now + 0.2)
    limit = controller.limit
    controller.advance(now + 30.0)
    assert controller.limit == limit


def test_the_least_latency_is_measured_again_after_its_interval():
    controller, now = measured(min_rtt_interval_s=60.0)
    controller.limit = 40
    controller.advance(now + 59.9)
    assert controller.limit == 40
    controller.advance(now + 60.0)
    assert controller.min_rtt_calculation_active
    assert controller.limit == 3
    calls(controller, now + 61, 0.020, 3)
    assert controller.min_rtt_s == pytest.approx(0.0205)
    assert controller.limit == 40, "what it was before the measurement"


def test_the_interval_is_lengthened_by_jitter():
    controller = GradientController(settings(min_rtt_interval_s=10.0, jitter_percent=50.0))
    controller.admit(0.0, lambda: 4999)
    for _ in range(3):
        controller.in_flight = 1
        controller.release(0.0, 0.0)
    controller.advance(14.998)
    assert not controller.min_rtt_calculation_active
    controller.advance(15.0)
    assert controller.min_rtt_calculation_active


def test_calls_from_before_the_measurement_do_not_count():
    controller, now = measured(min_rtt_interval_s=1.0)
    assert controller.admit(now, int)
    controller.advance(now + 2)  # the measurement has begun
    controller.release(now, now + 2)
    assert controller._histogram.count == 0
    assert controller.in_flight == 0


def test_five_windows_at_the_least_concurrency_start_a_measurement():
    controller, now = measured(0.001)
    windows = 0
    while not controller.min_rtt_calculation_active:
        calls(controller, now, 0.05)
        now += 0.101
        controller.advance(now)
        windows += 1
        assert windows < 20
    assert windows == 5
    assert controller.limit == 3


def test_a_cancelled_call_frees_its_place_and_says_nothing():
    controller = GradientController(settings())
    controller.admit(0.0, int)
    controller.cancel(9.0)
    assert (controller.in_flight, controller._histogram.count) == (0, 0)


def test_the_filter_refuses_as_envoy_does_and_counts_every_end():
    filter_ = AdaptiveConcurrencyFilter(settings())
    assert [filter_.enter(HEAD, 0.0, int) for _ in range(3)] == [ENTERED] * 3
    refused = filter_.enter(HEAD, 0.0, int)
    assert (refused.reply.status, refused.reply.body) == (503, b"reached concurrency limit")
    assert refused.why == (
        "adaptive concurrency of service shop: 3 calls are in flight "
        "(the least latency is being measured)"
    )
    for status in (200, 503, 0):
        filter_.leave(status, -1, 0.0, 0.010)
    told = filter_.describe()
    assert (told["in_flight"], told["rq_blocked"]) == (0, 1)
    assert filter_.controller._histogram.count == 2, "the cancelled one says nothing"


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3)), max_size=120))
def test_whatever_comes_the_limit_stays_in_its_range_and_nothing_is_lost(events):
    controller = GradientController(settings(min_rtt_interval_s=2.0, max_concurrency=50))
    open_: list[float] = []
    now = 0.0
    for step_ms, kind in events:
        now += step_ms / 1000
        if kind < 2:
            if controller.admit(now, lambda: 7):
                open_.append(now)
        elif open_:
            started = open_.pop(0)
            if kind == 2:
                controller.release(started, now)
            else:
                controller.cancel(now)
        assert controller.in_flight == len(open_)
        assert 3 <= controller.limit <= 50
    controller.advance(now + 1e7)


def test_threads_never_get_past_the_limit():
    filter_ = AdaptiveConcurrencyFilter(settings(fixed_min_rtt_s=1.0, min_concurrency=5))
    most, inside, lock = 0, 0, threading.Lock()

    def hammer():
        nonlocal most, inside
        for _ in range(200):
            if filter_.enter(HEAD, 0.0, int) is ENTERED:
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1
                filter_.leave(200, -1, 0.0, 0.0)

    threads = [threading.Thread(target=hammer) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 5
    assert filter_.controller.in_flight == 0


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([10_000], 0.5, 10_500.0),
        ([10_000] * 4, 0.25, 10_250.0),
        ([100, 200, 300], 0.5, 205.0),
        ([1, 1, 99], 1.0, 100.0),
        ([0, 0, 0], 0.5, 0.0),
        ([123], 0.0, 120.0),
    ],
)
def test_quantiles_are_interpolated_in_bins_of_two_digits(values, q, expected):
    histogram = LatencyHistogram()
    for value in values:
        histogram.insert(value)
    assert histogram.quantile(q) == pytest.approx(expected)


def test_an_empty_histogram_has_no_quantile():
    with pytest.raises(ValueError, match="empty"):
        LatencyHistogram().quantile(0.5)


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_is_within_a_bin_of_the_true_one(values, q):
    histogram = LatencyHistogram()
    for value in values:
        histogram.insert(value)
    rank = min(len(values) - 1, max(0, math.ceil(len(values) * q) - 1))
    true = sorted(values)[rank]
    assert true * 0.9 <= histogram.quantile(q) <= true * 1.101
    assert len(histogram._bins) <= 90 * 9


def test_it_forgets_when_cleared():
    histogram, draw = LatencyHistogram(), random.Random(3)
    for _ in range(100):
        histogram.insert(draw.random() * 1e6)
    histogram.clear()
    histogram.insert(50)
    assert histogram.count == 1
    assert histogram.quantile(1.0) == pytest.approx(51)
