"""How a cluster stands at one moment: its endpoints by priority, health and place, and
the loads that follow.

Computes and describes; builds no balancer and picks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshclient.balancing.candidate import Candidate
from meshclient.balancing.host_set import HostSet, host_sets
from meshclient.balancing.locality_weighted import Weights, effective_weights
from meshclient.balancing.panic import in_panic
from meshclient.balancing.priority import Availability, spread
from meshclient.balancing.slow_start import SlowStart
from meshclient.balancing.state import EndpointState
from meshclient.balancing.zone_aware import ZoneShares, obstacle, zone_shares
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import Locality
from meshclient.model.health import (
    DEGRADED,
    EDS_STATUS_DRAINING,
    FAILED_ACTIVE_HC,
    FAILED_OUTLIER_CHECK,
    UNHEALTHY,
)
from meshclient.model.load_balancing import HASH_POLICIES

_WHY = (
    (EDS_STATUS_DRAINING, "draining"),
    (FAILED_OUTLIER_CHECK, "ejected"),
    (FAILED_ACTIVE_HC, "fails its health checks"),
)


class Standing:
    """``local``: the endpoints of the caller's own service, for zone-aware routing.

    ``hindrance`` is why zones are not weighed (see ``zone_aware.obstacle``).
    """

    __slots__ = (
        "all_states",
        "cluster",
        "hashes",
        "hindrance",
        "loads",
        "local_panic",
        "now",
        "sets",
        "slow_start",
        "states",
        "weights",
        "zones",
    )

    def __init__(
        self,
        cluster: Cluster,
        states: Sequence[EndpointState],
        node: Locality,
        local: Sequence[EndpointState] | None,
        slow_start: SlowStart | None,
        now: float,
    ) -> None:
        policy = cluster.policy
        topology = policy.topology
        self.cluster = cluster
        self.states = self.all_states = tuple(states)
        self.now = now
        self.slow_start = slow_start
        self.hashes = policy.load_balancing.policy in HASH_POLICIES
        self.sets = host_sets(self.states, node, places=bool(topology.locality))
        self.loads = spread(self.sets, topology, policy.panic_threshold_percent)
        self.zones: ZoneShares | None = None
        self.hindrance = ""
        self.local_panic = False
        self.weights: dict[int, Weights] = {}
        if topology.locality == "locality_weighted":
            for weight in cluster.locality_weights:
                by_place = self.weights.setdefault(weight.priority, {})
                by_place[weight.locality] = weight.weight  # type: ignore[index]
        elif topology.locality == "zone_aware":
            self._compare_zones(node, local)

    def _compare_zones(self, node: Locality, local: Sequence[EndpointState] | None) -> None:
        own = None
        if local is not None:
            # Envoy knows no priorities in the caller's own cluster.
            own = HostSet(0, local)
            own.place(node)
        topology = self.cluster.policy.topology
        self.hindrance = obstacle(self.sets[0], own, topology)
        if own is not None and not self.hindrance:
            self.zones = zone_shares(self.sets[0], own, topology)
            self.local_panic = in_panic(own, min(100, self.cluster.policy.panic_threshold_percent))

    def effective(self, priority: int, availability: Availability) -> list[tuple[Locality, float]]:
        """Localities with a share of one priority's load; empty: places do not matter."""
        weights = self.weights.get(priority)
        if not weights:
            return []
        factor = self.cluster.policy.topology.overprovisioning_factor
        return effective_weights(self.sets[priority], availability, weights, factor)

    def place_loads(self, priority: int, availability: Availability) -> dict[Locality, float]:
        """Percent of one priority's load per locality; empty: places do not matter."""
        if self.loads.panic[priority]:
            return {}
        if self.zones is not None and priority == 0 and not self.local_panic:
            places = [locality for locality, _ in self.sets[0].places]
            return dict(zip(places, self.zones.percents(), strict=True))
        shares = self.effective(priority, availability)
        total = sum(weight for _, weight in shares)
        return {locality: 100 * weight / total for locality, weight in shares}

    def candidates(self) -> list[Candidate]:
        """Every endpoint, with its share and with why it is excluded."""
        places: dict[tuple[int, Availability], dict[Locality, float]] = {}
        for host_set in self.sets:
            places[host_set.priority, "healthy"] = self.place_loads(host_set.priority, "healthy")
            places[host_set.priority, "degraded"] = self.place_loads(host_set.priority, "degraded")
        served = set(self.states)
        return [
            self._candidate(state, places)
            if state in served
            else Candidate(state, "not in the part of the cluster that this process uses")
            for state in self.all_states
        ]

    def _candidate(
        self,
        state: EndpointState,
        places: dict[tuple[int, Availability], dict[Locality, float]],
    ) -> Candidate:
        candidate = Candidate(state)
        if self.slow_start is not None:
            candidate.effective_weight *= self.slow_start.factor(state, self.now)
        priority = state.endpoint.priority
        availability: Availability = "degraded" if self._is_degraded(state) else "healthy"
        loads = self.loads.degraded if availability == "degraded" else self.loads.healthy
        candidate.panic = self.loads.panic[priority]
        candidate.priority_load = loads[priority]
        if candidate.panic:
            candidate.priority_load = self.loads.healthy[priority] + self.loads.degraded[priority]
        by_place = places[priority, availability]
        if by_place:
            candidate.locality_load = by_place.get(state.endpoint.locality, 0.0)
        candidate.excluded = self._why_not(candidate, availability)
        return candidate

    def _is_degraded(self, state: EndpointState) -> bool:
        return bool(state.flags & DEGRADED) and not state.flags & UNHEALTHY

    def _why_not(self, candidate: Candidate, availability: Availability) -> str:
        state = candidate.state
        topology = self.cluster.policy.topology
        if candidate.panic and candidate.priority_load:
            fails = topology.locality == "zone_aware" and topology.fail_traffic_on_panic
            return "its priority panics, and fail_traffic_on_panic is set" if fails else ""
        if state.flags & UNHEALTHY:
            return next((why for flag, why in _WHY if state.flags & flag), "unhealthy")
        if availability == "degraded" and self.hashes:
            return "degraded endpoints are in no hash table"
        if not candidate.priority_load:
            if availability == "degraded" and any(self.loads.healthy):
                return "degraded, and healthy endpoints take the whole load"
            return f"priority {candidate.priority}; others take the whole load"
        if candidate.locality_load == 0.0:
            return f"locality {candidate.locality or 'unknown'} gets no share"
        return ""


__all__ = ["Standing"]
