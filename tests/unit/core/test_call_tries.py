"""Tries: picks, counting in and out, the headers of each try. Nothing stays counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_support import (
    BROKEN,
    REFUSED,
    RETRY,
    SLOW,
    call_of,
    cluster,
    counts,
    endpoints,
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
from meshclient.model.cluster import ClusterPolicy, Limits
from meshclient.model.endpoint import Endpoint
from meshclient.model.outcome import OutcomeKind, ResetReason
from meshclient.model.retry import RetryBudget
from meshclient.model.routes import HostRewrite
from meshclient.plane import Plane
from meshclient.resilience import RetryStrategy
from meshclient.testing import ScriptedRandom

ATTEMPT = "x-envoy-attempt-count"


def test_a_try_counts_from_the_pick_to_its_close_and_once_only():
    plane = plane_of(to())
    call = call_of(plane)
    first = call.next_attempt(0.0)
    assert (first.number, first.state.active, first.kind, first.outcome) == (1, 1, None, "open")
    assert call.settle(first, status(200), 0.25) is None
    assert counts(plane) == 1, "the body is still to come"
    first.close(0.5)
    first.close(0.5)
    assert counts(plane) == 0
    assert (first.kind, first.outcome, first.duration_s) == (OutcomeKind.SUCCESS, "success", 0.25)


def test_closing_one_try_twice_never_takes_another_calls_count():
    plane = plane_of(to(), cluster(count=1))
    mine, other = call_of(plane).next_attempt(0.0), call_of(plane).next_attempt(0.0)
    mine.close(0.0)
    mine.close(0.0)
    assert other.state.active == 1


def test_a_cluster_without_endpoints_is_503_uh():
    call = call_of(plane_of(to(), cluster(count=0)))
    with pytest.raises(errors.NoHealthyEndpoint) as caught:
        call.next_attempt(0.0)
    error = caught.value
    assert (error.status, error.flag, error.body) == (503, "UH", "no healthy upstream")
    assert str(error) == "GET http://a.test/: cluster a: it has no endpoints"
    assert call.error is error
    assert call.attempts == []


def test_a_cluster_that_discovery_cannot_fill_says_so():
    empty = cluster(count=0, discovery_error="dns a.test:80: NXDOMAIN")
    with pytest.raises(errors.NoHealthyEndpoint, match=r"cluster a: dns a\.test:80: NXDOMAIN"):
        call_of(plane_of(to(), empty)).next_attempt(0.0)


def test_only_unhealthy_endpoints_count_as_none():
    no_panic = ClusterPolicy(panic_threshold_percent=0)
    sick = cluster(endpoints=endpoints(2, health="unhealthy"), policy=no_panic)
    with pytest.raises(errors.NoHealthyEndpoint):
        call_of(plane_of(to(), sick)).next_attempt(0.0)


def test_a_retry_that_finds_no_endpoint_gives_its_permit_back(monkeypatch):
    plane = plane_of(to(retry=RETRY))
    call = call_of(plane)
    first = call.next_attempt(0.0)
    assert call.settle(first, status(503), 0.0) is not None
    first.close(0.0)
    assert plane.clusters["a"].lane.limiter.active == 1
    monkeypatch.setattr(type(plane.clusters["a"].balancer), "pick", lambda *_: None)
    with pytest.raises(errors.NoHealthyEndpoint):
        call.next_attempt(0.1)
    assert counts(plane) == 0


def test_an_exception_in_a_pick_leaves_nothing_behind_once_abandoned(monkeypatch):
    plane = plane_of(to(retry=RETRY))
    call = call_of(plane)
    first = call.next_attempt(0.0)
    call.settle(first, status(503), 0.0)

    def broken(*_):
        raise RuntimeError("bug")

    monkeypatch.setattr(type(plane.clusters["a"].balancer), "pick", broken)
    with pytest.raises(RuntimeError):
        call.next_attempt(0.1)
    call.abandon(0.1)
    assert counts(plane) == 0


def test_an_exception_in_a_strategy_leaves_nothing_behind_once_abandoned():
    def broken(_):
        raise RuntimeError("bug")

    for strategy in (RetryStrategy(wait=broken), RetryStrategy(retry=broken)):
        plane = plane_of(to(retry=RETRY))
        call = call_of(plane, strategies={"v": strategy})
        first = call.next_attempt(0.0)
        with pytest.raises(RuntimeError):
            call.settle(first, status(503), 0.0)
        call.abandon(0.0)
        assert counts(plane) == 0


def test_randomness_that_fails_after_the_permit_was_taken_leaves_nothing_behind():
    plane = plane_of(to(retry=RETRY))
    call = call_of(plane, rand=ScriptedRandom(1))  # the back-off's number is missing
    first = call.next_attempt(0.0)
    with pytest.raises(LookupError):
        call.settle(first, status(503), 0.0)
    call.abandon(0.0)
    assert counts(plane) == 0


def test_round_robin_goes_on_from_try_to_try():
    call = call_of(plane_of(to(retry=RETRY), cluster(count=3)))
    seen = []
    for _ in range(3):
        attempt = call.next_attempt(0.0)
        seen.append(attempt.endpoint)
        call.settle(attempt, status(503), 0.0)
        attempt.close(0.0)
    assert len(set(seen)) == 3
    assert [a.number for a in call.attempts] == [1, 2, 3]


def test_previous_hosts_are_avoided_as_often_as_the_policy_repicks():
    def second(host_attempts: int, *draws: int) -> str:
        policy = replace(RETRY, previous_hosts=True, host_attempts=host_attempts)
        random_pick = ClusterPolicy(replace(ClusterPolicy().load_balancing, policy="random"))
        plane = plane_of(to(retry=policy), cluster(policy=random_pick))
        # random64, the first pick, the back-off, then the picks of the second try
        call = call_of(plane, rand=ScriptedRandom(0, 0, 0, *draws))
        first = call.next_attempt(0.0)
        assert first.endpoint == "10.0.0.1:80"
        call.settle(first, status(503), 0.0)
        first.close(0.0)
        return call.next_attempt(0.0).endpoint

    assert second(1, 0, 1) == "10.0.0.2:80"
    assert second(1, 0, 0) == "10.0.0.1:80", "the last pick stands"
    assert second(2, 0, 0, 1) == "10.0.0.2:80"


def test_the_attempt_count_is_per_try_and_replaces_the_callers():
    for host in (
        host_of(to(retry=RETRY, include_attempt_count=True)),
        host_of(to(retry=RETRY), include_attempt_count=True),
    ):
        call = call_of(plane_of(host), head(headers=[("X-Envoy-Attempt-Count", "9")]))
        first = call.next_attempt(0.0)
        call.settle(first, status(503), 0.0)
        first.close(0.0)
        second = call.next_attempt(0.0)
        assert [sent(a.headers)[ATTEMPT] for a in (first, second)] == ["1", "2"]


def test_the_host_may_come_from_the_endpoint_of_each_try():
    hosts = (
        Endpoint("10.0.0.1", 80, hostname="one.test"),
        Endpoint("10.0.0.2", 80, hostname="two.test"),
    )
    action = to(retry=RETRY, host_rewrite=HostRewrite("endpoint"), append_x_forwarded_host=True)
    call = call_of(plane_of(action, cluster(endpoints=hosts)))
    for _ in range(2):
        attempt = call.next_attempt(0.0)
        headers = sent(attempt.headers)
        assert headers["host"] == attempt.peer.hostname
        call.settle(attempt, status(503), 0.0)
        attempt.close(0.0)
    first, second = (a.peer.hostname for a in call.attempts)
    assert {first, second} == {"one.test", "two.test"}
    # Envoy edits the same headers again, try after try.
    assert headers["x-forwarded-host"] == f"a.test,{first}"
    assert headers["x-envoy-original-host"] == first


def test_an_endpoint_without_a_host_name_keeps_the_host():
    call = call_of(plane_of(to(host_rewrite=HostRewrite("endpoint"))))
    assert sent(call.next_attempt(0.0).headers)["host"] == "a.test"


def test_a_windowed_budget_counts_the_call_once_not_its_tries():
    limits = Limits(retry_budget=RetryBudget(percent=100.0, min_concurrency=1, interval_s=10.0))
    plane = plane_of(to(retry=RETRY), cluster(policy=ClusterPolicy(limits=limits)))
    call = call_of(plane)
    first = call.next_attempt(0.0)
    call.settle(first, status(503), 0.0)
    first.close(0.0)
    call.next_attempt(0.1)
    limiter = plane.clusters["a"].lane.limiter
    assert limiter.limit(0, 0.1) == 1
    call_of(plane).next_attempt(0.2)
    assert limiter.limit(0, 0.2) == 2
    call.abandon(0.2)


def test_a_request_over_the_limit_is_refused_and_not_counted():
    limits = ClusterPolicy(limits=Limits(max_requests=1))
    plane = plane_of(to(retry=RETRY), cluster(policy=limits))
    first = call_of(plane).next_attempt(0.0)
    refused = call_of(plane)
    with pytest.raises(errors.Overflow, match="max_requests") as caught:
        refused.next_attempt(0.0)
    assert (caught.value.status, refused.flags) == (503, ("UO",))
    assert refused.attempts[0].kind is OutcomeKind.IGNORED
    refused.abandon(0.0)
    assert first.state.active == 1
    first.close(0.0)
    assert counts(plane) == 0
    call_of(plane).next_attempt(0.0).close(0.0)


OUTCOMES = st.one_of(
    st.sampled_from([200, 204, 302, 404, 409, 429, 500, 503]).map(status),
    st.tuples(st.sampled_from(list(ResetReason)), st.booleans()).map(lambda p: reset(*p)),
)
STEP = st.tuples(OUTCOMES, st.floats(0.0, 2.0), st.sampled_from(["go on", "abandon", "twice"]))
CALL = st.tuples(
    st.lists(STEP, max_size=5),
    st.booleans(),  # replayable
    st.sampled_from([None, 0.5, 3.0]),  # patience
    st.sampled_from(["a.test", "other.test"]),
)


def _run(plane: Plane, script: list, now: float, **options: object) -> None:
    """A driver's loop; whatever is left open at the end is abandoned."""
    host = options.pop("host")
    call = call_of(plane, head(host=host), now, **options)  # type: ignore[arg-type]
    try:
        for outcome, takes_s, what in script:
            attempt = call.next_attempt(now)
            assert attempt.state.active >= 1
            now += takes_s
            if what == "abandon":
                call.abandon(now)
                return
            delay_s = call.settle(attempt, outcome, now)
            if delay_s is None:
                assert (call.error is None) or call.error.report.attempts
                return
            assert delay_s >= 0.0
            attempt.close(now)
            if what == "twice":
                attempt.close(now)
            now += delay_s
    except errors.CallError:
        assert not call.attempts or call.attempts[-1].kind is not None
    finally:
        call.abandon(now)
        call.abandon(now)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(CALL, min_size=1, max_size=4),
    st.sampled_from([None, 1.0]),
    st.sampled_from([None, 0.25]),
    st.sampled_from([{}, {"max_retries": 0}, {"max_retries": 1}, {"max_retries": 100}]),
    st.sampled_from([{}, {"max_requests": 0}, {"max_requests": 1}]),
)
def test_after_any_sequence_of_outcomes_nothing_stays_counted(
    calls, timeout_s, per_try_s, retries, requests
):
    policy = replace(RETRY, per_try_timeout_s=per_try_s, num_retries=3, previous_hosts=True)
    limits = Limits(**retries, **requests)
    plane = plane_of(
        to(retry=policy, timeout_s=timeout_s), cluster(policy=ClusterPolicy(limits=limits))
    )
    now = 0.0
    for script, replayable, patience_s, host in calls:
        _run(plane, script, now, host=host, replayable=replayable, patience_s=patience_s)
        now += 1.0
        assert counts(plane) == 0


@pytest.mark.parametrize("last", [status(200), status(503), reset(REFUSED, False), reset(SLOW)])
@pytest.mark.parametrize("tries", [1, 2, 3])
def test_the_retry_permit_is_back_before_the_body_is_read(last, tries):
    plane = plane_of(to(retry=RETRY))
    call = call_of(plane)
    limiter = plane.clusters["a"].lane.limiter
    for number in range(tries - 1):
        attempt = call.next_attempt(0.0)
        assert call.settle(attempt, reset(BROKEN), 0.0) is not None
        assert limiter.active == 1, number
        attempt.close(0.0)
    attempt = call.next_attempt(0.0)
    while (delay_s := call.settle(attempt, last, 0.0)) is not None:
        attempt.close(delay_s)
        attempt = call.next_attempt(0.0)
    assert limiter.active == 0
    assert attempt.state.active == 1
    attempt.close(0.0)
    assert counts(plane) == 0
