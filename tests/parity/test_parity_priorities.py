"""Priorities, panic, degraded endpoints, localities and zones: Envoy's picks against ours."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from xxhash import xxh64_intdigest

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing, Topology
from meshclient.model.endpoint import Endpoint, Locality
from meshclient.model.load_balancing import LocalityWeight

from .envoy import Envoy
from .generate_priorities import HERE, PORTS, draw_cluster, local_service, to_envoy
from .picks import Servers, bootstrap, picked

#: Standard deviations; about 1 in 10**9 of correct counts is further off.
FAR = 6.0


class Hashed:
    """A call with a hash, as the balancer sees it."""

    subset = ()

    def __init__(self, hash64: int) -> None:
        self.hash64 = hash64


def balancer_of(cluster: Cluster, seed: int) -> Balancer:
    local = carry_over((), local_service())
    return make_balancer(cluster, carry_over((), cluster), seed, local=local, node=HERE)


def port_of(state: EndpointState | None) -> int | None:
    return None if state is None else state.endpoint.port


def expected(cluster: Cluster, seed: int, picks: int) -> Counter[int | None]:
    """Our own counts of many picks; the draws of priorities are spread evenly."""
    balancer = balancer_of(cluster, seed)
    rand = partial(random.Random(seed).getrandbits, 64)
    return Counter(port_of(balancer.pick(rand)) for _ in range(picks))


def assert_alike(cluster: Cluster, theirs: Counter[int | None], seed: int) -> None:
    """No endpoint that only one side picks; counts within FAR standard deviations."""
    mine = expected(cluster, seed, 20_000)
    total = sum(theirs.values())
    assert set(theirs) <= set(mine), (seed, cluster, theirs, mine)
    for port in mine:
        share = mine[port] / 20_000
        spread = (share * (1 - share) * (total + total * total / 20_000)) ** 0.5
        assert abs(theirs[port] - total * share) <= FAR * spread + 2, (seed, cluster, theirs, mine)


def is_rotation(sequence: list[int | None], cycles: list[list[int | None]]) -> bool:
    """Whether one of the endless cycles has the sequence in it."""
    count = len(sequence)
    return any(
        cycle[start : start + count] == sequence
        for cycle in cycles
        for start in range(len(cycle) - count + 1)
    )


def test_priorities_panic_localities_and_zones_as_in_envoy(seed: int) -> None:
    """About 90 clusters: exact picks by hash, shares by count, turns up to rotation."""
    draw = random.Random(seed)
    with Servers(PORTS) as servers:
        clusters: dict[str, Cluster] = {}
        for number in range(32):
            policy = ("round_robin", "least_request", "random", "round_robin")[number % 4]
            for mode in ("plain", "locality_weighted"):
                name = f"{policy}-{mode}-{number}"
                clusters[name] = draw_cluster(draw, name, policy, mode, servers.ports)
        for number in range(12):
            name = f"zones-{number}"
            clusters[name] = draw_cluster(draw, name, "round_robin", "zone_aware", servers.ports)
        for number in range(16):
            policy, mode = (
                ("ring_hash", "maglev")[number % 2],
                ("plain", "locality_weighted")[number // 8],
            )
            name = f"{policy}-{mode}-{number}"
            clusters[name] = draw_cluster(draw, name, policy, mode, servers.ports)
        node = {"locality": {"region": HERE.region, "zone": HERE.zone}}
        everything = [to_envoy(c) for c in (*clusters.values(), local_service())]
        with Envoy((), {}, bootstrap(everything, node, "local")) as envoy:
            for name, cluster in clusters.items():
                if "ring_hash" in name or "maglev" in name:
                    check_hashes(envoy, cluster, seed)
                else:
                    refuses = None in expected(cluster, seed, 2000)
                    theirs = picked(
                        envoy, name, [""] * (30 if refuses else 250), 1 if refuses else 64
                    )
                    assert_alike(cluster, Counter(theirs), seed)
                    if "round_robin" in name:
                        check_turns(cluster, theirs)
            assert_stats(envoy)


def check_hashes(envoy: Envoy, cluster: Cluster, seed: int) -> None:
    keys = [f"key-{cluster.name}-{number}" for number in range(100)]
    balancer = balancer_of(cluster, seed)
    mine = [
        port_of(balancer.pick(lambda: 0, 0.0, Hashed(xxh64_intdigest(key.encode()))))
        for key in keys
    ]
    if None in mine:
        keys, mine = keys[:30], mine[:30]
    batch = 1 if None in mine else 64
    assert picked(envoy, cluster.name, keys, batch) == mine, (seed, cluster)


def check_turns(cluster: Cluster, theirs: list[int | None]) -> None:
    """The picks of each part of the cluster, in their order, are ours up to rotation."""
    places = {e.port: (e.priority, e.locality, e.health == "degraded") for e in cluster.endpoints}
    balancer = balancer_of(cluster, 0)
    panic = {c.priority for c in balancer.candidates() if c.panic}
    parts: dict[Any, list[int | None]] = {}
    for port in theirs:
        if port is not None:
            priority, locality, degraded = places[port]
            key = (priority,) if priority in panic else (priority, locality, degraded)
            parts.setdefault(key, []).append(port)
    for key, sequence in parts.items():
        period = len(set(sequence))
        weights = {e.weight for e in cluster.endpoints if e.port in sequence}
        if len(weights) == 1 and len(sequence) > period:
            assert sequence[period:] == sequence[:-period], (cluster, key, sequence)


def assert_stats(envoy: Envoy) -> None:
    """The cases cover what they shall cover."""
    text = envoy.ask("/stats?filter=lb_")[1].decode()
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        name, _, value = line.rpartition(": ")
        if value.isdigit():
            counts[name.rsplit(".", 1)[1]] += int(value)
    for name in (
        "lb_healthy_panic",
        "lb_zone_routing_all_directly",
        "lb_zone_routing_sampled",
        "lb_zone_routing_cross_zone",
        "lb_zone_cluster_too_small",
    ):
        assert counts[name] > 0, (name, counts)


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 2, 3], [2, 5, 1, 1], [4, 4, 2]])
def test_weighted_turns_are_envoys_up_to_rotation(weights: list[int]) -> None:
    """Endpoints of one priority, and localities of equal endpoints, by the same weights."""
    with Servers(len(weights)) as servers:
        whole = Cluster(
            "hosts",
            endpoints=tuple(
                Endpoint("127.0.0.1", port, weight)
                for port, weight in zip(servers.ports, weights, strict=True)
            ),
            policy=ClusterPolicy(LoadBalancing("round_robin")),
        )
        places = [Locality("r", f"z{i}") for i in range(len(weights))]
        by_place = replace(
            whole,
            name="places",
            endpoints=tuple(
                Endpoint("127.0.0.1", port, locality=place)
                for port, place in zip(servers.ports, places, strict=True)
            ),
            locality_weights=tuple(map(LocalityWeight, places, weights)),
            policy=replace(whole.policy, topology=Topology("locality_weighted")),
        )
        made = bootstrap([to_envoy(whole), to_envoy(by_place)])
        with Envoy((), {}, made) as envoy:
            for cluster in (whole, by_place):
                theirs = picked(envoy, cluster.name, [""] * (3 * sum(weights)))
                cycles = [turns_of(cluster, seed, 5 * sum(weights)) for seed in range(200)]
                assert is_rotation(theirs, cycles), (cluster.name, theirs)


def turns_of(cluster: Cluster, seed: int, count: int) -> list[int | None]:
    balancer = balancer_of(cluster, seed)
    return [port_of(balancer.pick(lambda: 0)) for _ in range(count)]
