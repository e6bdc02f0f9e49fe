"""Slow start, weights that change, and large updates."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.balancing.slow_start import SlowStart
from meshclient.model.cluster import Cluster, ClusterPolicy, LbPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint

CASES: list[LbPolicy] = ["round_robin", "least_request"]


def cluster_of(count: int, policy: LbPolicy = "round_robin", **settings: Any) -> Cluster:
    settings.setdefault("slow_start_s", 10.0)
    return Cluster(
        "c",
        endpoints=tuple(Endpoint(f"e{i}", 80) for i in range(count)),
        policy=ClusterPolicy(LoadBalancing(policy, **settings)),
    )


def shares(balancer: Balancer, now: float, picks: int) -> Counter[EndpointState | None]:
    return Counter(balancer.pick(lambda: 0, now) for _ in range(picks))


@pytest.mark.parametrize(
    ("age_s", "aggression", "minimum", "factor"),
    [
        (0.0, 1.0, 10.0, 0.1),
        (5.0, 1.0, 10.0, 0.5),
        (2.5, 2.0, 10.0, 0.5),  # 0.25 ** (1 / 2)
        (5.0, 0.5, 10.0, 0.25),  # 0.5 ** (1 / 0.5)
        (0.0, 1.0, 0.0, 0.0001),  # at least a millisecond
        (9.9999, 1.0, 10.0, 0.9999),  # whole milliseconds
        (10.0, 1.0, 10.0, 1.0),
        (99.0, 3.0, 10.0, 1.0),
    ],
)
def test_golden_factors(age_s: float, aggression: float, minimum: float, factor: float) -> None:
    settings = LoadBalancing(
        slow_start_s=10.0, slow_start_minimum_percent=minimum, slow_start_aggression=aggression
    )
    state = EndpointState(Endpoint("e", 80), "c", 100.0)
    slow_start = SlowStart(settings, 0.0, 0.0)
    assert slow_start.factor(state, 100.0 + age_s) == pytest.approx(factor)
    state.flags = 1
    assert slow_start.factor(state, 100.0 + age_s) == 1.0


@given(
    ages=st.lists(st.floats(0, 20), min_size=2, max_size=2).map(sorted),
    aggression=st.floats(0.1, 10),
    minimum=st.floats(0, 100),
)
def test_the_factor_grows_to_one(ages: list[float], aggression: float, minimum: float) -> None:
    settings = LoadBalancing(
        slow_start_s=10.0, slow_start_minimum_percent=minimum, slow_start_aggression=aggression
    )
    slow_start = SlowStart(settings, 0.0, 0.0)
    state = EndpointState(Endpoint("e", 80))
    young, old = (slow_start.factor(state, age) for age in ages)
    assert minimum / 100 <= young <= old <= 1.0


@pytest.mark.parametrize("policy", CASES)
def test_a_new_endpoint_starts_with_a_tenth(policy: LbPolicy) -> None:
    """Two old ones and a new one: 10 : 10 : 1, later 2 : 2 : 1, then the plain path."""
    cluster = cluster_of(3, policy)
    old = carry_over((), cluster_of(2, policy), 0.0)
    states = carry_over(old, cluster, 100.0)
    balancer = make_balancer(cluster, states, 0, now=100.0)
    counts = shares(balancer, 100.0, 2100)
    assert [counts[s] for s in states] == pytest.approx([1000, 1000, 100], abs=3)
    shares(balancer, 105.0, 10)  # the schedule forgets the old weight at its next pick
    counts = shares(balancer, 105.0, 2500)
    assert [counts[s] for s in states] == pytest.approx([1000, 1000, 500], abs=8)
    assert [c.effective_weight for c in balancer.candidates()] == [1.0, 1.0, 0.1]
    assert balancer.refresh_at == pytest.approx(110.001)
    after = make_balancer(cluster, states, 1, balancer, now=110.001)
    assert after.refresh_at is None
    assert type(after).__name__ in ("RoundRobin", "LeastRequest")


def test_a_refresh_within_the_window_keeps_the_schedule() -> None:
    cluster = cluster_of(3)
    states = carry_over((), cluster, 5.0)
    one = make_balancer(cluster, states, 0, now=5.0)
    reference = make_balancer(cluster, states, 0, now=5.0)
    for _ in range(4):
        assert one.pick(lambda: 0, 6.0) is reference.pick(lambda: 0, 6.0)
    two = make_balancer(cluster, states, 9, one, now=7.0)
    assert [two.pick(lambda: 0, 8.0) for _ in range(9)] == [
        reference.pick(lambda: 0, 8.0) for _ in range(9)
    ]


def test_the_window_begins_when_an_endpoint_is_first_healthy() -> None:
    cluster = cluster_of(2)
    states = carry_over((), cluster, 0.0)
    states[1].flags = 4
    balancer = make_balancer(cluster, states, 0, now=0.0)
    balancer = make_balancer(cluster, states, 0, balancer, now=50.0)
    states[1].flags = 0
    balancer = make_balancer(cluster, states, 0, balancer, now=60.0)
    assert states[1].since == 60.0
    assert balancer.refresh_at == pytest.approx(70.001)
    states[1].flags = 2  # an ejection and its end are no new start
    balancer = make_balancer(cluster, states, 0, balancer, now=80.0)
    states[1].flags = 0
    balancer = make_balancer(cluster, states, 0, balancer, now=90.0)
    assert (states[1].since, balancer.refresh_at) == (60.0, None)


def test_reported_weights_start_slowly_too() -> None:
    cluster = cluster_of(3, "client_side_weighted_round_robin")
    old = carry_over((), cluster_of(2, "client_side_weighted_round_robin"), 0.0)
    states = carry_over(old, cluster, 100.0)
    balancer = make_balancer(cluster, states, 0, now=100.0)
    counts = shares(balancer, 100.0, 2100)
    assert [counts[s] for s in states] == pytest.approx([1000, 1000, 100], abs=3)
    assert balancer.refresh_at == 101.0  # its own period is the shorter one


def test_random_has_no_slow_start() -> None:
    cluster = cluster_of(2, "random")
    assert make_balancer(cluster, carry_over((), cluster, 5.0), 0, now=5.0).refresh_at is None


def test_weights_changed_in_place_count_from_the_next_pick() -> None:
    """No rebuild: the schedule reads a weight when the endpoint was picked."""
    cluster = Cluster(
        "c",
        endpoints=(Endpoint("a", 1, weight=1), Endpoint("b", 1, weight=3)),
        policy=ClusterPolicy(LoadBalancing("round_robin")),
    )
    states = carry_over((), cluster)
    balancer = make_balancer(cluster, states, 0)
    shares(balancer, 0.0, 8)
    states[0].weight = 9
    shares(balancer, 0.0, 4)
    counts = shares(balancer, 0.0, 1200)
    assert [counts[s] for s in states] == pytest.approx([900, 300], abs=3)


def test_a_weight_more_costs_the_round_robin_position_nothing() -> None:
    cluster = cluster_of(3, slow_start_s=0.0)
    states = carry_over((), cluster)
    plain = make_balancer(cluster, states, 0)
    plain.pick(lambda: 0)
    states[0].weight = 2
    weighted = make_balancer(cluster, states, 5, plain)
    assert type(weighted).__name__ == "WeightedRoundRobin"
    states[0].weight = 1
    assert make_balancer(cluster, states, 6, weighted).pick(lambda: 0) is states[1]


def test_a_thousand_endpoints_replaced_are_one_rebuild_that_keeps_those_that_stay() -> None:
    """One call makes the next version; what stays keeps its requests in flight, what is new
    has none, and no new one waits for anything."""
    cluster = cluster_of(1500, slow_start_s=0.0)
    states = carry_over((), cluster)
    balancer = make_balancer(cluster, states, 0)
    for state in states:
        state.acquire()
    kept = cluster.endpoints[:500]
    fresh = tuple(Endpoint(f"new{i}", 80) for i in range(1000))
    changed = Cluster("c", endpoints=kept + fresh, policy=cluster.policy)
    after = carry_over(states, changed)
    made = make_balancer(changed, after, 1, balancer)
    assert [s.active for s in after] == [1] * 500 + [0] * 1000
    assert after[:500] == states[:500]
    assert set(shares(made, 0.0, 1500)) == set(after)


@pytest.mark.parametrize("scanned", [1, 2, 5])
def test_full_scan_takes_the_least_busy_of_all(scanned: int) -> None:
    cluster = cluster_of(scanned + 2, "least_request", slow_start_s=0.0, full_scan=True)
    states = carry_over((), cluster)
    for state in states[:-2]:
        state.acquire()
    balancer = make_balancer(cluster, states, 0)
    assert {balancer.pick(lambda r=r: r) for r in range(10)} == set(states[-2:])  # type: ignore[misc]
    states[-1].acquire()
    assert balancer.pick(lambda: 77) is states[-2]
