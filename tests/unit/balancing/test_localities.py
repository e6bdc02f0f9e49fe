"""Locality weights and zone-aware routing: golden values and shares."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.model.cluster import Cluster, ClusterPolicy, LbPolicy, LoadBalancing, Topology
from meshclient.model.endpoint import Endpoint, Locality
from meshclient.model.load_balancing import LocalityWeight

A, B, C = (Locality("r", zone) for zone in "abc")
#: Chi-square critical values at p = 1e-6, by degrees of freedom.
CHI_SQUARE = {1: 23.9, 2: 27.6}


def cluster_of(
    counts: dict[Locality, str],
    weights: dict[Locality, int] | None = None,
    policy: LbPolicy = "round_robin",
    **topology: Any,
) -> Cluster:
    """Per locality one letter per endpoint: h(ealthy), u(nhealthy), d(egraded)."""
    health: dict[str, Any] = {"h": "healthy", "u": "unhealthy", "d": "degraded"}
    endpoints = [
        Endpoint("10.0.0.1", 1000 + 100 * index + number, locality=place, health=health[letter])
        for index, (place, letters) in enumerate(counts.items())
        for number, letter in enumerate(letters)
    ]
    topology.setdefault("locality", "locality_weighted")
    settings = LoadBalancing(policy, minimum_ring_size=64)
    return Cluster(
        "c",
        endpoints=tuple(endpoints),
        policy=ClusterPolicy(settings, topology=Topology(**topology)),
        locality_weights=tuple(LocalityWeight(p, w) for p, w in (weights or {}).items()),
    )


def made(cluster: Cluster, seed: int = 0, **options: Any) -> Balancer:
    return make_balancer(cluster, carry_over((), cluster), seed, **options)


def places(balancer: Balancer, picks: int, seed: int = 1) -> Counter[Locality | None]:
    print(f"seed {seed}")
    rand = partial(random.Random(seed).getrandbits, 64)
    found = (balancer.pick(rand) for _ in range(picks))
    return Counter(None if s is None else s.endpoint.locality for s in found)


def test_localities_get_what_their_weights_say() -> None:
    balancer = made(cluster_of({A: "hh", B: "hhhhh", C: "h"}, {A: 1, B: 2, C: 3}))
    assert places(balancer, 600) == {A: 100, B: 200, C: 300}


def test_a_locality_without_weight_gets_nothing_and_says_so() -> None:
    balancer = made(cluster_of({A: "hh", B: "hh"}, {A: 1}))
    assert places(balancer, 50) == {A: 50}
    reasons = {c.state.endpoint.locality: c.excluded for c in balancer.candidates()}
    assert reasons == {A: "", B: "locality r/b gets no share"}


def test_without_any_weight_places_do_not_matter() -> None:
    balancer = made(cluster_of({A: "h", B: "hhh"}, {A: 0, B: 0}))
    assert places(balancer, 40) == {A: 10, B: 30}


def test_sick_localities_lose_more_than_overprovisioning_allows() -> None:
    """1 of 4 is well: min(1, 1.4 x 1/4) = 0.35 of its weight; 3 of 4 are enough."""
    balancer = made(cluster_of({A: "huuu", B: "hhhu"}, {A: 100, B: 65}))
    assert places(balancer, 400) == {A: 140, B: 260}
    assert [c.locality_load for c in balancer.candidates()][::4] == [35.0, 65.0]


def test_panic_ignores_places() -> None:
    balancer = made(cluster_of({A: "huuu", B: "u"}, {A: 1, B: 99}))
    assert places(balancer, 50) == {A: 40, B: 10}
    assert balancer.stats == {"lb_healthy_panic": 50}
    assert all(c.panic and c.locality_load is None for c in balancer.candidates())


def test_a_new_version_with_the_same_shares_keeps_the_schedule() -> None:
    cluster = cluster_of({A: "hh", B: "hh", C: "hh"}, {A: 1, B: 2, C: 4})
    states = carry_over((), cluster)

    def sequence(balancer: Balancer, count: int) -> list[EndpointState | None]:
        return [balancer.pick(lambda: 0) for _ in range(count)]

    reference = sequence(make_balancer(cluster, states, 3), 14)
    one = make_balancer(cluster, states, 3)
    found = sequence(one, 5)
    found += sequence(make_balancer(cluster, states, 99, one), 9)
    assert found == reference


def test_random_draws_once_for_priority_and_endpoint_within_a_place() -> None:
    balancer = made(cluster_of({A: "hhh"}, {A: 1}, "random"))
    draws = iter([2**40 + 1])
    state = balancer.pick(lambda: next(draws))
    assert state is balancer.served[(2**40 + 1) % 3]


def test_the_order_of_places_is_the_callers_own_then_by_name() -> None:
    cluster = cluster_of({C: "h", B: "h", A: "h"}, {A: 1, B: 1, C: 1})
    balancer = made(cluster, node=C)
    found = [balancer.pick(lambda: 0) for _ in range(3)]
    order = [s.endpoint.locality for s in found if s is not None]
    assert order in ([C, A, B], [A, B, C], [B, C, A])


@given(
    weights=st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_weights_are_honoured_over_every_cycle(weights: list[int], seed: int) -> None:
    cluster = cluster_of({A: "h", B: "hh", C: "hhh"}, dict(zip((A, B, C), weights, strict=True)))
    counts = places(made(cluster, seed), 4 * sum(weights))
    assert [counts[p] for p in (A, B, C)] == pytest.approx([4 * w for w in weights], abs=1)


# -- zone-aware -------------------------------------------------------------------


def zone_cluster(counts: dict[Locality, str], **topology: Any) -> Cluster:
    topology.setdefault("min_cluster_size", 1)
    return cluster_of(counts, locality="zone_aware", **topology)


def zoned(
    counts: dict[Locality, str], callers: dict[Locality, str], node: Locality = A, **topology: Any
) -> Balancer:
    local = carry_over((), cluster_of(callers))
    return made(zone_cluster(counts, **topology), local=local, node=node)


def test_all_calls_stay_where_there_is_room() -> None:
    balancer = zoned({A: "hhh", B: "hhh"}, {A: "h", B: "h"})
    assert places(balancer, 100) == {A: 100}
    assert balancer.stats["lb_zone_routing_all_directly"] == 100
    assert [c.excluded for c in balancer.candidates()][3] == "locality r/b gets no share"


def test_residual_calls_follow_the_spare_capacity() -> None:
    """Callers 50/25/25, endpoints 25/50/25: half of the calls stay, the others go to b."""
    balancer = zoned({A: "h", B: "hh", C: "h"}, {A: "hh", B: "h", C: "h"})
    counts = places(balancer, 4000)
    assert counts[C] == 0
    assert (counts[A] - 2000) ** 2 / 2000 + (counts[B] - 2000) ** 2 / 2000 < CHI_SQUARE[1]
    loads = {c.state.endpoint.locality: c.locality_load for c in balancer.candidates()}
    assert loads == {A: 50.0, B: 50.0, C: 0.0}
    stats = balancer.stats
    assert stats["lb_zone_routing_sampled"] == counts[A]
    assert stats["lb_zone_routing_cross_zone"] == counts[B]


@pytest.mark.parametrize(
    ("counts", "callers", "topology", "stat"),
    [
        ({A: "hh"}, {A: "h", B: "h"}, {}, ""),
        ({A: "h", B: "h"}, {A: "hh"}, {}, ""),
        ({A: "h", B: "h"}, {B: "h", C: "h"}, {}, "lb_local_cluster_not_ok"),
        ({A: "h", B: "h"}, {A: "h", B: "h"}, {"min_cluster_size": 6}, "lb_zone_cluster_too_small"),
    ],
)
def test_when_zones_are_not_weighed(
    counts: dict[Locality, str], callers: dict[Locality, str], topology: dict[str, Any], stat: str
) -> None:
    balancer = zoned(counts, callers, **topology)
    assert type(balancer).__name__ == "RoundRobin"
    assert stat == "" or balancer.stats[stat] == 1


def test_without_the_callers_own_service_zones_do_not_matter() -> None:
    assert type(made(zone_cluster({A: "h", B: "h"}), node=A)).__name__ == "RoundRobin"


def test_callers_in_panic_do_not_weigh_zones() -> None:
    balancer = zoned({A: "h", B: "h"}, {A: "hu", B: "u"})
    assert places(balancer, 10) == {A: 5, B: 5}
    assert balancer.stats["lb_local_cluster_not_ok"] == 10
    refusing = zoned({A: "h", B: "h"}, {A: "hu", B: "u"}, fail_traffic_on_panic=True)
    assert places(refusing, 10) == {None: 10}


def test_the_local_zone_can_be_forced() -> None:
    counts, callers = {A: "h", B: "hhh"}, {A: "hhh", B: "h"}
    assert places(zoned(counts, callers), 400)[B] > 200
    assert places(zoned(counts, callers, force_local_zone_min_size=1), 400) == {A: 400}
    assert places(zoned(counts, callers, force_local_zone_min_size=2), 400)[B] > 200


def test_routing_may_be_for_a_part_of_the_calls() -> None:
    """20 % of the calls are for zone a only, 80 % turn: 60 % for a in all."""
    balancer = zoned({A: "h", B: "h"}, {A: "h", B: "h"}, routing_enabled_percent=20.0)
    counts = places(balancer, 4000)
    assert (counts[A] - 2400) ** 2 / 2400 + (counts[B] - 1600) ** 2 / 1600 < CHI_SQUARE[1]


def test_weights_may_be_compared_instead_of_numbers() -> None:
    cluster = zone_cluster({A: "h", B: "h"}, locality_basis="healthy_hosts_weight")
    states = carry_over((), cluster)
    states[1].weight = 3  # a has a quarter of the capacity and half of the callers
    local = carry_over((), cluster_of({A: "h", B: "h"}))
    balancer = make_balancer(cluster, states, 0, local=local, node=A)
    counts = places(balancer, 4000)
    assert (counts[A] - 2000) ** 2 / 2000 + (counts[B] - 2000) ** 2 / 2000 < CHI_SQUARE[1]
