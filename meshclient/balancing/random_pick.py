"""RANDOM: one uniform draw; weights and load do not matter.

Source: Envoy ``load_balancing_policies/random``.
"""

from __future__ import annotations

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.state import EndpointState


class RandomPick(Balancer):
    """index = r mod count. No lock."""

    __slots__ = ()
    policy = "random"

    def pick(
        self,
        rand: Rand,
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        states = self._states
        return states[rand() % len(states)]
