"""One route of the model from one ``http[]`` entry, for one dialled port.

Chooses clusters by Istio's rules of host, subset and port. The order of routes
and the hosts they stand under are decided in
:mod:`meshclient.config.istio_routes`.
"""

from __future__ import annotations

from meshclient.config.istio_destination import Destination
from meshclient.config.istio_headers import NO_HEADERS, Headers, join_headers
from meshclient.config.istio_http_route import HttpRoute
from meshclient.config.istio_match import HttpMatch, to_route_match
from meshclient.config.istio_registry import Registry
from meshclient.config.istio_retry import DEFAULT_RETRIES, Retries
from meshclient.config.istio_rules import DestinationRules
from meshclient.config.istio_service import cluster_name
from meshclient.config.istio_traffic_policy import TrafficPolicy
from meshclient.model.routes import (
    Action,
    ForwardAction,
    HashPolicy,
    HostRewrite,
    Mirror,
    Route,
    WeightedCluster,
)
from meshclient.model.source import Diagnostic

_DEFAULT = Retries(DEFAULT_RETRIES)


class RouteBuilder:
    """Makes routes for one caller; keeps nothing between two of them."""

    def __init__(self, registry: Registry, rules: DestinationRules) -> None:
        self._registry = registry
        self._rules = rules

    def default_route(self, host: str, port: int) -> Route:
        """What a service without a VirtualService does: Istio's retries, no timeout."""
        service = self._registry.get(host)
        hashed = self._hash_policy(host, "", port)
        action = ForwardAction(
            clusters=(WeightedCluster(cluster_name(host, port)),),
            retry=_DEFAULT.effective(consistent_hash=False),
            hash_policy=(hashed,) if hashed is not None else (),
        )
        if service is None:
            return Route(action, name="default")
        return Route(action, name="default", source=service.reader.source)

    def route(self, entry: HttpRoute, match: HttpMatch | None, port: int) -> Route:
        """The route for one match of an entry (None: it has no match)."""
        headers = entry.headers or NO_HEADERS
        single = entry.destinations[0] if len(entry.destinations) == 1 else None
        if single is not None and self._forwards(entry):
            headers = Headers(
                join_headers(headers.request, single.headers.request),
                join_headers(headers.response, single.headers.response),
                headers.authority or single.headers.authority,
            )
        name = entry.name
        if match is not None and match.name:
            name = f"{entry.name}.{match.name}"
        return Route(
            action=self._action(entry, headers, port),
            match=to_route_match(match, explicit_path=_needs_prefix(entry)),
            name=name,
            request_headers=headers.request,
            response_headers=headers.response,
            fault=entry.fault,
            source=entry.reader.source,
            not_honoured=_notes(entry),
        )

    @staticmethod
    def _forwards(entry: HttpRoute) -> bool:
        return entry.redirect is None and entry.direct_response is None

    def _action(self, entry: HttpRoute, headers: Headers, port: int) -> Action:
        if entry.redirect is not None:
            return entry.redirect.on_port(port)
        if entry.direct_response is not None:
            return entry.direct_response
        authority = headers.authority
        rewrite = entry.rewrite
        if rewrite is not None and rewrite.authority:
            authority = rewrite.authority
        hashes = self._hashes(entry.destinations)
        retries = entry.retries or _DEFAULT
        return ForwardAction(
            clusters=self._clusters(entry.destinations, port),
            path_rewrite=rewrite.path if rewrite is not None else None,
            host_rewrite=HostRewrite("literal", authority) if authority else None,
            timeout_s=entry.timeout_s or None,
            retry=retries.effective(consistent_hash=len(entry.destinations) == 1 and bool(hashes)),
            hash_policy=hashes,
            mirrors=self._mirrors(entry, port),
        )

    def _clusters(
        self, destinations: tuple[Destination, ...], port: int
    ) -> tuple[WeightedCluster, ...]:
        if len(destinations) == 1:
            # The weight of an only destination means nothing; its headers are the route's.
            return (WeightedCluster(self._cluster(destinations[0], port)),)
        return tuple(
            WeightedCluster(
                self._cluster(destination, port),
                destination.weight,
                destination.headers.request,
                destination.headers.response,
                destination.headers.authority,
            )
            for destination in destinations
            if destination.weight > 0
        )

    def _cluster(self, destination: Destination, dialled: int) -> str:
        """The name of the cluster, whether or not there is such a cluster."""
        service = self._registry.get(destination.host)
        host = service.hostname if service is not None else destination.host
        port = destination.port or dialled
        if not destination.port and service is not None and len(service.ports) == 1:
            port = service.ports[0].number
        return cluster_name(host, port, destination.subset)

    def _mirrors(self, entry: HttpRoute, port: int) -> tuple[Mirror, ...]:
        targets = entry.mirrors.targets if entry.mirrors is not None else ()
        return tuple(Mirror(self._cluster(target, port), share) for target, share in targets)

    def _hashes(self, destinations: tuple[Destination, ...]) -> tuple[HashPolicy, ...]:
        live = destinations if len(destinations) == 1 else [d for d in destinations if d.weight]
        found = (self._hash_policy(d.host, d.subset, d.port) for d in live)
        return tuple(policy for policy in found if policy is not None)

    def _hash_policy(self, host: str, subset: str, port: int) -> HashPolicy | None:
        """Subset before rule, port level before the rest; ``port`` 0: none named."""
        service = self._registry.get(host)
        if service is None:
            return None
        rule = self._rules.find(service.hostname, service.metadata.namespace)
        if rule is None:
            return None
        part = rule.subset(subset) if subset else None
        for policy in (part.policy if part is not None else None, rule.policy):
            found = _hash_of(policy, port)
            if found is not None:
                return found
        return None


def _hash_of(policy: TrafficPolicy | None, port: int) -> HashPolicy | None:
    if policy is None:
        return None
    level = policy.ports.get(port) if port else None
    return (level.hash_policy if level is not None else None) or policy.hash_policy


def _needs_prefix(entry: HttpRoute) -> bool:
    """A rewritten prefix needs one that was matched; without ``uri`` it is ``/``."""
    rewrite, redirect = entry.rewrite, entry.redirect
    if rewrite is not None and rewrite.path is not None and rewrite.path.kind == "prefix":
        return True
    return redirect is not None and redirect.action.path_rewrite is not None


def _notes(entry: HttpRoute) -> tuple[Diagnostic, ...]:
    notes = [entry.cors] if entry.cors is not None else []
    notes += entry.retries.notes if entry.retries is not None else ()
    return tuple(notes)
