"""Route configurations: the virtual hosts of every port that callers may dial.

Joins VirtualServices with the services they govern, in Istio's order of
precedence. Source: Istio ``BuildSidecarVirtualHostWrapper`` and
``BuildSidecarOutboundVirtualHosts``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from meshclient.config.istio_candidates import HostIndex
from meshclient.config.istio_delegate import DelegateTable, expand_delegates
from meshclient.config.istio_http_route import HttpRoute
from meshclient.config.istio_match import is_catch_all
from meshclient.config.istio_names import (
    alternate_names,
    domain_text,
    is_wildcard,
    matches,
    with_wildcards,
)
from meshclient.config.istio_registry import Registry
from meshclient.config.istio_route_action import RouteBuilder
from meshclient.config.istio_service import RegistryService
from meshclient.config.istio_virtual_service import VirtualService
from meshclient.model.routes import Route, RouteConfiguration, VirtualHost

#: The only port on which Istio serves hosts that just a VirtualService knows.
UNKNOWN_HOST_PORT = 80


class RouteTables:
    """Builds the tables for one caller."""

    def __init__(
        self,
        registry: Registry,
        services: Sequence[VirtualService],
        delegates: DelegateTable,
        builder: RouteBuilder,
    ) -> None:
        self._registry = registry
        self._virtual_services = services
        self._index = HostIndex(services)
        self._builder = builder
        self._entries = {id(vs): expand_delegates(vs, delegates) for vs in services}

    def build(self) -> dict[int, RouteConfiguration]:
        """One configuration for each port that carries HTTP."""
        ports = {p.number for s in self._registry for p in s.ports if p.carries_http}
        if self._virtual_services:
            ports.add(UNKNOWN_HOST_PORT)
        tables = {port: self._port_table(port) for port in sorted(ports)}
        return {port: table for port, table in tables.items() if table.virtual_hosts}

    def _port_table(self, port: int) -> RouteConfiguration:
        served = self._served(port)
        hosts = _Hosts(self._registry, port, served)
        left = dict(served)
        for service in self._virtual_services:
            for name in self._attach(service, port, served, hosts):
                left.pop(name, None)
        for name, found in left.items():
            if name not in self._registry.aliases:
                hosts.add_service(found, (self._builder.default_route(name, port),), None)
        return RouteConfiguration(str(port), tuple(hosts.found))

    def _served(self, port: int) -> dict[str, RegistryService]:
        """Services with that port, by each of their full names."""
        served: dict[str, RegistryService] = {}
        for service in self._registry:
            own = service.port(port)
            if own is not None and own.carries_http:
                for name in (service.hostname, *service.aliases):
                    served[name] = service
        return served

    def _attach(
        self,
        service: VirtualService,
        port: int,
        served: Mapping[str, RegistryService],
        hosts: _Hosts,
    ) -> list[str]:
        """Add the hosts of one VirtualService; the services it took."""
        known, unknown = self._split(service, served, port)
        if not known and port != UNKNOWN_HOST_PORT:
            return []
        if not known and not unknown:
            return []
        routes = self._routes(service, port)
        if not routes:
            return []
        for host in unknown:
            hosts.add_host(host, routes, service)
        for name in known:
            hosts.add_service(_as_named(served[name], name), routes, service)
        return known

    def _split(
        self, service: VirtualService, served: Mapping[str, RegistryService], port: int
    ) -> tuple[list[str], list[str]]:
        """Services that the hosts of a VirtualService name, and hosts nobody knows.

        A service that the registry knows on other ports only is unknown here, as
        Istio looks at one port at a time.
        """
        known: list[str] = []
        unknown: list[str] = []
        for host in sorted(service.hosts, key=is_wildcard):
            if not is_wildcard(host):
                if host in served:
                    known.append(host)
                elif not self._is_not_http(host, port):
                    unknown.append(host)
                continue
            covered = [name for name in served if matches(name, host)]
            known += [n for n in covered if n not in known and self._index.governs(service, n)]
            if not covered and not self._covers_any(host, port):
                unknown.append(host)
        return known, unknown

    def _covers_any(self, pattern: str, port: int) -> bool:
        return any(s.port(port) and matches(s.hostname, pattern) for s in self._registry)

    def _is_not_http(self, host: str, port: int) -> bool:
        """The registry knows the host on this port, but for another protocol."""
        service = self._registry.get(host)
        return service is not None and service.port(port) is not None

    def _routes(self, service: VirtualService, port: int) -> tuple[Route, ...]:
        found: list[Route] = []
        for entry in self._entries[id(service)]:
            if self._add_entry(entry, port, found):
                break
        return tuple(found)

    def _add_entry(self, entry: HttpRoute, port: int, found: list[Route]) -> bool:
        """Append the routes of an entry; True when nothing can come after them."""
        if not entry.matches:
            found.append(self._builder.route(entry, None, port))
            return True
        for match in entry.matches:
            if match.applies_to(self._registry.node, port):
                route = self._builder.route(entry, match, port)
                found.append(route)
                if is_catch_all(route.match):
                    return True
        return False


def _as_named(service: RegistryService, name: str) -> RegistryService:
    """A service under one of its aliases has the names of that alias only."""
    if name == service.hostname:
        return service
    return replace(service, hostname=name, aliases=[], addresses=(), headless=False)


@dataclass(slots=True)
class _Claim:
    """Who took a name first."""

    holder: VirtualService | None


class _Hosts:
    """The virtual hosts of one port. The first to claim a name keeps it."""

    def __init__(self, registry: Registry, port: int, served: Iterable[str]) -> None:
        self.found: list[VirtualHost] = []
        self._node = registry.node
        self._port = port
        self._full_names = set(served)
        self._claims: dict[str, _Claim] = {}

    def add_host(self, host: str, routes: tuple[Route, ...], by: VirtualService) -> None:
        """A name that only a VirtualService knows."""
        self._add(host, [domain_text(host)], routes, by)

    def add_service(
        self, service: RegistryService, routes: tuple[Route, ...], by: VirtualService | None
    ) -> None:
        """A service under all names that this caller may use."""
        self._add(service.hostname, self._domains(service), routes, by, service)

    def _domains(self, service: RegistryService) -> list[str]:
        names: list[str] = []
        for host in (service.hostname, *service.aliases):
            names.append(domain_text(host))
            others = alternate_names(host, self._node.namespace, self._node.domain)
            # A short form never takes the place of somebody's full name.
            names += [name for name in others if name not in self._full_names]
        if service.headless and service.kind == "kubernetes":
            names = with_wildcards(names)
        return names + [domain_text(address) for address in service.addresses]

    def _add(
        self,
        host: str,
        domains: list[str],
        routes: tuple[Route, ...],
        by: VirtualService | None,
        service: RegistryService | None = None,
    ) -> None:
        taken = self._claims.get(host)
        if taken is not None and by is not None:
            _warn_shadowed(host, by, taken.holder)
        free = [name for name in dict.fromkeys(domains) if name not in self._claims]
        if taken is not None or not free:
            return
        for name in free:
            self._claims[name] = _Claim(by)
        source = by.reader.source if by is not None else None
        if source is None and service is not None:
            source = service.reader.source
        self.found.append(
            VirtualHost(f"{host}:{self._port}", tuple(free), routes)
            if source is None
            else VirtualHost(f"{host}:{self._port}", tuple(free), routes, source=source)
        )


def _warn_shadowed(host: str, loser: VirtualService, winner: VirtualService | None) -> None:
    if winner is loser or winner is None:
        return
    loser.reader.warning(
        f"{winner} already governs {host} for this caller; the routes of this one are not used "
        "(VirtualServices of one host are never merged)",
        code="IST0109",
        suggestion="put all routes of a host into one VirtualService",
    )
