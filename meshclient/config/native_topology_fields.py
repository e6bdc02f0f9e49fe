"""The fields of ``load_balancing`` about places and panic: names, shapes, descriptions.

A part of :mod:`meshclient.config.native_fields`. Data only.
"""

from __future__ import annotations

from meshclient.config.native_shapes import (
    COUNT,
    FLAG,
    NAME,
    PERCENT,
    TEXT,
    Section,
    choice,
    either,
    ref,
)
from meshclient.config.native_topology import LOCALITY_BASES, LOCALITY_MODES, MAX_PRIORITY

_FROM_ZERO = {"type": "integer", "minimum": 0, "maximum": 4294967295}
_REGION = {"type": "string", "minLength": 1, "pattern": "^[^*/]+$"}

TOPOLOGY: Section = {
    "selection_method": (
        choice("n_choices", "full_scan"),
        "least_request: endpoints looked at per pick: choice_count, or all. Default n_choices.",
    ),
    "locality": (choice(*LOCALITY_MODES), "How places bear on the choice. Default: not at all."),
    "locality_weights": (
        {"type": "array", "items": ref("locality_weight")},
        "locality_weighted: share of each locality. Default: the sum of its endpoints' weights.",
    ),
    "distribute": (
        {"type": "array", "items": ref("distribution")},
        "Shares of localities by the caller's own place, as in Istio.",
    ),
    "prioritize_locality": (
        FLAG,
        "Fail over by distance: sub-zone, zone, region, elsewhere. Default false, unless "
        "failover or failover_priority is given.",
    ),
    "failover": (
        {"type": "array", "items": ref("region_failover")},
        "Which region comes next when the caller's own fails.",
    ),
    "failover_priority": (
        {"type": "array", "items": NAME},
        "Label names, or name=value: endpoints that agree in the first ones come first.",
    ),
    "local_service": (NAME, "zone_aware: the caller's own service."),
    "routing_enabled": (PERCENT, "zone_aware: share of the calls it is for. Default 100."),
    "min_cluster_size": (
        _FROM_ZERO,
        "zone_aware: not with fewer healthy endpoints than these. Default 6.",
    ),
    "force_local_zone_min_size": (
        _FROM_ZERO,
        "zone_aware: all calls stay in the caller's zone while it has so many healthy "
        "endpoints. Default: never forced.",
    ),
    "locality_basis": (
        choice(*LOCALITY_BASES),
        "zone_aware: what is compared. Default healthy_hosts_num.",
    ),
    "fail_traffic_on_panic": (FLAG, "zone_aware: in panic, pick nobody. Default false."),
    "healthy_panic_threshold": (
        PERCENT,
        "With fewer endpoints well than this, all are used; 0: never. Default 50.",
    ),
    "overprovisioning_factor": (
        COUNT,
        "Percent by which health is multiplied before load leaves a priority. Default 140.",
    ),
    "weighted_priority_health": (
        FLAG,
        "A priority's health counts weights, not endpoints. Default false.",
    ),
}

TOPOLOGY_SECTIONS: dict[str, Section] = {
    "locality_weight": {
        "locality": (either(TEXT, ref("locality")), "region/zone/sub_zone."),
        "weight": (_FROM_ZERO, "Share among the localities of a priority; 0: no traffic."),
        "priority": (
            {"type": "integer", "minimum": 0, "maximum": MAX_PRIORITY},
            "Default 0.",
        ),
    },
    "distribution": {
        "from": (NAME, "The caller's place: region/zone/sub_zone; a part may be *."),
        "to": (
            {
                "type": "object",
                "additionalProperties": {"type": "integer", "minimum": 1, "maximum": 100},
            },
            "Percent by locality; they add up to 100.",
        ),
    },
    "region_failover": {
        "from": (_REGION, "The caller's region."),
        "to": (_REGION, "The region that comes next."),
    },
}

TOPOLOGY_REQUIRED: dict[str, tuple[str, ...]] = {
    "locality_weight": ("locality", "weight"),
    "distribution": ("from", "to"),
    "region_failover": ("from", "to"),
}
