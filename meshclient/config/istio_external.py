"""ServiceEntries as services: their endpoints, by resolution.

Turns what was read into :class:`RegistryService` values; precedence between
registries is decided in :mod:`meshclient.config.istio_registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from meshclient.config.istio_names import is_ip
from meshclient.config.istio_service import RegistryService, ServicePort, Upstream
from meshclient.config.istio_service_entry import ServiceEntry
from meshclient.config.istio_workload_entry import Workload
from meshclient.model.endpoint import (
    DnsSource,
    Endpoint,
    Labels,
    OriginalDestination,
    StaticSource,
)

#: Endpoints of the pods of a namespace that carry the labels, for one port.
PodFinder = Callable[[str, Labels, ServicePort], list[Endpoint]]


def external_services(
    entries: Iterable[ServiceEntry], workloads: Sequence[Workload], pods: PodFinder
) -> list[RegistryService]:
    """One service for each host of each entry."""
    services: list[RegistryService] = []
    for entry in entries:
        selected = _selected(entry, workloads)
        for host in entry.hosts:
            upstreams = {
                port.number: replace(
                    _upstream(entry, host, port, selected, pods),
                    subject_alt_names=entry.subject_alt_names,
                )
                for port in entry.ports
            }
            services.append(_service(entry, host, upstreams))
    return services


def _service(entry: ServiceEntry, host: str, upstreams: dict[int, Upstream]) -> RegistryService:
    return RegistryService(
        hostname=host,
        metadata=entry.metadata,
        reader=entry.reader,
        kind="service_entry",
        ports=entry.ports,
        upstreams=upstreams,
        addresses=tuple(address for address in entry.addresses if is_ip(address)),
        visibility=entry.visibility,
        # Entries of one host merge their ports only if they agree in all of this.
        merge_key=(
            entry.metadata.namespace,
            entry.resolution,
            tuple(sorted(entry.metadata.labels.items())),
            entry.visibility,
        ),
        notes=entry.notes,
    )


def _selected(entry: ServiceEntry, workloads: Sequence[Workload]) -> list[Workload]:
    if entry.selector is None:
        return list(entry.workloads)
    wanted = set(entry.selector)
    return [
        workload
        for workload in workloads
        if workload.metadata is not None
        and workload.metadata.namespace == entry.metadata.namespace
        and wanted <= set(workload.labels)
    ]


def _upstream(
    entry: ServiceEntry,
    host: str,
    port: ServicePort,
    workloads: Sequence[Workload],
    pods: PodFinder,
) -> Upstream:
    if entry.resolution in ("NONE", "DYNAMIC_DNS"):
        target = port.target if isinstance(port.target, int) else 0
        return Upstream(OriginalDestination(target))
    endpoints = [workload.endpoint(port) for workload in workloads]
    if entry.selector is not None:
        endpoints += pods(entry.metadata.namespace, entry.selector, port)
    if entry.resolution == "STATIC":
        return Upstream(StaticSource(), tuple(endpoints))
    if not endpoints and entry.selector is None:
        number = port.target if isinstance(port.target, int) else port.number
        endpoints = [Endpoint(host, number, hostname=host)]
    return _resolved(entry.resolution, tuple(endpoints))


def _resolved(resolution: str, endpoints: tuple[Endpoint, ...]) -> Upstream:
    """Addresses need no resolver; only a set with a name in it does."""
    if all(is_ip(e.address) or e.address.startswith("unix:") for e in endpoints):
        return Upstream(StaticSource(), endpoints)
    if resolution == "DNS_ROUND_ROBIN":
        return Upstream(DnsSource(endpoints, "logical"))
    return Upstream(DnsSource(endpoints, "strict"))
