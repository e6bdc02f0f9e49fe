"""``loadBalancer`` blocks of DestinationRules.

Reads and checks one block; how an endpoint is picked is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from meshclient.config.istio_locality_lb import (
    read_locality_setting,
    read_zone_aware_setting,
)
from meshclient.config.reader import Reader, wire_text
from meshclient.model.load_balancing import (
    MAX_RING_SIZE,
    MAX_TABLE_SIZE,
    LbPolicy,
    LoadBalancing,
    Topology,
    is_prime,
    prime_near,
)
from meshclient.model.routes import HashPolicy
from meshclient.model.source import Diagnostic

_SIMPLE: dict[str, LbPolicy] = {
    "UNSPECIFIED": "least_request",
    "LEAST_REQUEST": "least_request",
    "LEAST_CONN": "least_request",
    "ROUND_ROBIN": "round_robin",
    "RANDOM": "random",
    "PASSTHROUGH": "passthrough",
}
_DEFAULT = LoadBalancing()


@dataclass(frozen=True, slots=True)
class LoadBalancerBlock:
    """``hash_policy`` is what routes to this cluster need to hash a request. ``topology``
    None: the mesh's default."""

    load_balancing: LoadBalancing = _DEFAULT
    hash_policy: HashPolicy | None = None
    notes: tuple[Diagnostic, ...] = ()
    topology: Topology | None = None
    failover: Reader | None = None


def read_load_balancer(block: Reader) -> LoadBalancerBlock:
    """One ``loadBalancer`` block. ``consistentHash`` wins over ``simple``."""
    notes: list[Diagnostic] = []
    simple = block.field("simple")
    hashed = block.field("consistentHash")
    lb = _read_simple(simple) if simple is not None else LoadBalancing()
    hash_policy: HashPolicy | None = None
    if hashed is not None:
        if simple is not None:
            block.warning(
                "simple and consistentHash exclude each other (a cluster's API server refuses "
                "both together); consistentHash is taken, simple is ignored",
                code="simple-beside-consistent-hash",
                suggestion="remove simple",
            )
        lb, hash_policy = _read_consistent_hash(hashed)
    lb = _read_warmup(block, lb)
    topology, failover = _read_topology(block, notes)
    block.finish("loadBalancer")
    return LoadBalancerBlock(lb, hash_policy, tuple(notes), topology, failover)


def _read_topology(block: Reader, notes: list[Diagnostic]) -> tuple[Topology | None, Reader | None]:
    """None: neither block is given, and the mesh's default holds."""
    locality = block.field("localityLbSetting")
    zone_aware = block.field("zoneAwareLbSetting")
    if zone_aware is None:
        return read_locality_setting(locality) if locality is not None else (None, None)
    if locality is not None:
        read_locality_setting(locality)
        block.error(
            "only one of localityLbSetting and zoneAwareLbSetting can be set", code="locality"
        )
    topology, failover = read_zone_aware_setting(zone_aware)
    if topology.locality:
        notes.append(
            zone_aware.not_honoured(
                "zoneAwareLbSetting among the zones of a region (which endpoints are the "
                "caller's own service is not known; regions are kept apart)"
            )
        )
    return topology, failover


def _read_simple(field: Reader) -> LoadBalancing:
    word = field.string(_SIMPLE)
    if word == "LEAST_CONN":
        field.warning("LEAST_CONN is deprecated", code="IST0002", suggestion="use LEAST_REQUEST")
    return LoadBalancing(_SIMPLE[word]) if word is not None else LoadBalancing()


def _read_consistent_hash(block: Reader) -> tuple[LoadBalancing, HashPolicy | None]:
    """A ring, unless ``maglev`` is there; and what is hashed."""
    keys = [
        policy
        for policy in (
            _header_key(block),
            _cookie_key(block),
            _source_key(block),
            _query_key(block),
        )
        if policy is not None
    ]
    lb = _read_ring(block)
    block.finish("consistentHash")
    if len(keys) != 1:
        block.error(
            "exactly one of httpHeaderName, httpCookie, useSourceIp and "
            "httpQueryParameterName is needed",
            code="consistent-hash",
        )
    return lb, keys[0] if keys else None


def _header_key(block: Reader) -> HashPolicy | None:
    field = block.field("httpHeaderName")
    name = field.string() if field is not None else None
    return HashPolicy("header", wire_text(name.lower())) if name else None


def _query_key(block: Reader) -> HashPolicy | None:
    field = block.field("httpQueryParameterName")
    name = field.string() if field is not None else None
    return HashPolicy("query", wire_text(name)) if name else None


def _source_key(block: Reader) -> HashPolicy | None:
    field = block.field("useSourceIp")
    return HashPolicy("source_ip") if field is not None and field.boolean() else None


def _cookie_key(block: Reader) -> HashPolicy | None:
    cookie = block.field("httpCookie")
    if cookie is None:
        return None
    name, path, ttl = cookie.field("name"), cookie.field("path"), cookie.field("ttl")
    attributes = cookie.field("attributes")
    pairs = [_attribute(a) for a in attributes.elements()] if attributes is not None else []
    cookie.finish("httpCookie")
    text = name.string() if name is not None else None
    if not text:
        cookie.error("name required for HttpCookie", code="required")
        return None
    return HashPolicy(
        "cookie",
        wire_text(text),
        ttl.go_duration(allow_zero=True) if ttl is not None else None,
        wire_text(path.string() or "") if path is not None else "",
        attributes=tuple(pair for pair in pairs if pair is not None),
    )


def _attribute(block: Reader) -> tuple[str, str] | None:
    """One further attribute of a cookie that is made, such as SameSite."""
    name, value = block.field("name"), block.field("value")
    block.finish("attributes")
    text = name.string() if name is not None else None
    if not text:
        block.error("an attribute needs a name", code="required")
        return None
    return wire_text(text), wire_text(value.string() or "") if value is not None else ""


def _read_ring(block: Reader) -> LoadBalancing:
    old = block.field("minimumRingSize")
    ring = block.field("ringHash")
    maglev = block.field("maglev")
    if sum(field is not None for field in (old, ring, maglev)) > 1:
        block.error(
            "only one of minimumRingSize, ringHash and maglev may be given", code="consistent-hash"
        )
    lb = LoadBalancing("maglev" if maglev is not None else "ring_hash")
    if old is not None:
        old.warning("minimumRingSize is deprecated", code="IST0002", suggestion="use ringHash")
        lb = replace(lb, minimum_ring_size=old.integer(0, MAX_RING_SIZE) or lb.minimum_ring_size)
    if ring is not None:
        size = ring.field("minimumRingSize")
        ring.finish("ringHash")
        if size is not None:
            least = size.integer(0, MAX_RING_SIZE)
            lb = replace(lb, minimum_ring_size=least or lb.minimum_ring_size)
    if maglev is not None:
        lb = replace(lb, table_size=_read_table_size(maglev))
    return lb


def _read_table_size(maglev: Reader) -> int:
    field = maglev.field("tableSize")
    maglev.finish("maglev")
    size = field.integer(0) if field is not None else None
    if field is None or not size:
        maglev.error("tableSize must be set for maglev", code="consistent-hash")
        return 65_537
    if size >= MAX_TABLE_SIZE:
        field.error(f"tableSize must be less than {MAX_TABLE_SIZE}", code="consistent-hash")
    elif not is_prime(size):
        field.error(
            "tableSize must be a prime number for maglev",
            code="consistent-hash",
            suggestion=f"write {prime_near(size)}",
        )
    return size


def _read_warmup(block: Reader, lb: LoadBalancing) -> LoadBalancing:
    old = block.field("warmupDurationSecs")
    warmup = block.field("warmup")
    if old is not None:
        old.warning("warmupDurationSecs is deprecated", code="IST0002", suggestion="use warmup")
        lb = replace(lb, slow_start_s=old.go_duration() or 0.0)
    if warmup is None:
        return lb
    duration, minimum, aggression = (
        warmup.field(name) for name in ("duration", "minimumPercent", "aggression")
    )
    warmup.finish("warmup")
    if duration is None:
        warmup.error("duration is required for warmup configuration", code="required")
    if lb.policy not in ("round_robin", "least_request"):
        warmup.error("warmup is for ROUND_ROBIN and LEAST_REQUEST only", code="warmup")
    percent = minimum.number(0, 100) if minimum is not None else None
    factor = aggression.number(1) if aggression is not None else None
    return replace(
        lb,
        slow_start_s=(duration.go_duration() or 0.0) if duration is not None else 0.0,
        slow_start_minimum_percent=10.0 if percent is None else percent,
        slow_start_aggression=1.0 if factor is None else factor,
    )
