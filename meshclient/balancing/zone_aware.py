"""Zone-aware routing: calls stay in the caller's place as far as its capacity goes.

Compares where the callers (the endpoints of the caller's own service) and the endpoints
are. Chooses the place; a leaf policy per place chooses the endpoint.
Source: Envoy ``load_balancer_impl.cc`` ``regenerateLocalityRoutingStructures``,
``earlyExitNonLocalityRouting``, ``tryChooseLocalLocalityHosts``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from meshclient.balancing.base import Balancer, Rand
from meshclient.balancing.host_set import Group, HostSet
from meshclient.balancing.stats import Stats
from meshclient.model.endpoint import Locality
from meshclient.model.load_balancing import Topology

#: Shares are whole ten-thousandths.
_WHOLE = 10_000


class ZoneShares:
    """Where calls go: ``local`` ten-thousandths of them stay in the first place; the
    others are spread by ``residual``, the spare capacity of each place."""

    __slots__ = ("direct", "local", "residual")

    def __init__(self, local: int, residual: list[int], *, direct: bool) -> None:
        self.local = local
        self.residual = residual
        self.direct = direct

    def percents(self) -> list[float]:
        """The expected percent of each place."""
        if self.direct:
            return [100.0] + [0.0] * (len(self.residual) - 1)
        total = sum(self.residual)
        across = 100 - self.local / 100
        parts = [r / total for r in self.residual] if total else None
        count = len(self.residual)
        found = [across * (parts[i] if parts else 1 / count) for i in range(count)]
        found[0] += self.local / 100
        return found


def obstacle(host_set: HostSet, local: HostSet | None, topology: Topology) -> str:
    """Envoy's statistic for why places cannot be weighed; ``plain``: there is nothing to
    weigh; empty: they can."""
    if local is None or host_set.priority or len(host_set.places) < 2:
        return "plain"
    if topology.force_local_zone_min_size is None and len(local.places) < 2:
        return "plain"
    if not local.has_local:
        return "lb_local_cluster_not_ok"
    if len(host_set.healthy) < topology.min_cluster_size:
        return "lb_zone_cluster_too_small"
    return ""


def zone_shares(host_set: HostSet, local: HostSet, topology: Topology) -> ZoneShares:
    """Callers' and endpoints' shares of every place, compared."""
    by_weight = topology.locality_basis == "healthy_hosts_weight"
    callers = _shares(local.places, by_weight=by_weight)
    endpoints = _shares(host_set.places, by_weight=by_weight)
    # A place without a healthy endpoint is unknown to Envoy: both of its shares are 0.
    pairs = [
        (callers.get(locality, 0), endpoints[locality]) if group.healthy else (0, 0)
        for locality, group in host_set.places
    ]
    residual = [max(0, there - here) for here, there in pairs]
    if not host_set.has_local:
        return ZoneShares(0, residual, direct=False)
    here, there = pairs[0]
    least = topology.force_local_zone_min_size
    forced = least is not None and len(host_set.places[0][1].healthy) >= least
    if (there > 0 and there >= here) or forced:
        return ZoneShares(_WHOLE, residual, direct=True)
    residual[0] = 0
    return ZoneShares(there * _WHOLE // here if here else 0, residual, direct=False)


def _shares(places: Sequence[tuple[Locality, Group]], *, by_weight: bool) -> dict[Locality, int]:
    sizes = {
        locality: sum(s.weight for s in group.healthy) if by_weight else len(group.healthy)
        for locality, group in places
    }
    total = sum(sizes.values())
    return {locality: _WHOLE * size // total if total else 0 for locality, size in sizes.items()}


class ZoneAware:
    """Sampled anew at every pick. ``leaves`` are in the order of the places."""

    __slots__ = ("_across", "_direct", "_full", "_leaves", "_residual", "_sampled", "_shares")

    def __init__(self, shares: ZoneShares, leaves: Sequence[Balancer], stats: Stats) -> None:
        self._shares = shares
        self._leaves = tuple(leaves)
        self._residual = list(accumulate(shares.residual))
        self._direct = stats.counter("lb_zone_routing_all_directly")
        self._sampled = stats.counter("lb_zone_routing_sampled")
        self._across = stats.counter("lb_zone_routing_cross_zone")
        self._full = stats.counter("lb_zone_no_capacity_left")

    def choose(self, rand: Rand) -> Balancer:
        """The leaf of the place that this call goes to. Two draws at most."""
        if self._shares.direct:
            self._direct()
            return self._leaves[0]
        if rand() % _WHOLE < self._shares.local:
            self._sampled()
            return self._leaves[0]
        self._across()
        total = self._residual[-1]
        if not total:
            self._full()
            return self._leaves[rand() % len(self._leaves)]
        return self._leaves[bisect_right(self._residual, rand() % total)]


__all__ = ["ZoneAware", "ZoneShares", "obstacle", "zone_shares"]
