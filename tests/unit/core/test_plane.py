"""What a new plane takes over from the one before, and what it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_support import (
    RETRY,
    call_of,
    cluster,
    counts,
    endpoints,
    head,
    host_of,
    plane_of,
    seed,
    snapshot_of,
    status,
    to,
)

from meshclient import cluster_state as states
from meshclient.cluster_state import MAX_DIALLED_ENDPOINTS
from meshclient.model.cluster import Cluster, ClusterPolicy, Limits, LoadBalancing, Topology
from meshclient.model.endpoint import OriginalDestination
from meshclient.model.routes import RouteConfiguration
from meshclient.model.snapshot import ANY_PORT
from meshclient.plane import Plane, build_plane, forked_plane

OTHER_POLICY = ClusterPolicy(LoadBalancing("round_robin"), Limits(max_retries=3))


def next_of(plane: Plane, *clusters, **options) -> Plane:
    return build_plane(snapshot_of(to(), *clusters, version=2, **options), plane, seed)


def test_an_identical_cluster_keeps_its_state_object():
    same = cluster()
    plane = plane_of(to(), same)
    assert next_of(plane, same).clusters["a"] is plane.clusters["a"]


def test_equal_policy_keeps_counts_permits_and_the_turn():
    plane = plane_of(to(), cluster(count=3))
    attempt = call_of(plane).next_attempt(0.0)
    turn = next(plane.clusters["a"].balancer.turns)
    new = next_of(plane, cluster(count=2))
    old_state, new_state = plane.clusters["a"], new.clusters["a"]
    assert new_state.states == old_state.states[:2]
    assert new_state.lane.limiter is old_state.lane.limiter
    assert next(new_state.balancer.turns) == turn + 1
    assert new_state.active_requests == 1
    attempt.close(0.0)
    assert counts(new) == 0


def test_another_policy_starts_afresh_and_old_calls_end_on_the_old_counts():
    plane = plane_of(to(), cluster())
    attempt = call_of(plane).next_attempt(0.0)
    new = next_of(plane, cluster(policy=OTHER_POLICY))
    assert not set(new.clusters["a"].states) & set(plane.clusters["a"].states)
    assert new.clusters["a"].lane.limiter is not plane.clusters["a"].lane.limiter
    assert counts(new) == 0
    attempt.close(0.0)
    assert counts(plane) == 0


def test_an_endpoint_that_left_and_came_back_starts_at_zero():
    plane = plane_of(to(), cluster(count=1))
    attempt = call_of(plane).next_attempt(0.0)
    without = next_of(plane, cluster(count=0))
    back = next_of(without, cluster(count=1))
    assert back.clusters["a"].states[0] is not plane.clusters["a"].states[0]
    attempt.close(0.0)
    assert counts(back) == 0


def test_a_call_in_flight_shows_in_the_new_plane_under_new_labels():
    plane = plane_of(to(), cluster(count=1))
    attempt = call_of(plane).next_attempt(0.0)
    labelled = cluster(endpoints=endpoints(1, labels=(("version", "v2"),)))
    state = next_of(plane, labelled).clusters["a"].states[0]
    assert state is attempt.state
    assert state.endpoint.labels == (("version", "v2"),)


def test_tables_are_reused_by_identity_so_that_sources_stay_true():
    snapshot = snapshot_of(to())
    plane = build_plane(snapshot, None, seed)
    same = build_plane(replace(snapshot, version=2), plane, seed)
    assert same.tables[ANY_PORT] is plane.tables[ANY_PORT]
    equal = build_plane(snapshot_of(to(), version=2), plane, seed)
    assert equal.tables[ANY_PORT] is not plane.tables[ANY_PORT]


def test_a_port_with_a_table_of_its_own_never_falls_back():
    any_port = RouteConfiguration("any", (host_of(to("a")),))
    admin = RouteConfiguration("9090", (host_of(to("b"), domains=("b.test",)),))
    snapshot = replace(snapshot_of(to()), route_configurations={ANY_PORT: any_port, 9090: admin})
    plane = build_plane(snapshot, None, seed)
    found = {
        (port, host): plane.find_host(port, host) is not None
        for port in (80, 9090)
        for host in ("a.test", "b.test")
    }
    assert found == {
        (80, "a.test"): True,
        (80, "b.test"): False,
        (9090, "a.test"): False,
        (9090, "b.test"): True,
    }


def test_without_any_table_every_host_is_unknown():
    plane = build_plane(replace(snapshot_of(to()), route_configurations={}), None, seed)
    assert plane.find_host(80, "a.test") is None
    assert repr(plane).startswith("<Plane of <Snapshot version=1 ")


def test_pass_through_survives_updates():
    plane = plane_of(to())
    attempt = call_of(plane, head(host="other.test")).next_attempt(0.0)
    new = next_of(plane, cluster())
    assert new.passthrough is plane.passthrough
    assert [s.key for s in new.passthrough.live_states()] == ["other.test:80"]
    attempt.close(0.0)
    assert counts(new) == 0


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(states, "MAX_DIALLED_ENDPOINTS", 4)


def test_the_bound_on_dialled_endpoints():
    assert MAX_DIALLED_ENDPOINTS == 1024


def test_idle_dialled_endpoints_make_room(small):
    state = plane_of(to()).passthrough
    busy = state.dial("busy", 80)
    busy.acquire()
    for number in range(50):
        state.dial(f"h{number}", 80)
        assert len(state.live_states()) <= 4
        assert f"h{number}:80" in [s.key for s in state.live_states()]
    assert state.dial("busy", 80) is busy


def test_when_all_are_in_use_a_further_one_is_served_but_not_remembered(small):
    plane = plane_of(to())
    attempts = [
        call_of(plane, head(host=f"h{number}.test")).next_attempt(0.0) for number in range(20)
    ]
    assert [a.endpoint for a in attempts] == [f"h{number}.test:80" for number in range(20)]
    assert len(plane.passthrough.live_states()) == 4
    assert plane.passthrough.active_requests == 4
    for attempt in attempts:
        attempt.close(0.0)
    assert all(a.state.active == 0 for a in attempts)


def test_a_dialled_cluster_is_carried_over_with_equal_policy_only():
    dialled = cluster(count=0, discovery=OriginalDestination())
    plane = plane_of(to(), dialled)
    attempt = call_of(plane).next_attempt(0.0)
    same = next_of(plane, replace(dialled, service="renamed"))
    assert same.clusters["a"].dial("a.test", 80) is attempt.state
    changed = next_of(plane, replace(dialled, policy=OTHER_POLICY))
    assert changed.clusters["a"].dial("a.test", 80) is not attempt.state


def test_a_cluster_may_change_between_dialled_and_static():
    static = cluster(count=1)
    dialled = replace(static, endpoints=(), discovery=OriginalDestination())
    for before, after in ((static, dialled), (dialled, static)):
        plane = next_of(plane_of(to(), before), after)
        assert plane.clusters["a"].is_dialled == (after is dialled)
        call_of(plane).next_attempt(0.0).close(0.0)
        assert counts(plane) == 0


def test_the_child_of_a_fork_has_nothing_in_flight_and_locks_of_its_own():
    plane = plane_of(to())
    calls = [call_of(plane), call_of(plane, head(host="other.test"))]
    for call in calls:
        call.next_attempt(0.0)
    child = forked_plane(plane, seed)
    assert counts(child) == 0
    assert child.tables is plane.tables
    assert child.snapshot is plane.snapshot
    assert child.clusters["a"].lane.limiter is not plane.clusters["a"].lane.limiter
    assert child.passthrough._lock is not plane.passthrough._lock
    for call in calls:
        call.abandon(0.0)


def test_a_retry_permit_goes_back_to_the_cluster_it_came_from():
    plane = plane_of(to(retry=RETRY))
    call = call_of(plane)
    call.settle(call.next_attempt(0.0), status(503), 0.0)
    new = next_of(plane, cluster(policy=OTHER_POLICY))
    assert (plane.clusters["a"].lane.limiter.active, new.clusters["a"].lane.limiter.active) == (
        1,
        0,
    )
    call.abandon(0.0)
    assert counts(plane) == counts(new) == 0


def test_two_services_that_compare_with_each_other_are_weighed_once_each() -> None:
    def aware(name: str, own: str) -> Cluster:
        topology = Topology(locality="zone_aware", local_service=own)
        policy = ClusterPolicy(LoadBalancing("round_robin"), topology=topology)
        return cluster(name, 2, policy=policy)

    plane = plane_of(to(), aware("a", "b"), aware("b", "a"))
    a, b = plane.clusters["a"], plane.clusters["b"]
    before = (a.balancer, b.balancer)
    a.refresh(1.0)
    assert a.balancer is not before[0]
    assert b.balancer is not before[1]
