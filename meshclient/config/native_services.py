"""One native service: Reader to clusters (one per subset, and the whole) and a virtual host.

Puts together what the other ``native_*`` modules read; decides names and domains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from meshclient.config.native_budget import DEFAULT_BUDGET
from meshclient.config.native_endpoints import Origin, is_host, read_origin
from meshclient.config.native_limits import with_budget
from meshclient.config.native_names import Names
from meshclient.config.native_outlier import warn_if_inert
from meshclient.config.native_policies import PolicyParts, read_cluster_policy
from meshclient.config.native_retries import DEFAULT_RETRIES
from meshclient.config.native_routes import Owner, PortRoute, read_routes
from meshclient.config.native_traffic import Traffic, read_traffic
from meshclient.config.native_values import finish, required
from meshclient.config.reader import Reader
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import (
    DnsSource,
    Endpoint,
    EndpointSource,
    Labels,
    StaticSource,
    labels_of,
)
from meshclient.model.routes import ForwardAction, VirtualHost
from meshclient.model.snapshot import ANY_PORT, Node
from meshclient.model.source import Diagnostic, Source

_SUBSET = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


@dataclass(slots=True)
class Service:
    """What one service became. ``port`` is :data:`ANY_PORT` unless it names one."""

    name: str
    domains: tuple[str, ...]
    port: int
    routes: list[PortRoute]
    source: Source
    clusters: list[Cluster] = field(default_factory=list)

    def ports(self) -> set[int]:
        """The tables that this service stands in, :data:`ANY_PORT` for the rest of them."""
        if self.port != ANY_PORT:
            return {self.port}
        return {ANY_PORT} | {p.port for p in self.routes if p.port is not None}

    def virtual_host(self, port: int) -> VirtualHost:
        """Its routes as calls to ``port`` see them."""
        routes = tuple(p.route for p in self.routes if p.port in (None, port))
        return VirtualHost(self.name, self.domains, routes, source=self.source)


def read_service(name: str, r: Reader, source: Source, names: Names, node: Node) -> Service:
    """One entry of ``services``."""
    port_reader, hosts = r.field("port"), r.field("hosts")
    port = port_reader.integer(1, 65535) if port_reader is not None else None
    domains = tuple(dict.fromkeys(_domains(name, r, hosts)))
    origin = read_origin(r, node.namespace)
    parts = read_cluster_policy(r, PolicyParts())
    base = Traffic(hash_policy=parts.hash_policy)
    breaker = parts.policy.circuit_breaker
    if breaker is not None and breaker.per == "route":
        base = replace(base, circuit_breaker=breaker)
        parts.policy = replace(parts.policy, circuit_breaker=None)
    traffic, budget = read_traffic(r, base, names, name, section="retries")
    routes_reader = r.field("routes")
    owner = Owner(name, origin is not None, traffic, names, node)
    routes = read_routes(routes_reader, owner)
    if budget is None and _needs_budget(r, traffic, routes):
        budget = DEFAULT_BUDGET
    if budget is not None:
        parts.policy = with_budget(parts.policy, budget)
    if origin is None and not routes and r.is_mapping and routes_reader is None:
        r.error(
            "no endpoints",
            code="missing-field",
            suggestion="add endpoints: [host:port] or dns: host:port",
        )
    service = Service(name, domains, port or ANY_PORT, routes, source)
    service.clusters = _clusters(name, r, origin, parts, source)
    warn_if_inert(r, service.clusters)
    finish(r, "service")
    return service


def _needs_budget(r: Reader, traffic: Traffic, routes: list[PortRoute]) -> bool:
    """Whether the file repeats what may have reached a server, without a bound on it."""
    limits = r.field("limits")
    if limits is not None and limits.has("max_retries"):
        return False
    actions = (p.route.action for p in routes)
    policies = [traffic.retry, *(a.retry for a in actions if isinstance(a, ForwardAction))]
    return any(policy is not None and policy is not DEFAULT_RETRIES for policy in policies)


def _domains(name: str, r: Reader, hosts: Reader | None) -> Iterator[str]:
    yield _domain(name, r, "services")
    for item in hosts.elements() if hosts is not None else []:
        text = item.string()
        if text is not None:
            yield _domain(text, item, "hosts")


def _domain(text: str, at: Reader, where: str) -> str:
    """A host name, or one wildcard at the begin or end; lower-case."""
    body = text
    if text == "*":
        return text
    if text.startswith("*"):
        body = "x" + text[1:]
    elif text.endswith("*"):
        body = text[:-1] + "x"
    if is_host(body) or re.fullmatch(r"\[[0-9a-fA-F:.]+\]", body):
        return text.lower()
    host, _, port = text.rpartition(":")
    if is_host(host) and port.isdigit():
        hint = f'write "{host}", and port: {port} if only this port is meant'
        at.error("a host name without its port is expected", suggestion=hint)
    elif "://" in text:
        at.error(f"a host name is expected in {where}, not a URL")
    else:
        at.error(f"{text[:80]!a} is not a host name")
    return text.lower()


def _clusters(
    name: str, r: Reader, origin: Origin | None, parts: PolicyParts, source: Source
) -> list[Cluster]:
    protocol_reader, port_reader = r.field("protocol"), r.field("port")
    protocol = protocol_reader.string(("http1", "h2")) if protocol_reader is not None else None
    subsets = r.field("subsets")
    if origin is None:
        if subsets is not None:
            subsets.error("subsets need endpoints to choose from", code="missing-field")
        return []
    whole = Cluster(
        name=name,
        service=name,
        port=(port_reader.integer(1, 65535) or 0) if port_reader is not None else 0,
        discovery=origin.discovery,
        endpoints=origin.endpoints,
        policy=parts.policy,
        locality_weights=parts.locality_weights,
        protocol="h2" if protocol == "h2" else "http1",
        sources=(source,),
        not_honoured=_notes(origin, parts),
    )
    named = subsets.items() if subsets is not None else ()
    _warn_of_preconnect(r, whole)
    return [whole, *(_subset(key, child, whole, origin, parts) for key, child in named)]


def _warn_of_preconnect(r: Reader, cluster: Cluster) -> None:
    connection = r.field("connection")
    if connection is None or cluster.protocol != "h2":
        return
    field = connection.field("preconnect_ratio")
    if field is not None and cluster.policy.connection.preconnect_ratio > 1.0:
        field.warning(
            "HTTP/2 connections of event loops carry many requests, and none is opened ahead by "
            "this; it holds for blocking clients",
            suggestion="warm_up keeps a number of connections open",
        )


def _notes(origin: Origin, parts: PolicyParts) -> tuple[Diagnostic, ...]:
    return (*origin.notes, *parts.notes.values())


def _subset(name: str, r: Reader, whole: Cluster, origin: Origin, parts: PolicyParts) -> Cluster:
    if not _SUBSET.fullmatch(name):
        r.error(f"{name[:80]!a} is not a subset name: letters, digits, - _ .")
    labels_reader = required(r, "labels")
    labels = labels_of(labels_reader.string_map() if labels_reader is not None else None)
    own = read_cluster_policy(r, parts, in_subset=True)
    breaker, child = own.policy.circuit_breaker, r.field("circuit_breaker")
    if child is not None and breaker is not None and breaker.per in ("service", "route"):
        child.error("a subset's breaker is per subset or per endpoint")
    if own.hash_policy != parts.hash_policy:
        r.error("hash_on belongs to the service or to a route, not to a subset")
    finish(r, "subset")
    endpoints = _with_labels(origin.endpoints, labels)
    if isinstance(origin.discovery, StaticSource) and origin.endpoints and not endpoints:
        r.warning("no endpoint carries these labels: calls to this subset fail")
    return replace(
        whole,
        name=f"{whole.name}/{name}",
        subset=name,
        labels=labels,
        discovery=_narrow(origin.discovery, labels),
        endpoints=endpoints,
        policy=own.policy,
        locality_weights=own.locality_weights,
        sources=(*whole.sources, r.source),
        not_honoured=_notes(origin, own),
    )


def _with_labels(endpoints: tuple[Endpoint, ...], labels: Labels) -> tuple[Endpoint, ...]:
    wanted = set(labels)
    return tuple(e for e in endpoints if wanted <= set(e.labels))


def _narrow(source: EndpointSource, labels: Labels) -> EndpointSource:
    """A DNS source asks only for the names that carry the labels."""
    if isinstance(source, DnsSource):
        return replace(source, targets=_with_labels(source.targets, labels))
    return source
