"""Loads of priorities and panic: golden values, and what always holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.balancing import EndpointState, carry_over, make_balancer
from meshclient.balancing.host_set import host_sets
from meshclient.balancing.panic import total_panic_loads
from meshclient.balancing.priority import Loads, spread
from meshclient.model.cluster import Cluster, ClusterPolicy, LbPolicy, LoadBalancing, Topology
from meshclient.model.endpoint import NO_LOCALITY, Endpoint
from meshclient.model.health import EDS_STATUS_DRAINING, PENDING_ACTIVE_HC

HEALTH = {"h": "healthy", "d": "degraded", "u": "unhealthy", "x": "draining"}


def endpoints_of(*priorities: str, weights: tuple[int, ...] = ()) -> tuple[Endpoint, ...]:
    """One text per priority: h(ealthy), d(egraded), u(nhealthy), x (draining) each."""
    made: list[Endpoint] = []
    for priority, letters in enumerate(priorities):
        for letter in letters:
            weight = weights[len(made)] if weights else 1
            port = 1000 + len(made)
            health: Any = HEALTH[letter]
            made.append(Endpoint("10.0.0.1", port, weight, health=health, priority=priority))
    return tuple(made)


def cluster_of(
    *priorities: str,
    policy: LbPolicy = "round_robin",
    panic: int = 50,
    weights: tuple[int, ...] = (),
    **topology: Any,
) -> Cluster:
    settings = LoadBalancing(policy=policy, table_size=251, minimum_ring_size=32)
    return Cluster(
        "c",
        endpoints=endpoints_of(*priorities, weights=weights),
        policy=ClusterPolicy(
            settings, panic_threshold_percent=panic, topology=Topology(**topology)
        ),
    )


def loads_of(cluster: Cluster) -> Loads:
    states = carry_over((), cluster)
    sets = host_sets(states, NO_LOCALITY, places=False)
    return spread(sets, cluster.policy.topology, cluster.policy.panic_threshold_percent)


@pytest.mark.parametrize(
    ("priorities", "healthy", "degraded", "panic"),
    [
        (("hhh",), [100], [0], [False]),
        # Measured on Envoy: half of the first priority, and a whole second one.
        (("hu", "hh"), [70, 30], [0, 0], [False, False]),
        (("uuuu", "hh"), [0, 100], [0, 0], [False, False]),
        (("hhhu", "hh"), [100, 0], [0, 0], [False, False]),
        # 1 of 4 is panic, 2 of 4 is not.
        (("huuu",), [100], [0], [True]),
        (("hhuu",), [100], [0], [False]),
        # Draining endpoints count nowhere.
        (("hxxx",), [100], [0], [False]),
        # Degraded endpoints take what healthy ones leave.
        (("hd",), [70], [30], [False]),
        (("du", "h"), [0, 100], [0, 0], [False, False]),
        (("hddu", "u"), [35, 0], [65, 0], [False, False]),
        # Everybody panics: by the number of endpoints, the rest to the first.
        (("u", "uu"), [34, 66], [0, 0], [True, True]),
        (("uuuuu", "huuuu"), [50, 50], [0, 0], [True, True]),
        # Only one of two panics, and their loads stay by health: 28 of 98 rounds down.
        (("huuuu", "hhuu"), [29, 71], [0, 0], [True, False]),
        (("", "h"), [0, 100], [0, 0], [False, False]),
        (("",), [100], [0], [True]),
    ],
)
def test_golden_loads(
    priorities: tuple[str, ...], healthy: list[int], degraded: list[int], panic: list[bool]
) -> None:
    loads = loads_of(cluster_of(*priorities))
    assert (loads.healthy, loads.degraded, loads.panic) == (healthy, degraded, panic)


def test_the_example_of_envoys_own_comment() -> None:
    """10 / 20 / 10 % healthy and 20 / 10 / 0 % degraded: 16 / 28 / 14 and 28 / 14 / 0."""
    loads = loads_of(
        cluster_of(
            "h" + "dd" + "u" * 7,
            "hh" + "d" + "u" * 7,
            "h" + "u" * 9,
            overprovisioning_factor=100,
            panic=0,
        )
    )
    assert (loads.healthy, loads.degraded) == ([16, 28, 14], [28, 14, 0])


def test_weights_may_count_instead_of_endpoints() -> None:
    plain = cluster_of("hu", "h", weights=(1, 9, 1))
    assert loads_of(plain).healthy == [70, 30]
    weighted = cluster_of("hu", "h", weights=(1, 9, 1), weighted_priority_health=True)
    assert loads_of(weighted).healthy == [14, 86]


def test_without_panic_the_first_priority_gets_and_refuses_everything() -> None:
    cluster = cluster_of("uu", "u", panic=0)
    assert loads_of(cluster).healthy == [100, 0]
    balancer = make_balancer(cluster, carry_over((), cluster), 0)
    assert balancer.pick(lambda: 99) is None


def test_weights_that_leave_no_health_at_all_leave_the_first_priority() -> None:
    """1 of 1001 rounds to no health, but half of the endpoints are well: no panic."""
    cluster = cluster_of("hu", weights=(1, 1000), weighted_priority_health=True)
    loads = loads_of(cluster)
    assert (loads.healthy, loads.panic) == ([0], [False])
    balancer = make_balancer(cluster, carry_over((), cluster), 0)
    assert balancer.pick(lambda: 0) is not None


def test_total_panic_shares_add_up() -> None:
    assert total_panic_loads([0, 1, 2]) == [0, 34, 66]
    assert total_panic_loads([0, 0]) == [100, 0]


def test_flags_of_checks_and_ejection_count_as_health_does() -> None:
    """A host that waits for its first check is in no denominator."""
    cluster = cluster_of("hhhh")
    states = carry_over((), cluster)
    for state in states[1:]:
        state.flags |= PENDING_ACTIVE_HC | 1
    sets = host_sets(states, NO_LOCALITY, places=False)
    assert sets[0].counted == 1
    loads = spread(sets, Topology(), 50)
    assert (loads.healthy, loads.panic) == ([100], [False])
    states[1].flags = EDS_STATUS_DRAINING
    assert host_sets(states, NO_LOCALITY, places=False)[0].counted == 1


@pytest.mark.parametrize(
    ("r", "wanted"), [(0, 0), (69, 0), (70, 1), (99, 1), (100, 0), (2**64 - 1, 0)]
)
def test_the_draw_chooses_the_priority(r: int, wanted: int) -> None:
    cluster = cluster_of("hu", "hh")
    state = make_balancer(cluster, carry_over((), cluster), 0).pick(lambda: r)
    assert state is not None
    assert state.endpoint.priority == wanted


def test_random_takes_one_draw_for_priority_and_endpoint() -> None:
    cluster = cluster_of("hu", "hh", policy="random")
    states = carry_over((), cluster)
    balancer = make_balancer(cluster, states, 0)
    draws = iter([75])
    assert balancer.pick(lambda: next(draws)) is states[2 + 75 % 2]


class Hashed:
    subset = ()

    def __init__(self, hash64: int | None) -> None:
        self.hash64 = hash64


@pytest.mark.parametrize("policy", ["ring_hash", "maglev"])
def test_hash_policies_choose_the_priority_by_the_hash(policy: LbPolicy) -> None:
    cluster = cluster_of("hu", "hh", policy=policy)
    balancer = make_balancer(cluster, carry_over((), cluster), 0)

    def refuse() -> int:
        raise AssertionError("the hash is all that counts")

    for hash64 in range(0, 10_000, 7):
        state = balancer.pick(refuse, 0.0, Hashed(hash64))
        assert state is not None
        assert state.endpoint.priority == (0 if hash64 % 100 < 70 else 1)
        assert balancer.pick_other(refuse, (), 3, 0.0, Hashed(hash64)) is state
    drawn = balancer.pick(lambda: 99, 0.0, Hashed(None))
    assert drawn is not None
    assert drawn.endpoint.priority == 1
    assert drawn is balancer.pick_other(lambda: 99, (), 3)


@pytest.mark.parametrize("policy", ["ring_hash", "maglev"])
def test_degraded_endpoints_are_in_no_hash_table(policy: LbPolicy) -> None:
    cluster = cluster_of("hhdu", policy=policy)
    balancer = make_balancer(cluster, carry_over((), cluster), 0)
    found = {balancer.pick(lambda: 0, 0.0, Hashed(h * 2**54)) for h in range(1000)}
    assert {s.endpoint.health for s in found if s is not None} == {"healthy"}
    why = {c.state.endpoint.health: c.excluded for c in balancer.candidates()}
    assert why["degraded"] == "degraded endpoints are in no hash table"


def test_panic_picks_are_counted_across_versions() -> None:
    cluster = cluster_of("huuu")
    states = carry_over((), cluster)
    balancer = make_balancer(cluster, states, 0)
    picked = Counter(balancer.pick(lambda: 0) for _ in range(8))
    assert [picked[s] for s in states] == [2, 2, 2, 2]
    assert balancer.stats == {"lb_healthy_panic": 8}
    again = make_balancer(cluster, states, 1, balancer)
    again.pick(lambda: 0)
    assert again.stats == {"lb_healthy_panic": 9}


def test_fail_traffic_on_panic_picks_nobody() -> None:
    cluster = cluster_of("huuu", locality="zone_aware", fail_traffic_on_panic=True)
    balancer = make_balancer(cluster, carry_over((), cluster), 0)
    assert balancer.pick(lambda: 0) is None
    assert balancer.stats == {"lb_healthy_panic": 1}
    assert "fail_traffic_on_panic" in balancer.candidates()[0].excluded


def test_round_robin_turns_are_kept_per_priority() -> None:
    cluster = cluster_of("hu", "hhh")
    states = carry_over((), cluster)
    balancer = make_balancer(cluster, states, 0)
    assert [balancer.pick(lambda: 99) for _ in range(2)] == [states[2], states[3]]
    states[1].flags = 0  # all is well: the first priority takes everything
    well = make_balancer(cluster, states, 5, balancer)
    assert type(well).__name__ == "RoundRobin"
    assert well.pick(lambda: 99) is states[0]
    states[0].flags = 4
    back = make_balancer(cluster, states, 6, well)
    assert back.pick(lambda: 99) is states[4]


def test_flags_of_one_endpoint_leave_the_schedule_of_another_priority() -> None:
    cluster = cluster_of("hu", "hhh", weights=(1, 1, 1, 2, 3))
    states = carry_over((), cluster)
    one = make_balancer(cluster, states, 0)
    reference = make_balancer(cluster, states, 0)
    for _ in range(4):
        assert one.pick(lambda: 99) is reference.pick(lambda: 99)
    states[1].flags = 1
    one = make_balancer(cluster, states, 77, one)
    for _ in range(6):
        assert one.pick(lambda: 99) is reference.pick(lambda: 99)


def test_retries_may_go_to_another_priority() -> None:
    cluster = cluster_of("hu", "hh")
    states = carry_over((), cluster)
    balancer = make_balancer(cluster, states, 0)
    draws = iter([0, 0, 80])
    assert balancer.pick_other(lambda: next(draws), {states[0]}, 5) is states[2]


def test_candidates_tell_loads_flags_and_reasons() -> None:
    cluster = cluster_of("hhu", "hd", "h")
    states = carry_over((), cluster)
    states[2].flags |= 2
    found = make_balancer(cluster, states, 0).candidates()
    assert [c.state for c in found] == list(states)
    assert [(c.priority, c.priority_load, c.panic) for c in found] == [
        (0, 93, False),
        (0, 93, False),
        (0, 93, False),
        (1, 7, False),
        (1, 0, False),
        (2, 0, False),
    ]
    assert found[2].flags == "/failed_outlier_check/failed_eds_health"
    assert [c.excluded for c in found] == [
        "",
        "",
        "ejected",
        "",
        "degraded, and healthy endpoints take the whole load",
        "priority 2; others take the whole load",
    ]


shapes = st.lists(st.text(alphabet="hhdux", max_size=6), min_size=1, max_size=4)


@given(shape=shapes, panic=st.integers(0, 100), weighted=st.booleans(), seed=st.integers(0, 2**64))
def test_loads_add_up_to_a_hundred(shape: list[str], panic: int, weighted: bool, seed: int) -> None:
    weights = tuple(1 + (seed >> i) % 7 for i in range(sum(map(len, shape))))
    cluster = cluster_of(*shape, panic=panic, weights=weights, weighted_priority_health=weighted)
    loads = loads_of(cluster)
    total = sum(loads.healthy) + sum(loads.degraded)
    assert total == 100 or (weighted and total == 0)
    assert len(loads.table()) == 100
    assert not (panic == 0 and any(loads.panic))


@given(
    shape=shapes,
    panic=st.integers(0, 100),
    policy=st.sampled_from([p for p in get_args(LbPolicy) if p != "maglev"]),
    seed=st.integers(0, 2**64 - 1),
)
def test_nobody_excluded_is_picked_and_everybody_else_may_be(
    shape: list[str], panic: int, policy: LbPolicy, seed: int
) -> None:
    """Each of the hundred draws is tried; what candidates() says must hold for them all."""
    cluster = cluster_of(*shape, panic=panic, policy=policy)
    states = carry_over((), cluster)
    balancer = make_balancer(cluster, states, seed)
    excluded = {c.state for c in balancer.candidates() if c.excluded}
    found: set[EndpointState] = set()
    for r in range(100):
        state = balancer.pick(lambda r=r: r)  # type: ignore[misc]
        assert state not in excluded
        if state is not None:
            found.add(state)
    in_panic = {c.priority for c in balancer.candidates() if c.panic}
    for state in found:
        assert not state.flags & 0b111 or state.endpoint.priority in in_panic


@given(shape=shapes, factor=st.integers(100, 400))
def test_priorities_are_filled_from_the_first(shape: list[str], factor: int) -> None:
    """A priority gets more than nothing only where those before it do not suffice."""
    cluster = cluster_of(*shape, panic=0, overprovisioning_factor=factor)
    loads = loads_of(cluster)
    covered = 0
    for letters, load in zip(shape, loads.healthy, strict=False):
        if covered >= 100:
            assert load == 0
        counted = sum(letter != "x" for letter in letters)
        if counted:
            covered += min(100, factor * letters.count("h") // counted)


def test_a_bare_policy_is_still_only_its_leaf() -> None:
    """Nothing is put above the policy of a healthy cluster of one priority."""
    cluster = cluster_of("hhh", policy="least_request")
    balancer = make_balancer(cluster, carry_over((), cluster), 0)
    assert type(balancer).__name__ == "LeastRequest"
    one_bad = replace(cluster, endpoints=endpoints_of("hhhhu"))
    balancer = make_balancer(one_bad, carry_over((), one_bad), 0)
    assert type(balancer).__name__ == "LeastRequest"
    assert len(balancer.served) == 4
