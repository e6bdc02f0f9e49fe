"""The pieces of outlier detection: statistics, times, percentages, what counts as what."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.headers import HeaderMap
from meshclient.model.health import OutlierDetection
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.resilience import outlier_counters as counters
from meshclient.resilience.outlier_enforcement import enforcing_percent, is_allowed
from meshclient.resilience.outlier_outcome import (
    calls_itself_degraded,
    counts,
    had_connected,
    reset_status,
    response_status,
)
from meshclient.resilience.outlier_spell import Spell
from meshclient.resilience.outlier_statistics import (
    NONE,
    Sample,
    judge,
    success_rate_threshold,
)

rates = st.lists(st.floats(0, 100), min_size=1, max_size=30)


def test_envoys_own_example_of_the_threshold() -> None:
    assert success_rate_threshold([50.0, 100.0, 100.0, 100.0, 100.0], 1.9) == (90.0, 52.0)


@given(rates, st.floats(0, 5))
def test_the_threshold_never_exceeds_the_mean_and_equal_rates_have_no_outlier(
    values: list[float], factor: float
) -> None:
    mean, threshold = success_rate_threshold(values, factor)
    assert threshold <= mean
    assert min(values) - 1e-9 <= mean <= max(values) + 1e-9
    if len(set(values)) == 1:
        assert math.isclose(threshold, values[0], abs_tol=1e-6)


def _samples(*pairs: tuple[int, int]) -> list[Sample[int]]:
    return [Sample(who, good, total) for who, (good, total) in enumerate(pairs)]


_FIVE = OutlierDetection(success_rate_request_volume=10, failure_percentage_request_volume=20)


@pytest.mark.parametrize(
    ("samples", "endpoints", "average", "shown", "outliers", "failing"),
    [
        ([(5, 10), *[(10, 10)] * 4], 5, 90.0, 5, [0], []),
        ([(6, 10), *[(10, 10)] * 4], 5, 92.0, 5, [0], []),
        ([(5, 9), *[(10, 10)] * 4], 5, NONE, 4, [], []),
        ([(5, 10), *[(10, 10)] * 3], 4, NONE, 0, [], []),
        ([(5, 10), *[(10, 10)] * 3], 9, NONE, 4, [], []),
        ([(3, 20), *[(20, 20)] * 4], 5, 83.0, 5, [0], [0]),
        ([(4, 20), *[(20, 20)] * 4], 5, 84.0, 5, [0], []),
        ([(0, 20)] * 5, 5, 0.0, 5, [], [0, 1, 2, 3, 4]),
        ([(0, 20)] * 4, 6, NONE, 4, [], []),
    ],
)
def test_who_stands_out(
    samples: list[tuple[int, int]],
    endpoints: int,
    average: float,
    shown: int,
    outliers: list[int],
    failing: list[int],
) -> None:
    found = judge(_samples(*samples), endpoints, _FIVE)
    assert found.average == average
    assert len(found.shown) == shown
    assert [sample.who for sample in found.outliers] == outliers
    assert [sample.who for sample in found.failing] == failing


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200)), max_size=12),
    st.integers(1, 6),
    st.integers(1, 150),
)
def test_only_endpoints_with_enough_calls_are_judged(
    pairs: list[tuple[int, int]], hosts: int, volume: int
) -> None:
    settings = OutlierDetection(
        success_rate_minimum_hosts=hosts,
        success_rate_request_volume=volume,
        failure_percentage_minimum_hosts=hosts,
        failure_percentage_request_volume=volume,
    )
    samples = _samples(*((min(good, total), total) for good, total in pairs))
    found = judge(samples, len(samples), settings)
    enough = [sample for sample in samples if sample.total >= volume]
    for sample in (*found.outliers, *found.failing):
        assert sample in enough
    if len(enough) < hosts:
        assert (found.outliers, found.failing, found.average) == ([], [], NONE)
    assert all(100 - sample.rate >= 85 for sample in found.failing)
    assert all(sample.rate < found.threshold for sample in found.outliers)


@pytest.mark.parametrize(
    ("percent", "endpoints", "most"),
    [(10, 9, 0), (10, 10, 1), (10, 19, 1), (10, 20, 2), (33, 3, 0), (34, 3, 1), (50, 2, 1),
     (99, 1, 0), (100, 1, 1), (100, 7, 7), (0, 5, 0), (400, 3, 3)],
)  # fmt: skip
def test_the_percentage_is_strict(percent: int, endpoints: int, most: int) -> None:
    settings = OutlierDetection(max_ejection_percent=percent)
    allowed = [is_allowed(settings, ejected, endpoints) for ejected in range(endpoints)]
    assert allowed == [True] * most + [False] * (endpoints - most)


def test_the_first_one_goes_regardless_where_one_always_may() -> None:
    settings = OutlierDetection(max_ejection_percent=0, always_eject_one_host=True)
    assert is_allowed(settings, 0, 3)
    assert not is_allowed(settings, 1, 3)


def test_every_reason_has_its_own_enforcing_percentage() -> None:
    settings = OutlierDetection(
        enforcing_consecutive_5xx=1,
        enforcing_consecutive_gateway_failure=2,
        enforcing_consecutive_local_origin_failure=3,
        enforcing_success_rate=4,
        enforcing_local_origin_success_rate=5,
        enforcing_failure_percentage=6,
        enforcing_failure_percentage_local_origin=7,
    )
    reasons = (
        counters.CONSECUTIVE_5XX,
        counters.CONSECUTIVE_GATEWAY,
        counters.CONSECUTIVE_LOCAL,
        counters.SUCCESS_RATE,
        counters.SUCCESS_RATE_LOCAL,
        counters.FAILURE_PERCENTAGE,
        counters.FAILURE_PERCENTAGE_LOCAL,
    )
    assert [enforcing_percent(settings, reason) for reason in reasons] == [1, 2, 3, 4, 5, 6, 7]


def test_times_grow_to_the_cap_and_shrink_with_good_conduct() -> None:
    spell = Spell(OutlierDetection(base_ejection_time_s=30, max_ejection_time_s=100))
    lengths = []
    for _ in range(6):
        lengths.append(spell.begin(0.0, lambda: 0))
        spell.end(0.0)
    assert lengths == [30.0, 60.0, 90.0, 100.0, 100.0, 100.0]
    assert (spell.count, spell.multiplier) == (6, 5)
    spell.decay(9.0)  # an interval of 10 s has not passed
    left = [spell.multiplier]
    for sweep in range(1, 8):
        spell.decay(10.0 * sweep)
        left.append(spell.multiplier)
    assert left == [5, 4, 3, 2, 1, 0, 0, 0]


def test_a_cap_below_the_base_time_counts_as_the_base_time() -> None:
    spell = Spell(OutlierDetection(base_ejection_time_s=400, max_ejection_time_s=300))
    assert [spell.begin(0.0, lambda: 0) for _ in range(3)] == [400.0] * 3


@given(st.integers(0, 2**64 - 1))
def test_the_jitter_is_whole_milliseconds_up_to_its_bound(number: int) -> None:
    spell = Spell(OutlierDetection(base_ejection_time_s=1, max_ejection_time_jitter_s=0.005))
    length_s = spell.begin(0.0, lambda: number)
    assert length_s == 1.0 + number % 6 / 1000


def test_a_time_that_ends_with_a_sweep_does_not_wait_for_the_next_one() -> None:
    """0.1 + 0.2 is more than 0.3: sums of times are not exact."""
    spell = Spell(OutlierDetection(base_ejection_time_s=0.3, interval_s=0.1))
    began = 86400.1
    spell.begin(began, lambda: 0)
    assert not spell.is_over(began + 0.1 + 0.1)
    assert spell.is_over(began + 0.1 + 0.1 + 0.1)


@pytest.mark.parametrize(
    ("grpc", "status"),
    [(0, 200), (1, 499), (2, 500), (3, 400), (4, 504), (5, 404), (6, 409), (7, 403), (8, 429),
     (9, 400), (10, 409), (11, 400), (12, 501), (13, 500), (14, 503), (15, 500), (16, 401),
     (17, 500), (99, 500)],
)  # fmt: skip
def test_a_grpc_status_replaces_the_http_status(grpc: int, status: int) -> None:
    assert response_status(Outcome(200, grpc_status=grpc), ()) == status
    assert response_status(Outcome(503, grpc_status=grpc), (429,)) == status


@pytest.mark.parametrize(
    ("status", "codes", "counted"),
    [(500, (), 500), (404, (), 404), (500, (429,), 200), (429, (429,), 500), (503, (503,), 503),
     (200, (200,), 500)],
)  # fmt: skip
def test_own_error_codes(status: int, codes: tuple[int, ...], counted: int) -> None:
    assert response_status(Outcome(status), codes) == counted


@pytest.mark.parametrize(
    ("reset", "sent", "counted", "status", "connected"),
    [
        (ResetReason.CONNECTION_FAILURE, False, True, 503, False),
        (ResetReason.LOCAL_CONNECTION_FAILURE, False, True, 503, False),
        (ResetReason.CONNECTION_TIMEOUT, False, True, 503, False),
        (ResetReason.CONNECTION_TERMINATION, True, True, 503, True),
        (ResetReason.CONNECTION_TERMINATION, False, True, 503, True),
        (ResetReason.REMOTE_RESET, True, True, 503, True),
        (ResetReason.REFUSED_STREAM, True, True, 503, True),
        (ResetReason.PROTOCOL_ERROR, True, True, 503, True),
        (ResetReason.PER_TRY_TIMEOUT, True, True, 504, True),
        (ResetReason.ROUTE_TIMEOUT, True, True, 504, True),
        (ResetReason.PER_TRY_TIMEOUT, False, False, 504, True),
        (ResetReason.ROUTE_TIMEOUT, False, False, 504, True),
        (ResetReason.OVERFLOW, False, False, 503, True),
        (ResetReason.CANCELLED, True, False, 503, True),
    ],
)
def test_resets(
    reset: ResetReason, sent: bool, counted: bool, status: int, connected: bool
) -> None:
    outcome = Outcome(reset=reset, sent=sent)
    assert counts(outcome) is counted
    assert reset_status(reset) == status
    assert had_connected(reset) is connected


def test_every_reset_reason_is_in_the_table_above() -> None:
    assert len(ResetReason) == 11


def test_degraded_is_a_matter_of_the_header_alone() -> None:
    assert calls_itself_degraded(Outcome(200, HeaderMap([(b"X-Envoy-Degraded", b"false")])))
    assert not calls_itself_degraded(Outcome(200, HeaderMap([(b"x-degraded", b"true")])))
    assert not calls_itself_degraded(Outcome(200))
