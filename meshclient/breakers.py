"""From a policy's settings to the breakers that its calls pass.

Which calls share one, and which survive an update. What a breaker does is in
:mod:`meshclient.resilience.breaker`, which is loaded when the first one is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshclient.model.breaker import BreakerScope, CircuitBreaker

if TYPE_CHECKING:
    from meshclient.balancing import EndpointState
    from meshclient.cluster_state import ClusterState
    from meshclient.model.cluster import Cluster
    from meshclient.model.events import Event
    from meshclient.resilience.breaker import Breaker
    from meshclient.routing import RouteTable

_Key = tuple[BreakerScope, CircuitBreaker]


class BreakerStates:
    """The breakers of one plane, by scope and settings. Built on the control thread.

    Equal settings of one scope keep their breaker, and so its state, from the plane before.
    ``own`` are pybreaker objects of the caller's, by service or cluster name; ``tell`` takes
    the events.
    """

    __slots__ = ("_old", "_own", "_tell", "by_key")

    def __init__(
        self,
        previous: BreakerStates | None = None,
        tell: Callable[[Event], object] = id,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        self._old: dict[_Key, Breaker] = previous.by_key if previous is not None else {}
        self._tell = tell
        self._own = own or {}
        self.by_key: dict[_Key, Breaker] = {}

    def attach(self, state: ClusterState) -> None:
        """Give a cluster and its endpoints their breakers; again is harmless."""
        cluster = state.cluster
        for one in state.states:
            one.breaker = self._of_endpoint(cluster, one)
        # One assignment: the state may be in use.
        state.breaker = self._of_cluster(cluster)

    def _of_endpoint(self, cluster: Cluster, state: EndpointState) -> Breaker | None:
        settings = cluster.policy.circuit_breaker
        if settings is None or settings.per != "endpoint":
            return None
        scope = BreakerScope("endpoint", _service_of(cluster), cluster.name, state.key)
        return self._breaker(scope, settings)

    def _of_cluster(self, cluster: Cluster) -> Breaker | None:
        settings, service = cluster.policy.circuit_breaker, _service_of(cluster)
        own = self._own.get(cluster.name) or self._own.get(service)
        if own is not None:
            return self._own_breaker(cluster, settings, own)
        if settings is not None and settings.per == "service":
            return self._breaker(BreakerScope("service", service), settings)
        if settings is not None and settings.per == "subset":
            return self._breaker(BreakerScope("subset", service, cluster.name), settings)
        return None

    def install(self, table: RouteTable) -> None:
        """Give each route of ``table`` that has settings its breaker."""
        for host in table.hosts:
            for compiled in host.routes:
                settings = compiled.forward.circuit_breaker
                if settings is not None:
                    route = compiled.route.name or "(unnamed)"
                    scope = BreakerScope("route", host.virtual_host.name, route=route)
                    compiled.breaker = self._breaker(scope, settings)

    def seal(self) -> None:
        """Nothing more will be attached: forget what only the plane before used."""
        for key, breaker in self._old.items():
            if key not in self.by_key:
                breaker.circuit.leave()
        self._old = {}

    def leave(self) -> None:
        """The mesh is closed: the caller's own objects are as they were before."""
        for breaker in self.by_key.values():
            breaker.circuit.leave()

    def of(self, name: str) -> list[Breaker]:
        """Those of a service, or of one cluster."""
        return [
            breaker
            for (scope, _), breaker in self.by_key.items()
            if name in (scope.service, scope.cluster)
        ]

    def all(self) -> Iterable[Breaker]:
        """Every one."""
        return self.by_key.values()

    def _own_breaker(self, cluster: Cluster, settings: CircuitBreaker | None, own: Any) -> Breaker:
        """The policy's settings, as far as the object does not say otherwise."""
        merged = replace(
            settings or CircuitBreaker(),
            consecutive_failures=own.fail_max,
            open_for_s=own.reset_timeout,
            half_open_successes=own.success_threshold,
            per="service",
            shared=None,
        )
        named = cluster.name in self._own
        service = _service_of(cluster)
        scope = BreakerScope("subset", service, cluster.name)
        if not named or cluster.name == service:
            scope = BreakerScope("service", service)
        return self._breaker(scope, merged, own)

    def _breaker(self, scope: BreakerScope, settings: CircuitBreaker, own: Any = None) -> Breaker:
        key = (scope, settings)
        found = self.by_key.get(key) or self._old.get(key)
        if found is None:
            from meshclient.resilience.breaker import Breaker

            found = Breaker(settings, scope, self._tell, own)
        elif found.settings.source != settings.source:
            found.stands_at(settings)
        self.by_key[key] = found
        return found


def _service_of(cluster: Cluster) -> str:
    return cluster.service or cluster.name


__all__ = ["BreakerStates"]
