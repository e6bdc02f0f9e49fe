"""How a cluster chooses among its endpoints, as values.

Settings only; the arithmetic is in :mod:`meshclient.balancing`. Names, units and
defaults are Envoy's, but for the policy itself, whose default is Istio's.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Literal

from meshclient.model.endpoint import Labels, Locality

LbPolicy = Literal[
    "round_robin",
    "least_request",
    "random",
    "ring_hash",
    "maglev",
    "peak_ewma",
    "pick_first",
    "passthrough",
    "client_side_weighted_round_robin",
]

#: Policies whose pick follows from the request's hash.
HASH_POLICIES = frozenset({"ring_hash", "maglev"})

#: Most places of a Maglev table. Source: Envoy, maglev.proto.
MAX_TABLE_SIZE = 5_000_011
#: Most points of a ring. Source: Envoy, ring_hash.proto.
MAX_RING_SIZE = 8_388_608

SubsetFallback = Literal["no_fallback", "any_endpoint", "default_subset"]


@dataclass(frozen=True, slots=True)
class PeakEwma:
    """Linkerd's constants: what an endpoint without a measurement is taken to
    need (``default_rtt_s``), and the time constant of forgetting (``decay_s``)."""

    default_rtt_s: float = 0.03
    decay_s: float = 10.0


@dataclass(frozen=True, slots=True)
class OrcaWeights:
    """client_side_weighted_round_robin: when load reports count and for how long.

    ``error_utilization_penalty`` (>= 0) adds penalty x errors / requests to the
    utilization. ``metric_names`` are looked at before ``application_utilization``.
    """

    blackout_period_s: float = 10.0
    weight_expiration_period_s: float = 180.0
    weight_update_period_s: float = 1.0
    error_utilization_penalty: float = 0.0
    metric_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SubsetSelector:
    """One set of label names that endpoints are grouped by.

    ``fallback`` None: the cluster's own. ``keys_subset`` is tried again with
    ``fallback_keys``.
    """

    keys: tuple[str, ...]
    fallback: SubsetFallback | Literal["keys_subset"] | None = None
    fallback_keys: tuple[str, ...] = ()
    single_host_per_subset: bool = False


@dataclass(frozen=True, slots=True)
class SubsetSelection:
    """Envoy's subset balancer: a call that asks for labels gets endpoints that carry them."""

    selectors: tuple[SubsetSelector, ...]
    fallback: SubsetFallback = "no_fallback"
    default_subset: Labels = ()
    panic_mode_any: bool = False


@dataclass(frozen=True, slots=True)
class StatefulSession:
    """A client's calls stay at one endpoint, which a cookie or a header names.

    ``ttl_s`` 0: a session cookie. ``strict``: 503 when that endpoint is gone.
    ``accept_draining``: an endpoint that drains keeps its sessions (Istio's choice).
    Source: Envoy ``http/stateful_session``.
    """

    kind: Literal["cookie", "header"]
    name: str
    path: str = ""
    ttl_s: float = 0.0
    strict: bool = False
    accept_draining: bool = False


@dataclass(frozen=True, slots=True)
class LoadBalancing:
    """How an endpoint is chosen. Defaults are Istio's.

    ``choice_count`` (default 2, >= 2), ``active_request_bias_milli``
    (thousandths, default 1000) and ``full_scan`` belong to least_request; ``ring_*``,
    ``hash_function``, ``hash_balance_factor`` (0: off, else >= 100 percent),
    ``use_hostname_for_hashing`` and ``table_size`` to the hash policies;
    ``slow_start_*`` to warm-up. ``subset_size`` > 0 limits a very large cluster to
    that many endpoints, drawn once per process. ``shuffle_address_list``: pick_first
    takes the endpoints in an order of its own.
    """

    policy: LbPolicy = "least_request"
    choice_count: int = 2
    active_request_bias_milli: int = 1000
    minimum_ring_size: int = 1024
    maximum_ring_size: int = 8_388_608
    table_size: int = 65_537
    slow_start_s: float = 0.0
    slow_start_minimum_percent: float = 10.0
    slow_start_aggression: float = 1.0
    full_scan: bool = False
    hash_function: Literal["xx_hash", "murmur_hash_2"] = "xx_hash"
    hash_balance_factor: int = 0
    use_hostname_for_hashing: bool = False
    peak_ewma: PeakEwma = PeakEwma()
    orca: OrcaWeights = OrcaWeights()
    subsets: SubsetSelection | None = None
    session: StatefulSession | None = None
    subset_size: int = 0
    shuffle_address_list: bool = False


@dataclass(frozen=True, slots=True)
class LocalityWeight:
    """Share of one locality within its priority. 0: no traffic."""

    locality: Locality
    weight: int
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Distribution:
    """Istio ``distribute``: callers in ``source`` spread over ``targets`` (percents).

    Localities are written ``region/zone/sub_zone``; a part may be ``*``.
    """

    source: str
    targets: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """How the caller's place and the endpoints' places bear on the choice.

    ``locality`` is Envoy's ``locality_weighted`` or ``zone_aware``; empty: places do
    not matter. ``distribute``, ``failover`` (pairs of regions) and ``failover_priority``
    (label names, or ``name=value``) are Istio's, which turns them into priorities
    and locality weights. ``local_service`` names the caller's own service, whose
    endpoints zone-aware routing compares with. Percents are 0-100.
    """

    locality: Literal["", "locality_weighted", "zone_aware"] = ""
    distribute: tuple[Distribution, ...] = ()
    failover: tuple[tuple[str, str], ...] = ()
    failover_priority: tuple[str, ...] = ()
    #: Istio: endpoints in the caller's place first; needs outlier detection.
    prioritize_locality: bool = False
    local_service: str = ""
    routing_enabled_percent: float = 100.0
    min_cluster_size: int = 6
    force_local_zone_min_size: int | None = None
    #: What zone-aware routing compares: numbers of healthy endpoints, or their weights.
    locality_basis: Literal["healthy_hosts_num", "healthy_hosts_weight"] = "healthy_hosts_num"
    fail_traffic_on_panic: bool = False
    overprovisioning_factor: int = 140
    weighted_priority_health: bool = False


def is_prime(number: int) -> bool:
    """Whether a table of so many places can be walked in steps of any length."""
    return number > 1 and all(number % factor for factor in range(2, isqrt(number) + 1))


def prime_near(size: int) -> int:
    """The first prime from ``size`` on that a Maglev table may have, else the largest."""
    return next(filter(is_prime, range(size, MAX_TABLE_SIZE)), MAX_TABLE_SIZE)


__all__ = [
    "HASH_POLICIES",
    "MAX_RING_SIZE",
    "MAX_TABLE_SIZE",
    "Distribution",
    "LbPolicy",
    "LoadBalancing",
    "LocalityWeight",
    "OrcaWeights",
    "PeakEwma",
    "StatefulSession",
    "SubsetFallback",
    "SubsetSelection",
    "SubsetSelector",
    "Topology",
    "is_prime",
    "prime_near",
]
