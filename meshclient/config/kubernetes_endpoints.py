"""EndpointSlice and Endpoints documents.

Reads both into one shape: addresses with the ports of their group. Source of
the rules on readiness: Istio ``endpointslice.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshclient.config.documents import Document
from meshclient.config.istio_locality import locality_of_topology
from meshclient.config.istio_metadata import Metadata, read_metadata
from meshclient.config.istio_service import ServicePort
from meshclient.config.reader import Reader
from meshclient.model.endpoint import NO_LOCALITY, Locality

SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a group. ``draining``: serving while it terminates."""

    address: str
    ready: bool = True
    draining: bool = False
    pod: str = ""
    node_name: str = ""
    locality: Locality = NO_LOCALITY


@dataclass(frozen=True, slots=True)
class EndpointGroup:
    """Addresses that share ports (name to number; None: any port)."""

    metadata: Metadata
    service: str
    addresses: tuple[Address, ...]
    ports: Mapping[str, int] | None

    def port_for(self, port: ServicePort) -> int | None:
        """The number behind a service port, found by its name."""
        if self.ports is None:
            return port.target if isinstance(port.target, int) else port.number
        return self.ports.get(port.name)


def read_endpoint_slice(document: Document) -> EndpointGroup | None:
    """An EndpointSlice; None when it belongs to no service (reported)."""
    metadata = read_metadata(document)
    root = document.reader
    service = metadata.labels.get(SERVICE_LABEL, "")
    kind = root.field("addressType")
    if kind is not None:
        kind.string(("IPv4", "IPv6", "FQDN"))
    endpoints = root.field("endpoints")
    ports = root.field("ports")
    if not service:
        root.warning(
            f"an EndpointSlice without the label {SERVICE_LABEL} belongs to no service",
            code="endpoint-slice",
        )
        return None
    addresses = [
        address
        for entry in (endpoints.elements() if endpoints is not None else ())
        for address in _read_slice_entry(entry)
    ]
    numbers = _read_ports(ports) if ports is not None else None
    return EndpointGroup(metadata, service, tuple(addresses), numbers)


def _read_slice_entry(entry: Reader) -> list[Address]:
    conditions = entry.field("conditions")
    ready, serving, terminating = _conditions(conditions)
    listed = entry.field("addresses")
    zone = entry.field("zone")
    topology = entry.field("deprecatedTopology", "topology")
    locality = locality_of_topology(topology.string_map()) if topology is not None else NO_LOCALITY
    if zone is not None:
        locality = Locality(locality.region, zone.string() or "", locality.sub_zone)
    node_field = entry.field("nodeName")
    pod = _target_pod(entry)
    node = (node_field.string() or "") if node_field is not None else ""
    draining = not ready and serving and terminating
    texts = listed.strings() if listed is not None else []
    # All addresses of one entry are the same endpoint; the first is to be used.
    return [Address(text, ready, draining, pod, node, locality) for text in texts[:1]]


def _conditions(block: Reader | None) -> tuple[bool, bool, bool]:
    """ready (absent: yes), serving (absent: as ready), terminating (absent: no)."""
    if block is None:
        return True, True, False
    values: list[bool | None] = []
    for name in ("ready", "serving", "terminating"):
        field = block.field(name)
        values.append(field.boolean() if field is not None else None)
    ready = values[0] is not False
    return ready, ready if values[1] is None else values[1], bool(values[2])


def _target_pod(entry: Reader) -> str:
    target = entry.field("targetRef")
    if target is None:
        return ""
    kind, name = target.field("kind"), target.field("name")
    if kind is None or kind.string() != "Pod" or name is None:
        return ""
    return name.string() or ""


def _read_ports(block: Reader) -> dict[str, int]:
    ports: dict[str, int] = {}
    for element in block.elements():
        name_field, number_field = element.field("name"), element.field("port")
        name = (name_field.string() or "") if name_field is not None else ""
        number = number_field.integer(1, 65535) if number_field is not None else None
        if number is not None:
            ports.setdefault(name, number)
    return ports


def read_endpoints(document: Document) -> list[EndpointGroup]:
    """A core/v1 Endpoints object; it bears the name of its service."""
    metadata = read_metadata(document)
    subsets = document.reader.field("subsets")
    groups: list[EndpointGroup] = []
    for subset in subsets.elements() if subsets is not None else ():
        ports = subset.field("ports")
        ready = subset.field("addresses")
        waiting = subset.field("notReadyAddresses")
        addresses = _read_addresses(ready, ready=True) + _read_addresses(waiting, ready=False)
        numbers = _read_ports(ports) if ports is not None else None
        groups.append(EndpointGroup(metadata, metadata.name, tuple(addresses), numbers))
    # Without any subset the service is known to have no endpoint.
    return groups or [EndpointGroup(metadata, metadata.name, (), {})]


def _read_addresses(block: Reader | None, *, ready: bool) -> list[Address]:
    found: list[Address] = []
    for element in block.elements() if block is not None else ():
        ip, node = element.field("ip"), element.field("nodeName")
        text = ip.string() if ip is not None else None
        if text:
            name = (node.string() or "") if node is not None else ""
            found.append(Address(text, ready, False, _target_pod(element), name))
    return found
