"""Time limits of calls and tries: whose they are, what they bound, what happens at their end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_support import (
    BROKEN,
    REFUSED,
    RETRY,
    SLOW,
    call_of,
    counts,
    head,
    plane_of,
    reset,
    sent,
    status,
    to,
)

from meshclient import errors
from meshclient.model.outcome import ResetReason
from meshclient.testing import FakeClock, ScriptedRandom, run_call

EXPECTED = "x-envoy-expected-rq-timeout-ms"
LONG = replace(RETRY, num_retries=10)


def per_try(seconds: float):
    return replace(RETRY, per_try_timeout_s=seconds)


@pytest.mark.parametrize(
    ("timeout_s", "per_try_s", "replayable", "response_s", "deadline"),
    [
        (None, None, True, None, None),
        (2.0, None, True, None, 102.0),
        (2.0, 0.5, True, 0.5, 102.0),
        (None, 0.5, True, 0.5, None),
        (2.0, 2.0, True, None, 102.0),  # not below the route's: dropped
        (2.0, 3.0, True, None, 102.0),
        # A streamed upload may take its time; the wait for the answer is bounded.
        (2.0, None, False, 2.0, None),
        (2.0, 0.5, False, 0.5, None),
        (None, 0.5, False, 0.5, None),
    ],
)
def test_limits_of_the_first_try(timeout_s, per_try_s, replayable, response_s, deadline):
    policy = replace(RETRY, per_try_timeout_s=per_try_s)
    plane = plane_of(to(retry=policy, timeout_s=timeout_s))
    attempt = call_of(plane, now=100.0, replayable=replayable).next_attempt(100.0)
    assert (attempt.response_timeout_s, attempt.deadline) == (response_s, deadline)
    assert not attempt.by_caller


@pytest.mark.parametrize(
    ("headers", "timeout_s", "per_try_s"),
    [
        ({}, 2.0, 0.5),
        ({"timeout": "3000"}, 3.0, 0.5),
        ({"timeout": "0"}, None, 0.5),
        ({"timeout": "400"}, 0.4, None),  # now the per-try timeout is no shorter
        ({"per-try-timeout": "100"}, 2.0, 0.1),
        ({"per-try-timeout": "0"}, 2.0, None),
        ({"timeout": "soon"}, 2.0, 0.5),
    ],
)
def test_the_callers_headers_replace_the_routes_limits(headers, timeout_s, per_try_s):
    lines = [(f"x-envoy-upstream-rq-{name}-ms", value) for name, value in headers.items()]
    call = call_of(plane_of(to(retry=per_try(0.5), timeout_s=2.0)), head(headers=lines))
    assert (call.timeout_s, call.per_try_s) == (timeout_s, per_try_s)


def test_the_expected_timeout_shrinks_from_try_to_try():
    plane = plane_of(to(retry=replace(LONG, per_try_timeout_s=0.5), timeout_s=2.0))
    call = call_of(plane, head(headers=[(EXPECTED, "77")]), rand=lambda: 0)
    seen = []
    for now in (0.0, 1.0, 1.75, 1.9999):
        attempt = call.next_attempt(now)
        seen.append(sent(attempt.headers)[EXPECTED])
        call.settle(attempt, status(503), now)
        attempt.close(now)
    assert seen == ["500", "500", "250", "1"]


def test_without_a_limit_no_expected_timeout_is_sent():
    assert EXPECTED not in sent(call_of(plane_of(to())).next_attempt(0.0).headers)


def test_a_per_try_timeout_alone_is_announced_too():
    attempt = call_of(plane_of(to(retry=per_try(0.5)))).next_attempt(0.0)
    assert sent(attempt.headers)[EXPECTED] == "500"


def test_no_try_is_made_at_or_after_the_deadline():
    plane = plane_of(to(retry=LONG, timeout_s=1.0))
    call = call_of(plane, rand=lambda: 0)
    first = call.next_attempt(0.0)
    assert call.settle(first, status(503), 0.5) == 0.0
    first.close(0.5)
    with pytest.raises(errors.RouteTimeout) as caught:
        call.next_attempt(1.0)
    error = caught.value
    assert (error.status, error.flag, error.body) == (504, "UT", "upstream request timeout")
    assert str(error) == (
        f"GET http://a.test/ at {first.endpoint}: the route's timeout of 1 s is spent"
    )
    assert counts(plane) == 0
    assert len(call.attempts) == 1


def test_a_back_off_that_outlasts_the_deadline_ends_the_call_at_once():
    plane = plane_of(to(retry=LONG, timeout_s=1.0))
    call = call_of(plane, rand=ScriptedRandom(0, 20))
    first = call.next_attempt(0.0)
    assert call.settle(first, status(503), 0.98) is None
    assert type(call.error) is errors.RouteTimeout
    assert "the back-off of 20 ms outlasts the route's timeout of 1 s" in str(call.error)
    assert call.report.flags == ("UT",)
    first.close(0.98)
    assert counts(plane) == 0


def test_a_back_off_that_leaves_a_moment_is_taken():
    call = call_of(plane_of(to(retry=LONG, timeout_s=1.0)), rand=ScriptedRandom(0, 19))
    assert call.settle(call.next_attempt(0.0), status(503), 0.98) == 0.019


def test_a_back_off_that_outlasts_the_callers_limit_is_a_deadline_exceeded():
    plane = plane_of(to(retry=LONG))
    call = call_of(plane, rand=ScriptedRandom(0, 20), patience_s=1.0)
    assert call.settle(call.next_attempt(0.0), reset(BROKEN), 0.98) is None
    assert type(call.error) is errors.DeadlineExceeded
    assert "outlasts the caller's time limit" in str(call.error)
    call.abandon(0.98)
    assert counts(plane) == 0


def test_the_callers_limit_bounds_every_try_by_what_is_left():
    call = call_of(plane_of(to(retry=per_try(0.5))), rand=lambda: 0, patience_s=1.0)
    first = call.next_attempt(0.0)
    assert (first.response_timeout_s, first.by_caller) == (0.5, False)
    assert call.settle(first, reset(SLOW), 0.75) == 0.0
    first.close(0.75)
    second = call.next_attempt(0.75)
    assert (second.response_timeout_s, second.by_caller) == (0.25, True)


@pytest.mark.parametrize("now", [1.0, 1.2, 0.9995])
def test_what_the_callers_limit_ends_is_never_repeated(now):
    """Even when its timer fires a little early."""
    plane = plane_of(to(retry=LONG, timeout_s=5.0))
    call = call_of(plane, patience_s=1.0)
    first = call.next_attempt(0.0)
    assert call.settle(first, reset(SLOW), now) is None
    assert type(call.error) is errors.DeadlineExceeded
    assert str(call.error).endswith(f"at {first.endpoint}: the caller's own time limit is spent")
    first.close(now)
    assert counts(plane) == 0


def test_a_reset_at_the_end_of_the_callers_limit_stays_a_reset_and_is_not_repeated():
    call = call_of(plane_of(to(retry=LONG)), patience_s=1.0)
    assert call.settle(call.next_attempt(0.0), reset(BROKEN), 1.0) is None
    assert type(call.error) is errors.UpstreamReset


def test_no_try_is_made_when_the_callers_limit_is_spent():
    call = call_of(plane_of(to(retry=LONG)), rand=lambda: 0, patience_s=1.0)
    first = call.next_attempt(0.0)
    assert call.settle(first, reset(BROKEN), 0.5) == 0.0
    with pytest.raises(errors.DeadlineExceeded, match="the caller's own time limit is spent"):
        call.next_attempt(1.5)


def test_a_response_in_time_passes_whatever_the_clock_says_afterwards():
    call = call_of(plane_of(to(retry=LONG, timeout_s=1.0)), patience_s=1.0)
    assert call.settle(call.next_attempt(0.0), status(200), 7.0) is None
    assert call.error is None


@pytest.mark.parametrize(
    ("options", "per_try_s", "reason", "kind"),
    [
        ({"timeout_s": 1.0}, None, ResetReason.ROUTE_TIMEOUT, errors.RouteTimeout),
        ({"timeout_s": 1.0}, 0.5, SLOW, errors.PerTryTimeout),
        # the response timeout of a streamed upload is the route's
        ({"timeout_s": 1.0}, None, SLOW, errors.RouteTimeout),
        # the policy has no limit at all: it was a write or read limit of the caller
        ({}, None, SLOW, errors.DeadlineExceeded),
    ],
)
def test_a_timeout_is_named_after_the_limit_that_ended_the_try(options, per_try_s, reason, kind):
    policy = replace(RETRY, num_retries=0, per_try_timeout_s=per_try_s)
    call = call_of(plane_of(to(retry=policy, **options)))
    assert call.settle(call.next_attempt(0.0), reset(reason), 0.6) is None
    error = call.error
    assert type(error) is kind
    assert isinstance(error, TimeoutError)
    assert (error.status, error.body) == (504, "upstream request timeout")


def test_a_route_timeout_is_never_repeated():
    call = call_of(plane_of(to(retry=LONG, timeout_s=1.0)))
    assert call.settle(call.next_attempt(0.0), reset(ResetReason.ROUTE_TIMEOUT), 1.0) is None
    assert call.report.flags == ("UT",)
    assert call.report.notes == ()


def test_per_try_timeouts_are_repeated_until_the_retries_are_used_up():
    clock = FakeClock(0.0)
    played = run_call(
        plane_of(to(retry=per_try(0.5), timeout_s=9.0)),
        head(),
        [(200, 60.0)] * 3,
        clock,
        rand=ScriptedRandom(0, 10, 10),
    )
    assert type(played.error) is errors.PerTryTimeout
    assert played.report.flags == ("URX", "UT")
    assert clock.now == pytest.approx(1.52)


def test_the_route_timeout_spans_tries_and_back_offs():
    clock = FakeClock(0.0)
    policy = replace(LONG, per_try_timeout_s=0.4)
    played = run_call(
        plane_of(to(retry=policy, timeout_s=1.0)), head(), [(200, 60.0)] * 9, clock, rand=lambda: 0
    )
    assert type(played.error) is errors.RouteTimeout
    assert clock.now == pytest.approx(1.0)
    assert [a.outcome for a in played.attempts] == [
        "per try timeout",
        "per try timeout",
        "response timeout",
    ]


def test_a_streamed_upload_that_never_left_is_repeated_within_the_routes_timeout():
    plane = plane_of(to(retry=LONG, timeout_s=1.0))
    call = call_of(plane, rand=lambda: 0, replayable=False)
    first = call.next_attempt(0.0)
    assert call.settle(first, reset(REFUSED, sent=False), 0.4) == 0.0
    first.close(0.4)
    second = call.next_attempt(0.4)
    assert (second.response_timeout_s, second.deadline) == (1.0, None)
    assert call.settle(second, reset(REFUSED, sent=False), 1.4) is None
    assert type(call.error) is errors.RouteTimeout
