"""The services that one caller sees, one for each host name.

Decides precedence between registries, merges ServiceEntries of one host and
follows ExternalName aliases. Routes and policies are not known here. Source of
the order: Istio ``pilot/pkg/model/sidecar.go appendSidecarServices``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from meshclient.config.istio_names import most_specific
from meshclient.config.istio_service import RegistryService, Upstream
from meshclient.model.endpoint import DnsSource, Endpoint
from meshclient.model.snapshot import Node


class Registry:
    """Visible services by host name. Aliases are kept apart from the services
    that they lead to. Immutable after construction."""

    def __init__(self, services: Iterable[RegistryService], node: Node) -> None:
        self.node = node
        chosen = _choose(services, node)
        self._aliases = _follow_aliases(chosen)
        self._services = {h: s for h, s in chosen.items() if h not in self._aliases}
        for alias, target in self._aliases.items():
            self._services[target].aliases.append(alias)

    def __iter__(self) -> Iterator[RegistryService]:
        """In the order of their host names, so that results are stable."""
        return iter(service for _, service in sorted(self._services.items()))

    def __contains__(self, host: str) -> bool:
        return host in self._services or host in self._aliases

    def get(self, host: str) -> RegistryService | None:
        """The service behind a host name, through aliases."""
        return self._services.get(self._aliases.get(host, host))

    @property
    def aliases(self) -> Mapping[str, str]:
        """Alias to the host name that it leads to."""
        return self._aliases

    def covering(self, host: str) -> RegistryService | None:
        """The service that serves ``host``, a wildcard one included."""
        found = self.get(host)
        if found is not None:
            return found
        best = most_specific(host, self._services)
        return best[1] if best is not None else None

    def meant_by(self, host: str) -> str:
        """The full name of a Kubernetes service that ``name.namespace`` names, or "".

        Istio takes such a name literally, which is seldom what was meant.
        """
        if host.count(".") != 1:
            return ""
        full = f"{host}.svc.{self.node.domain}"
        return full if full in self else ""


def _choose(services: Iterable[RegistryService], node: Node) -> dict[str, RegistryService]:
    """One service per host: Kubernetes before ServiceEntry, the caller's
    namespace before others, then the oldest."""
    by_host: dict[str, list[RegistryService]] = defaultdict(list)
    for service in services:
        if service.visibility.visible_to(node.namespace):
            by_host[service.hostname].append(service)

    def rank(service: RegistryService) -> tuple[bool, bool, tuple[str, str, str]]:
        kubernetes = service.kind == "kubernetes"
        own = service.metadata.namespace == node.namespace
        return (not kubernetes, not own, service.metadata.order)

    return {host: _merge(sorted(several, key=rank)) for host, several in by_host.items()}


def _merge(services: list[RegistryService]) -> RegistryService:
    """The first, with the ports of those that agree with it in everything."""
    base = services[0]
    for other in services[1:]:
        if base.kind == "kubernetes" or other.merge_key != base.merge_key:
            other.reader.warning(
                f"{base.reader.source.document} already defines {base.hostname} for this "
                "caller; this one is ignored",
                code="duplicate-service",
            )
            continue
        for port in other.ports:
            if base.port(port.number) is None:
                base.ports += (port,)
                base.upstreams[port.number] = other.upstreams[port.number]
        base.addresses = tuple(dict.fromkeys(base.addresses + other.addresses))
    return base


def _follow_aliases(services: dict[str, RegistryService]) -> dict[str, str]:
    """ExternalName services that lead to a known one; loops are dropped.

    One that leads out of the mesh stays a service of its own, resolved by DNS.
    """
    aliases: dict[str, str] = {}
    written = dict(services)
    for host, service in written.items():
        if not service.alias_of:
            continue
        target = _last_of_chain(host, written)
        if target is None:
            service.reader.warning("externalName leads back to itself", code="alias-loop")
            del services[host]
        elif target in written:
            aliases[host] = target
        else:
            service.upstreams = _resolve(service, target)
    return aliases


def _last_of_chain(host: str, services: Mapping[str, RegistryService]) -> str | None:
    seen = {host}
    while host in services and services[host].alias_of:
        host = services[host].alias_of
        if host in seen:
            return None
        seen.add(host)
    return host


def _resolve(service: RegistryService, name: str) -> dict[int, Upstream]:
    return {
        port.number: Upstream(
            DnsSource((Endpoint(name, port.number, hostname=name),), "strict"), labelled=False
        )
        for port in service.ports
    }
