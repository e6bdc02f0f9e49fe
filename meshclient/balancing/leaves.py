"""The policy that picks among the endpoints of one part of a cluster, from its settings.

One line per policy; what the parts are is decided in :mod:`meshclient.balancing.parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshclient.balancing.base import Balancer
from meshclient.balancing.client_side_weighted import ClientSideWeighted
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.hash_pick import HashPick
from meshclient.balancing.least_request import FullScan, LeastRequest, WeightedLeastRequest
from meshclient.balancing.peak_ewma import PeakEwma
from meshclient.balancing.pick_first import PickFirst
from meshclient.balancing.random_pick import RandomPick
from meshclient.balancing.round_robin import RoundRobin, WeightedRoundRobin
from meshclient.balancing.single import Single
from meshclient.balancing.slow_start import SlowStart
from meshclient.model.load_balancing import HASH_POLICIES, LoadBalancing


class LeafPlan:
    """What a policy is made from.

    ``eligibility.states`` are the endpoints it serves. ``seed`` lasts as long as the
    cluster's policy. ``weights``: shares of the whole that replace the endpoints' own
    weights, in the order of the states; only for hash policies, None where places do not
    matter. ``previous`` served the same part before. ``slow_start``: None unless somebody
    is in its window.
    """

    __slots__ = (
        "eligibility",
        "now",
        "previous",
        "seed",
        "settings",
        "slow_start",
        "turns",
        "weights",
    )

    def __init__(
        self,
        settings: LoadBalancing,
        eligibility: Eligibility,
        turns: Iterator[int],
        seed: int,
        now: float,
        previous: Balancer | None = None,
        slow_start: SlowStart | None = None,
        weights: tuple[float, ...] | None = None,
    ) -> None:
        self.settings = settings
        self.eligibility = eligibility
        self.turns = turns
        self.seed = seed
        self.now = now
        self.previous = previous
        self.slow_start = slow_start
        self.weights = weights

    @property
    def scheduled(self) -> bool:
        """Whether endpoints differ in what they shall get."""
        return self.slow_start is not None or not self.eligibility.equal_weights()


def _round_robin(plan: LeafPlan) -> Balancer:
    if not plan.scheduled:
        return RoundRobin(plan.eligibility, plan.turns)
    return WeightedRoundRobin(
        plan.eligibility, plan.turns, plan.seed, plan.previous, plan.slow_start
    )


def _least_request(plan: LeafPlan) -> Balancer:
    settings = plan.settings
    if plan.scheduled:
        bias_milli = settings.active_request_bias_milli
        return WeightedLeastRequest(
            plan.eligibility, plan.turns, plan.seed, bias_milli, plan.previous, plan.slow_start
        )
    if settings.full_scan:
        return FullScan(plan.eligibility, plan.turns)
    return LeastRequest(plan.eligibility, plan.turns, settings.choice_count)


def _random(plan: LeafPlan) -> Balancer:
    return RandomPick(plan.eligibility, plan.turns)


def _peak_ewma(plan: LeafPlan) -> Balancer:
    return PeakEwma(plan.eligibility, plan.turns, plan.settings.peak_ewma, plan.now)


def _client_side_weighted(plan: LeafPlan) -> Balancer:
    return ClientSideWeighted(
        plan.eligibility,
        plan.turns,
        plan.seed,
        plan.settings.orca,
        plan.now,
        plan.previous,
        plan.slow_start,
    )


def _pick_first(plan: LeafPlan) -> Balancer:
    salt = plan.seed if plan.settings.shuffle_address_list else None
    return PickFirst(plan.eligibility, plan.turns, salt, plan.previous)


def _by_hash(plan: LeafPlan) -> Balancer:
    return HashPick(plan.eligibility, plan.turns, plan.settings, plan.weights, plan.previous)


#: By name; any other policy is served as least_request, Istio's default.
POLICIES: dict[str, Callable[[LeafPlan], Balancer]] = {
    "round_robin": _round_robin,
    "least_request": _least_request,
    "random": _random,
    "peak_ewma": _peak_ewma,
    "client_side_weighted_round_robin": _client_side_weighted,
    "pick_first": _pick_first,
    "ring_hash": _by_hash,
    "maglev": _by_hash,
}


def make_leaf(plan: LeafPlan) -> Balancer:
    """The policy over the part; with one endpoint or none, there is nothing to balance."""
    # A hash policy asks for the request's hash even so: that may make the caller a cookie.
    if len(plan.eligibility.states) < 2 and plan.settings.policy not in HASH_POLICIES:
        return Single(plan.eligibility, plan.turns, plan.settings.policy)
    return POLICIES.get(plan.settings.policy, _least_request)(plan)


__all__ = ["POLICIES", "LeafPlan", "make_leaf"]
