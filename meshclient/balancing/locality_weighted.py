"""Locality weighting: each place of a priority gets the share that its weight says.

Chooses the place; a leaf policy per place chooses the endpoint.
Source: Envoy ``load_balancing_policies/common/locality_wrr.cc``; for hash tables
``thread_aware_lb_impl.cc`` ``normalizeLocalityWeights``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshclient.balancing.base import Balancer, Rand
from meshclient.balancing.edf import EdfScheduler
from meshclient.balancing.host_set import HostSet
from meshclient.balancing.priority import Availability
from meshclient.balancing.state import EndpointState
from meshclient.model.endpoint import Locality

Weights = Mapping[Locality, int]


def effective_weights(
    host_set: HostSet, availability: Availability, weights: Weights, factor: int
) -> list[tuple[Locality, float]]:
    """weight * min(1, factor / 100 * available / counted) per locality, those above 0.

    ``factor`` is the overprovisioning factor in percent. A locality without a weight has 0.
    """
    found = []
    for locality, group in host_set.places:
        if not group.counted:
            continue
        available = len(group.healthy if availability == "healthy" else group.degraded)
        ratio = min(1.0, (factor / 100.0) * (1.0 * available / group.counted))
        weight = weights.get(locality, 0) * ratio
        if weight > 0:
            found.append((locality, weight))
    return found


class LocalityWeighted:
    """Earliest deadline first over places. The schedule of ``previous`` goes on if the
    places and their effective weights are the same."""

    __slots__ = ("_leaves", "_scheduler", "shares")

    def __init__(
        self,
        shares: Sequence[tuple[Locality, float]],
        leaves: Sequence[Balancer],
        seed: int,
        previous: object = None,
    ) -> None:
        self.shares = tuple(shares)
        self._leaves = tuple(leaves)
        self._scheduler: EdfScheduler
        if isinstance(previous, LocalityWeighted) and previous.shares == self.shares:
            self._scheduler = previous._scheduler
        else:
            weights = [weight for _, weight in shares]
            self._scheduler = EdfScheduler(len(weights), weights.__getitem__, seed)

    def choose(self, rand: Rand) -> Balancer:  # noqa: ARG002
        """The leaf of the place whose turn it is. Nothing is drawn."""
        return self._leaves[self._scheduler.pick()]


def table_weights(
    host_set: HostSet, weights: Weights, *, panic: bool
) -> tuple[tuple[EndpointState, ...], tuple[float, ...]]:
    """Endpoints by place with their share of the whole, for hash tables.

    Not adjusted by health, unlike :func:`effective_weights`; a place without a weight
    is not in the table, and one without endpoints still takes its part of the sum.
    """
    total = sum(weights.get(locality, 0) for locality, _ in host_set.places)
    states: list[EndpointState] = []
    shares: list[float] = []
    for locality, group in host_set.places:
        weight = weights.get(locality, 0)
        hosts = group.hosts if panic else group.healthy
        if not weight or not hosts:
            continue
        share = weight / total
        inside = sum(state.weight for state in hosts)
        states += hosts
        shares += [state.weight * share / inside for state in hosts]
    return tuple(states), tuple(shares)


__all__ = ["LocalityWeighted", "Weights", "effective_weights", "table_weights"]
