"""Istio and Kubernetes documents to routes and clusters: the entry of the family.

Sorts the documents out, reads them, and joins them for one caller. Everything
that has a rule of its own stands in a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from meshclient.config.diagnostics import Diagnostics
from meshclient.config.documents import Document
from meshclient.config.istio_candidates import candidates
from meshclient.config.istio_checks import (
    check_destination_rules,
    check_destinations,
    check_virtual_services,
)
from meshclient.config.istio_clusters import build_clusters
from meshclient.config.istio_destination_rule import read_destination_rule
from meshclient.config.istio_external import external_services
from meshclient.config.istio_registry import Registry
from meshclient.config.istio_route_action import RouteBuilder
from meshclient.config.istio_routes import RouteTables
from meshclient.config.istio_rules import DestinationRules
from meshclient.config.istio_service_entry import read_service_entry
from meshclient.config.istio_virtual_service import VirtualService, read_virtual_service
from meshclient.config.istio_workload_entry import read_workload_document
from meshclient.config.kubernetes import kubernetes_services, read_objects
from meshclient.model.cluster import Cluster
from meshclient.model.routes import RouteConfiguration
from meshclient.model.snapshot import Node
from meshclient.model.source import Diagnostic

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Translation:
    """What the documents say to one caller.

    ``route_configurations`` is keyed by the port dialled. Clusters are named as
    Istio names them: ``outbound|9080|v1|reviews.default.svc.cluster.local``.
    """

    route_configurations: dict[int, RouteConfiguration] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)


def translate(documents: Sequence[Document], node: Node, sink: Diagnostics) -> Translation:
    """The routes and clusters that ``documents`` give a caller at ``node``.

    Findings go where the readers of the documents put them; ``sink`` receives
    those about two documents. Never raises for bad input. Pure: no file, no
    clock, no network.
    """
    virtual_services = _read(documents, "VirtualService", lambda d: read_virtual_service(d, node))
    _warn_repeated(documents, sink)
    rules = _read(documents, "DestinationRule", lambda d: read_destination_rule(d, node))
    entries = _read(documents, "ServiceEntry", read_service_entry)
    workloads = _read(documents, "WorkloadEntry", read_workload_document)
    objects = read_objects(documents)
    services = [
        *kubernetes_services(objects, node.domain),
        *external_services(entries, workloads, objects.pod_endpoints),
    ]
    registry = Registry(services, node)
    lookup = DestinationRules(rules, node)
    check_virtual_services(virtual_services, registry)
    check_destinations(virtual_services, registry, lookup)
    check_destination_rules(rules, registry)
    tables = RouteTables(
        registry,
        candidates(virtual_services, node),
        _delegates(virtual_services),
        RouteBuilder(registry, lookup),
    )
    return Translation(tables.build(), build_clusters(registry, lookup))


def _read(
    documents: Sequence[Document], kind: str, read: Callable[[Document], T | None]
) -> list[T]:
    found = (read(document) for document in documents if document.kind == kind)
    return [value for value in found if value is not None]


def _delegates(services: Sequence[VirtualService]) -> dict[tuple[str, str], VirtualService]:
    return {(s.metadata.namespace, s.metadata.name): s for s in services if s.is_delegate}


def _warn_repeated(documents: Sequence[Document], sink: Diagnostics) -> None:
    """In a cluster a second document of the same name would replace the first."""
    seen: dict[tuple[str, str, str], Document] = {}
    for document in documents:
        key = (document.kind, document.namespace, document.name)
        first = seen.setdefault(key, document)
        if first is document or not document.name:
            continue
        source = document.reader.source
        text = f"{document} is also defined at {first.reader.source}"
        sink.append(Diagnostic("warning", "repeated-document", text, source))
