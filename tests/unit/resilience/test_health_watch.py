"""A check's result reaches every cluster that holds the endpoint, and is told once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshclient.balancing import EndpointState
from meshclient.model.check_result import PASSED, CheckResult
from meshclient.model.cluster import Cluster, ClusterPolicy
from meshclient.model.endpoint import Endpoint
from meshclient.model.events import HealthChanged
from meshclient.model.health import (
    FAILED_ACTIVE_HC,
    FAILED_OUTLIER_CHECK,
    PENDING_ACTIVE_HC,
    PENDING_DYNAMIC_REMOVAL,
    HealthCheck,
)
from meshclient.resilience.health_check import CheckState
from meshclient.resilience.health_membership import without_failed
from meshclient.resilience.health_watch import Session, Watched

BROKEN = CheckResult("failed", "status 503")
SILENT = CheckResult("timeout", "no answer in time")
CHECK = HealthCheck("http", unhealthy_threshold=2, healthy_threshold=2)


class FakeCluster:
    """What the checks see of a cluster's state."""

    def __init__(self, name: str, *states: EndpointState, pending: bool = False) -> None:
        policy = ClusterPolicy(health_checks=(CHECK,), ignore_new_hosts_until_first_hc=pending)
        self.cluster = Cluster(name, policy=policy)
        self.states = states
        self.shared: dict[str, Any] = {}
        self.high: Any = SimpleNamespace(shared={})
        self.detector: Any = None
        self.refreshed: list[float] = []

    def refresh(self, now: float) -> None:
        self.states = without_failed(self.states)
        self.refreshed.append(now)


class FakeDetector:
    def on_health_check_passed(self, state: EndpointState, now: float) -> None:
        del now
        state.flags &= ~FAILED_OUTLIER_CHECK


def endpoint(port: int = 1) -> EndpointState:
    return EndpointState(Endpoint("10.0.0.1", port))


def session() -> Session:
    return Session("key", CheckState(CHECK))


def watch(cluster: FakeCluster, *sessions: Session, before: Watched | None = None) -> Watched:
    watched = Watched(cluster, before)
    for state in cluster.states:
        watched.add(state, sessions)
    return watched


def test_one_check_tells_two_clusters() -> None:
    check, first, second = session(), endpoint(), endpoint()
    whole, subset = FakeCluster("a", first), FakeCluster("a/v1", second)
    watched = [watch(whole, check), watch(subset, check)]
    check.attempted()
    check.settle(PASSED, 5.0)
    assert first.flags == second.flags == 0
    for one in watched:
        stats = {k: v for k, v in one.stats().items() if v}
        assert stats == {"attempt": 1, "success": 1, "healthy": 1}


def test_a_cluster_is_weighed_anew_once_for_all_changes() -> None:
    one, two = session(), session()
    first, second = endpoint(1), endpoint(2)
    cluster = FakeCluster("a", first, second)
    watched = Watched(cluster)
    watched.add(first, (one,))
    watched.add(second, (two,))
    watched.publish(0.0)
    one.settle(PASSED, 1.0)
    two.settle(PASSED, 1.0)
    two.settle(BROKEN, 2.0)
    events, failed = watched.publish(3.0)
    assert cluster.refreshed == [0.0, 3.0]
    assert events == [HealthChanged("a", "10.0.0.1:1", True, "healthy", "")]
    assert failed == [], "it was unhealthy when the balancer was made last, and is now"
    assert watched.publish(4.0) == ([], [])
    assert cluster.refreshed == [0.0, 3.0]


def test_what_could_not_be_weighed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    check, cluster = session(), FakeCluster("a", endpoint())
    watched = watch(cluster, check)
    check.settle(PASSED, 1.0)
    with monkeypatch.context() as broken:
        broken.setattr(cluster, "refresh", None)
        with pytest.raises(TypeError):
            watched.publish(1.0)
    watched.publish(2.0)
    assert cluster.refreshed == [2.0]


def test_a_failure_is_told_with_its_reason() -> None:
    check, state = session(), endpoint()
    watched = watch(FakeCluster("a", state), check)
    check.settle(PASSED, 1.0)
    watched.publish(1.0)
    check.settle(SILENT, 2.0)
    assert watched.publish(2.0) == ([], []), "below the threshold"
    check.settle(SILENT, 3.0)
    events, failed = watched.publish(3.0)
    flags = "/failed_active_hc/active_hc_timeout"
    assert events == [HealthChanged("a", "10.0.0.1:1", False, flags, "no answer in time")]
    assert failed == [state]


def test_what_a_check_knows_already_holds_for_a_new_cluster_and_is_not_told() -> None:
    check, old = session(), endpoint()
    before = watch(FakeCluster("a", old), check)
    check.settle(PASSED, 1.0)
    new = endpoint()
    new.flags |= FAILED_ACTIVE_HC
    cluster = FakeCluster("a", new)
    watched = watch(cluster, check, before=before)
    before.leave()
    assert new.flags == 0
    assert watched.publish(2.0) == ([], [])
    assert cluster.refreshed == [2.0]
    assert [member.state for member in check.members] == [new]
    assert watched.counters.success == 1, "counters go on"


def test_an_endpoint_with_two_checks_needs_both() -> None:
    ready, port, state = session(), session(), endpoint()
    watched = watch(FakeCluster("a", state, pending=True), ready, port)
    assert state.flags == FAILED_ACTIVE_HC | PENDING_ACTIVE_HC
    ready.settle(PASSED, 1.0)
    assert state.flags == FAILED_ACTIVE_HC | PENDING_ACTIVE_HC
    port.settle(PASSED, 1.0)
    assert state.flags == 0
    port.settle(BROKEN, 2.0)
    assert state.flags == FAILED_ACTIVE_HC
    assert watched.stats()["healthy"] == 0


def test_slow_start_counts_from_the_recovery() -> None:
    check, state = session(), endpoint()
    watch(FakeCluster("a", state), check)
    check.settle(PASSED, 7.0)
    assert state.since == 7.0
    check.settle(PASSED, 8.0)
    assert state.since == 7.0
    check.settle(BROKEN, 9.0)
    check.settle(PASSED, 10.0)
    check.settle(PASSED, 11.0)
    assert state.since == 11.0


def test_a_passed_check_ends_an_ejection_but_not_while_another_fails() -> None:
    ready, port, state = session(), session(), endpoint()
    cluster = FakeCluster("a", state)
    cluster.detector = FakeDetector()
    watched = watch(cluster, ready, port)
    state.flags |= FAILED_OUTLIER_CHECK
    ready.settle(PASSED, 1.0)
    assert state.flags & FAILED_OUTLIER_CHECK
    port.settle(PASSED, 1.0)
    assert state.flags == 0
    watched.publish(2.0)
    assert cluster.refreshed == [2.0]


def test_a_dropped_endpoint_leaves_when_it_fails() -> None:
    check, going, staying = session(), endpoint(1), endpoint(2)
    cluster = FakeCluster("a", going, staying)
    watched = watch(cluster, check)
    check.settle(PASSED, 1.0)
    watched.publish(1.0)
    going.flags |= PENDING_DYNAMIC_REMOVAL
    check.settle(BROKEN, 2.0)
    events, failed = watched.publish(2.0)
    assert cluster.states == (staying,)
    assert [member.state for member in check.members] == [staying]
    assert {event.endpoint for event in events} == {"10.0.0.1:1", "10.0.0.1:2"}
    assert set(failed) == {going, staying}


def test_calls_of_high_priority_are_traffic_too() -> None:
    cluster, check = FakeCluster("a", endpoint()), session()
    watch(cluster, check)
    cluster.high.shared["targets"] = {}
    assert check.has_traffic()


def test_counters() -> None:
    check = session()
    watched = watch(FakeCluster("a", endpoint()), check)
    for result in (PASSED, BROKEN, SILENT, CheckResult("network"), CheckResult("passive")):
        check.settle(result, 1.0)
    check.settle(CheckResult("passed", degraded=True), 2.0)
    assert watched.stats() == {
        "attempt": 0,
        "success": 2,
        "failure": 4,
        "network_failure": 2,
        "passive_failure": 1,
        "healthy": 0,
        "degraded": 1,
    }


def test_traffic_is_remembered() -> None:
    cluster, check = FakeCluster("a", endpoint()), session()
    watched = watch(cluster, check)
    assert not check.has_traffic()
    cluster.shared["connections"] = None
    assert check.has_traffic()
    after = watch(FakeCluster("a", endpoint()), check, before=watched)
    watched.leave()
    assert check.has_traffic(), "whatever the cluster is made of now"
    after.leave()
    assert not check.has_traffic()
