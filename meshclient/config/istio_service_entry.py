"""ServiceEntry documents, as written.

Reads and checks a document; making services of it needs the workloads of the
namespace and is done in :mod:`meshclient.config.istio_external`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from meshclient.config.documents import Document
from meshclient.config.istio_metadata import Metadata, read_metadata, read_spec
from meshclient.config.istio_names import is_wildcard
from meshclient.config.istio_service import ServicePort, protocol_named
from meshclient.config.istio_visibility import Visibility, read_export_to
from meshclient.config.istio_workload_entry import Workload, read_workload
from meshclient.config.reader import Reader
from meshclient.model.endpoint import Labels, labels_of
from meshclient.model.source import Diagnostic

_RESOLUTIONS = ("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS")
_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.IGNORECASE)
#: Fields that old texts show beside the real ones.
_LEGACY = ("owner", "protocol")


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """A document. ``selector`` None: no workloadSelector."""

    metadata: Metadata
    reader: Reader
    hosts: tuple[str, ...]
    addresses: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    resolution: str
    external: bool
    workloads: tuple[Workload, ...]
    selector: Labels | None
    visibility: Visibility
    notes: tuple[Diagnostic, ...] = ()
    subject_alt_names: tuple[str, ...] = ()


def read_service_entry(document: Document) -> ServiceEntry | None:
    """The document, or None when it has no usable spec (already reported)."""
    metadata = read_metadata(document)
    spec = read_spec(document)
    if spec is None:
        return None
    resolution_field = spec.field("resolution")
    resolution = (
        resolution_field.string(_RESOLUTIONS) if resolution_field is not None else "NONE"
    ) or "NONE"
    location = spec.field("location")
    word = location.string(("MESH_EXTERNAL", "MESH_INTERNAL")) if location is not None else None
    endpoints = spec.field("endpoints")
    workloads = [read_workload(e) for e in endpoints.elements()] if endpoints is not None else []
    names = spec.field("subjectAltNames")
    found = ServiceEntry(
        metadata,
        document.reader,
        _read_hosts(spec),
        _read_addresses(spec),
        _read_ports(spec),
        resolution,
        word != "MESH_INTERNAL",
        tuple(w for w in workloads if w is not None),
        _read_selector(spec),
        read_export_to(spec, document.namespace),
        tuple(_read_notes(resolution_field, resolution)),
        tuple(names.strings()) if names is not None else (),
    )
    _warn_legacy(spec)
    spec.finish("ServiceEntry")
    _check(spec, found)
    return found


def _read_hosts(spec: Reader) -> tuple[str, ...]:
    field = spec.field("hosts")
    hosts: list[str] = []
    for element in field.elements() if field is not None else ():
        host = element.string()
        if not host:
            continue
        if host == "*" or "*" in host[1:]:
            element.error(f'invalid host "{host}"', code="host")
        else:
            hosts.append(host.lower())
    if not hosts and (field is None or field.is_list):
        spec.error("service entry must have at least one host", code="required")
    return tuple(dict.fromkeys(hosts))


def _read_addresses(spec: Reader) -> tuple[str, ...]:
    field = spec.field("addresses")
    addresses: list[str] = []
    for element in field.elements() if field is not None else ():
        text = element.string()
        if text is None:
            continue
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            element.error(f'"{text}" is not an IP address or CIDR range', code="address")
            continue
        single = network.num_addresses == 1
        addresses.append(str(network.network_address) if single else text)
    return tuple(addresses)


def _read_ports(spec: Reader) -> tuple[ServicePort, ...]:
    field = spec.field("ports")
    ports: list[ServicePort] = []
    for element in field.elements() if field is not None else ():
        port = _read_port(element)
        if port is None:
            continue
        if any(port.number == other.number for other in ports):
            element.error(f"port number {port.number} is already defined", code="duplicate")
            continue
        if any(port.name and port.name == other.name for other in ports):
            element.error(f'port name "{port.name}" is already defined', code="duplicate")
        ports.append(port)
    if not ports and (field is None or field.is_list):
        spec.warning("a service entry without ports governs no call", code="required")
    return tuple(ports)


def _read_port(element: Reader) -> ServicePort | None:
    number_field = element.field("number")
    name_field = element.field("name")
    protocol_field = element.field("protocol")
    target_field = element.field("targetPort")
    element.finish("ports")
    number = number_field.integer(1, 65535) if number_field is not None else None
    if number_field is None:
        element.error("number is missing", code="required")
    name = name_field.string() if name_field is not None else None
    if name_field is None:
        element.warning(
            "a port needs a name (a cluster refuses it without)",
            code="port-name",
            suggestion="add name: http",
        )
    elif name is not None and not _PORT_NAME.fullmatch(name):
        name_field.error(f'invalid port name: "{name}"', code="port-name")
    word = protocol_field.string() if protocol_field is not None else None
    protocol = protocol_named(word) if word else "auto"
    if protocol is None and protocol_field is not None:
        protocol_field.error(f'unsupported protocol: "{word}"', code="protocol")
    target = target_field.integer(0, 65535) if target_field is not None else None
    if number is None:
        return None
    return ServicePort(number, name or "", protocol or "auto", target or None)


def _read_selector(spec: Reader) -> Labels | None:
    block = spec.field("workloadSelector")
    if block is None:
        return None
    labels = block.field("labels")
    block.finish("workloadSelector")
    found = labels_of(labels.string_map()) if labels is not None else ()
    if not found:
        block.error("labels are missing", code="required")
    return found


def _read_notes(resolution: Reader | None, word: str) -> list[Diagnostic]:
    notes: list[Diagnostic] = []
    if resolution is not None and word == "DYNAMIC_DNS":
        notes.append(resolution.not_honoured("resolution DYNAMIC_DNS (the dialled host is used)"))
    return notes


def _warn_legacy(spec: Reader) -> None:
    for name in _LEGACY:
        if spec.has(name):
            field = spec.field(name) or spec
            field.warning(
                f"{name} is no field of a ServiceEntry; it is ignored, as in a cluster",
                code="legacy-field",
                suggestion="write protocol at each port" if name == "protocol" else "remove it",
            )


def _check(spec: Reader, entry: ServiceEntry) -> None:
    """Istio's validation of the combinations, in its words."""
    resolution = entry.resolution
    if entry.workloads and entry.selector is not None:
        spec.error("only one of WorkloadSelector or Endpoints is allowed", code="exclusive")
    if resolution in ("NONE", "DYNAMIC_DNS") and entry.workloads:
        spec.error(f"no endpoints should be provided for resolution type {resolution}", code="se")
    if resolution.startswith("DNS"):
        _check_dns(spec, entry)
    names = {port.name for port in entry.ports}
    for workload in entry.workloads:
        if resolution == "STATIC" and workload.is_name:
            workload.reader.error(
                "endpoint address is a name, but resolution is STATIC",
                code="address",
                suggestion="use resolution: DNS",
            )
        for name in workload.ports:
            if name not in names:
                workload.reader.error(f'endpoint port "{name}" is not defined', code="port-name")
    _warn_tcp_without_addresses(spec, entry)


def _check_dns(spec: Reader, entry: ServiceEntry) -> None:
    resolution = entry.resolution
    if any("/" in address for address in entry.addresses):
        spec.error("CIDR addresses are allowed only for NONE/STATIC resolution types", code="se")
    if resolution == "DNS_ROUND_ROBIN" and len(entry.workloads) > 1:
        spec.error(
            "there must only be 0 or 1 endpoint for resolution mode DNS_ROUND_ROBIN", code="se"
        )
    if entry.workloads or entry.selector is not None:
        return
    for host in entry.hosts:
        if is_wildcard(host):
            spec.error(
                f"hosts must be FQDN if no endpoints are provided for resolution mode {resolution}",
                code="se",
            )


def _warn_tcp_without_addresses(spec: Reader, entry: ServiceEntry) -> None:
    if not entry.addresses and any(port.protocol == "tcp" for port in entry.ports):
        spec.warning("ServiceEntry addresses are required for TCP ports", code="IST0134")
