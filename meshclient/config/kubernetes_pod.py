"""Pod documents: addresses, labels and readiness.

Reads the few fields that matter to callers; everything else of a Pod is not
ours and is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshclient.config.documents import Document
from meshclient.config.istio_locality import locality_of_labels
from meshclient.config.istio_metadata import Metadata, read_metadata
from meshclient.config.istio_service import ServicePort
from meshclient.config.reader import Reader
from meshclient.model.endpoint import NO_LOCALITY, Endpoint, Labels, Locality, labels_of

#: Locality by name of the Kubernetes node.
NodeLocalities = Mapping[str, Locality]


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod that has an address. ``ports`` maps container port names to numbers."""

    metadata: Metadata
    address: str
    ready: bool
    labels: Labels
    ports: Mapping[str, int]
    node_name: str

    def locality(self, nodes: NodeLocalities) -> Locality:
        """The ``istio-locality`` label, else the locality of the node."""
        own = locality_of_labels(self.metadata.labels)
        return own if own != NO_LOCALITY else nodes.get(self.node_name, NO_LOCALITY)

    def endpoint(self, port: ServicePort, nodes: NodeLocalities) -> Endpoint | None:
        """What the Pod answers for a service port; None if it names an unknown port."""
        number = port.target if port.target is not None else port.number
        if isinstance(number, str):
            found = self.ports.get(number)
            if found is None:
                return None
            number = found
        return Endpoint(self.address, number, labels=self.labels, locality=self.locality(nodes))


def read_pod(document: Document) -> Pod | None:
    """The Pod, or None while it has no address or is over."""
    metadata = read_metadata(document)
    spec = document.reader.field("spec")
    status = document.reader.field("status")
    if status is None or not status.is_mapping:
        return None
    address = _address(status)
    if not address or _is_over(document.reader, status):
        return None
    node_name = spec.field("nodeName") if spec is not None and spec.is_mapping else None
    return Pod(
        metadata,
        address,
        _is_ready(status),
        labels_of(dict(metadata.labels)),
        _read_ports(spec) if spec is not None and spec.is_mapping else {},
        (node_name.string() or "") if node_name is not None else "",
    )


def _address(status: Reader) -> str:
    field = status.field("podIP")
    if field is not None:
        return field.string() or ""
    several = status.field("podIPs")
    for element in several.elements() if several is not None else ():
        ip = element.field("ip")
        if ip is not None:
            return ip.string() or ""
    return ""


def _is_over(root: Reader, status: Reader) -> bool:
    metadata = root.field("metadata")
    if metadata is not None and metadata.has("deletionTimestamp"):
        return True
    phase = status.field("phase")
    return phase is not None and phase.string() in ("Succeeded", "Failed")


def _is_ready(status: Reader) -> bool:
    """The Ready condition; a hand-written Pod without conditions counts as ready."""
    conditions = status.field("conditions")
    for condition in conditions.elements() if conditions is not None else ():
        kind, value = condition.field("type"), condition.field("status")
        if kind is not None and kind.string() == "Ready":
            return value is not None and value.string() == "True"
    return True


def _read_ports(spec: Reader) -> dict[str, int]:
    ports: dict[str, int] = {}
    containers = spec.field("containers")
    for container in containers.elements() if containers is not None else ():
        listed = container.field("ports")
        for port in listed.elements() if listed is not None else ():
            name, number = port.field("name"), port.field("containerPort")
            value = number.integer(1, 65535) if number is not None else None
            text = name.string() if name is not None else None
            if value is not None and text:
                ports.setdefault(text, value)
    return ports
