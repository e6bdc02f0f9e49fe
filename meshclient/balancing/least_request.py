"""LEAST_REQUEST: of a few endpoints drawn at random, the least busy.

Source: Envoy ``load_balancing_policies/least_request``; Mitzenmacher, "The
Power of Two Choices in Randomized Load Balancing".
"""

from __future__ import annotations

from collections.abc import Iterator

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.edf import EdfScheduler, Weight
from meshclient.balancing.eligible import Eligibility
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


class WeightedLeastRequest(Balancer):
    """Unequal weights: earliest deadline first with
    weight / (active + 1) ** bias, taken when an endpoint was just picked.

    ``bias_milli`` is in thousandths; 0 ignores the load, a negative value
    counts as 1000. O(log n), under a lock.
    """

    __slots__ = ("_next",)
    policy = "least_request"

    def __init__(
        self, eligibility: Eligibility, turns: Iterator[int], seed: int, bias_milli: int
    ) -> None:
        super().__init__(eligibility, turns)
        states = self._states
        self._next = EdfScheduler(len(states), _load_weight(states, bias_milli), seed).pick

    def pick(
        self,
        rand: Rand,  # noqa: ARG002
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        return self._states[self._next()]


def _load_weight(states: tuple[EndpointState, ...], bias_milli: int) -> Weight:
    if bias_milli == 0:
        return lambda index: states[index].weight
    bias = min(bias_milli / 1000, _MAX_BIAS) if bias_milli > 0 else 1.0

    def weight(index: int) -> float:
        state = states[index]
        busy: float = (len(state.in_flight) + 1) ** bias
        return state.weight / busy

    return weight
