"""VirtualService documents, as written.

Reads and checks a document; merging delegates, choosing the service it acts on
and making routes of it are done elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshclient.config.documents import Document
from meshclient.config.istio_http_route import HttpRoute, read_http_route
from meshclient.config.istio_l4_routes import read_tcp_routes, read_tls_routes
from meshclient.config.istio_match import MESH_GATEWAY
from meshclient.config.istio_metadata import Metadata, read_metadata, read_spec
from meshclient.config.istio_names import is_wildcard, matches, resolve_short_name
from meshclient.config.istio_visibility import Visibility, read_export_to
from meshclient.config.reader import Reader
from meshclient.model.snapshot import Node
from meshclient.model.source import Diagnostic


@dataclass(frozen=True, slots=True)
class VirtualService:
    """A document. Without hosts it is a delegate."""

    metadata: Metadata
    reader: Reader
    hosts: tuple[str, ...]
    gateways: tuple[str, ...]
    http: tuple[HttpRoute, ...]
    visibility: Visibility
    notes: tuple[Diagnostic, ...] = ()

    @property
    def is_delegate(self) -> bool:
        """Whether only another VirtualService brings it to life."""
        return not self.hosts

    @property
    def in_mesh(self) -> bool:
        """Whether it governs calls between workloads, not only a gateway."""
        return MESH_GATEWAY in self.gateways

    def __str__(self) -> str:
        return f"VirtualService {self.metadata}"


def read_virtual_service(document: Document, node: Node) -> VirtualService | None:
    """The document, or None when it has no usable spec (already reported)."""
    metadata = read_metadata(document)
    spec = read_spec(document)
    if spec is None:
        return None
    gateways = spec.field("gateways")
    named = tuple(gateways.strings()) if gateways is not None else ()
    hosts = _read_hosts(spec, document.namespace, node, named or (MESH_GATEWAY,))
    http, has_l4, notes = _read_rules(spec, document.namespace, node, hosts)
    found = VirtualService(
        metadata,
        document.reader,
        hosts,
        named or (MESH_GATEWAY,),
        http,
        read_export_to(spec, document.namespace),
        notes,
    )
    spec.finish("VirtualService")
    if not http and not has_l4:
        spec.error("http, tcp or tls must be provided", code="required")
    if found.is_delegate:
        _check_delegate(spec, found, has_l4, bool(named))
    return found


def _read_rules(
    spec: Reader, namespace: str, node: Node, hosts: tuple[str, ...]
) -> tuple[tuple[HttpRoute, ...], bool, tuple[Diagnostic, ...]]:
    http = spec.field("http")
    tls = spec.field("tls")
    tcp = spec.field("tcp")
    routes = tuple(
        read_http_route(entry, namespace, node)
        for entry in (http.elements() if http is not None else ())
        if entry.is_mapping or _not_a_mapping(entry)
    )
    notes: list[Diagnostic] = []
    if tls is not None and read_tls_routes(tls, hosts):
        notes.append(tls.not_honoured("tls routes (they are not HTTP)"))
    if tcp is not None and read_tcp_routes(tcp):
        notes.append(tcp.not_honoured("tcp routes (they are not HTTP)"))
    return routes, tls is not None or tcp is not None, tuple(notes)


def _not_a_mapping(entry: Reader) -> bool:
    entry.error("expected a mapping", code="type")
    return False


def _read_hosts(
    spec: Reader, namespace: str, node: Node, gateways: tuple[str, ...]
) -> tuple[str, ...]:
    field = spec.field("hosts")
    found: list[str] = []
    for element in field.elements() if field is not None else ():
        text = element.string()
        if not text:
            continue
        host = resolve_short_name(text, namespace, node.domain)
        if host == "*" and MESH_GATEWAY in gateways:
            element.error(
                "wildcard host * is not allowed for virtual services bound to the mesh gateway",
                code="host",
            )
            continue
        if "*" in host[1:]:
            element.error(f'"{text}": a star may only stand first', code="host")
        if any(_duplicate(host, other) for other in found):
            element.error(f'duplicate hosts in virtual service: "{text}"', code="host")
            continue
        found.append(host)
    return tuple(found)


def _duplicate(one: str, other: str) -> bool:
    if one == other:
        return True
    return is_wildcard(one) and is_wildcard(other) and matches(one, other)


def _check_delegate(spec: Reader, found: VirtualService, has_l4: bool, gateways: bool) -> None:
    if gateways:
        spec.error("delegate virtual service must have no gateways specified", code="delegate")
    if has_l4:
        spec.error("delegate virtual service must have no tcp or tls routes", code="delegate")
    for route in found.http:
        if route.delegate is not None:
            route.reader.error("delegate virtual service cannot contain delegate", code="delegate")
