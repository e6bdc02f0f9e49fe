"""ROUND_ROBIN: every endpoint in turn, as often as its weight says.

Source: Envoy ``load_balancing_policies/round_robin``.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.edf import EdfScheduler
from meshclient.balancing.eligible import Eligibility
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
    """Unequal weights: earliest deadline first, O(log n), under a lock."""

    __slots__ = ("_next", "_scheduler", "_shares")
    policy = "round_robin"

    def __init__(
        self,
        eligibility: Eligibility,
        turns: Iterator[int],
        seed: int,
        previous: Balancer | None = None,
    ) -> None:
        super().__init__(eligibility, turns)
        states = self._states
        self._scheduler: EdfScheduler
        self._shares = tuple((state, state.weight) for state in states)
        # The same endpoints and weights: the schedule goes on where it was.
        if isinstance(previous, WeightedRoundRobin) and previous._shares == self._shares:
            self._scheduler = previous._scheduler
        else:
            self._scheduler = EdfScheduler(len(states), lambda index: states[index].weight, seed)
        self._next = self._scheduler.pick

    def pick(
        self,
        rand: Rand,  # noqa: ARG002
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        return self._states[self._next()]
