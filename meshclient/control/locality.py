"""Where the caller is and where the endpoints are: priorities and locality weights.

Istio's ``localityLbSetting`` and ``zoneAwareLbSetting``, done as its control plane does
them, once per snapshot. Pure; how load then follows priorities and weights is in
:mod:`meshclient.balancing`.
Source: Istio ``pilot/pkg/networking/core/loadbalancer/loadbalancer.go``,
``pilot/pkg/networking/util/util.go``, ``pilot/pkg/serviceregistry/util/label``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil

from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import Endpoint, Labels, Locality
from meshclient.model.load_balancing import Distribution, LocalityWeight, Topology
from meshclient.model.snapshot import Node

_NETWORK = "topology.istio.io/network"
_REGION = "topology.kubernetes.io/region"
_ZONE = "topology.kubernetes.io/zone"
_SUB_ZONE = "topology.istio.io/subzone"


def localize(cluster: Cluster, node: Node) -> Cluster:
    """``cluster`` as ``node`` has to see it; the same object where places do not matter.

    Failover sets the endpoints' priorities. ``distribute`` sets the weights of the
    localities it names and drops the endpoints of all others; where no rule is for
    the caller, everything stays. Locality weights that nobody gave are the sums of the
    endpoints' weights. Applying it twice changes nothing more.
    """
    topology = cluster.policy.topology
    endpoints = cluster.endpoints
    if not endpoints:
        return cluster
    weights: tuple[LocalityWeight, ...] | None = None
    if topology.distribute:
        endpoints, weights = _distribute(topology.distribute, endpoints, node.locality)
    elif topology.prioritize_locality:
        endpoints = _with_priorities(endpoints, _priorities(topology, endpoints, node))
    if topology.locality == "locality_weighted" and weights is None:
        weights = _weights(endpoints, cluster.locality_weights)
    weights = cluster.locality_weights if weights is None else weights
    if endpoints == cluster.endpoints and weights == cluster.locality_weights:
        return cluster
    return replace(cluster, endpoints=endpoints, locality_weights=weights)


def matches(locality: Locality, rule: str) -> bool:
    """Whether a rule's ``region/zone/sub_zone`` covers a place; ``*`` and, behind the
    region, nothing cover all."""
    region, zone, sub_zone = [*rule.split("/", 2), "", ""][:3]
    return (
        region in ("*", locality.region)
        and zone in ("*", "", locality.zone)
        and sub_zone in ("*", "", locality.sub_zone)
    )


def distance(here: Locality, there: Locality) -> int:
    """0: the same sub-zone, 1: the same zone, 2: the same region, 3: another region."""
    if here.region != there.region:
        return 3
    if here.zone != there.zone:
        return 2
    return 0 if here.sub_zone == there.sub_zone else 1


# -- distribute -------------------------------------------------------------------


def _distribute(
    rules: Sequence[Distribution], endpoints: tuple[Endpoint, ...], here: Locality
) -> tuple[tuple[Endpoint, ...], tuple[LocalityWeight, ...] | None]:
    """The first rule for the caller's place decides."""
    rule = next((rule for rule in rules if matches(here, rule.source)), None)
    if rule is None:
        return endpoints, None
    sums = _sums(endpoints)
    found: dict[tuple[Locality, int], int] = {}
    for target, weight in rule.targets:
        taken = {k: w for k, w in sums.items() if k not in found and matches(k[0], target)}
        total = sum(taken.values())
        for key, own in taken.items():
            # Several places under one target share its weight by theirs.
            found[key] = ceil(own * weight / total)
    kept = tuple(e for e in endpoints if (e.locality, e.priority) in found)
    return kept, _as_weights(found)


def _sums(endpoints: Iterable[Endpoint]) -> dict[tuple[Locality, int], int]:
    sums: dict[tuple[Locality, int], int] = {}
    for endpoint in endpoints:
        key = (endpoint.locality, endpoint.priority)
        sums[key] = sums.get(key, 0) + endpoint.weight
    return sums


def _as_weights(weights: Mapping[tuple[Locality, int], int]) -> tuple[LocalityWeight, ...]:
    return tuple(LocalityWeight(place, w, priority) for (place, priority), w in weights.items())


def _weights(
    endpoints: Iterable[Endpoint], given: tuple[LocalityWeight, ...]
) -> tuple[LocalityWeight, ...]:
    """Given weights stand, in whatever priority their locality has got."""
    if not given:
        return _as_weights(_sums(endpoints))
    by_place = {weight.locality: weight.weight for weight in reversed(given)}
    exact = {(weight.locality, weight.priority): weight.weight for weight in given}
    return _as_weights({key: exact.get(key, by_place.get(key[0], 0)) for key in _sums(endpoints)})


# -- failover ---------------------------------------------------------------------


def _priorities(topology: Topology, endpoints: Sequence[Endpoint], node: Node) -> list[int]:
    priorities = [endpoint.priority for endpoint in endpoints]
    zone_aware = topology.locality == "zone_aware"
    if topology.failover_priority:
        priorities = _by_labels(topology.failover_priority, endpoints, node, priorities)
        if not topology.failover and not zone_aware:
            return priorities
    rank = _region_rank if zone_aware else _place_rank
    levels = 3 if zone_aware else 5
    targets = dict(reversed(topology.failover))
    return _compact(
        [
            priority * levels + rank(node.locality, endpoint.locality, targets)
            for priority, endpoint in zip(priorities, endpoints, strict=True)
        ]
    )


def _place_rank(here: Locality, there: Locality, targets: Mapping[str, str]) -> int:
    """Distance; 4 for regions that the failover of the caller's region does not name."""
    far = distance(here, there)
    target = targets.get(here.region)
    return 4 if far == 3 and target is not None and there.region != target else far


def _region_rank(here: Locality, there: Locality, targets: Mapping[str, str]) -> int:
    if here.region == there.region:
        return 0
    return 1 if targets.get(here.region) == there.region else 2


def _by_labels(
    names: Sequence[str], endpoints: Sequence[Endpoint], node: Node, otherwise: list[int]
) -> list[int]:
    """The more of the labels agree from the first one on, the better; a ``name=value``
    stands for the caller's own value. A network that differs puts an endpoint behind
    all of the caller's network."""
    own = _labels(node.labels, node.locality)
    if not own:
        return otherwise
    wanted = []
    overrides = {}
    for text in names:
        name, *values = text.split("=")
        wanted.append(name)
        if len(values) == 1:
            overrides[name] = values[0]
    pairs = [(name, overrides.get(name, own.get(name, ""))) for name in wanted]
    return _compact([_label_rank(pairs, _labels(e.labels, e.locality)) for e in endpoints])


def _label_rank(pairs: Sequence[tuple[str, str]], labels: Mapping[str, str]) -> int:
    further = 0
    for index, (name, value) in enumerate(pairs):
        if labels.get(name, "") == value:
            continue
        if index == 0 and name == _NETWORK:
            further = len(pairs)
            continue
        return len(pairs) - index + further
    return further


def _labels(labels: Labels, locality: Locality) -> dict[str, str]:
    """Labels, and those that a locality stands for."""
    places = {_REGION: locality.region, _ZONE: locality.zone, _SUB_ZONE: locality.sub_zone}
    return dict(labels) | {name: value for name, value in places.items() if value}


def _compact(ranks: list[int]) -> list[int]:
    """0 .. n without gaps, in the same order."""
    order = {rank: index for index, rank in enumerate(sorted(set(ranks)))}
    return [order[rank] for rank in ranks]


def _with_priorities(
    endpoints: tuple[Endpoint, ...], priorities: Sequence[int]
) -> tuple[Endpoint, ...]:
    return tuple(
        endpoint if endpoint.priority == priority else replace(endpoint, priority=priority)
        for endpoint, priority in zip(endpoints, priorities, strict=True)
    )


__all__ = ["distance", "localize", "matches"]
