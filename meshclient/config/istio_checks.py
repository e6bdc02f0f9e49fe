"""Findings about documents that are valid, but hardly mean what they say.

Only warns; changes nothing. Checks that need a single block stand where that
block is read.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshclient.config.istio_destination import Destination
from meshclient.config.istio_destination_rule import DestinationRule
from meshclient.config.istio_http_route import HttpRoute
from meshclient.config.istio_match import is_catch_all, to_route_match
from meshclient.config.istio_names import is_wildcard, matches
from meshclient.config.istio_registry import Registry
from meshclient.config.istio_rules import DestinationRules
from meshclient.config.istio_traffic_policy import TrafficPolicy
from meshclient.config.istio_virtual_service import VirtualService


def check_virtual_services(services: Iterable[VirtualService], registry: Registry) -> None:
    """Rules that no request can reach, and hosts that are not what they seem."""
    for service in services:
        _check_unreachable(service.http)
        for host in service.hosts:
            meant = registry.meant_by(host)
            if meant and host not in registry:
                service.reader.warning(
                    f'"{host}" is taken literally and is not the service {meant}',
                    code="half-qualified-host",
                    suggestion=f'write "{meant}"',
                )
            _check_protocol(service, host, registry)


def _check_unreachable(entries: tuple[HttpRoute, ...]) -> None:
    final: HttpRoute | None = None
    for entry in entries:
        if final is not None:
            entry.reader.warning(
                f"no request reaches this rule: the one at line {final.reader.source.line} "
                "matches everything",
                code="IST0130",
            )
        elif _takes_everything(entry):
            final = entry


def _takes_everything(entry: HttpRoute) -> bool:
    if entry.delegate is not None:
        return False
    if not entry.matches:
        return True
    return any(
        is_catch_all(to_route_match(match))
        and not (match.port or match.source_labels or match.source_namespace or match.gateways)
        for match in entry.matches
    )


def _check_protocol(service: VirtualService, host: str, registry: Registry) -> None:
    found = registry.get(host) if service.http and service.in_mesh else None
    if found is None or not found.ports or any(p.carries_http for p in found.ports):
        return
    service.reader.warning(
        f"no port of {host} carries HTTP; the http routes are never used",
        code="not-http",
        suggestion="name the port http, or set appProtocol",
    )


def check_destinations(
    services: Iterable[VirtualService], registry: Registry, rules: DestinationRules
) -> None:
    """Istio's analyzers on what the routes of mesh rules refer to."""
    for service in services:
        for entry in service.http if service.in_mesh else ():
            mirrors = entry.mirrors.targets if entry.mirrors is not None else ()
            for destination in (*entry.destinations, *(target for target, _ in mirrors)):
                _check_destination(destination, registry, rules)


def _check_destination(
    destination: Destination, registry: Registry, rules: DestinationRules
) -> None:
    warn = destination.reader.warning
    host, port = destination.host, destination.port
    service = registry.get(host)
    if service is None:
        meant = registry.meant_by(host)
        warn(
            f"host {host} is no known service; calls are answered with 503 NC",
            code="IST0101",
            suggestion=f'write "{meant}"' if meant else "add a Service or a ServiceEntry",
        )
        return
    if port and service.port(port) is None:
        warn(
            f"{host} has no port {port}; calls are answered with 503 NC",
            code="IST0101",
            suggestion=f"its ports are {', '.join(str(p.number) for p in service.ports)}",
        )
    if not port and len(service.ports) > 1:
        warn(
            f"{host} has several ports; the port that the caller dials is taken",
            code="IST0112",
            suggestion="name destination.port",
        )
    rule = rules.find(service.hostname, service.metadata.namespace)
    if destination.subset and (rule is None or rule.subset(destination.subset) is None):
        warn(
            f'no DestinationRule defines subset "{destination.subset}" of '
            f"{service.hostname}; calls are answered with 503 NC",
            code="IST0101",
        )


def check_destination_rules(rules: Iterable[DestinationRule], registry: Registry) -> None:
    """Rules for nobody, and port levels that silently drop what stands above."""
    for rule in rules:
        _check_host(rule, registry)
        if rule.policy is not None:
            _check_dropped(rule, rule.policy)


def _check_host(rule: DestinationRule, registry: Registry) -> None:
    if is_wildcard(rule.host):
        known = any(matches(service.hostname, rule.host) for service in registry)
    else:
        known = registry.covering(rule.host) is not None
    if not known:
        meant = registry.meant_by(rule.host)
        rule.reader.warning(
            f"host {rule.host} is no known service; the rule has no effect",
            code="IST0174",
            suggestion=f'write "{meant}"' if meant else "",
        )


def _check_dropped(rule: DestinationRule, policy: TrafficPolicy) -> None:
    for port, level in policy.ports.items():
        for name, above, here in (
            ("tls", policy.tls, level.tls),
            ("outlierDetection", policy.outlier, level.outlier),
        ):
            if above is not None and here is None:
                rule.reader.warning(
                    f"the port level {port} replaces the whole policy; {name} does not hold there",
                    code="port-level-replaces",
                    suggestion=f"repeat {name} in portLevelSettings",
                )
