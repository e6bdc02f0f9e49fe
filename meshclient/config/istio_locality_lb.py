"""``localityLbSetting`` and ``zoneAwareLbSetting``: checked as Istio's validation does.

Text to values; priorities and weights are made of them in
:mod:`meshclient.control.locality`.
Source: Istio ``pkg/config/validation/agent`` ``ValidateLocalityLbSetting``,
``ValidateZoneAwareLbSetting``; ``loadbalancer.go`` ``ApplyToCluster``.
"""

from __future__ import annotations

from dataclasses import replace

from meshclient.config.reader import Reader
from meshclient.model.load_balancing import Distribution, Topology

_CODE = "locality"
_OFF = Topology()
_TOPOLOGY_LABELS = frozenset(
    {
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "topology.istio.io/subzone",
    }
)


def read_locality_setting(block: Reader) -> tuple[Topology, Reader | None]:
    """What the block asks for, and its ``failover`` when given, for it needs outlier
    detection (see :func:`topology_in_force`)."""
    enabled = _enabled(block)
    distribute = block.field("distribute")
    failover = block.field("failover")
    priority = block.field("failoverPriority")
    block.finish("localityLbSetting")
    if distribute is not None and (failover is not None or priority is not None):
        block.error(
            "can not simultaneously specify 'distribute' and 'failover' or 'failover_priority'",
            code=_CODE,
        )
    rules = [_distribution(e) for e in distribute.elements()] if distribute is not None else []
    topology = Topology(
        distribute=tuple(rules),
        failover=_failovers(failover),
        failover_priority=tuple(priority.strings()) if priority is not None else (),
        prioritize_locality=True,
    )
    if topology.failover and priority is not None:
        for name in sorted(_TOPOLOGY_LABELS.intersection(topology.failover_priority)):
            priority.error(
                f"can not simultaneously set 'failover' and topology label '{name}' "
                "in 'failover_priority'",
                code=_CODE,
            )
    weighs = topology.distribute or topology.failover or topology.failover_priority
    if weighs:
        topology = replace(topology, locality="locality_weighted")
    return topology if enabled else _OFF, failover if failover is not None else priority


def read_zone_aware_setting(block: Reader) -> tuple[Topology, Reader | None]:
    """Regions by priority, zones by Envoy's zone-aware routing."""
    enabled = _enabled(block)
    failover = block.field("failover")
    priority = block.field("failoverPriority")
    size = block.field("minClusterSize")
    block.finish("zoneAwareLbSetting")
    least = size.integer(0) if size is not None else None
    topology = Topology(
        locality="zone_aware",
        failover=_failovers(failover),
        failover_priority=tuple(priority.strings()) if priority is not None else (),
        prioritize_locality=True,
        min_cluster_size=6 if least is None else least,
    )
    for name in sorted(_TOPOLOGY_LABELS.intersection(topology.failover_priority)):
        block.error(
            f"'failover_priority' for zone aware lb must not use topology label '{name}'; "
            "region- and zone-level routing are handled automatically",
            code=_CODE,
        )
    return topology if enabled else _OFF, failover if failover is not None else priority


def topology_in_force(asked: Topology | None, *, ejects: bool) -> Topology:
    """``asked`` None: the mesh's default, which is failover by place.

    Without outlier detection (``ejects``) nothing fails over, or traffic would never
    leave the first priority; zone-aware routing fails over in any case.
    """
    if asked is None:
        return Topology(prioritize_locality=ejects)
    if ejects or asked.locality == "zone_aware":
        return asked
    return replace(
        asked,
        failover=(),
        failover_priority=(),
        prioritize_locality=False,
        locality="locality_weighted" if asked.distribute else "",
    )


def _enabled(block: Reader) -> bool:
    field = block.field("enabled")
    return field is None or field.boolean() is not False


def _distribution(entry: Reader) -> Distribution:
    source = entry.field("from")
    targets = entry.field("to")
    entry.finish("distribute")
    here = (source.string() or "") if source is not None else ""
    total = 0
    weights: list[tuple[str, int]] = []
    for locality, weight in targets.items() if targets is not None else ():
        value = weight.integer()
        if value is None:
            continue
        if not 1 <= value <= 100:
            weight.error("locality weight must be in range [1, 100]", code=_CODE)
        if not locality:
            weight.error("locality must not be empty", code=_CODE)
        total += value
        weights.append((locality, value))
    if total != 100:
        entry.error(f"total locality weight {total} != 100", code=_CODE)
    return Distribution(here, tuple(weights))


def _failovers(block: Reader | None) -> tuple[tuple[str, str], ...]:
    return tuple(_failover(entry) for entry in block.elements()) if block is not None else ()


def _failover(entry: Reader) -> tuple[str, str]:
    names: list[str] = []
    for key in ("from", "to"):
        field = entry.field(key)
        text = (field.string() or "") if field is not None else ""
        if field is not None and ("*" in text or "/" in text):
            field.error(f'locality "{text}" must be a region, without wildcard', code=_CODE)
        names.append(text)
    entry.finish("failover")
    if names[0] == names[1]:
        entry.error("locality failover settings must specify different regions", code=_CODE)
    return names[0], names[1]
