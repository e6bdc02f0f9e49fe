"""Picks by hash: what is drawn, what is kept across versions, priorities and localities."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.balancing.hash_pick import HashPick
from meshclient.model.cluster import Cluster, ClusterPolicy, LbPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint

POLICIES: list[LbPolicy] = ["ring_hash", "maglev"]


class Asked:
    """A request with a hash; counts how often it is asked for."""

    subset = ()

    def __init__(self, value: int | None) -> None:
        self._value = value
        self.times = 0

    @property
    def hash64(self) -> int | None:
        self.times += 1
        return self._value


def no_draw() -> int:
    raise AssertionError("nothing may be drawn here")


def made(
    policy: LbPolicy,
    count: int,
    previous: Balancer | None = None,
    factor: int = 0,
    ring: int = 1024,
) -> tuple[Balancer, tuple[EndpointState, ...]]:
    balancing = LoadBalancing(
        policy, table_size=101, hash_balance_factor=factor, minimum_ring_size=ring
    )
    endpoints = tuple(Endpoint(f"10.0.0.{n}", 80) for n in range(count))
    cluster = Cluster("c", endpoints=endpoints, policy=ClusterPolicy(load_balancing=balancing))
    states = carry_over((), cluster)
    return make_balancer(cluster, states, 1, previous), states


@pytest.mark.parametrize("policy", POLICIES)
def test_a_hash_is_asked_for_once_and_nothing_is_drawn(policy: LbPolicy) -> None:
    balancer, states = made(policy, 5)
    asked = Asked(12345)
    first = balancer.pick(no_draw, 0.0, asked)
    assert first in states
    assert asked.times == 1
    assert balancer.pick(no_draw, 9.0, Asked(12345)) is first
    assert balancer.policy == policy


@pytest.mark.parametrize("policy", POLICIES)
def test_without_a_hash_a_random_number_stands_for_it(policy: LbPolicy) -> None:
    balancer, _ = made(policy, 5)
    for value in (0, 77, 2**63, 2**64 - 1):
        expected = balancer.pick(no_draw, 0.0, Asked(value))
        draw = partial(int, value)
        assert balancer.pick(draw) is expected
        assert balancer.pick(draw, 0.0, Asked(None)) is expected


@pytest.mark.parametrize("policy", POLICIES)
def test_one_draw_serves_all_attempts_of_a_pick(policy: LbPolicy) -> None:
    balancer, states = made(policy, 5)
    draws = iter([99])
    assert balancer.pick_other(lambda: next(draws), states, 5) in states


@pytest.mark.parametrize("policy", POLICIES)
@given(value=st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_a_retry_takes_another_endpoint_where_it_may(policy: LbPolicy, value: int) -> None:
    balancer, _ = made(policy, 5)
    first = balancer.pick(no_draw, 0.0, Asked(value))
    assert first is not None
    assert balancer.pick_other(no_draw, [first], 0, 0.0, Asked(value)) is first
    assert balancer.pick_other(no_draw, [first], 60, 0.0, Asked(value)) is not first


@pytest.mark.parametrize("policy", POLICIES)
def test_few_endpoints(policy: LbPolicy) -> None:
    """One endpoint is always it, and the hash is asked for even so (it may make a cookie)."""
    balancer, _ = made(policy, 0)
    assert balancer.pick(no_draw) is None
    assert balancer.pick_other(no_draw, (), 3, 0.0, Asked(5)) is None
    balancer, states = made(policy, 1, factor=100)
    asked = Asked(5)
    assert balancer.pick(no_draw, 0.0, asked) is states[0]
    assert asked.times == 1
    assert balancer.pick_other(no_draw, states, 3) is states[0]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_table_is_kept_while_nothing_changes(policy: LbPolicy) -> None:
    balancer, _ = made(policy, 5)
    same, _ = made(policy, 5, balancer)
    fewer, _ = made(policy, 4, same)
    resized, _ = made(policy, 4, fewer, ring=7)
    tables = [leaf.table for leaf in (balancer, same, fewer, resized) if isinstance(leaf, HashPick)]
    assert len(tables) == 4
    assert tables[0] is tables[1]
    assert len({id(table) for table in tables}) == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_unhealthy_endpoints_are_not_in_the_table(policy: LbPolicy) -> None:
    balancing = LoadBalancing(policy, table_size=101)
    endpoints = [Endpoint(f"10.0.0.{n}", 80) for n in range(6)]
    endpoints[2] = replace(endpoints[2], health="unhealthy")
    cluster = Cluster(
        "c", endpoints=tuple(endpoints), policy=ClusterPolicy(load_balancing=balancing)
    )
    states = carry_over((), cluster)
    balancer = make_balancer(cluster, states, 1)
    picks = {balancer.pick(no_draw, 0.0, Asked(n * 2**54 + n)) for n in range(1000)}
    assert picks == {s for n, s in enumerate(states) if n != 2}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_bound_spreads_one_key_over_all_endpoints(policy: LbPolicy) -> None:
    balancer, states = made(policy, 5, factor=100)
    for _ in range(50):
        state = balancer.pick(no_draw, 0.0, Asked(7))
        assert state is not None
        state.acquire()
    assert max(s.active for s in states) <= 11
