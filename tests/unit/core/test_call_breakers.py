"""Breakers in a call: who asks which one, who hears of what, and what a refusal looks like."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from core_support import (
    REFUSED,
    RETRY,
    SLOW,
    call_of,
    cluster,
    counts,
    host_of,
    plane_of,
    reset,
    snapshot_of,
    status,
    to,
)

from meshclient import errors
from meshclient.breakers import BreakerStates
from meshclient.explain import explain
from meshclient.model.breaker import CircuitBreaker
from meshclient.model.cluster import ClusterPolicy, Limits, LoadBalancing
from meshclient.model.hedging import Hedging
from meshclient.model.routes import Route
from meshclient.model.source import Source
from meshclient.plane import build_plane, forked_plane

SOURCE = Source("policy.yaml", 7, 3, "reviews")
ROBIN = LoadBalancing("round_robin")


def policy(per="service", *, limits=None, **settings):
    settings.setdefault("consecutive_failures", 2)
    breaker = CircuitBreaker(per=per, source=SOURCE, **settings)
    return ClusterPolicy(ROBIN, limits=limits or Limits(), circuit_breaker=breaker)


def guarded(per="service", count=2, action=None, **settings):
    return plane_of(action or to(), cluster(count=count, policy=policy(per, **settings)))


def play(plane, outcome, now=0.0, **options):
    """One call of one try."""
    call = call_of(plane, now=now, **options)
    attempt = call.next_attempt(now)
    delay_s = call.settle(attempt, outcome, now)
    attempt.close(now)
    call.abandon(now)
    return call, attempt, delay_s


def refused(plane, now=0.0):
    call = call_of(plane, now=now)
    with pytest.raises(errors.CircuitOpen) as caught:
        call.next_attempt(now)
    return call, caught.value


def test_failures_open_it_and_calls_are_refused():
    plane = guarded()
    for outcome in (status(503), reset(REFUSED)):
        play(plane, outcome)
    call, error = refused(plane, 10.0)
    assert (error.status, error.flag, error.breaker) == (503, "UO", "service a")
    assert error.retry_after_s == 20.0
    assert error.body.endswith("reset reason: overflow")
    assert (
        "the breaker of service a is open since 10.0 s (consecutive_failures), for 20.0 s"
        in str(error)
    )
    assert "[policy.yaml:7 (reviews)]" in str(error)
    assert call.flags == ("UO",)
    assert call.attempts == []
    again = pickle.loads(pickle.dumps(error))
    assert (again.flag, again.details, again.body) == ("UO", error.details, error.body)
    play(plane, status(200), 30.0)
    play(plane, status(200), 30.0)


def test_a_refused_call_is_counted_nowhere():
    limits = Limits(max_requests=1)
    plane = plane_of(to(retry=RETRY), cluster(policy=policy(limits=limits)))
    plane.clusters["a"].breaker.open(0.0)
    refused(plane)
    assert counts(plane) == 0
    assert play(plane, status(200), 60.0)[1].kind is not None


def test_a_retry_that_the_breaker_would_refuse_is_not_waited_for():
    plane = guarded(action=to(retry=RETRY))
    play(plane, status(503))
    call, _, delay_s = play(plane, status(503))
    assert delay_s is None
    assert call.error is None, "the response passes"
    assert call.flags == ("UO",)
    assert call.notes == (
        "not repeated: the breaker of service a is open (consecutive_failures)  "
        "[policy.yaml:7 (reviews)]",
    )
    assert counts(plane) == 0


def test_a_retry_that_comes_after_the_time_open_is_made():
    plane = guarded(action=to(retry=RETRY), open_for_s=0.005)
    play(plane, status(503))
    call = call_of(plane, rand=lambda: 10)
    attempt = call.next_attempt(0.0)
    delay_s = call.settle(attempt, status(503), 0.0)
    assert delay_s == 0.01
    attempt.close(0.0)
    second = call.next_attempt(delay_s)
    call.settle(second, status(200), delay_s)
    second.close(delay_s)
    assert plane.clusters["a"].breaker.state == "closed"


def test_a_try_that_ends_unheard_gives_its_probe_back():
    plane = guarded()
    breaker = plane.clusters["a"].breaker
    breaker.open(0.0)
    call = call_of(plane, now=30.0)
    call.next_attempt(30.0)
    assert breaker.describe(30.0)["probes"] == 1
    refused(plane, 30.0)
    call.abandon(31.0)
    assert breaker.describe(31.0)["probes"] == 0


@pytest.mark.parametrize("how", ["no endpoint", "overflow", "rejected", "disregarded"])
def test_what_never_reached_the_service_gives_its_probe_back(how):
    limits = Limits(max_requests=1) if how == "overflow" else None
    count = 0 if how == "no endpoint" else 2
    plane = plane_of(to(), cluster(count=count, policy=policy(limits=limits)))
    breaker = plane.clusters["a"].breaker
    breaker.open(0.0)
    call = call_of(plane, now=30.0)
    if how == "overflow":
        plane.clusters["a"].lane.requests.acquire()
    if how in ("no endpoint", "overflow"):
        with pytest.raises(errors.CallError):
            call.next_attempt(30.0)
    elif how == "rejected":
        call.reject(call.next_attempt(30.0), ValueError("x"), 30.0)
    else:
        call.disregard(call.next_attempt(30.0), 30.0)
    assert (breaker.state, breaker.describe(30.0)["probes"]) == ("half_open", 0)


def test_the_callers_own_impatience_does_not_count():
    plane = guarded(consecutive_failures=1)
    play(plane, reset(SLOW), patience_s=0.0)
    assert plane.clusters["a"].breaker.state == "closed"
    play(plane, reset(SLOW))
    assert plane.clusters["a"].breaker.state == "open"


def test_subsets_share_the_breaker_of_their_service():
    clusters = [
        replace(cluster(name, policy=policy()), service="a", subset=name) for name in ("v1", "v2")
    ]
    plane = plane_of(to("v1"), *clusters)
    assert plane.clusters["v1"].breaker is plane.clusters["v2"].breaker


def test_per_subset_each_has_its_own():
    clusters = [
        replace(cluster(name, policy=policy("subset")), service="a", subset=name)
        for name in ("v1", "v2")
    ]
    plane = plane_of(to("v1"), *clusters)
    first, second = (plane.clusters[name].breaker for name in ("v1", "v2"))
    assert first is not second
    assert str(first.scope) == "subset v1"
    assert plane.breakers.of("a") == [first, second]
    assert plane.breakers.of("v2") == [second]


def test_a_routes_breaker_stops_that_route_only():
    settings = CircuitBreaker(1, per="route")
    hosts = host_of(Route(to(circuit_breaker=settings), name="r"))
    plane = plane_of(hosts)
    play(plane, status(500))
    _, error = refused(plane)
    assert error.breaker == "route r of v"
    assert plane.clusters["a"].breaker is None


def test_both_gates_are_asked_and_the_first_gives_back_when_the_second_refuses():
    settings = CircuitBreaker(1, per="route")
    plane = guarded(action=to(circuit_breaker=settings))
    of_service = plane.clusters["a"].breaker
    of_service.open(0.0)
    (of_route,) = [b for b in plane.breakers.all() if b.scope.per == "route"]
    of_route.isolate(0.0)
    refused(plane, 30.0)
    assert (of_service.state, of_service.describe(30.0)["probes"]) == ("half_open", 0)


def test_an_endpoint_whose_breaker_is_open_is_skipped():
    plane = guarded("endpoint", count=3)
    bad = plane.clusters["a"].states[0]
    bad.breaker.isolate(0.0)
    picked = {play(plane, status(200))[1].endpoint for _ in range(12)}
    assert picked == {state.key for state in plane.clusters["a"].states[1:]}


def test_one_endpoint_that_is_left_is_found():
    """Whatever chance says: by round robin it would be the last of forty."""
    plane = guarded("endpoint", count=40)
    *bad, good = plane.clusters["a"].states
    for state in bad:
        state.breaker.isolate(0.0)
    assert [play(plane, status(200))[1].endpoint for _ in range(5)] == [good.key] * 5


def test_when_all_endpoints_are_open_the_call_is_refused():
    plane = guarded("endpoint", count=3, consecutive_failures=1)
    for _ in range(3):
        play(plane, status(503))
    call, error = refused(plane, 1.0)
    assert "the breaker of all 3 endpoints is open" in str(error)
    assert error.retry_after_s == 29.0
    assert call.attempts == []
    assert counts(plane) == 0


def test_a_hedge_is_not_started_against_an_open_breaker_and_the_first_try_goes_on():
    plane = guarded(action=to(hedging=Hedging(delay_s=1.0)))
    breaker = plane.clusters["a"].breaker
    hedge = call_of(plane, rand=lambda: 0).hedge
    first = hedge.begin(0.0)
    breaker.isolate(0.5)
    assert hedge.due(1.0) is None
    assert hedge.settle(first, status(200), 2.0)
    first.close(2.0)
    assert hedge.call.error is None
    assert "not hedged" in hedge.call.notes[0]
    assert (counts(plane), breaker.stale) == (0, 1)


def test_the_loser_of_a_hedged_call_gives_its_probe_back():
    plane = guarded(
        action=to(hedging=Hedging(delay_s=1.0)), half_open_requests=2, half_open_successes=2
    )
    breaker = plane.clusters["a"].breaker
    breaker.open(0.0, 5.0)
    hedge = call_of(plane, now=5.0, rand=lambda: 0).hedge
    hedge.begin(5.0)
    second = hedge.due(6.0)
    assert breaker.describe(6.0)["probes"] == 2
    assert hedge.settle(second, status(200), 6.5)
    assert breaker.describe(6.5)["probes"] == 1
    hedge.end(6.5)
    second.close(7.0)
    shown = breaker.describe(7.0)
    assert (shown["state"], shown["probes"], shown["successes"]) == ("half_open", 0, 1)
    assert counts(plane) == 0


def test_state_survives_an_update_with_equal_settings_only():
    plane = guarded()
    plane.clusters["a"].breaker.isolate(0.0)
    again = build_plane(snapshot_of(to(), cluster(count=5, policy=policy())), plane, lambda: 7)
    assert again.clusters["a"].breaker is plane.clusters["a"].breaker
    other = policy(open_for_s=1.0)
    other_plane = build_plane(snapshot_of(to(), cluster(policy=other)), again, lambda: 7)
    assert other_plane.clusters["a"].breaker.state == "closed"
    gone = build_plane(snapshot_of(to(), cluster()), other_plane, lambda: 7)
    assert gone.clusters["a"].breaker is None
    assert list(gone.breakers.all()) == []


def test_a_changed_policy_of_limits_leaves_the_breaker_as_it_was():
    plane = guarded()
    plane.clusters["a"].breaker.isolate(0.0)
    limits = policy(limits=Limits(max_requests=9))
    again = build_plane(snapshot_of(to(), cluster(policy=limits)), plane, lambda: 7)
    assert again.clusters["a"].breaker.state == "open"


def test_a_breaker_that_survives_names_the_line_where_it_stands_now():
    plane = guarded()
    moved = ClusterPolicy(ROBIN, circuit_breaker=CircuitBreaker(2, source=replace(SOURCE, line=99)))
    again = build_plane(snapshot_of(to(), cluster(policy=moved)), plane, lambda: 7)
    breaker = again.clusters["a"].breaker
    assert breaker is plane.clusters["a"].breaker
    assert breaker.describe(0.0)["document"] == "policy.yaml:99 (reviews)"


def test_the_child_of_a_fork_begins_closed():
    plane = guarded()
    plane.clusters["a"].breaker.isolate(0.0)
    assert forked_plane(plane, lambda: 7).clusters["a"].breaker.state == "closed"
    assert plane.clusters["a"].breaker.state == "open"


def test_without_settings_nothing_is_made():
    plane = plane_of(to(), cluster())
    assert plane.clusters["a"].breaker is None
    assert isinstance(plane.breakers, BreakerStates)
    call = call_of(plane)
    assert call.next_attempt(0.0).gates is None
    call.abandon(0.0)


def test_explain_shows_the_state():
    plane = guarded()
    plane.clusters["a"].breaker.open(0.0, 60.0)
    from core_support import head

    text = str(explain(plane, head(), now=20.0))
    assert "breaker of service a: open  since 20.0 s, for 40.0 s more  manual" in text
    endpoints = guarded("endpoint")
    endpoints.clusters["a"].states[0].breaker.isolate(0.0)
    shown = explain(endpoints, head(), now=1.0)
    assert "breaker open  excluded: its breaker is open" in str(shown)
    for state in endpoints.clusters["a"].states[1:]:
        state.breaker.isolate(0.0)
    assert "has an open breaker: 503 (UO)" in explain(endpoints, head(), now=1.0).verdict
    assert shown.to_dict()["clusters"][0]["candidates"][0]["breaker"]["isolated"]
