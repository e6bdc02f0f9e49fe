"""Calls made for a request: its deadline bounds them, its marks learn of retries in vain."""

from __future__ import annotations

import queue
from dataclasses import replace

import pytest
from core_support import (
    BROKEN,
    REFUSED,
    RETRY,
    call_of,
    cluster,
    head,
    plane_of,
    reset,
    sent,
    status,
    to,
)

from meshclient import Mesh, errors
from meshclient.model.cluster import ClusterPolicy, Limits, LoadBalancing
from meshclient.model.events import RetryLayerFound
from meshclient.model.inbound import Inbound, Marks
from meshclient.model.outcome import ResetReason
from meshclient.model.propagation import DeadlineHeader, Propagation
from meshclient.model.retry import BackOff, RetryBudget
from meshclient.model.routes import HashPolicy
from meshclient.model.snapshot import Snapshot
from meshclient.plane import Building, build_plane
from meshclient.testing import ScriptedRandom, request, run_call

ROUTE_TIMEOUT = ResetReason.ROUTE_TIMEOUT
EXPECTED = "x-envoy-expected-rq-timeout-ms"
MARK = ("x-meshclient-retries-exhausted", "true")


def until(deadline: float | None, **fields) -> Inbound:
    return Inbound(deadline, **fields)


# -- deadlines --------------------------------------------------------------------


def test_a_deadline_that_has_passed_fails_before_anything_is_sent():
    plane = plane_of(to())
    call = call_of(plane, now=5.0, inbound=until(5.0))
    with pytest.raises(errors.DeadlineExceeded, match="deadline of the request being handled"):
        call.next_attempt(5.0)
    assert call.attempts == []
    assert sum(s.active for s in plane.clusters["a"].states) == 0


def test_it_bounds_the_try_and_its_body_and_is_passed_on():
    call = call_of(plane_of(to()), inbound=until(2.0))
    attempt = call.next_attempt(0.5)
    assert attempt.deadline == 2.0
    assert attempt.response_timeout_s == 1.5
    assert attempt.by_caller
    assert sent(attempt.headers)[EXPECTED] == "1500"


@pytest.mark.parametrize(
    ("timeout_s", "per_try_s", "deadline", "at", "expected"),
    [
        (1.0, None, 5.0, 1.0, "1000"),
        (10.0, None, 5.0, 5.0, "5000"),
        (10.0, 0.5, 5.0, 5.0, "500"),
        (10.0, 7.0, 5.0, 5.0, "5000"),
        (None, 0.5, 5.0, 5.0, "500"),
    ],
)
def test_the_earliest_limit_holds_and_is_told(timeout_s, per_try_s, deadline, at, expected):
    retry = replace(RETRY, per_try_timeout_s=per_try_s)
    plane = plane_of(to(retry=retry, timeout_s=timeout_s))
    attempt = call_of(plane, inbound=until(deadline)).next_attempt(0.0)
    assert attempt.deadline == at
    assert sent(attempt.headers)[EXPECTED] == expected


def test_the_callers_own_wish_for_less_is_kept_and_nonsense_replaced():
    plane = plane_of(to())
    less = call_of(plane, head(headers=[(EXPECTED, "700")]), inbound=until(2.0)).next_attempt(0.0)
    assert sent(less.headers)[EXPECTED] == "700"
    odd = call_of(plane, head(headers=[(EXPECTED, "soon")]), inbound=until(2.0)).next_attempt(0.0)
    assert sent(odd.headers)[EXPECTED] == "2000"


def test_every_try_tells_what_is_left_then():
    own = DeadlineHeader("x-due", "seconds")
    call = call_of(
        plane_of(to(retry=RETRY)), rand=lambda: 0, inbound=until(2.0, deadline_header=own)
    )
    first = call.next_attempt(0.0)
    assert sent(first.headers)["x-due"] == "2.000"
    assert call.settle(first, status(503), 0.5) == 0.0
    first.close(0.5)
    second = sent(call.next_attempt(0.75).headers)
    assert (second["x-due"], second[EXPECTED]) == ("1.250", "1250")


def test_the_callers_own_deadline_header_wins():
    own = DeadlineHeader("x-due")
    request = head(headers=[("X-Due", "mine")])
    attempt = call_of(
        plane_of(to()), request, inbound=until(2.0, deadline_header=own)
    ).next_attempt(0.0)
    assert sent(attempt.headers)["x-due"] == "mine"


def test_the_end_of_the_deadline_is_the_callers_and_not_the_endpoints_fault():
    plane = plane_of(to(retry=RETRY, timeout_s=9.0))
    call = call_of(plane, inbound=until(2.0))
    attempt = call.next_attempt(0.0)
    # The timer of the wire fires a little early.
    assert call.settle(attempt, reset(ROUTE_TIMEOUT), 1.999) is None
    assert type(call.error) is errors.DeadlineExceeded
    assert call.error.status == 504
    assert len(call.attempts) == 1


def test_the_routes_own_timeout_keeps_its_name():
    call = call_of(plane_of(to(timeout_s=1.0)), inbound=until(2.0))
    attempt = call.next_attempt(0.0)
    assert call.settle(attempt, reset(ROUTE_TIMEOUT), 1.0) is None
    assert type(call.error) is errors.RouteTimeout


def test_a_body_that_is_cut_by_the_deadline_says_so():
    call = call_of(plane_of(to()), inbound=until(2.0))
    attempt = call.next_attempt(0.0)
    assert call.settle(attempt, status(200), 0.1) is None
    assert type(call.break_off(reset(ROUTE_TIMEOUT))) is errors.DeadlineExceeded


def test_a_retry_that_cannot_finish_is_not_made():
    retry = replace(RETRY, back_off=BackOff(10.0, 10.0))
    call = call_of(plane_of(to(retry=retry)), rand=ScriptedRandom(0, 5000), inbound=until(2.0))
    attempt = call.next_attempt(0.0)
    assert call.settle(attempt, status(503), 0.1) is None
    assert type(call.error) is errors.DeadlineExceeded
    assert "5000 ms" in str(call.error)


def test_the_earlier_of_patience_and_deadline_holds():
    plane = plane_of(to())
    assert call_of(plane, patience_s=1.0, inbound=until(2.0)).give_up_at == 1.0
    assert call_of(plane, patience_s=3.0, inbound=until(2.0)).give_up_at == 2.0
    assert call_of(plane, inbound=until(None)).give_up_at is None
    call = call_of(plane, inbound=until(2.0))
    call.give_up_by(None)
    call.give_up_by(9.0)
    assert call.give_up_at == 2.0
    call.give_up_by(1.0)
    assert call.give_up_at == 1.0


@pytest.mark.parametrize(("mode", "told"), [("trace", False), ("none", False), ("all", True)])
def test_unknown_hosts_are_bound_and_not_told(mode, told):
    plane = build_plane(Snapshot(1, propagation=Propagation(unknown_hosts=mode)), None, lambda: 7)
    attempt = call_of(plane, head(host="else.test"), inbound=until(2.0)).next_attempt(0.0)
    assert attempt.deadline == 2.0
    assert (EXPECTED in sent(attempt.headers)) is told


def test_without_a_deadline_nothing_changes():
    plane = plane_of(to(timeout_s=1.0))
    plain, bound = call_of(plane), call_of(plane, inbound=Inbound())
    first, second = plain.next_attempt(0.0), bound.next_attempt(0.0)
    assert first.headers == second.headers
    assert first.deadline == second.deadline
    assert first.response_timeout_s == second.response_timeout_s


def test_hash_policies_see_the_requests_values():
    policy = ClusterPolicy(LoadBalancing("ring_hash"))
    plane = plane_of(
        to(hash_policy=(HashPolicy("context", "x-tenant"),)), cluster(count=5, policy=policy)
    )

    def pick(tenant: str) -> str:
        inbound = until(None, values={"x-tenant": tenant})
        return call_of(plane, rand=ScriptedRandom(seed=3), inbound=inbound).next_attempt(0).endpoint

    picks = {tenant: {pick(tenant) for _ in range(3)} for tenant in "abcdefgh"}
    assert all(len(found) == 1 for found in picks.values())
    assert len(set().union(*picks.values())) > 1


# -- retries in vain ----------------------------------------------------------------


def play(inbound, outcomes, plane=None, **action):
    """One call through ``outcomes``; returns it."""
    plane = plane or plane_of(to(retry=RETRY, **action))
    call = call_of(plane, rand=lambda: 0, inbound=inbound)
    now = 0.0
    for outcome in outcomes:
        attempt = call.next_attempt(now)
        delay_s = call.settle(attempt, outcome, now)
        attempt.close(now)
        if delay_s is None:
            return call
        now += delay_s
    raise AssertionError("the call wants another try")


@pytest.mark.parametrize(
    ("outcomes", "marked"),
    [
        ([status(200)], ""),
        ([status(404)], ""),
        ([status(503), status(200)], ""),
        ([status(503), status(404)], ""),
        ([status(503), status(503), status(503)], "a"),
        ([reset(REFUSED, sent=False), status(503), reset(BROKEN)], "a"),
        ([status(503), reset(BROKEN), status(500)], "a"),
        ([status(503, [MARK])], "a"),
    ],
)
def test_failures_that_were_repeated_are_marked(outcomes, marked):
    inbound = Inbound()
    play(inbound, outcomes)
    assert inbound.marks.exhausted == marked


def test_a_single_failure_of_a_call_without_retries_may_be_repeated_by_an_outer_hop():
    inbound = Inbound()
    play(inbound, [status(503)], plane_of(to()))
    assert inbound.marks.exhausted == ""


def test_a_mark_from_further_on_is_handed_on_without_a_retry_policy():
    inbound = Inbound()
    play(inbound, [status(503, [MARK])], plane_of(to()))
    assert inbound.marks.exhausted == "a"


def test_a_refused_retry_and_a_full_cluster_are_marked():
    budget = Limits(retry_budget=RetryBudget(percent=0, min_concurrency=0))
    policy = ClusterPolicy(LoadBalancing("round_robin"), limits=budget)
    inbound = Inbound()
    call = play(inbound, [status(503)], plane_of(to(retry=RETRY), cluster(policy=policy)))
    assert call.flags == ("UO",)
    assert inbound.marks.exhausted == "a"

    policy = ClusterPolicy(LoadBalancing("round_robin"), limits=Limits(max_requests=1))
    plane, inbound = plane_of(to(), cluster(policy=policy)), Inbound()
    call_of(plane).next_attempt(0.0)
    with pytest.raises(errors.Overflow):
        call_of(plane, inbound=inbound).next_attempt(0.0)
    assert inbound.marks.exhausted == "a"


def test_a_marked_answer_is_not_repeated_and_the_report_says_why():
    call = play(None, [status(503, [MARK])])
    assert len(call.attempts) == 1
    assert call.notes == ("not retried: a hop further on has repeated it already",)
    assert call.flags == ()


# -- a second layer -------------------------------------------------------------------


def noticing(**action):
    """A plane whose clusters' events are collected."""
    events = []
    building = Building(lambda: 7, tell=events.append)
    snapshot = plane_of(to(retry=RETRY, **action)).snapshot
    return build_plane(snapshot, None, lambda: 7, building=building), events


@pytest.mark.parametrize(
    ("headers", "inbound_attempt", "words"),
    [
        ([("server", "envoy")], 0, "server: envoy"),
        ([("x-envoy-attempt-count", "3")], 0, "has repeated the request"),
        ([], 2, "an outer hop repeats"),
    ],
)
def test_another_layer_is_told_of_once_per_cluster(headers, inbound_attempt, words):
    plane, events = noticing()
    inbound = Inbound(marks=Marks(inbound_attempt))
    first = play(inbound, [status(503, headers), status(200)], plane)
    assert any(words in note for note in first.notes)
    second = play(inbound, [status(503, headers), status(200)], plane)
    assert not any(words in note for note in second.notes)
    assert [(type(e), e.cluster) for e in events] == [(RetryLayerFound, "a")]
    assert words in events[0].evidence


@pytest.mark.parametrize(
    ("headers", "inbound_attempt"),
    [
        ([], 0),
        ([], 1),
        ([("server", "istio-envoy")], 1),
        ([("x-envoy-attempt-count", "1")], 0),
        ([("x-envoy-attempt-count", "x")], 0),
    ],
)
def test_what_proves_nothing_is_not_told(headers, inbound_attempt):
    plane, events = noticing()
    inbound = Inbound(marks=Marks(inbound_attempt))
    play(inbound, [status(503, headers), status(200)], plane)
    assert events == []


def test_subscribers_of_a_mesh_are_told():
    service = {"endpoints": ["10.0.0.1:80"], "retries": {"on": [503]}}
    told: queue.Queue[object] = queue.Queue()
    with Mesh.from_documents([{"version": 1, "services": {"a": service}}]) as mesh:
        mesh.subscribe(told.put)
        outcomes = [status(503, [("server", "envoy")]), status(200)]
        played = run_call(mesh, request("GET", "http://a/"), outcomes)
        assert played.status == 200
        event = told.get(timeout=10)
    assert isinstance(event, RetryLayerFound)
    assert event.cluster == "a"


def test_what_was_noticed_outlives_a_reload():
    plane, events = noticing()
    play(None, [status(503, [("server", "envoy")]), status(200)], plane)
    again = build_plane(
        replace(plane.snapshot, version=2), plane, lambda: 7, building=Building(lambda: 7)
    )
    assert again.clusters["a"].retry_layer
    assert len(events) == 1


def test_the_policy_without_retries_looks_for_nothing():
    events = []
    snapshot = plane_of(to()).snapshot
    plane = build_plane(snapshot, None, lambda: 7, building=Building(lambda: 7, tell=events.append))
    play(None, [status(503, [("server", "envoy")])], plane)
    assert events == []
