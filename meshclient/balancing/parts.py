"""From how a cluster stands to the balancer that serves it: its parts, and who chooses.

Builds; the arithmetic is in :mod:`meshclient.balancing.standing`, the picking in the
choosers and leaves. Control thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshclient.balancing.base import Balancer
from meshclient.balancing.chooser import Counted, Node, Plain, Sampled, chooser_for
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.leaves import LeafPlan, make_leaf
from meshclient.balancing.locality_weighted import LocalityWeighted, table_weights
from meshclient.balancing.memory import WHOLE, Memory, SourceKey
from meshclient.balancing.priority import Availability
from meshclient.balancing.standing import Standing
from meshclient.balancing.state import EndpointState
from meshclient.balancing.zone_aware import ZoneAware
from meshclient.model.endpoint import Locality


class Parts:
    """The parts of one version. ``before`` is what the version before left behind,
    ``seed`` is fresh, for schedules of places (Envoy draws one per rebuild, too)."""

    def __init__(self, standing: Standing, before: Memory, seed: int) -> None:
        self._standing = standing
        self._before = before
        self._seed = seed
        self._leaves: dict[SourceKey, Balancer] = {}
        self.memory = before.successor()

    def balancer(self) -> Balancer:
        """A single leaf where there is nothing to choose, else a chooser over parts."""
        standing = self._standing
        table = standing.loads.table()
        nodes: dict[tuple[int, Availability], Node] = {
            part: self._node(*part) for part in dict.fromkeys(table)
        }
        only = next(iter(nodes.values()))
        balancer: Balancer
        if len(nodes) == 1 and isinstance(only, Plain):
            balancer = only.leaf
        else:
            policy = standing.cluster.policy.load_balancing.policy
            make = chooser_for(policy, hashes=standing.hashes)
            balancer = make(
                Eligibility(standing.all_states, self._served(), standing),
                self._before.turns_of(WHOLE),
                policy,
                [nodes[part] for part in table],
                tuple(self._leaves.values()),
            )
        balancer.memory = self.memory
        balancer.salt = self.memory.seed
        return balancer

    def _served(self) -> list[EndpointState]:
        served = {s: None for leaf in self._leaves.values() for s in leaf.served}
        return list(served)

    def _node(self, priority: int, availability: Availability) -> Node:
        standing = self._standing
        panic = standing.loads.panic[priority]
        host_set = standing.sets[priority]
        if standing.hashes:
            leaf = self._table(priority, panic=panic)
            return self._panicking(leaf) if panic else Plain(leaf)
        topology = standing.cluster.policy.topology
        fails = topology.locality == "zone_aware" and topology.fail_traffic_on_panic
        if panic:
            return self._panicking(
                self._leaf((priority, "all", None), () if fails else host_set.hosts)
            )
        shares = standing.effective(priority, availability)
        if shares:
            return self._weighted(priority, availability, shares)
        if priority == 0 and topology.locality == "zone_aware":
            return self._zone_node(availability, fails=fails)
        return Plain(self._plain_leaf(priority, availability))

    def _panicking(self, leaf: Balancer) -> Node:
        if not self._standing.states:  # an empty cluster has nothing to panic about
            return Plain(leaf)
        return Counted(leaf, self.memory.stats, "lb_healthy_panic")

    def _plain_leaf(self, priority: int, availability: Availability) -> Balancer:
        host_set = self._standing.sets[priority]
        states = host_set.healthy if availability == "healthy" else host_set.degraded
        return self._leaf((priority, availability, None), states)

    def _table(self, priority: int, *, panic: bool) -> Balancer:
        """Hash tables hold the healthy endpoints, in panic all; never degraded ones."""
        host_set = self._standing.sets[priority]
        weights = self._standing.weights.get(priority)
        states, shares = host_set.hosts if panic else host_set.healthy, None
        if weights:
            states, shares = table_weights(host_set, weights, panic=panic)
        return self._leaf((priority, "all" if panic else "healthy", None), states, shares)

    def _weighted(
        self, priority: int, availability: Availability, shares: list[tuple[Locality, float]]
    ) -> Node:
        leaves = self._place_leaves(priority, availability, {locality for locality, _ in shares})
        key = ("places", (priority, availability, None))
        node = LocalityWeighted(shares, leaves, self._seed, self._before.nodes.get(key))
        self.memory.nodes[key] = node
        return node

    def _place_leaves(
        self, priority: int, availability: Availability, wanted: set[Locality] | None = None
    ) -> list[Balancer]:
        return [
            self._leaf(
                (priority, availability, locality),
                group.healthy if availability == "healthy" else group.degraded,
            )
            for locality, group in self._standing.sets[priority].places
            if wanted is None or locality in wanted
        ]

    def _zone_node(self, availability: Availability, *, fails: bool) -> Node:
        standing, stats = self._standing, self.memory.stats
        plain = self._plain_leaf(0, availability)
        stats.bump("lb_recalculate_zone_structures")
        if standing.zones is None:
            if standing.hindrance.startswith("lb_"):
                stats.bump(standing.hindrance)
            return Plain(plain)
        node: Node
        if standing.local_panic:
            refusing = self._leaf((0, "all", None), ()) if fails else plain
            node = Counted(refusing, stats, "lb_local_cluster_not_ok")
        else:
            node = ZoneAware(standing.zones, self._place_leaves(0, availability), stats)
        # Envoy rounds the percentage to a whole one.
        percent = int(standing.cluster.policy.topology.routing_enabled_percent + 0.5)
        return node if percent >= 100 else Sampled(percent, node, Plain(plain))

    def _leaf(
        self,
        key: SourceKey,
        states: Sequence[EndpointState],
        weights: tuple[float, ...] | None = None,
    ) -> Balancer:
        leaf = self._leaves.get(key)
        if leaf is None:
            standing = self._standing
            plan = LeafPlan(
                standing.cluster.policy.load_balancing,
                Eligibility(standing.all_states, states, standing),
                self._before.turns_of(key),
                self._before.seed,
                standing.now,
                self._before.nodes.get(("leaf", key)),
                standing.slow_start,
                weights,
            )
            leaf = self._leaves[key] = self.memory.nodes["leaf", key] = make_leaf(plan)
        return leaf


__all__ = ["Parts"]
