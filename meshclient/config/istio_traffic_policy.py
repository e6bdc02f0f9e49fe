"""``trafficPolicy`` blocks, and how several of them make the policy of a cluster.

Reads one policy, and merges destination, port and subset levels in Istio's way.
Source: Istio ``MergeSubsetTrafficPolicy`` and ``applyTrafficPolicy``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from meshclient.config.istio_connection_pool import (
    ConnectionPoolBlock,
    read_connection_pool,
    read_retry_budget,
)
from meshclient.config.istio_legacy_breaker import read_legacy_circuit_breaker
from meshclient.config.istio_load_balancer import LoadBalancerBlock, read_load_balancer
from meshclient.config.istio_locality_lb import topology_in_force
from meshclient.config.istio_outlier import (
    OutlierBlock,
    read_outlier_detection,
)
from meshclient.config.istio_tls import TlsBlock, read_tls
from meshclient.config.reader import Reader
from meshclient.model.breaker import CircuitBreaker
from meshclient.model.cluster import ClusterPolicy
from meshclient.model.retry import RetryBudget
from meshclient.model.routes import HashPolicy
from meshclient.model.source import Diagnostic


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """The blocks that are given; None reverts to the defaults."""

    load_balancer: LoadBalancerBlock | None = None
    connection_pool: ConnectionPoolBlock | None = None
    outlier: OutlierBlock | None = None
    breaker: CircuitBreaker | None = None
    tls: TlsBlock | None = None
    retry_budget: RetryBudget | None = None
    proxy_protocol: Literal["", "v1", "v2"] = ""
    notes: tuple[Diagnostic, ...] = ()
    ports: Mapping[int, TrafficPolicy] = field(default_factory=dict)

    @property
    def hash_policy(self) -> HashPolicy | None:
        """What a route has to hash, if anything."""
        return self.load_balancer.hash_policy if self.load_balancer is not None else None


NO_POLICY = TrafficPolicy()


def read_traffic_policy(block: Reader, *, has_selector: bool = False) -> TrafficPolicy:
    """A destination-level or subset-level policy."""
    policy = _read_blocks(block, has_selector=has_selector)
    budget = block.field("retryBudget")
    ports = block.field("portLevelSettings")
    proxy = block.field("proxyProtocol")
    notes = _read_tunnel(block)
    levels = _read_port_levels(ports, has_selector=has_selector) if ports is not None else {}
    block.finish("trafficPolicy")
    if block.is_mapping and not block.node.value:
        block.error("traffic policy must have at least one field", code="required")
    return replace(
        policy,
        retry_budget=read_retry_budget(budget) if budget is not None else None,
        proxy_protocol=_read_proxy_protocol(proxy) if proxy is not None else "",
        notes=tuple(notes),
        ports=levels,
    )


def _read_blocks(block: Reader, *, has_selector: bool) -> TrafficPolicy:
    balancer = block.field("loadBalancer")
    pool = block.field("connectionPool")
    outlier = block.field("outlierDetection")
    legacy = block.field("circuitBreaker")
    tls = block.field("tls")
    policy = TrafficPolicy(
        load_balancer=read_load_balancer(balancer) if balancer is not None else None,
        connection_pool=read_connection_pool(pool) if pool is not None else None,
        outlier=read_outlier_detection(outlier) if outlier is not None else None,
        breaker=read_legacy_circuit_breaker(legacy) if legacy is not None else None,
        tls=read_tls(tls, has_selector=has_selector) if tls is not None else None,
    )
    _warn_failover_without_outlier(policy)
    return policy


def _warn_failover_without_outlier(policy: TrafficPolicy) -> None:
    balancer = policy.load_balancer
    if balancer is not None and balancer.failover is not None and policy.outlier is None:
        balancer.failover.warning(
            "outlier detection policy must be provided for failover", code="locality"
        )


def _read_proxy_protocol(block: Reader) -> Literal["v1", "v2"]:
    version = block.field("version")
    block.finish("proxyProtocol")
    word = version.string(("V1", "V2")) if version is not None else "V1"
    return "v2" if word == "V2" else "v1"


def _read_tunnel(block: Reader) -> list[Diagnostic]:
    notes: list[Diagnostic] = []
    tunnel = block.field("tunnel")
    if tunnel is not None:
        tunnel.ignore("protocol", "targetHost", "targetPort")
        tunnel.finish("tunnel")
        notes.append(tunnel.not_honoured("tunnel (for TCP and TLS routes)"))
    if tunnel is not None and block.has("proxyProtocol"):
        block.error("tunnel and proxyProtocol cannot both be set", code="exclusive")
    return notes


def _read_port_levels(block: Reader, *, has_selector: bool) -> dict[int, TrafficPolicy]:
    levels: dict[int, TrafficPolicy] = {}
    for entry in block.elements():
        port = entry.field("port")
        number_field = port.field("number") if port is not None else None
        if port is not None:
            port.finish("port")
        number = number_field.integer(1, 65535) if number_field is not None else None
        policy = _read_blocks(entry, has_selector=has_selector)
        entry.finish("portLevelSettings")
        if number is None:
            if number_field is None:
                entry.error("port.number is missing", code="required")
        elif number in levels:
            entry.error(f"port {number} is set twice", code="duplicate")
        else:
            levels[number] = policy
    return levels


def effective_policy(
    top: TrafficPolicy | None, subset: TrafficPolicy | None, port: int
) -> TrafficPolicy:
    """The blocks in force for one port and subset.

    A port level replaces the destination level as a whole; a subset overrides
    block by block, except that its own port level replaces the four blocks.
    """
    base = _at_port(top, port)
    if subset is None:
        return base
    merged = _with_destination_blocks(base, subset)
    level = subset.ports.get(port)
    if level is not None:
        return replace(
            merged,
            load_balancer=level.load_balancer,
            connection_pool=level.connection_pool,
            outlier=level.outlier,
            breaker=level.breaker,
            tls=level.tls,
        )
    return replace(
        merged,
        load_balancer=subset.load_balancer or base.load_balancer,
        connection_pool=subset.connection_pool or base.connection_pool,
        outlier=subset.outlier or base.outlier,
        breaker=subset.breaker or base.breaker,
        tls=subset.tls or base.tls,
    )


def _at_port(top: TrafficPolicy | None, port: int) -> TrafficPolicy:
    if top is None:
        return NO_POLICY
    level = top.ports.get(port)
    if level is None:
        return replace(top, ports={})
    return _with_destination_blocks(level, top)


def _with_destination_blocks(base: TrafficPolicy, other: TrafficPolicy) -> TrafficPolicy:
    """Tunnel, proxyProtocol and retryBudget know no port level."""
    return replace(
        base,
        retry_budget=other.retry_budget or base.retry_budget,
        proxy_protocol=other.proxy_protocol or base.proxy_protocol,
        notes=tuple(dict.fromkeys((*base.notes, *other.notes))),
        ports={},
    )


def cluster_policy(policy: TrafficPolicy) -> tuple[ClusterPolicy, tuple[Diagnostic, ...]]:
    """The model's policy, and what of it nothing acts on yet."""
    balancer = policy.load_balancer or LoadBalancerBlock()
    pool = policy.connection_pool or ConnectionPoolBlock()
    outlier, tls = policy.outlier, policy.tls
    limits = pool.limits
    if policy.retry_budget is not None:
        limits = replace(limits, retry_budget=policy.retry_budget)
    connection = replace(pool.connection, proxy_protocol=policy.proxy_protocol)
    notes = (*balancer.notes, *pool.notes, *policy.notes)
    notes += tls.notes if tls is not None else ()
    detection = outlier.detection if outlier is not None else None
    settings = tls.settings if tls is not None else None
    return (
        ClusterPolicy(
            load_balancing=balancer.load_balancing,
            limits=limits,
            connection=connection,
            outlier_detection=detection,
            circuit_breaker=policy.breaker,
            tls=settings,
            # Istio switches Envoy's panic mode off wherever it ejects.
            panic_threshold_percent=detection.min_health_percent if detection else 50,
            topology=topology_in_force(balancer.topology, ejects=detection is not None),
        ),
        notes,
    )
