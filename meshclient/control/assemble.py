"""Configuration plus discovered endpoints: one snapshot.

Pure: no clock, no I/O, and it never fails. What is missing (a cluster that a
route names, an answer of the DNS) is said in the snapshot, because the rest of
it must work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from meshclient.control.locality import localize
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import (
    DnsSource,
    Endpoint,
    EndpointSet,
    EndpointSource,
    Labels,
    OriginalDestination,
    RegistrySource,
    StaticSource,
)
from meshclient.model.routes import ForwardAction, Route, RouteConfiguration
from meshclient.model.snapshot import MeshConfig, Node, Snapshot
from meshclient.model.source import Diagnostic, Source

_PENDING = EndpointSet()


def assemble(
    config: MeshConfig,
    discovered: Mapping[EndpointSource, EndpointSet],
    version: int,
    previous: Snapshot | None = None,
) -> Snapshot:
    """The snapshot of ``config`` with the endpoints that were ``discovered``.

    A cluster that is equal to its namesake in ``previous`` *is* that object,
    so that later steps can skip it. While a source has not answered yet, the
    cluster keeps the endpoints it had in ``previous``. A route to a cluster
    that does not exist is a warning (Envoy answers such a call 503, flag NC).
    """
    old = previous.clusters if previous is not None else {}
    clusters = {
        name: _cluster(cluster, discovered, old.get(name), config.node)
        for name, cluster in config.clusters.items()
    }
    return Snapshot(
        version=version,
        node=config.node,
        outbound=config.outbound,
        route_configurations=config.route_configurations,
        clusters=MappingProxyType(clusters),
        diagnostics=(*config.diagnostics, *_dangling(config)),
        files=config.files,
        propagation=config.propagation,
    )


def dynamic_sources(config: MeshConfig) -> frozenset[EndpointSource]:
    """The distinct sources that somebody has to watch."""
    return frozenset(c.discovery for c in config.clusters.values() if is_dynamic(c.discovery))


def is_dynamic(source: EndpointSource) -> bool:
    """Whether the endpoints come from elsewhere than the documents or the caller."""
    return not isinstance(source, StaticSource | OriginalDestination)


def describe_source(source: EndpointSource) -> str:
    """One line for events and logs, such as ``dns reviews.prod.svc:9080``."""
    if isinstance(source, DnsSource):
        names = [str(target) for target in source.targets]
        kind = "dns" if source.mode == "strict" else f"dns ({source.mode})"
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"{kind} {', '.join(names[:3])}{more}"
    if isinstance(source, RegistrySource):
        settings = " ".join(f"{name}={value}" for name, value in source.settings)
        return f"{source.kind} {settings}".strip()
    return "static" if isinstance(source, StaticSource) else "original destination"


def _cluster(
    cluster: Cluster,
    discovered: Mapping[EndpointSource, EndpointSet],
    old: Cluster | None,
    node: Node,
) -> Cluster:
    if is_dynamic(cluster.discovery):
        fresh = _filled(cluster, discovered.get(cluster.discovery, _PENDING), old)
    else:
        kept = _carrying(cluster.endpoints, cluster.labels)
        fresh = cluster if kept == cluster.endpoints else replace(cluster, endpoints=kept)
    fresh = localize(fresh, node)
    return old if old is not None and _same(old, fresh) else fresh


def _filled(cluster: Cluster, found: EndpointSet, old: Cluster | None) -> Cluster:
    endpoints = found.endpoints
    if found.state == "pending" and old is not None:
        endpoints = old.endpoints
    return replace(
        cluster,
        endpoints=_carrying(endpoints, cluster.labels),
        discovery_error=_explain(cluster.discovery, found),
    )


def _explain(source: EndpointSource, found: EndpointSet) -> str:
    if found.state == "ready" and not found.error:
        return ""
    what = describe_source(source)
    if found.state == "ready":  # it answered: the name does not exist, the list was cut ...
        return f"{what}: {found.error}"
    if found.state == "pending":
        return f"{what}: no answer yet"
    reason = found.error or "no reason given"
    if found.state == "stale":
        return f"{what}: last good endpoints in use: {reason}"
    return f"{what}: {reason}"


def _carrying(endpoints: tuple[Endpoint, ...], labels: Labels) -> tuple[Endpoint, ...]:
    if not labels:
        return endpoints
    return tuple(e for e in endpoints if all(label in e.labels for label in labels))


def _same(old: Cluster, new: Cluster) -> bool:
    """Equal, and also in what equality leaves out but ``explain`` shows."""
    return (
        old.discovery_error == new.discovery_error
        and old.sources == new.sources
        and old.not_honoured == new.not_honoured
        and old == new
    )


def _dangling(config: MeshConfig) -> Iterator[Diagnostic]:
    seen: set[tuple[Source, str, str]] = set()
    for configuration in config.route_configurations.values():
        for route in _routes(configuration):
            for name in _clusters_of(route):
                key = (route.source, route.name, name)
                if name in config.clusters or key in seen:
                    continue
                seen.add(key)
                yield Diagnostic(
                    severity="warning",
                    code="unknown-cluster",
                    message=f"cluster {name!r} does not exist; calls of this route fail with 503",
                    source=route.source,
                )


def _routes(configuration: RouteConfiguration) -> Iterator[Route]:
    for host in configuration.virtual_hosts:
        yield from host.routes


def _clusters_of(route: Route) -> Iterator[str]:
    if isinstance(route.action, ForwardAction):
        yield from (weighted.cluster for weighted in route.action.clusters)
        yield from (mirror.cluster for mirror in route.action.mirrors)
