"""What is repeated, under which limits, and what is said when it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_support import (
    BROKEN,
    REFUSED,
    RETRY,
    call_of,
    cluster,
    counts,
    head,
    plane_of,
    reset,
    status,
    to,
)

from meshclient import errors
from meshclient.model.cluster import ClusterPolicy, Limits
from meshclient.model.outcome import OutcomeKind, ResetReason
from meshclient.model.retry import RateLimitedBackOff, ResetHeader, RetryPolicy
from meshclient.resilience import RetryStrategy
from meshclient.testing import FakeClock, ScriptedRandom, run_call


def play(action, outcomes, **options):
    return run_call(plane_of(action), head(), outcomes, rand=lambda: 0, **options)


@pytest.mark.parametrize(
    ("outcomes", "tries", "final"),
    [
        ([200], 1, 200),
        ([404], 1, 404),
        ([503, 200], 2, 200),
        ([REFUSED, 503, 204], 3, 204),
        ([503, 503, 503], 3, 503),
        ([503, 404], 2, 404),
    ],
)
def test_tries_and_the_final_response(outcomes, tries, final):
    played = play(to(retry=RETRY), outcomes)
    assert (len(played.attempts), played.status, played.error) == (tries, final, None)


def test_without_a_policy_nothing_is_repeated():
    for outcome in (503, REFUSED, BROKEN):
        assert len(play(to(), [outcome]).attempts) == 1


def test_used_up_retries_leave_the_last_response_and_urx():
    played = play(to(retry=RETRY), [503, 503, 502])
    assert (played.status, played.error) == (502, None)
    assert played.report.flags == ("URX",)
    assert played.report.notes == (
        "retry 1 of 2 after 0 ms: status 503, covered by 5xx",
        "retry 2 of 2 after 0 ms: status 503, covered by 5xx",
        "not retried: all 2 retries are used up",
    )


def test_used_up_retries_after_resets_are_flagged_before_the_reset():
    played = play(to(retry=RETRY), [BROKEN, BROKEN, BROKEN])
    assert type(played.error) is errors.UpstreamReset
    assert played.report.flags == ("URX", "UC")
    assert str(played.error).startswith("GET http://a.test/ at 10.0.0.")
    assert "after 3 tries: the connection ended before the response" in str(played.error)


def test_the_back_off_is_the_policys_and_drawn_afresh():
    rand = ScriptedRandom(0, 24, 49)  # random64, then r mod 25, r mod 50
    clock = FakeClock(0.0)
    played = run_call(plane_of(to(retry=RETRY)), head(), [503, 503, 200], clock, rand)
    assert played.delays_s == clock.sleeps == [0.024, 0.049]


def test_a_body_that_is_spent_is_not_sent_again():
    played = play(to(retry=RETRY), [503], replayable=False)
    assert played.status == 503
    assert played.report.notes == ("not retried: the request body cannot be replayed",)


def test_a_spent_body_is_sent_where_nothing_was_sent_before():
    played = play(to(retry=RETRY), [REFUSED, 200], replayable=False)
    assert (len(played.attempts), played.status) == (2, 200)


def test_a_policy_may_name_the_methods_that_are_safe():
    policy = replace(RETRY, methods=frozenset({"GET"}))
    plane = plane_of(to(retry=policy))
    post = run_call(plane, head(method="POST"), [503], rand=lambda: 0)
    assert post.report.notes == ("not retried: the server may have acted on the POST request",)
    unsent = run_call(plane, head(method="POST"), [REFUSED, 200], rand=lambda: 0)
    assert unsent.status == 200
    assert run_call(plane, head(), [503, 200], rand=lambda: 0).status == 200


def test_a_cluster_that_retries_enough_already_is_flagged_uo():
    policy = ClusterPolicy(limits=Limits(max_retries=1))
    plane = plane_of(to(retry=RETRY), cluster(policy=policy))
    first, second = call_of(plane), call_of(plane)
    assert first.settle(first.next_attempt(0.0), status(503), 0.0) is not None
    assert second.settle(second.next_attempt(0.0), reset(BROKEN), 0.0) is None
    assert second.report.flags == ("UO", "UC")
    assert "as many retries under way as it allows" in second.report.notes[0]
    for call in (first, second):
        call.abandon(0.0)
    assert counts(plane) == 0


def test_the_callers_headers_add_to_the_policy():
    request = head(headers=[("x-envoy-retry-on", "retriable-4xx"), ("x-envoy-max-retries", "1")])
    played = run_call(plane_of(to(retry=RETRY)), request, [409, 503], rand=lambda: 0)
    assert (played.status, len(played.attempts)) == (503, 2)
    assert played.report.notes[1:] == ("not retried: all 1 retries are used up",)
    assert "status 409, covered by retriable-4xx" in played.report.notes[0]


RATE_LIMITED = replace(
    RETRY,
    retry_on=frozenset({"retriable-status-codes"}),
    status_codes=frozenset({429}),
    rate_limited=RateLimitedBackOff(
        (ResetHeader("retry-after"), ResetHeader("x-reset", "unix_timestamp")), 60.0
    ),
)


def test_the_upstream_may_say_when_to_come_back():
    played = play(to(retry=RATE_LIMITED), [status(429, [("Retry-After", "2")]), 200])
    assert played.delays_s[0] >= 2.0
    assert played.status == 200


@pytest.mark.parametrize(
    ("wall_clock", "least_s", "most_s"), [(lambda: 1000.0, 5.0, 8.0), (None, 0.0, 0.025)]
)
def test_a_point_in_time_needs_the_wall_clock(wall_clock, least_s, most_s):
    outcomes = [status(429, [("x-reset", "1005")]), 200]
    played = play(to(retry=RATE_LIMITED), outcomes, wall_clock=wall_clock)
    assert least_s <= played.delays_s[0] <= most_s


def test_the_wall_clock_is_not_asked_without_need():
    def asked() -> float:
        raise AssertionError("asked")

    assert play(to(retry=RETRY), [503, 200], wall_clock=asked).status == 200


def test_overflow_is_never_repeated_and_blames_nobody():
    call = call_of(plane_of(to(retry=RETRY)))
    attempt = call.next_attempt(0.0)
    assert call.settle(attempt, reset(ResetReason.OVERFLOW, sent=False), 0.0) is None
    assert type(call.error) is errors.Overflow
    assert attempt.kind is OutcomeKind.IGNORED
    assert call.report.flags == ("UO",)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (status(200), OutcomeKind.SUCCESS),
        (status(404), OutcomeKind.SUCCESS),
        (status(503), OutcomeKind.FAILED_RETRYABLE),
        (reset(BROKEN), OutcomeKind.FAILED_RETRYABLE),
        (reset(ResetReason.CANCELLED), OutcomeKind.IGNORED),
        (reset(ResetReason.ROUTE_TIMEOUT), OutcomeKind.FAILED),
    ],
)
def test_each_outcome_is_classified_once(outcome, kind):
    call = call_of(plane_of(to(retry=RETRY)))
    attempt = call.next_attempt(0.0)
    call.settle(attempt, outcome, 0.0)
    assert attempt.kind is kind


@pytest.mark.parametrize("failure", [status(503), reset(BROKEN)])
def test_without_a_policy_no_failure_is_retryable(failure):
    call = call_of(plane_of(to()))
    attempt = call.next_attempt(0.0)
    call.settle(attempt, failure, 0.0)
    assert attempt.kind is OutcomeKind.FAILED


def test_the_last_failure_is_no_longer_retryable():
    call = call_of(plane_of(to(retry=replace(RETRY, num_retries=0))))
    attempt = call.next_attempt(0.0)
    call.settle(attempt, status(503), 0.0)
    assert attempt.kind is OutcomeKind.FAILED


def test_a_strategy_of_the_virtual_host_replaces_the_back_off():
    strategy = RetryStrategy(wait=lambda state: state.attempt_number * 1.5)
    played = play(to(retry=RETRY), [503, 503, 200], strategies={"v": strategy})
    assert played.delays_s == [1.5, 3.0]


def test_a_strategy_alone_repeats_what_it_wants():
    strategy = RetryStrategy(retry=lambda state: True, stop=lambda state: state.attempt_number >= 3)
    played = play(to(), [503, REFUSED, 503], strategies={"v": strategy})
    assert len(played.attempts) == 3
    assert played.report.flags == ("URX",)


def test_a_strategy_of_another_virtual_host_has_no_say():
    strategy = RetryStrategy(retry=lambda state: True)
    assert len(play(to(), [503], strategies={"w": strategy}).attempts) == 1


def test_a_success_asks_no_strategy():
    def asked(_: object) -> bool:
        raise AssertionError("asked")

    strategy = RetryStrategy(retry=asked, stop=asked)
    assert play(to(retry=RETRY), [200], strategies={"v": strategy}).status == 200


def test_a_response_below_400_may_be_repeated_when_a_condition_covers_it():
    policy = RetryPolicy(frozenset({"retriable-status-codes"}), status_codes=frozenset({204}))
    played = play(to(retry=policy), [204, 200])
    assert [a.status for a in played.attempts] == [204, 200]
    assert played.attempts[0].outcome == "failed_retryable"
