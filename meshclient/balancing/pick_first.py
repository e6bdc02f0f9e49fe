"""PICK_FIRST: one endpoint for all calls, until it goes or cannot be reached.

Knows the order of the endpoints and which one is in use. Weights, load and latency do
not matter. Source: gRPC ``pick_first`` (A62: sticky, shuffled addresses).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from xxhash import xxh64_intdigest

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.state import EndpointState
from meshclient.model.outcome import CONNECT_FAILURES, Outcome

#: On ``EndpointState.load``: the last connection to it failed.
UNREACHABLE = "unreachable"


class PickFirst(Balancer):
    """The endpoints in the order of discovery; the first one takes every call.

    It is left for the next one (after the last comes the first) when it is no longer
    among the eligible endpoints, or when a connection to it fails. Endpoints that could
    not be reached are passed over until one has answered again or none is left. The one
    in use stays in use when the list changes, as long as it is on it. A retry goes to
    the next endpoint that was not tried, without moving the others' calls.

    ``salt`` not None: the order is shuffled, the same way for one salt. No lock:
    what is in use is one reference, and two threads that leave the same endpoint
    both go to its successor.
    """

    __slots__ = ("_current", "_next")
    policy = "pick_first"

    def __init__(
        self,
        eligibility: Eligibility,
        turns: Iterator[int],
        salt: int | None = None,
        previous: Balancer | None = None,
    ) -> None:
        super().__init__(eligibility, turns)
        states = self._states
        if salt is not None:
            shuffled = sorted(states, key=lambda state: xxh64_intdigest(state.key.encode(), salt))
            states = tuple(shuffled)
            self._states = states
        self._next = dict(zip(states, (*states[1:], *states[:1]), strict=True))
        kept: EndpointState | None = None
        if isinstance(previous, PickFirst) and previous._current in self._next:
            kept = previous._current
        self._current: EndpointState | None = kept or (states[0] if states else None)

    def pick(
        self,
        rand: Rand,  # noqa: ARG002
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        state = self._current
        if state is None or state.load is None:
            return state
        return self._leave(state)

    def _leave(self, state: EndpointState) -> EndpointState:
        """What follows an endpoint that cannot be reached; with all of them like that, all
        get another chance."""
        for _ in self._next:
            state = self._next[state]
            if state.load is None:
                break
        else:
            for other in self._next:
                other.load = None
            state = self._next[state]
        self._current = state
        return state

    def pick_other(
        self,
        rand: Rand,
        tried: Collection[EndpointState],
        host_attempts: int,
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        state = self.pick(rand)
        if state is None:
            return None
        for _ in range(min(host_attempts, len(self._next))):
            if state not in tried:
                break
            state = self._next[state]
        return state

    def on_outcome(
        self,
        state: EndpointState,
        outcome: Outcome,
        started: float,  # noqa: ARG002
        now: float,  # noqa: ARG002
    ) -> None:
        """A connection that fails moves all calls on, an answer brings it back. Any thread."""
        if outcome.reset in CONNECT_FAILURES:
            state.load = UNREACHABLE
        elif outcome.status and state.load is not None:
            state.load = None


__all__ = ["UNREACHABLE", "PickFirst"]
