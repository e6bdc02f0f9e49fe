"""Two tries of one call: who starts, who wins, what each counts for. Nothing stays counted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from core_support import (
    BROKEN,
    QUICK,
    RETRY,
    SLOW,
    call_of,
    cluster,
    counts,
    head,
    host_of,
    plane_of,
    reset,
    sent,
    status,
    to,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient import errors
from meshclient.explain import explain
from meshclient.hedge import Hedge
from meshclient.model.cluster import ClusterPolicy, Limits, LoadBalancing
from meshclient.model.hedging import Comparison, Hedging
from meshclient.model.matching import Fraction
from meshclient.model.outcome import OutcomeKind, ResetReason
from meshclient.model.retry import RetryPolicy
from meshclient.model.routes import Mirror

DELAY = Hedging(delay_s=1.0)
AT_TIMEOUT = Hedging(on_per_try_timeout=True)
PER_TRY = replace(RETRY, per_try_timeout_s=1.0)


def hedged(plane, **options) -> Hedge:
    call = call_of(plane, rand=lambda: 0, **options)
    assert call.hedge is not None
    return call.hedge


def world(hedging=DELAY, retry=RETRY, count=2, limits=None, **options):
    policy = ClusterPolicy(LoadBalancing("round_robin"), limits=limits or Limits())
    return plane_of(
        to(hedging=hedging, retry=retry, **options), cluster(count=count, policy=policy)
    )


def test_ordinary_calls_have_no_hedge():
    assert call_of(plane_of(to())).hedge is None
    assert call_of(plane_of(to(hedging=DELAY)), head(method="POST")).hedge is None
    assert call_of(plane_of(to(hedging=DELAY)), replayable=False).hedge is None


def test_a_slow_try_gets_another_elsewhere_and_the_loser_counts_for_nothing():
    plane = world()
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    assert (hedge.wake_at(), hedge.due(0.9)) == (1.0, None)
    second = hedge.due(1.0)
    assert second is not None
    assert second.endpoint != first.endpoint
    assert (second.number, counts(plane)) == (2, 3), "two requests and a permit"
    assert hedge.due(50.0) is None, "one hedge is the default"
    assert hedge.settle(second, status(200), 1.2)
    hedge.end(1.2)
    assert counts(plane) == 1, "the winner's body"
    second.close(1.3)
    assert counts(plane) == 0
    assert (first.kind, first.outcome, first.duration_s) == (OutcomeKind.IGNORED, "lost", 1.2)
    assert hedge.call.attempts[-1] is second


def test_the_first_may_win_after_all_and_is_the_last_of_the_report():
    plane = world()
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    second = hedge.due(1.0)
    assert hedge.settle(first, status(200), 1.5)
    hedge.end(1.5)
    first.close(1.5)
    assert second is not None
    assert [a.outcome for a in hedge.call.attempts] == ["lost", "success"]
    assert counts(plane) == 0


def test_a_bad_answer_is_dropped_while_another_try_is_waited_for():
    plane = world(retry=replace(RETRY, num_retries=1))
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    second = hedge.due(1.0)
    assert second is not None
    assert not hedge.settle(second, status(503), 1.1)
    assert second.outcome == "failed"
    assert hedge.settle(first, status(200), 2.0)
    first.close(2.0)
    assert (hedge.call.error, counts(plane)) == (None, 0)


def test_the_try_that_was_hedged_is_not_retried_and_its_hedge_is():
    plane = world()  # two retries
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    second = hedge.due(1.0)
    assert second is not None
    assert not hedge.settle(first, status(503), 1.1)
    assert hedge.due(1.1) is None, "its place is taken"
    assert not hedge.settle(second, status(503), 1.2)
    third = hedge.due(1.2)
    assert third is not None
    assert third.number == 3
    assert hedge.settle(third, status(503), 1.3), "no retry is left: the last answer passes"
    third.close(1.3)
    assert hedge.call.flags == ("URX",)
    assert counts(plane) == 0


def test_all_tries_broken_is_an_error_with_the_last_reason():
    plane = world(retry=replace(RETRY, num_retries=1))
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    second = hedge.due(1.0)
    assert second is not None
    assert not hedge.settle(first, reset(BROKEN), 1.1)
    assert hedge.settle(second, reset(BROKEN), 1.2)
    second.close(1.2)
    assert isinstance(hedge.call.error, errors.UpstreamReset)
    assert counts(plane) == 0


def test_a_failure_before_the_delay_is_an_ordinary_retry():
    plane = world()
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    assert not hedge.settle(first, reset(BROKEN), 0.2)
    assert hedge.wake_at() == pytest.approx(0.2), "a back-off of 0 ms"
    second = hedge.due(0.2)
    assert second is not None
    assert hedge.wake_at() == 1.2, "the delay runs from the last start"
    assert hedge.settle(second, status(200), 0.3)
    second.close(0.3)
    assert counts(plane) == 0


def test_the_time_limit_of_the_call_ends_all_tries():
    plane = world(timeout_s=5.0)
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    assert hedge.due(1.0) is not None
    assert hedge.settle(first, reset(ResetReason.ROUTE_TIMEOUT), 5.0)
    hedge.end(5.0)
    first.close(5.0)
    assert isinstance(hedge.call.error, errors.RouteTimeout)
    assert counts(plane) == 0


def test_without_a_retry_policy_a_hedge_takes_a_permit_only():
    plane = world(retry=None, limits=Limits(max_retries=1))
    hedge, other = hedged(plane), hedged(plane)
    first, waiting = hedge.begin(0.0), other.begin(0.0)
    second = hedge.due(1.0)
    assert second is not None
    assert other.due(1.0) is None, "the cluster's only permit is taken"
    assert "as many retries under way" in other.call.notes[0]
    assert hedge.settle(second, status(500), 1.1), "without a policy every answer is an answer"
    hedge.end(1.1)
    assert other.settle(waiting, status(200), 1.2)
    second.close(1.2)
    waiting.close(1.2)
    first.close(1.2)
    assert counts(plane) == 0


def test_a_hedge_that_nothing_can_run_is_left_out():
    plane = world()
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    assert hedge.due(1.0, room=False) is None
    assert "nothing is free" in hedge.call.notes[-1]
    assert hedge.settle(first, status(200), 3.0)
    first.close(3.0)
    assert counts(plane) == 0


def test_a_refused_hedge_is_not_the_end_of_the_call():
    plane = world(limits=Limits(max_requests=1))
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    assert hedge.due(1.0) is None
    assert hedge.call.error is None
    assert "max_requests" in hedge.call.notes[-1]
    assert hedge.settle(first, status(200), 3.0)
    first.close(3.0)
    assert counts(plane) == 0


def test_a_try_whose_hedge_could_not_begin_is_retried_as_usual():
    plane = world()
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    assert hedge.due(1.0, room=False) is None
    assert not hedge.settle(first, status(503), 1.5)
    second = hedge.due(1.5)
    assert second is not None
    assert hedge.settle(second, status(200), 1.6)
    second.close(1.6)
    assert counts(plane) == 0


# -- at the per-try timeout


def test_the_per_try_timeout_ends_nothing_and_starts_another():
    plane = world(AT_TIMEOUT, PER_TRY, timeout_s=9.0)
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    assert first.response_timeout_s is None
    assert sent(first.headers)["x-envoy-expected-rq-timeout-ms"] == "9000"
    assert (hedge.due(0.9), hedge.wake_at()) == (None, 1.0)
    second = hedge.due(1.0)
    assert second is not None
    third = hedge.due(2.0)
    assert third is not None, "as long as retries are left"
    assert hedge.due(3.0) is None
    assert hedge.call.flags == ("URX",)
    assert hedge.settle(first, status(200), 3.5)
    hedge.end(3.5)
    first.close(3.5)
    assert counts(plane) == 0


def test_a_driver_that_does_not_hedge_has_its_per_try_timeout():
    call = call_of(world(AT_TIMEOUT, PER_TRY))
    assert call.next_attempt(0.0).response_timeout_s == 1.0


def test_the_back_off_passes_before_the_retry_beside():
    slow = replace(PER_TRY, back_off=QUICK)
    hedge = call_of(world(AT_TIMEOUT, slow), rand=lambda: 10).hedge
    assert hedge is not None
    hedge.begin(0.0)
    assert hedge.due(1.0) is None
    assert hedge.wake_at() == pytest.approx(1.010)
    assert hedge.due(1.011) is not None


def test_without_a_policy_the_per_try_timeout_is_only_noticed():
    request = head(
        headers=[
            ("x-envoy-hedge-on-per-try-timeout", "true"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "1000"),
        ]
    )
    plane = plane_of(to())
    hedge = hedged(plane, request=request)
    first = hedge.begin(0.0)
    assert first.response_timeout_s is None
    assert hedge.due(1.0) is None
    assert hedge.wake_at() == math.inf
    assert hedge.settle(first, status(200), 5.0)


def test_a_soft_timeout_counts_for_outlier_detection_at_once():
    seen = []
    plane = world(AT_TIMEOUT, PER_TRY)
    plane.clusters["a"].on_outcome = lambda state, outcome, *_: seen.append((state, outcome.reset))
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    hedge.due(1.0)
    assert seen == [(first.state, SLOW)]


def test_a_loser_is_not_observed():
    seen = []
    plane = world()
    plane.clusters["a"].on_outcome = lambda state, outcome, *_: seen.append((state, outcome.status))
    hedge = hedged(plane)
    hedge.begin(0.0)
    second = hedge.due(1.0)
    assert second is not None
    assert hedge.settle(second, status(200), 1.1)
    hedge.end(1.1)
    second.close(1.1)
    assert seen == [(second.state, 200)]


def test_attempt_counts_are_those_of_the_tries():
    plane = plane_of(host_of(to(hedging=DELAY, retry=RETRY), include_attempt_count=True))
    hedge = hedged(plane)
    first, second = hedge.begin(0.0), hedge.due(1.0)
    assert second is not None
    numbers = [sent(one.headers)["x-envoy-attempt-count"] for one in (first, second)]
    assert numbers == ["1", "2"]


def test_disarmed_it_is_an_ordinary_call():
    hedge = hedged(world(AT_TIMEOUT, PER_TRY))
    hedge.disarm("no thread")
    assert hedge.begin(0.0).response_timeout_s == 1.0
    assert hedge.due(5.0) is None
    assert hedge.call.notes == ("not hedged: no thread",)


SETTINGS = st.builds(
    Hedging, st.sampled_from([None, 0.5]), st.booleans(), st.integers(1, 3)
).filter(lambda h: h.delay_s is not None or h.on_per_try_timeout)
POLICIES = st.sampled_from([None, RETRY, PER_TRY, RetryPolicy(frozenset({"5xx"}), 9, 0.7)])
ENDINGS = st.sampled_from([200, 404, 503, BROKEN, SLOW, ResetReason.ROUTE_TIMEOUT])


STEPS = st.lists(
    st.tuples(st.sampled_from(["end", "wait"]), st.integers(0, 3), ENDINGS, st.booleans()),
    max_size=12,
)


@settings(max_examples=60)
@given(SETTINGS, POLICIES, STEPS)
def test_any_course_of_a_hedged_call_ends_once_and_leaves_nothing(hedging, retry, steps):
    """Property: bounded tries, one answer or one error, every count back to 0."""
    plane = world(hedging, retry, count=3, timeout_s=60.0, limits=Limits(max_requests=3))
    call = call_of(plane, rand=lambda: 0)
    hedge = call.hedge
    if hedge is None:
        return
    now, running, last = 0.0, [hedge.begin(0.0)], ("end", 0, 200, True)
    try:
        for step, which, ending, room in (*steps, *[last] * 20):
            if step == "end" and running:
                attempt = running.pop(which % len(running))
                outcome = status(ending) if isinstance(ending, int) else reset(ending)
                if hedge.settle(attempt, outcome, now):
                    attempt.close(now)
                    break
            else:
                now = max(now, min(hedge.wake_at(), now + 1.0))
            further = hedge.due(now, room)
            if further is not None:
                running.append(further)
            assert running or hedge.wake_at() < math.inf, "somebody must go on"
        else:
            pytest.fail("the call does not end")
    except errors.CallError:
        assert call.error is not None
    hedge.end(now)
    assert counts(plane) == 0
    assert all(attempt.outcome != "open" for attempt in call.attempts)
    assert len(call.attempts) <= 13


# -- in words


@pytest.mark.parametrize(
    ("hedging", "request_", "words"),
    [
        (DELAY, head(), ["hedging: another try after 1000 ms, up to 1 of them"]),
        (AT_TIMEOUT, head(), ["hedging: a retry at the per-try timeout, which ends no try"]),
        (
            DELAY,
            head(method="POST"),
            ["hedging: not for this request, which may be sent once only"],
        ),
        (None, head(), []),
    ],
)
def test_explain_says_when_a_request_is_hedged(hedging, request_, words):
    plane = world(hedging, replace(PER_TRY, methods=frozenset({"GET"})))
    found = explain(plane, request_)
    assert found.beside == words
    assert all(line in str(found) for line in words)


def test_explain_names_the_mirrors():
    mirrors = (Mirror("m", Fraction(125_000, 1_000_000)), Mirror("n", compare=Comparison()))
    plane = plane_of(to(mirrors=mirrors))
    assert explain(plane, head()).beside == [
        "mirror: 12.5 % to m",
        "mirror: 100 % to n, answers compared",
    ]


# -- with a breaker


def test_a_loser_gives_its_place_in_a_half_open_breaker_back():
    plane = world()
    hedge = hedged(plane)
    first = hedge.begin(0.0)
    given_back = []

    class Gate:
        def abandon(self, generation, now):
            given_back.append((generation, now))

    first.gates = [(Gate(), 7)]
    second = hedge.due(1.0)
    assert second is not None
    assert hedge.settle(second, status(200), 1.5)
    hedge.end(1.5)
    second.close(1.5)
    assert given_back == [(7, 1.5)]
