"""The endpoints of one priority, by health and by place.

Partition only: how load is spread over the parts is the business of
:mod:`meshclient.balancing.priority` and the locality modules. Made once per version of a
cluster, never per call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from meshclient.balancing.state import EndpointState
from meshclient.model.endpoint import NO_LOCALITY, Locality
from meshclient.model.health import DEGRADED, EXCLUDED, UNHEALTHY

_NOT_HEALTHY = UNHEALTHY | DEGRADED
_BY_NAME = attrgetter("region", "zone", "sub_zone")


def is_healthy(state: EndpointState) -> bool:
    """Neither unhealthy nor degraded."""
    return not state.flags & _NOT_HEALTHY


class Group:
    """Some endpoints and their healthy and degraded ones, all in the order of the cluster.

    ``excluded`` counts those that denominators leave out (Envoy's excluded hosts).
    Source: Envoy ``upstream_impl.cc`` ``partitionHosts``.
    """

    __slots__ = ("degraded", "excluded", "healthy", "hosts")

    def __init__(self, hosts: Iterable[EndpointState]) -> None:
        self.hosts = tuple(hosts)
        self.healthy = self.hosts
        self.degraded: tuple[EndpointState, ...] = ()
        self.excluded: tuple[EndpointState, ...] = ()
        if any(s.flags for s in self.hosts):
            alive = [s for s in self.hosts if not s.flags & UNHEALTHY]
            self.healthy = tuple(s for s in alive if not s.flags & DEGRADED)
            self.degraded = tuple(s for s in alive if s.flags & DEGRADED)
            self.excluded = tuple(s for s in self.hosts if s.flags & EXCLUDED)

    @property
    def counted(self) -> int:
        """Endpoints in the denominators of health."""
        return len(self.hosts) - len(self.excluded)


class HostSet(Group):
    """One priority. ``places`` are its endpoints by locality: the caller's own first
    where it has any (``has_local``), the others by name, as in Envoy; empty when
    nobody asked for them."""

    __slots__ = ("has_local", "places", "priority")

    def __init__(self, priority: int, hosts: Iterable[EndpointState]) -> None:
        super().__init__(hosts)
        self.priority = priority
        self.places: tuple[tuple[Locality, Group], ...] = ()
        self.has_local = False

    def place(self, node: Locality) -> None:
        """Sort the endpoints by locality. ``node`` is the caller's own, if known.

        Source: Envoy ``upstream_impl.cc`` ``updateClusterPrioritySet``.
        """
        found: dict[Locality, list[EndpointState]] = {}
        for state in self.hosts:
            found.setdefault(state.endpoint.locality, []).append(state)
        self.has_local = node != NO_LOCALITY and node in found
        order = sorted(found, key=_BY_NAME)
        if self.has_local:
            order.remove(node)
            order.insert(0, node)
        self.places = tuple((locality, Group(found[locality])) for locality in order)


def host_sets(
    states: Sequence[EndpointState], node: Locality, *, places: bool
) -> tuple[HostSet, ...]:
    """One set per priority from 0 to the highest in use; those between may be empty,
    and there is always one."""
    by_priority: dict[int, list[EndpointState]] = {}
    for state in states:
        by_priority.setdefault(state.endpoint.priority, []).append(state)
    highest = max(by_priority, default=0)
    sets = tuple(HostSet(p, by_priority.get(p, ())) for p in range(highest + 1))
    if places:
        for host_set in sets:
            host_set.place(node)
    return sets


__all__ = ["Group", "HostSet", "host_sets", "is_healthy"]
