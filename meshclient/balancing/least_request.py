"""LEAST_REQUEST: of a few endpoints drawn at random, or of all, the least busy.

Source: Envoy ``load_balancing_policies/least_request``; Mitzenmacher, "The
Power of Two Choices in Randomized Load Balancing".
"""

from __future__ import annotations

from collections.abc import Iterator

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.edf import EdfScheduler, Weight
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.round_robin import same_pace
from meshclient.balancing.slow_start import SlowStart
from meshclient.balancing.state import EndpointState

#: More changes no order, and 2**31 requests in flight to this power are still a float.
_MAX_BIAS = 30.0


class LeastRequest(Balancer):
    """Equal weights: ``choice_count`` draws with replacement (at least 2); a
    later draw wins only with strictly fewer requests in flight. No lock."""

    __slots__ = ("_further",)
    policy = "least_request"

    def __init__(self, eligibility: Eligibility, turns: Iterator[int], choice_count: int) -> None:
        super().__init__(eligibility, turns)
        self._further = range(max(2, choice_count) - 1)

    def pick(
        self,
        rand: Rand,
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        states = self._states
        count = len(states)
        best = states[rand() % count]
        for _ in self._further:
            other = states[rand() % count]
            if len(other.in_flight) < len(best.in_flight):
                best = other
        return best


class FullScan(Balancer):
    """Equal weights, every endpoint looked at: the least busy one, drawn among those
    that tie. O(n), no lock.

    Envoy draws once per tie met on the way (a reservoir); one draw among all that tie
    has the same distribution.
    """

    __slots__ = ("_flights",)
    policy = "least_request"

    def __init__(self, eligibility: Eligibility, turns: Iterator[int]) -> None:
        super().__init__(eligibility, turns)
        self._flights = [state.in_flight for state in self._states]

    def pick(
        self,
        rand: Rand,
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        loads = list(map(len, self._flights))
        least = min(loads)
        at = loads.index(least)
        for _ in range(rand() % loads.count(least)):
            at = loads.index(least, at + 1)
        return self._states[at]


class WeightedLeastRequest(Balancer):
    """Unequal weights, or a slow start: earliest deadline first with
    weight / (active + 1) ** bias, taken when an endpoint was just picked.

    ``bias_milli`` is in thousandths; 0 ignores the load, a negative value
    counts as 1000. The schedule of ``previous`` goes on if the endpoints, their weights
    and the settings are the same. O(log n), under a lock.
    """

    __slots__ = ("_next", "_scheduler", "_shares", "_slow_start", "refresh_at")
    policy = "least_request"

    def __init__(
        self,
        eligibility: Eligibility,
        turns: Iterator[int],
        seed: int,
        bias_milli: int,
        previous: Balancer | None = None,
        slow_start: SlowStart | None = None,
    ) -> None:
        super().__init__(eligibility, turns)
        states = self._states
        self._shares = (bias_milli, tuple((state, state.weight) for state in states))
        before = previous if isinstance(previous, WeightedLeastRequest) else None
        self._slow_start: SlowStart | None = slow_start
        self._scheduler: EdfScheduler
        if (
            before is not None
            and before._shares == self._shares
            and same_pace(before._slow_start, slow_start)
        ):
            self._slow_start, self._scheduler = before._slow_start, before._scheduler
        else:
            weight = _paced(states, _load_weight(states, bias_milli), slow_start)
            self._scheduler = EdfScheduler(len(states), weight, seed)
        self._next = self._scheduler.pick
        self.refresh_at = None if slow_start is None else slow_start.until

    def pick(
        self,
        rand: Rand,  # noqa: ARG002
        now: float = 0.0,
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        slow_start = self._slow_start
        if slow_start is not None:
            slow_start.now = now
        return self._states[self._next()]


def _load_weight(states: tuple[EndpointState, ...], bias_milli: int) -> Weight:
    if bias_milli == 0:
        return lambda index: states[index].weight
    bias = min(bias_milli / 1000, _MAX_BIAS) if bias_milli > 0 else 1.0

    def plain(index: int) -> float:
        state = states[index]
        return state.weight / (len(state.in_flight) + 1)

    if bias == 1.0:
        return plain

    def weight(index: int) -> float:
        state = states[index]
        busy: float = (len(state.in_flight) + 1) ** bias
        return state.weight / busy

    return weight


def _paced(
    states: tuple[EndpointState, ...], weight: Weight, slow_start: SlowStart | None
) -> Weight:
    if slow_start is None:
        return weight
    factor = slow_start.factor
    return lambda index: weight(index) * factor(states[index])


__all__ = ["FullScan", "LeastRequest", "WeightedLeastRequest"]
