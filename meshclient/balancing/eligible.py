"""Which endpoints of a cluster may get traffic: health and priority.

Decided once per version of the cluster, never per call. Which of the eligible
ones is picked is the policies' business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshclient.balancing.state import EndpointState

_OUT = ("unhealthy", "draining")


class Eligibility:
    """The eligible endpoints of ``all_states``, in their order.

    Unhealthy and draining endpoints are out. The healthy ones of the lowest
    priority number that has any are in; only if no priority has a healthy
    one, the degraded ones of the lowest priority that has any: Envoy, too,
    hands out the load of all healthy tiers before that of degraded ones.
    """

    __slots__ = ("all_states", "states", "tier", "wanted")

    def __init__(self, all_states: Sequence[EndpointState]) -> None:
        self.all_states = tuple(all_states)
        for wanted in ("healthy", "degraded"):
            alive = [s for s in self.all_states if s.endpoint.health == wanted]
            if alive:
                break
        self.wanted = wanted
        self.tier = min((s.endpoint.priority for s in alive), default=0)
        self.states = tuple(s for s in alive if s.endpoint.priority == self.tier)

    def equal_weights(self) -> bool:
        """Whether a weighted pick would be a waste."""
        return len({state.weight for state in self.states}) < 2

    def verdicts(self) -> list[tuple[EndpointState, str]]:
        """Every endpoint with why it is excluded; empty text: it is not."""
        inside = set(self.states)
        why: Callable[[EndpointState], str] = self._why
        return [(s, "" if s in inside else why(s)) for s in self.all_states]

    def _why(self, state: EndpointState) -> str:
        health = state.endpoint.health
        if health in _OUT:
            return health
        if health != self.wanted:
            return f"{health}, and a healthy endpoint exists"
        return f"priority {state.endpoint.priority}; priority {self.tier} has eligible endpoints"
