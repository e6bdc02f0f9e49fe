"""Random subsetting: the A68 rule, little disturbance, an even spread."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh64

from meshclient.balancing import EndpointState, carry_over, make_balancer
from meshclient.balancing.random_subset import random_subset
from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint


def states_of(count: int) -> tuple[EndpointState, ...]:
    endpoints = tuple(Endpoint(f"10.0.{n // 250}.{n % 250}", 80) for n in range(count))
    return carry_over((), Cluster("c", endpoints=endpoints))


def test_the_smallest_seeded_hashes_of_the_addresses_are_taken() -> None:
    states = states_of(100)
    ranked = sorted(states, key=lambda s: xxh64(s.key.encode(), seed=77).intdigest())
    chosen = random_subset(states, 10, 77)
    assert set(chosen) == set(ranked[:10])
    assert list(chosen) == [s for s in states if s in chosen], "in the list's own order"


def test_golden() -> None:
    found = [state.key for state in random_subset(states_of(12), 3, 1)]
    assert found == ["10.0.0.2:80", "10.0.0.5:80", "10.0.0.10:80"]


@settings(deadline=None)
@given(count=st.integers(0, 60), size=st.integers(0, 70), salt=st.integers(0, 2**64 - 1))
def test_size_and_stability(count: int, size: int, salt: int) -> None:
    """As many as asked, at most; one endpoint more or less changes one of them at most."""
    states = states_of(count)
    chosen = random_subset(states, size, salt)
    assert len(chosen) == (min(size, count) if size else count)
    if not size or not chosen:
        return
    for gone in (states[0], states[-1], chosen[0]):
        left = random_subset([s for s in states if s is not gone], size, salt)
        assert len(set(chosen) - set(left)) <= 1
        assert set(chosen) - set(left) <= {gone}


def test_clients_spread_evenly() -> None:
    """2,000 clients with 10 of 50 endpoints each: 400 per endpoint on average, standard
    deviation sqrt(2000 x 0.2 x 0.8) = 18; 6 of them hold for 50 draws but once in 10**7."""
    states = states_of(50)
    seen: Counter[EndpointState] = Counter()
    for salt in range(2000):
        seen.update(random_subset(states, 10, salt * 0x9E37_79B9_7F4A_7C15 % 2**64))
    assert min(seen[s] for s in states) > 400 - 6 * 18
    assert max(seen.values()) < 400 + 6 * 18


@pytest.mark.parametrize("policy", ["round_robin", "peak_ewma"])
def test_the_subset_of_a_process_outlives_updates(policy: str) -> None:
    settings = LoadBalancing(policy, subset_size=5)  # type: ignore[arg-type]
    endpoints = tuple(Endpoint(f"10.0.0.{n}", 80) for n in range(40))
    cluster = Cluster("c", endpoints=endpoints, policy=ClusterPolicy(load_balancing=settings))
    states = carry_over((), cluster)
    balancer = make_balancer(cluster, states, 3)
    used = {state.key for state in random_subset(states, 5, 3)}
    for seed in range(4, 8):
        rand = partial(random.Random(seed).getrandbits, 64)
        picks = [balancer.pick(rand) for _ in range(400)]
        assert {state.key for state in picks if state is not None} == used
        balancer = make_balancer(cluster, states, seed, balancer)
    assert balancer.salt == 3
