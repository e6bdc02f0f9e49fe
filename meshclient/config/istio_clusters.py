"""Clusters: every port of every visible service, whole and by subset.

Joins services with the DestinationRule that governs them. Which cluster a
request goes to is not known here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard

from meshclient.config.istio_destination_rule import DestinationRule, Subset
from meshclient.config.istio_outlier import inert_suggestion, is_inert
from meshclient.config.istio_registry import Registry
from meshclient.config.istio_rules import DestinationRules
from meshclient.config.istio_service import (
    ClusterProtocol,
    RegistryService,
    ServicePort,
    Upstream,
    cluster_name,
)
from meshclient.config.istio_session import read_session
from meshclient.config.istio_traffic_policy import (
    TrafficPolicy,
    cluster_policy,
    effective_policy,
)
from meshclient.model.cluster import Cluster, ClusterPolicy, TlsSettings
from meshclient.model.endpoint import (
    DnsSource,
    Endpoint,
    EndpointSource,
    Labels,
    OriginalDestination,
    StaticSource,
)
from meshclient.model.source import Source


def build_clusters(registry: Registry, rules: DestinationRules) -> dict[str, Cluster]:
    """All clusters by name."""
    clusters: dict[str, Cluster] = {}
    for service in registry:
        rule = rules.find(service.hostname, service.metadata.namespace)
        for port in service.ports:
            if port.protocol == "udp":
                continue
            subsets: tuple[Subset | None, ...] = (None, *(rule.subsets if rule else ()))
            for subset in subsets:
                cluster = _cluster(service, port, rule, subset)
                clusters[cluster.name] = cluster
    return clusters


def _cluster(
    service: RegistryService,
    port: ServicePort,
    rule: DestinationRule | None,
    subset: Subset | None,
) -> Cluster:
    traffic = effective_policy(
        rule.policy if rule is not None else None,
        subset.policy if subset is not None else None,
        port.number,
    )
    policy, notes = cluster_policy(traffic)
    upstream = service.upstreams[port.number]
    tls = policy.tls
    if _takes_names(tls, upstream):
        tls = replace(tls, subject_alt_names=upstream.subject_alt_names)
        policy = replace(policy, tls=tls)
        notes = tuple(n for n in notes if traffic.tls is None or n not in traffic.tls.notes)
    policy = _with_session(policy, service)
    labels = subset.labels if subset is not None else ()
    discovery, endpoints = _narrow(upstream, labels, policy)
    if subset is not None:
        _check_subset(service, upstream, subset, endpoints, discovery)
    _check_inert(traffic, endpoints, subset)
    sources: tuple[Source, ...] = (service.reader.source,)
    if rule is not None:
        sources += tuple(document.source for document in rule.documents)
    return Cluster(
        name=cluster_name(service.hostname, port.number, subset.name if subset else ""),
        service=service.hostname,
        subset=subset.name if subset is not None else "",
        port=port.number,
        # The original destination has no labels to be told apart by.
        labels=() if isinstance(discovery, OriginalDestination) else labels,
        discovery=discovery,
        endpoints=endpoints,
        policy=policy,
        protocol=_protocol(port, traffic),
        sources=sources,
        not_honoured=tuple(dict.fromkeys((*service.notes, *notes))),
    )


def _with_session(policy: ClusterPolicy, service: RegistryService) -> ClusterPolicy:
    session = read_session(service.metadata.labels)
    if session is None:
        return policy
    return replace(policy, load_balancing=replace(policy.load_balancing, session=session))


def _protocol(port: ServicePort, traffic: TrafficPolicy) -> ClusterProtocol:
    """What its endpoints speak; an upgrade is for ports declared as http alone."""
    pool = traffic.connection_pool
    if pool is not None and pool.h2_upgrade and port.protocol == "http":
        return "h2"
    return port.cluster_protocol


def _takes_names(tls: TlsSettings | None, upstream: Upstream) -> TypeGuard[TlsSettings]:
    """A ServiceEntry's subjectAltNames stand in where the rule has none."""
    return (
        bool(upstream.subject_alt_names)
        and tls is not None
        and tls.mode != "disable"
        and not (tls.subject_alt_names or tls.insecure_skip_verify or tls.credential_name)
    )


def _narrow(
    upstream: Upstream, labels: Labels, policy: ClusterPolicy
) -> tuple[EndpointSource, tuple[Endpoint, ...]]:
    """The endpoints that carry all labels of a subset."""
    source = upstream.discovery
    if policy.load_balancing.policy == "passthrough":
        return OriginalDestination(), ()
    if not labels or isinstance(source, OriginalDestination):
        return source, upstream.endpoints
    wanted = set(labels)
    if isinstance(source, DnsSource):
        targets = tuple(t for t in source.targets if wanted <= set(t.labels))
        return (replace(source, targets=targets) if targets else StaticSource()), ()
    return source, tuple(e for e in upstream.endpoints if wanted <= set(e.labels))


def _check_subset(
    service: RegistryService,
    upstream: Upstream,
    subset: Subset,
    endpoints: tuple[Endpoint, ...],
    discovery: EndpointSource,
) -> None:
    if endpoints or not isinstance(discovery, StaticSource):
        return
    known = upstream.endpoints or isinstance(upstream.discovery, DnsSource)
    if not upstream.labelled:
        subset.reader.warning(
            f'subset "{subset.name}" has no endpoint: the documents hold no endpoints of '
            f"{service.hostname}, and names that DNS resolves carry no labels",
            code="IST0173",
            suggestion="add EndpointSlices and Pods, or one Service for each subset",
        )
    elif known:
        subset.reader.warning(
            f'subset "{subset.name}" selects no endpoint of {service.hostname}; '
            "calls to it are answered with 503 UH",
            code="IST0173",
        )


def _check_inert(
    traffic: TrafficPolicy, endpoints: tuple[Endpoint, ...], subset: Subset | None
) -> None:
    outlier = traffic.outlier
    if outlier is None or not is_inert(outlier.detection, len(endpoints)):
        return
    where = f' of subset "{subset.name}"' if subset is not None else ""
    outlier.reader.warning(
        f"no endpoint can ever be ejected: {outlier.detection.max_ejection_percent} % of "
        f"{len(endpoints)} endpoints{where} is less than one",
        code="outlier-inert",
        suggestion=inert_suggestion("maxEjectionPercent", len(endpoints)),
    )
