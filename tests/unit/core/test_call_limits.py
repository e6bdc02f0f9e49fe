"""``max_requests``: counted from the pick to the end of the body, refused beyond it."""

from __future__ import annotations

import threading

import pytest
from core_support import BROKEN, RETRY, call_of, cluster, counts, plane_of, reset, status, to
from core_support import seed as fixed_seed

from meshclient import errors
from meshclient.balancing import EndpointState, carry_over
from meshclient.model.cluster import Cluster, ClusterPolicy, Limits, LoadBalancing
from meshclient.model.endpoint import Endpoint
from meshclient.model.outcome import OutcomeKind
from meshclient.plane import Plane, build_plane, forked_plane
from meshclient.resilience import RequestLimit, request_limit


def limited(count: int = 1, endpoints: int = 2) -> Cluster:
    policy = ClusterPolicy(LoadBalancing("round_robin"), Limits(max_requests=count))
    return cluster("a", endpoints, policy=policy)


def plane(count: int = 1) -> Plane:
    return plane_of(to(retry=RETRY), limited(count))


def test_no_limit_no_counter() -> None:
    assert request_limit(Limits(max_connections=1)) is None
    assert plane_of(to()).clusters["a"].lane.requests is None


def test_the_request_over_the_limit_is_refused_as_envoy_refuses_it() -> None:
    world = plane(2)
    first, second = call_of(world), call_of(world)
    held = [first.next_attempt(0.0), second.next_attempt(0.0)]
    third = call_of(world)
    with pytest.raises(errors.Overflow, match="2 requests to the cluster are in flight") as caught:
        third.next_attempt(1.0)
    error = caught.value
    assert (error.status, error.flag) == (503, "UO")
    assert error.body == (
        "upstream connect error or disconnect/reset before headers. reset reason: overflow"
    )
    (attempt,) = third.attempts
    assert (attempt.outcome, attempt.kind) == ("overflow", OutcomeKind.IGNORED)
    third.abandon(1.0)
    assert world.clusters["a"].lane.requests is not None
    assert world.clusters["a"].lane.requests.active == 2, "the refused one was never counted"
    for one in held:
        one.close(2.0)
    assert counts(world) == 0


def test_a_place_is_free_when_the_body_is_closed() -> None:
    world = plane()
    call = call_of(world)
    attempt = call.next_attempt(0.0)
    call.settle(attempt, status(200), 0.1)
    with pytest.raises(errors.Overflow):
        call_of(world).next_attempt(0.2)
    attempt.close(0.3)
    attempt.close(0.4)
    again = call_of(world).next_attempt(0.5)
    again.close(0.6)
    assert counts(world) == 0


def test_a_retry_takes_its_place_anew_and_may_overflow() -> None:
    world = plane()
    call = call_of(world)
    attempt = call.next_attempt(0.0)
    assert call.settle(attempt, reset(BROKEN), 0.1) is not None
    attempt.close(0.1)
    other = call_of(world).next_attempt(0.1)
    with pytest.raises(errors.Overflow) as caught:
        call.next_attempt(0.2)
    assert "retried and the latest reset reason: overflow" in caught.value.body
    other.close(0.3)
    assert counts(world) == 0


def test_an_update_keeps_the_count_and_a_new_policy_starts_anew() -> None:
    world = plane()
    attempt = call_of(world).next_attempt(0.0)
    world.clusters["a"].shared["connections"] = "kept"
    grown = plane_of(to(), limited(endpoints=3))
    same = build_plane(grown.snapshot, world, fixed_seed)
    with pytest.raises(errors.Overflow):
        call_of(same).next_attempt(0.1)
    assert same.clusters["a"].shared == {"connections": "kept"}
    wider = build_plane(plane(2).snapshot, same, fixed_seed)
    assert wider.clusters["a"].shared == {}
    call_of(wider).next_attempt(0.2).close(0.3)
    attempt.close(0.4)
    assert counts(world) == counts(same) == counts(wider) == 0


def test_a_forked_child_has_nothing_in_flight() -> None:
    world = plane()
    attempt = call_of(world).next_attempt(0.0)
    child = forked_plane(world, fixed_seed)
    call_of(child).next_attempt(0.0).close(0.1)
    attempt.close(0.1)


def test_the_count_is_exact_over_threads() -> None:
    limit = RequestLimit(50)
    admitted: list[bool] = []

    def run() -> None:
        for _ in range(200):
            if limit.acquire():
                admitted.append(limit.active <= 50)
                limit.release()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(admitted)
    assert limit.active == 0
    limit.release()
    assert limit.active == 0


def test_other_addresses_of_an_endpoint_make_a_new_target_and_keep_the_counts() -> None:
    old = Endpoint("10.0.0.1", 80, more_addresses=("10.0.0.2",))
    state = EndpointState(old)
    state.acquire()
    state.wire = "target"
    (kept,) = carry_over([state], Cluster("a", endpoints=(Endpoint("10.0.0.1", 80, weight=2),)))
    assert kept is state
    assert (kept.active, kept.wire) == (1, None)
    kept.wire = "target"
    carry_over([kept], Cluster("a", endpoints=(Endpoint("10.0.0.1", 80, weight=3),)))
    assert kept.wire == "target"


def test_important_calls_are_counted_apart_from_ordinary_ones() -> None:
    policy = ClusterPolicy(
        LoadBalancing("round_robin"), Limits(max_requests=1), Limits(max_requests=2)
    )
    target = cluster("a", 2, policy=policy)
    ordinary = plane_of(to(), target)
    important = build_plane(plane_of(to(priority="high"), target).snapshot, ordinary, fixed_seed)
    held = [call_of(ordinary).next_attempt(0.0)]
    held += [call_of(important).next_attempt(0.0) for _ in range(2)]
    for full in (ordinary, important):
        with pytest.raises(errors.Overflow):
            call_of(full).next_attempt(0.0)
    for one in held:
        one.close(1.0)
    assert counts(important) == 0
    state = important.clusters["a"]
    assert state.lane.requests is not state.high.requests
