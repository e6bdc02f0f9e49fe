"""The native policy file as a whole: its documents to route configurations and clusters.

Reads ``version``, ``node``, ``outbound``, ``propagation`` and ``services``; several native
documents add up. Kubernetes-style documents are none of its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from meshclient.config.native_names import Names
from meshclient.config.native_propagation import read_propagation
from meshclient.config.native_services import Service, read_service
from meshclient.config.native_values import finish, locality, text_of
from meshclient.config.reader import Reader
from meshclient.config.tls_paths import path_of
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import labels_of
from meshclient.model.propagation import DEFAULT_PROPAGATION, Propagation
from meshclient.model.routes import RouteConfiguration, VirtualHost
from meshclient.model.snapshot import ANY_PORT, Node, OutboundMode
from meshclient.model.source import Diagnostic, Source

VERSION = 1


@dataclass(slots=True)
class NativeConfig:
    """What the native documents say. ``outbound`` None: they do not say."""

    virtual_hosts: dict[int, list[VirtualHost]] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)

    def route_configurations(self) -> dict[int, RouteConfiguration]:
        """The tables by port; those of one port include what holds for any port."""
        anywhere = self.virtual_hosts.get(ANY_PORT, [])
        tables: dict[int, RouteConfiguration] = {}
        for port, hosts in self.virtual_hosts.items():
            own = {h.name for h in hosts}
            rest = [] if port == ANY_PORT else [h for h in anywhere if h.name not in own]
            name = "native" if port == ANY_PORT else f"native:{port}"
            tables[port] = RouteConfiguration(name, (*hosts, *rest))
        return tables


@dataclass(slots=True)
class Preamble:
    """``node``, ``outbound`` and ``propagation``, which hold for all documents."""

    node: Node = field(default_factory=Node)
    outbound: OutboundMode | None = None
    node_at: Source | None = None
    outbound_at: Source | None = None
    propagation: Propagation = DEFAULT_PROPAGATION
    propagation_at: Source | None = None


def read_preamble(documents: Sequence[Reader]) -> Preamble:
    """Who is calling, from whichever native document says so; at most one may."""
    preamble = Preamble()
    for r in documents:
        node, outbound = r.field("node"), r.field("outbound")
        if node is not None:
            if preamble.node_at is not None:
                node.error(f"node is already given at {preamble.node_at}", code="duplicate")
            preamble.node, preamble.node_at = read_node(node), node.source
        if outbound is not None:
            if preamble.outbound_at is not None:
                text = f"outbound is already given at {preamble.outbound_at}"
                outbound.error(text, code="duplicate")
            mode = outbound.string(("allow_any", "registry_only"))
            preamble.outbound = cast(OutboundMode, mode) if mode is not None else None
            preamble.outbound_at = outbound.source
        _read_propagation(r, preamble)
    return preamble


def _read_propagation(r: Reader, preamble: Preamble) -> None:
    propagation = r.field("propagation")
    if propagation is not None:
        if preamble.propagation_at is not None:
            text = f"propagation is already given at {preamble.propagation_at}"
            propagation.error(text, code="duplicate")
        preamble.propagation = read_propagation(propagation)
        preamble.propagation_at = propagation.source


def read_node(r: Reader) -> Node:
    """The ``node`` section."""
    labels = r.field("labels")
    node = Node(
        namespace=text_of(r, "namespace", "default"),
        locality=locality(r.field("locality")),
        labels=labels_of(labels.string_map()) if labels is not None else (),
        domain=text_of(r, "domain", "cluster.local"),
        workload_certificates=path_of(r, "workload_certificates"),
    )
    finish(r, "node")
    return node


def translate(documents: Sequence[Reader], node: Node) -> NativeConfig:
    """All services of all native documents."""
    names = Names()
    entries: list[tuple[str, Reader, Source]] = []
    for r in documents:
        _check_version(r)
        services = r.field("services")
        if services is not None:
            known = set(names.services)
            names.add(services)
            fresh = ((n, c, services.key_source(n)) for n, c in services.items() if n not in known)
            entries.extend(fresh)
        for key in ("node", "outbound", "propagation"):
            r.field(key)
        finish(r, "file")
    config = NativeConfig()
    for name, child, source in entries:
        if child.is_null:
            child.error("no endpoints", code="missing-field", suggestion="endpoints: [host:port]")
            continue
        _add(config, read_service(name, child, source, names, node))
    _check_domains(config, documents)
    return config


def _check_version(r: Reader) -> None:
    version = r.field("version")
    if version is None:
        r.error('"version" is missing', code="missing-field", suggestion="add version: 1")
    elif version.node.value != VERSION or version.is_boolean:
        hint = "write version: 1"
        version.error(
            f"unknown version {version.describe()}; this release reads 1", suggestion=hint
        )


def _add(config: NativeConfig, service: Service) -> None:
    for cluster in service.clusters:
        config.clusters[cluster.name] = cluster
    for port in sorted(service.ports()):
        config.virtual_hosts.setdefault(port, []).append(service.virtual_host(port))


def _check_domains(config: NativeConfig, documents: Sequence[Reader]) -> None:
    """One host name belongs to one service, per port."""
    for port, hosts in config.virtual_hosts.items():
        first: dict[str, VirtualHost] = {}
        for host in hosts:
            for domain in host.domains:
                other = first.setdefault(domain, host)
                if other is host:
                    continue
                where = "" if port == ANY_PORT else f" on port {port}"
                text = f'the host "{domain}"{where} already belongs to service {other.name}'
                hint = f"see {other.source}"
                found = Diagnostic("error", "duplicate", text, host.source, "", hint)
                documents[0].sink.append(found)
