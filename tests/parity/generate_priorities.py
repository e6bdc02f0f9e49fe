"""Clusters of every shape of priorities, health and places, for both sides.

Drawn and translated; what they are asked is the test's business.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing, Topology
from meshclient.model.endpoint import Endpoint, Locality
from meshclient.model.load_balancing import LocalityWeight

from .to_envoy_routes import Json

PORTS = 12
HERE = Locality("eu", "b")
ZONES = (Locality("eu", "a"), HERE, Locality("eu", "c"), Locality("us", "a"))
LETTERS = {"h": "healthy", "d": "degraded", "u": "unhealthy", "x": "draining"}
POLICIES = {
    "round_robin": "ROUND_ROBIN",
    "least_request": "LEAST_REQUEST",
    "random": "RANDOM",
    "ring_hash": "RING_HASH",
    "maglev": "MAGLEV",
}
LB = "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"


def draw_cluster(
    draw: random.Random, name: str, policy: str, mode: str, ports: list[int]
) -> Cluster:
    """``mode``: plain, locality_weighted or zone_aware."""
    ports = draw.sample(ports, PORTS)
    levels = 1 if mode == "zone_aware" else draw.choice((1, 2, 2, 3))
    letters = draw.choice(("hhhhhhhdux", "hhuuu", "hhddu", "hhhx", "uuuh", "dddu"))
    if mode == "zone_aware":
        letters = "hhhhhu"
    zones = ZONES[: draw.randint(2, 4)] if mode != "plain" else (Locality(),)
    size = PORTS if levels == 1 and mode != "plain" else PORTS // 3
    sizes = [draw.randint(size // 2, size) for _ in range(levels)]
    endpoints = _draw_endpoints(draw, ports, sizes, letters, zones)
    topology, weights = _draw_topology(draw, mode, endpoints)
    settings: Any = LoadBalancing(policy=policy, table_size=1009, minimum_ring_size=64)  # type: ignore[arg-type]
    made = ClusterPolicy(
        settings,
        panic_threshold_percent=draw.choice((0, 50, 50, 80)),
        topology=topology,
    )
    return Cluster(name, endpoints=tuple(endpoints), policy=made, locality_weights=weights)


def _draw_endpoints(
    draw: random.Random,
    ports: list[int],
    sizes: list[int],
    letters: str,
    zones: tuple[Locality, ...],
) -> list[Endpoint]:
    """In the order in which Envoy lists them: by priority and group."""
    weights = draw.choice(([1], [1, 2, 3]))
    endpoints = []
    for level, size in enumerate(sizes):
        for _ in range(size):
            health: Any = LETTERS[draw.choice(letters)]
            endpoints.append(
                Endpoint(
                    "127.0.0.1",
                    ports[len(endpoints)],
                    draw.choice(weights),
                    locality=draw.choice(zones),
                    priority=level,
                    health=health,
                )
            )
    return sorted(endpoints, key=lambda e: (e.priority, zones.index(e.locality)))


def _draw_topology(
    draw: random.Random, mode: str, endpoints: list[Endpoint]
) -> tuple[Topology, tuple[LocalityWeight, ...]]:
    topology: dict[str, Any] = {"weighted_priority_health": draw.random() < 0.3}
    topology["overprovisioning_factor"] = draw.choice((140, 140, 100, 200))
    weights: tuple[LocalityWeight, ...] = ()
    if mode != "plain":
        topology["locality"] = mode
        places = sorted({(e.locality, e.priority) for e in endpoints}, key=str)
        weights = tuple(LocalityWeight(z, draw.choice((0, 1, 2, 5)), p) for z, p in places)
    if mode == "zone_aware":
        topology["min_cluster_size"] = draw.choice((1, 1, 6))
        topology["force_local_zone_min_size"] = draw.choice((None, None, 1, 4))
        topology["locality_basis"] = draw.choice(("healthy_hosts_num", "healthy_hosts_weight"))
    return Topology(**topology), weights


def to_envoy(cluster: Cluster) -> Json:
    policy, topology = cluster.policy, cluster.policy.topology
    made: Json = {
        "name": cluster.name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": POLICIES[policy.load_balancing.policy],
        "common_lb_config": {
            "healthy_panic_threshold": {"value": policy.panic_threshold_percent},
        },
        "load_assignment": {
            "cluster_name": cluster.name,
            "policy": {
                "overprovisioning_factor": topology.overprovisioning_factor,
                "weighted_priority_health": topology.weighted_priority_health,
            },
            "endpoints": list(groups_of(cluster)),
        },
    }
    if policy.load_balancing.policy == "ring_hash":
        made["ring_hash_lb_config"] = {"minimum_ring_size": policy.load_balancing.minimum_ring_size}
    if policy.load_balancing.policy == "maglev":
        made["maglev_lb_config"] = {"table_size": policy.load_balancing.table_size}
    if topology.locality == "locality_weighted":
        made["common_lb_config"]["locality_weighted_lb_config"] = {}
    if topology.locality == "zone_aware":
        zone: Json = {"min_cluster_size": topology.min_cluster_size}
        zone["locality_basis"] = topology.locality_basis.upper()
        if topology.force_local_zone_min_size is not None:
            zone["force_local_zone"] = {"min_size": topology.force_local_zone_min_size}
        typed = {"@type": LB, "locality_lb_config": {"zone_aware_lb_config": zone}}
        config = {"name": "rr", "typed_config": typed}
        made["load_balancing_policy"] = {"policies": [{"typed_extension_config": config}]}
    return made


def groups_of(cluster: Cluster) -> Iterator[Json]:
    weights = {(w.locality, w.priority): w.weight for w in cluster.locality_weights}
    groups: dict[tuple[Locality, int], list[Json]] = {}
    for e in cluster.endpoints:
        address = {"socket_address": {"address": e.address, "port_value": e.port}}
        groups.setdefault((e.locality, e.priority), []).append(
            {
                "endpoint": {"address": address},
                "load_balancing_weight": e.weight,
                "health_status": e.health.upper(),
            }
        )
    for (locality, priority), endpoints in groups.items():
        group: Json = {"priority": priority, "lb_endpoints": endpoints}
        if locality != Locality():
            group["locality"] = {"region": locality.region, "zone": locality.zone}
        if weights.get((locality, priority)):
            group["load_balancing_weight"] = weights[locality, priority]
        yield group


def local_service() -> Cluster:
    """Where the callers are: 2 in a, 3 here in b, 1 in c."""
    zones = [ZONES[0]] * 2 + [ZONES[1]] * 3 + [ZONES[2]]
    return Cluster(
        "local",
        endpoints=tuple(Endpoint("127.0.0.1", 1 + i, locality=z) for i, z in enumerate(zones)),
    )
