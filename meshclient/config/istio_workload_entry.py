"""WorkloadEntry: one address, as a document or inside a ServiceEntry.

Reads it, and makes the endpoint it is for one service port.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshclient.config.documents import Document
from meshclient.config.istio_locality import locality_of_labels, parse_locality
from meshclient.config.istio_metadata import Metadata, read_metadata, read_spec
from meshclient.config.istio_names import is_ip
from meshclient.config.istio_service import ServicePort
from meshclient.config.reader import Reader
from meshclient.model.endpoint import NO_LOCALITY, Endpoint, Labels, Locality, labels_of

_UNIX = "unix://"


@dataclass(frozen=True, slots=True)
class Workload:
    """An address with its labels. ``metadata`` is None inside a ServiceEntry."""

    reader: Reader
    address: str
    ports: Mapping[str, int]
    labels: Labels
    locality: Locality = NO_LOCALITY
    weight: int = 1
    metadata: Metadata | None = None

    @property
    def is_name(self) -> bool:
        """Whether the address has to be resolved."""
        return not self.address.startswith(_UNIX) and not is_ip(self.address)

    def endpoint(self, port: ServicePort) -> Endpoint:
        """What answers for a service port: a socket path, the entry's own port of
        that name, the target port, or the number dialled."""
        number = self.ports.get(port.name, 0)
        if not number:
            number = port.target if isinstance(port.target, int) else port.number
        return Endpoint(
            self.address,
            0 if self.address.startswith(_UNIX) else number,
            weight=self.weight,
            hostname=self.address if self.is_name else "",
            labels=self.labels,
            locality=self.locality,
        )


def read_workload_document(document: Document) -> Workload | None:
    """A WorkloadEntry document."""
    metadata = read_metadata(document)
    spec = read_spec(document)
    return _read(spec, metadata) if spec is not None else None


def read_workload(entry: Reader) -> Workload | None:
    """One element of ``endpoints`` of a ServiceEntry."""
    return _read(entry, None)


def _read(block: Reader, metadata: Metadata | None) -> Workload | None:
    address_field = block.field("address")
    ports_field = block.field("ports")
    labels_field = block.field("labels")
    weight_field = block.field("weight")
    address = (address_field.string() or "") if address_field is not None else ""
    labels = labels_field.string_map() if labels_field is not None else {}
    if metadata is not None:
        # Labels of the metadata win, as in Istio's conversion.
        labels = {**labels, **metadata.labels}
    found = Workload(
        reader=block,
        address=address,
        ports=_read_ports(ports_field) if ports_field is not None else {},
        labels=labels_of(labels),
        locality=_read_locality(block, labels),
        weight=((weight_field.integer(0, 2**32 - 1) or 1) if weight_field is not None else 1),
        metadata=metadata,
    )
    network = block.field("network")
    block.ignore("serviceAccount")
    block.finish("WorkloadEntry")
    if not address:
        if network is None and block.is_mapping:
            block.error("address or network is missing", code="required")
        return None
    _check_address(address_field or block, found)
    return found


def _read_ports(block: Reader) -> dict[str, int]:
    ports: dict[str, int] = {}
    for name, value in block.items():
        number = value.integer(1, 65535)
        if number is not None:
            ports[name] = number
    return ports


def _read_locality(block: Reader, labels: Mapping[str, str]) -> Locality:
    field = block.field("locality")
    text = field.string() if field is not None else None
    return parse_locality(text) if text else locality_of_labels(labels)


def _check_address(where: Reader, workload: Workload) -> None:
    address = workload.address
    if address.startswith(_UNIX):
        if not address[len(_UNIX) :].startswith(("/", "@")):
            where.error("a unix socket needs an absolute path", code="address")
        if workload.ports:
            where.error("a unix socket has no ports", code="address")
    elif any(c in address for c in " /*") or (":" in address and not is_ip(address)):
        where.error(f'"{address}" is not an address', code="address")
