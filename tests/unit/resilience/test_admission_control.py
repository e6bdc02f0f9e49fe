"""Admission control: the formula, the window, and what counts as what."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.concurrency import AdmissionControl
from meshclient.model.headers import HeaderMap
from meshclient.model.request import RequestHead
from meshclient.resilience.admission_control import (
    AdmissionControlFilter,
    SuccessWindow,
    rejection_probability,
)

HEAD = RequestHead("GET", "http", "shop", 80, "/", HeaderMap([]))


def settings(**options):
    return AdmissionControl("service shop", **options)


@pytest.mark.parametrize(
    ("requests", "successes", "options", "expected"),
    [
        (0, 0, {}, 0.0),
        (1, 0, {}, 0.5),
        (100, 95, {}, 0.0),
        (100, 100, {}, 0.0),
        (100, 50, {}, (100 - 50 / 0.95) / 101),
        (100, 0, {}, 0.8),
        (100, 0, {"max_rejection_percent": 100.0}, 100 / 101),
        (100, 50, {"aggression": 2.0}, ((100 - 50 / 0.95) / 101) ** 0.5),
        (100, 50, {"aggression": 0.1}, (100 - 50 / 0.95) / 101),
        (100, 50, {"success_threshold_percent": 50.0}, 0.0),
    ],
)
def test_the_share_that_is_refused(requests, successes, options, expected):
    found = rejection_probability(requests, successes, settings(**options))
    assert found == pytest.approx(expected)


@given(st.integers(0, 10_000), st.data())
def test_it_is_a_share_and_falls_with_every_success(requests, data):
    one = settings(aggression=data.draw(st.floats(1, 10)))
    successes = data.draw(st.integers(0, max(0, requests - 1)))
    less = rejection_probability(requests, successes, one)
    assert 0.0 <= less <= 0.8
    assert rejection_probability(requests, successes + 1, one) <= less


def test_the_draw_has_four_digits():
    filter_ = AdmissionControlFilter(settings())
    filter_.leave(500, -1, 0.0, 0.0)  # one failure: 0.5
    assert filter_.enter(HEAD, 0.0, lambda: 5000).reply is None
    assert filter_.enter(HEAD, 0.0, lambda: 4999).reply is not None


def test_a_refusal_is_an_empty_503_that_counts_as_nothing_else():
    filter_ = AdmissionControlFilter(settings())
    filter_.leave(500, -1, 0.0, 0.0)
    refused = filter_.enter(HEAD, 0.0, lambda: 0)
    assert (refused.reply.status, refused.reply.body) == (503, b"")
    assert refused.why == (
        "admission control of service shop: 0 of 1 calls succeeded in the last 30 s, "
        "50 % are refused"
    )
    told = filter_.describe()
    assert (told["rq_rejected"], told["window_requests"]) == (1, 1)


@pytest.mark.parametrize(
    ("status", "grpc_status", "success"),
    [(200, -1, True), (404, -1, True), (499, -1, True), (500, -1, False), (503, -1, False),
     (200, 0, True), (200, 5, True), (200, 14, False), (200, 4, False), (0, -1, None)],
)  # fmt: skip
def test_what_counts_as_a_success(status, grpc_status, success):
    filter_ = AdmissionControlFilter(settings())
    filter_.leave(status, grpc_status, 0.0, 0.0)
    assert (filter_.rq_success, filter_.rq_failure) == (success is True, success is False)


def test_a_few_calls_a_second_are_never_refused():
    filter_ = AdmissionControlFilter(settings(rps_threshold=3))
    for _ in range(2):
        filter_.leave(500, -1, 0.0, 0.0)
    assert filter_.enter(HEAD, 0.5, lambda: 0).reply is None
    filter_.leave(500, -1, 0.0, 0.6)
    assert filter_.enter(HEAD, 0.7, lambda: 0).reply is not None


@given(st.lists(st.tuples(st.integers(0, 900), st.booleans()), max_size=80))
def test_the_window_is_that_of_a_list_of_one_second_buckets(events):
    window, now = SuccessWindow(5.0), 0.0
    model: list[tuple[float, list[bool]]] = []
    for step_ms, success in events:
        now += step_ms / 256
        window.record(success, now)
        model = [one for one in model if now - one[0] < 5.0]
        if not model or now - model[-1][0] >= 1.0:
            model.append((now, []))
        model[-1][1].append(success)
        seen = [one for _, bucket in model for one in bucket]
        assert (window.requests, window.successes) == (len(seen), sum(seen))
        assert len(window._buckets) <= 6


def test_the_share_settles_where_the_formula_says():
    """Seeded simulation: half of the admitted calls fail; 1 - 0.5 / 0.95 are refused."""
    filter_, draw = AdmissionControlFilter(settings()), random.Random(7)
    refused = 0
    for number in range(20_000):
        now = number / 1000
        if filter_.enter(HEAD, now, lambda: draw.getrandbits(64)).reply is not None:
            refused += 1
        else:
            filter_.leave(200 if draw.random() < 0.5 else 500, -1, now, now)
    assert refused / 20_000 == pytest.approx(1 - 0.5 / 0.95, abs=0.02)
