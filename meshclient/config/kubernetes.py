"""Kubernetes objects as services: which endpoints stand behind a Service.

Prefers EndpointSlices, then Endpoints, then Pods; when the documents hold none
of them for a service, its DNS name is resolved. Talks to no API server.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshclient.config.documents import Document
from meshclient.config.istio_locality import locality_of_topology
from meshclient.config.istio_metadata import read_metadata
from meshclient.config.istio_service import RegistryService, ServicePort, Upstream
from meshclient.config.kubernetes_endpoints import (
    Address,
    EndpointGroup,
    read_endpoint_slice,
    read_endpoints,
)
from meshclient.config.kubernetes_pod import Pod, read_pod
from meshclient.config.kubernetes_service import KubernetesService, read_service
from meshclient.model.endpoint import (
    NO_LOCALITY,
    DnsSource,
    Endpoint,
    Labels,
    Locality,
    OriginalDestination,
    StaticSource,
)

_Key = tuple[str, str]


@dataclass(slots=True)
class KubernetesObjects:
    """Everything of one load, indexed by namespace and name."""

    services: list[KubernetesService] = field(default_factory=list)
    slices: dict[_Key, list[EndpointGroup]] = field(default_factory=lambda: defaultdict(list))
    endpoints: dict[_Key, list[EndpointGroup]] = field(default_factory=lambda: defaultdict(list))
    pods: dict[_Key, Pod] = field(default_factory=dict)
    nodes: dict[str, Locality] = field(default_factory=dict)

    def pod_endpoints(self, namespace: str, labels: Labels, port: ServicePort) -> list[Endpoint]:
        """Ready pods of a namespace that carry the labels."""
        found = [
            pod.endpoint(port, self.nodes)
            for (where, _), pod in self.pods.items()
            if where == namespace and pod.ready and set(labels) <= set(pod.labels)
        ]
        return [endpoint for endpoint in found if endpoint is not None]


def read_objects(documents: Sequence[Document]) -> KubernetesObjects:
    """Sort the core and discovery documents out; other kinds are passed over."""
    objects = KubernetesObjects()
    for document in documents:
        if document.kind == "Service":
            service = read_service(document)
            if service is not None:
                objects.services.append(service)
        elif document.kind == "EndpointSlice":
            group = read_endpoint_slice(document)
            if group is not None:
                objects.slices[document.namespace, group.service].append(group)
        elif document.kind == "Endpoints":
            groups = read_endpoints(document)
            objects.endpoints[document.namespace, document.name] += groups
        elif document.kind == "Pod":
            pod = read_pod(document)
            if pod is not None:
                objects.pods[document.namespace, document.name] = pod
        elif document.kind == "Node":
            objects.nodes[document.name] = locality_of_topology(read_metadata(document).labels)
    return objects


def kubernetes_services(objects: KubernetesObjects, domain: str) -> list[RegistryService]:
    """Every Service document as a service of the mesh."""
    return [_to_registry(service, objects, domain) for service in objects.services]


def _to_registry(
    service: KubernetesService, objects: KubernetesObjects, domain: str
) -> RegistryService:
    metadata = service.metadata
    hostname = f"{metadata.name}.{metadata.namespace}.svc.{domain}"
    found = RegistryService(
        hostname=hostname,
        metadata=metadata,
        reader=service.reader,
        kind="kubernetes",
        ports=service.ports,
        addresses=service.addresses,
        visibility=service.visibility,
        headless=service.headless,
        alias_of=service.external_name,
        notes=service.notes,
    )
    if service.external_name:
        found.upstreams = _external(service)
    elif service.headless:
        found.upstreams = {p.number: Upstream(OriginalDestination()) for p in service.ports}
    else:
        found.upstreams = _behind(service, objects, hostname)
    return found


def _external(service: KubernetesService) -> dict[int, Upstream]:
    name = service.external_name
    return {
        port.number: Upstream(
            DnsSource((Endpoint(name, port.number, hostname=name),), "strict"), labelled=False
        )
        for port in service.ports
    }


def _behind(
    service: KubernetesService, objects: KubernetesObjects, hostname: str
) -> dict[int, Upstream]:
    key = (service.metadata.namespace, service.metadata.name)
    groups = objects.slices.get(key) or objects.endpoints.get(key)
    if groups:
        return {
            port.number: Upstream(StaticSource(), _of_groups(service, groups, port, objects))
            for port in service.ports
        }
    pods = _selected_pods(service, objects)
    if pods:
        return {
            port.number: Upstream(StaticSource(), _of_pods(service, pods, port, objects))
            for port in service.ports
        }
    return _by_name(service, hostname)


def _by_name(service: KubernetesService, hostname: str) -> dict[int, Upstream]:
    """The usual policy folder holds no live endpoints: cluster DNS knows them."""
    service.reader.info(
        f"no EndpointSlice, Endpoints or Pod in the documents; {hostname} is resolved by DNS",
        code="resolved-by-dns",
    )
    return {
        port.number: Upstream(
            DnsSource((Endpoint(hostname, port.number, hostname=hostname),), "strict"),
            labelled=False,
        )
        for port in service.ports
    }


def _selected_pods(service: KubernetesService, objects: KubernetesObjects) -> list[Pod]:
    if not service.selector:
        return []
    wanted = set(service.selector)
    namespace = service.metadata.namespace
    return [
        pod
        for (where, _), pod in objects.pods.items()
        if where == namespace and wanted <= set(pod.labels)
    ]


def _of_pods(
    service: KubernetesService, pods: Sequence[Pod], port: ServicePort, objects: KubernetesObjects
) -> tuple[Endpoint, ...]:
    found = [
        pod.endpoint(port, objects.nodes) for pod in pods if pod.ready or service.publish_not_ready
    ]
    return tuple(endpoint for endpoint in found if endpoint is not None)


def _of_groups(
    service: KubernetesService,
    groups: Sequence[EndpointGroup],
    port: ServicePort,
    objects: KubernetesObjects,
) -> tuple[Endpoint, ...]:
    found: dict[tuple[str, int], Endpoint] = {}
    for group in groups:
        number = group.port_for(port)
        if number is None:
            continue
        for address in group.addresses:
            if address.ready or (address.draining and service.keeps_draining):
                endpoint = _endpoint(address, number, group.metadata.namespace, objects)
                found.setdefault((address.address, number), endpoint)
    return tuple(found.values())


def _endpoint(
    address: Address, number: int, namespace: str, objects: KubernetesObjects
) -> Endpoint:
    pod = objects.pods.get((namespace, address.pod))
    labels: Labels = pod.labels if pod is not None else ()
    known = objects.nodes.get(address.node_name, NO_LOCALITY)
    if pod is not None and pod.locality(objects.nodes) != NO_LOCALITY:
        known = pod.locality(objects.nodes)
    return Endpoint(
        address.address,
        number,
        labels=labels,
        locality=known if known != NO_LOCALITY else address.locality,
        health="healthy" if address.ready else "draining",
    )
