"""The parts of ``load_balancing`` about places, priorities and panic.

Reader to :class:`Topology` and locality weights; how load follows from them is not
known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from meshclient.config.native_values import finish, flag_of, integer_of, locality, required, text_of
from meshclient.config.reader import Reader
from meshclient.model.load_balancing import Distribution, LocalityWeight, Topology

LOCALITY_MODES = ("locality_weighted", "zone_aware")
LOCALITY_BASES = ("healthy_hosts_num", "healthy_hosts_weight")

#: As for endpoints.
MAX_PRIORITY = 127

#: What only zone-aware routing knows.
_ZONE_FIELDS = (
    "local_service",
    "routing_enabled",
    "min_cluster_size",
    "force_local_zone_min_size",
    "locality_basis",
    "fail_traffic_on_panic",
)


def read_topology(r: Reader) -> Topology:
    """The fields of ``load_balancing`` that make a topology."""
    mode_reader, distribute = r.field("locality"), r.field("distribute")
    failover, labels = r.field("failover"), r.field("failover_priority")
    mode = mode_reader.string(LOCALITY_MODES) if mode_reader is not None else None
    rules = tuple(_distribution(e) for e in distribute.elements()) if distribute is not None else ()
    if distribute is not None and (failover is not None or labels is not None):
        distribute.error("distribute excludes failover and failover_priority")
    if rules and mode == "zone_aware" and distribute is not None:
        distribute.error("distribute weighs localities; zone_aware does not")
    if mode != "zone_aware":
        _refuse(r, _ZONE_FIELDS, "locality: zone_aware")
    force, basis = r.field("force_local_zone_min_size"), r.field("locality_basis")
    routing = r.field("routing_enabled")
    percent = routing.number(0, 100) if routing is not None else None
    prioritize = flag_of(r, "prioritize_locality")
    return Topology(
        locality=_mode("locality_weighted" if rules else mode),
        distribute=rules,
        failover=tuple(_failover(e) for e in failover.elements()) if failover is not None else (),
        failover_priority=tuple(labels.strings()) if labels is not None else (),
        prioritize_locality=prioritize or failover is not None or labels is not None,
        local_service=text_of(r, "local_service"),
        routing_enabled_percent=100.0 if percent is None else percent,
        min_cluster_size=integer_of(r, "min_cluster_size", 6, 0),
        force_local_zone_min_size=force.integer(0, 2**32 - 1) if force is not None else None,
        locality_basis=_basis(basis.string(LOCALITY_BASES) if basis is not None else None),
        fail_traffic_on_panic=flag_of(r, "fail_traffic_on_panic"),
        overprovisioning_factor=integer_of(r, "overprovisioning_factor", 140),
        weighted_priority_health=flag_of(r, "weighted_priority_health"),
    )


def read_locality_weights(r: Reader, topology: Topology) -> tuple[LocalityWeight, ...]:
    """``locality_weights``: a list; a locality that it leaves out gets no traffic."""
    child = r.field("locality_weights")
    if child is None:
        return ()
    if topology.locality != "locality_weighted":
        child.error("has no effect without locality: locality_weighted")
    elif topology.distribute:
        child.error("distribute gives the weights")
    return tuple(w for w in map(_weight, child.elements()) if w is not None)


def read_panic_threshold(r: Reader) -> int | None:
    """``healthy_panic_threshold`` in percent, as Envoy rounds it; None: not given."""
    child = r.field("healthy_panic_threshold")
    percent = child.number(0, 100) if child is not None else None
    return None if percent is None else int(percent + 0.5)


def _refuse(r: Reader, names: Sequence[str], needed: str) -> None:
    for name in names:
        child = r.field(name)
        if child is not None:
            child.error(f"has no effect without {needed}")


def _mode(word: str | None) -> Literal["", "locality_weighted", "zone_aware"]:
    if word == "locality_weighted":
        return "locality_weighted"
    return "zone_aware" if word == "zone_aware" else ""


def _basis(word: str | None) -> Literal["healthy_hosts_num", "healthy_hosts_weight"]:
    return "healthy_hosts_weight" if word == "healthy_hosts_weight" else "healthy_hosts_num"


def _weight(r: Reader) -> LocalityWeight | None:
    where, weight = required(r, "locality"), required(r, "weight")
    value = weight.integer(0, 2**32 - 1) if weight is not None else None
    priority = integer_of(r, "priority", 0, 0, MAX_PRIORITY)
    place = locality(where)
    finish(r, "locality_weight")
    return None if value is None else LocalityWeight(place, value, priority)


def _distribution(r: Reader) -> Distribution:
    targets = required(r, "to")
    here = required(r, "from")
    weights: list[tuple[str, int]] = []
    for place, child in targets.items() if targets is not None else ():
        value = child.integer(1, 100)
        if not place:
            child.error("a locality is expected: region/zone/sub_zone, or *")
        if value is not None:
            weights.append((place, value))
    total = sum(value for _, value in weights)
    if targets is not None and total != 100:
        targets.error(f"the weights add up to {total}, not to 100")
    text = here.string() if here is not None else None
    finish(r, "distribution")
    return Distribution(text or "", tuple(weights))


def _failover(r: Reader) -> tuple[str, str]:
    regions = []
    for name in ("from", "to"):
        child = required(r, name)
        text = (child.string() or "") if child is not None else ""
        if child is not None and ("*" in text or "/" in text):
            child.error("a region is expected, without wildcard")
        regions.append(text)
    if regions[0] and regions[0] == regions[1]:
        r.error("a region cannot fail over to itself")
    finish(r, "region_failover")
    return regions[0], regions[1]


__all__ = [
    "LOCALITY_BASES",
    "LOCALITY_MODES",
    "MAX_PRIORITY",
    "read_locality_weights",
    "read_panic_threshold",
    "read_topology",
]
