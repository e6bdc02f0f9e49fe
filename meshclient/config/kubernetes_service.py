"""Service documents: ports, addresses and kind of service.

Reads the fields that matter to callers; which endpoints stand behind the
service is found in :mod:`meshclient.config.kubernetes`.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshclient.config.documents import Document
from meshclient.config.istio_metadata import Metadata, read_metadata
from meshclient.config.istio_service import ServicePort, protocol_of_port
from meshclient.config.istio_session import COOKIE_LABEL, HEADER_LABEL
from meshclient.config.istio_visibility import (
    EXPORT_ANNOTATION,
    PUBLIC,
    Visibility,
    read_export_annotation,
)
from meshclient.config.reader import Reader
from meshclient.model.endpoint import Labels, labels_of
from meshclient.model.source import Diagnostic

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_SESSION_LABELS = (COOKIE_LABEL, HEADER_LABEL)


@dataclass(frozen=True, slots=True)
class KubernetesService:
    """A Service. ``external_name`` is set for type ExternalName only."""

    metadata: Metadata
    reader: Reader
    ports: tuple[ServicePort, ...]
    selector: Labels
    addresses: tuple[str, ...]
    headless: bool
    external_name: str
    visibility: Visibility
    keeps_draining: bool = False
    publish_not_ready: bool = False
    notes: tuple[Diagnostic, ...] = ()


def read_service(document: Document) -> KubernetesService | None:
    """The Service, or None when it has no spec (reported)."""
    metadata = read_metadata(document)
    spec = document.reader.field("spec")
    if spec is None or not spec.is_mapping:
        document.reader.error("spec is missing", code="required")
        return None
    type_field = spec.field("type")
    kind = (type_field.string(_TYPES) if type_field is not None else "ClusterIP") or "ClusterIP"
    selector = spec.field("selector")
    publish = spec.field("publishNotReadyAddresses")
    addresses, headless = _read_addresses(spec)
    name = spec.field("externalName")
    external = (name.string() or "") if name is not None and kind == "ExternalName" else ""
    if kind == "ExternalName" and not external:
        spec.error("externalName is missing", code="required")
    annotation = metadata.annotations.get(EXPORT_ANNOTATION)
    return KubernetesService(
        metadata,
        document.reader,
        _read_ports(spec),
        labels_of(selector.string_map()) if selector is not None else (),
        addresses,
        headless,
        external.lower().rstrip("."),
        read_export_annotation(annotation, document.reader, document.namespace)
        if annotation is not None
        else PUBLIC,
        any(label in metadata.labels for label in _SESSION_LABELS),
        bool(publish.boolean()) if publish is not None else False,
        tuple(_read_notes(spec, metadata, document.reader)),
    )


def _read_addresses(spec: Reader) -> tuple[tuple[str, ...], bool]:
    single = spec.field("clusterIP")
    several = spec.field("clusterIPs")
    found = [single.string() or ""] if single is not None else []
    found += several.strings() if several is not None else []
    headless = "None" in found
    unique = dict.fromkeys(address for address in found if address not in ("", "None"))
    return tuple(unique), headless


def _read_ports(spec: Reader) -> tuple[ServicePort, ...]:
    field = spec.field("ports")
    ports: list[ServicePort] = []
    for element in field.elements() if field is not None else ():
        port = _read_port(element)
        if port is None:
            continue
        if any(port.number == other.number for other in ports):
            continue  # the same number for TCP and UDP
        ports.append(port)
    return tuple(ports)


def _read_port(element: Reader) -> ServicePort | None:
    number_field = element.field("port")
    number = number_field.integer(1, 65535) if number_field is not None else None
    if number is None:
        if number_field is None and element.is_mapping:
            element.error("port is missing", code="required")
        return None
    transport = element.field("protocol")
    if transport is not None and transport.string(("TCP", "UDP", "SCTP")) in ("UDP", "SCTP"):
        return None
    name_field, app_field = element.field("name"), element.field("appProtocol")
    name = (name_field.string() or "") if name_field is not None else ""
    app = (app_field.string() or "") if app_field is not None else ""
    return ServicePort(number, name, protocol_of_port(number, name, app), _read_target(element))


def _read_target(element: Reader) -> int | str | None:
    field = element.field("targetPort")
    if field is None:
        return None
    return field.string() if field.is_string else field.integer(0, 65535) or None


def _read_notes(spec: Reader, metadata: Metadata, root: Reader) -> list[Diagnostic]:
    notes: list[Diagnostic] = []
    policy = spec.field("internalTrafficPolicy")
    if policy is not None and policy.string(("Cluster", "Local")) == "Local":
        notes.append(policy.not_honoured("internalTrafficPolicy Local"))
    distribution = spec.field("trafficDistribution")
    if distribution is not None:
        distribution.string()
        notes.append(distribution.not_honoured("trafficDistribution"))
    elif "networking.istio.io/traffic-distribution" in metadata.annotations:
        notes.append(root.not_honoured("the traffic-distribution annotation"))
    return notes
