"""ROUND_ROBIN: every endpoint in turn, as often as its weight says.

Source: Envoy ``load_balancing_policies/round_robin``.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.edf import EdfScheduler, Weight
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.slow_start import SlowStart
from meshclient.balancing.state import EndpointState


class RoundRobin(Balancer):
    """Equal weights: index = turn mod count. Nothing is drawn.

    ``turns`` is an ``itertools.count`` from a random seed; ``next`` on it is
    one atomic step, so no lock is needed, and no turn is taken twice.
    """

    __slots__ = ()
    policy = "round_robin"

    def pick(
        self,
        rand: Rand,  # noqa: ARG002
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        states = self._states
        return states[next(self.turns) % len(states)]


class WeightedRoundRobin(Balancer):
    """Unequal weights, or a slow start: earliest deadline first, O(log n), under a lock.

    Weights are read when an endpoint was just picked. The schedule of ``previous`` goes
    on if the endpoints, their weights and the slow start are the same.
    """

    __slots__ = ("_next", "_scheduler", "_shares", "_slow_start", "refresh_at")
    policy = "round_robin"

    def __init__(
        self,
        eligibility: Eligibility,
        turns: Iterator[int],
        seed: int,
        previous: Balancer | None = None,
        slow_start: SlowStart | None = None,
    ) -> None:
        super().__init__(eligibility, turns)
        states = self._states
        self._shares = tuple((state, state.weight) for state in states)
        before = previous if isinstance(previous, WeightedRoundRobin) else None
        self._slow_start: SlowStart | None = slow_start
        self._scheduler: EdfScheduler
        if before is not None and before._goes_on(self._shares, slow_start):
            self._slow_start, self._scheduler = before._slow_start, before._scheduler
        else:
            self._scheduler = EdfScheduler(len(states), _weight(states, slow_start), seed)
        self._next = self._scheduler.pick
        self.refresh_at = None if slow_start is None else slow_start.until

    def _goes_on(
        self, shares: tuple[tuple[EndpointState, int], ...], slow_start: SlowStart | None
    ) -> bool:
        return self._shares == shares and same_pace(self._slow_start, slow_start)

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


def same_pace(one: SlowStart | None, two: SlowStart | None) -> bool:
    """Whether two slow starts weigh alike; None: there is none."""
    if one is None or two is None:
        return one is two
    return one.settings == two.settings


def _weight(states: tuple[EndpointState, ...], slow_start: SlowStart | None) -> Weight:
    if slow_start is None:
        return lambda index: states[index].weight
    factor = slow_start.factor

    def weight(index: int) -> float:
        state = states[index]
        return state.weight * factor(state)

    return weight


__all__ = ["RoundRobin", "WeightedRoundRobin", "same_pace"]
